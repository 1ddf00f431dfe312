"""`python -m rezero <command>`. A command is one function that adds its parser, named in COMMANDS."""

import argparse
import json
import signal
import sys

from rezero.search.base import SearchError


def add_run(commands) -> None:
    parser = commands.add_parser(
        "run", help="execute the notebooks into papermill_runs/<run_id>/",
        description="Execute notebooks in order into papermill_runs/<run_id>/. Relative paths count from the "
        "project's root. Exit status: 0, 1 a notebook failed, 2 a wrong argument, 130 interrupted.",
    )  # fmt: skip
    parser.add_argument("notebooks", nargs="*", help='numbers or names, such as 00 02; default "all"')
    parser.add_argument("-p", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
                        help="override a parameter; the value is YAML, so write 1.0e-6, not 1e-6")  # fmt: skip
    parser.add_argument("-f", metavar="FILE", help="YAML file of parameters; -p wins over it")
    parser.add_argument("--launcher", choices=["local", "ray"], help="of notebook 03's arms, as -p launcher=...")
    parser.add_argument("--run-id", help="name of the run's folder; default: UTC time and git revision")
    parser.add_argument("--resume", action="store_true", help="go on with that run, skip what it finished")
    parser.add_argument("--runs-dir", default="papermill_runs", help="default: %(default)s")
    parser.set_defaults(call=call_run)


def call_run(args) -> int:
    from rezero.runner.run import run

    # A scheduler's or `timeout`'s SIGTERM ends a run as Ctrl-C does: recorded, and its kernel stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    flags = args.p + ([f"launcher={args.launcher}"] if args.launcher else [])
    return run(args.notebooks, flags, args.f, args.run_id, args.resume, runs=args.runs_dir)


def add_reference(commands) -> None:
    parser = commands.add_parser(
        "reference", help="keep an executed run as papermill_runs/reference/ and show its summary in the README"
    )
    parser.add_argument("run_id")
    parser.add_argument("--name", default="", help="keep it in reference/NAME instead, and leave the README")
    parser.set_defaults(call=call_reference)


def call_reference(args) -> int:
    from rezero.runner.reference import keep_as_reference

    keep_as_reference(args.run_id, args.name)
    return 0


def add_lab(commands) -> None:
    parser = commands.add_parser(
        "lab", help="what each reward pays honest and cheating scripts, or recorded episodes",
        description="Play scripted policies on the dev questions, or read recorded episodes, and show what each reward "
        "and weighting pays them, where cheating pays, and which rewards make the advantage.",
    )  # fmt: skip
    parser.add_argument("--engine", nargs="+", default=["bm25"], help="default: bm25; several are played in turn")
    parser.add_argument("--questions", type=int, default=0, metavar="N", help="the first N; default: all")
    parser.add_argument("--traces", metavar="FILE", help="score these recorded episodes instead")
    parser.add_argument("--weights", type=weights, metavar="JSON", help='one more weighting: {"correctness": 4}')
    parser.add_argument("--out", default="papermill_runs/lab", help="folder of pay.csv, pay.png; default: %(default)s")
    parser.set_defaults(call=call_lab)


def weights(text: str) -> dict:
    return dict(json.loads(text))


def call_lab(args) -> int:
    from rezero.analysis.reward_lab import report

    report(args.engine, args.questions, args.traces, args.weights, args.out)
    return 0


def add_serve(commands) -> None:
    parser = commands.add_parser(
        "serve", help="answer the Search-R1 /retrieve protocol with an engine",
        description="Serve an engine at POST /retrieve, as Search-R1's clients ask, with GET /health; until Ctrl-C or "
        "SIGTERM. There is no password: a host other than loopback is open to all who reach it.",
    )  # fmt: skip
    parser.add_argument("--engine", default="bm25", help="default: %(default)s")
    parser.add_argument("--corpus", default="", metavar="PATH", help="a file of chunks, or a folder with "
                        "chunks.jsonl, .json or .csv, or else .txt and .md files; may be left out for an engine that "
                        "holds its own")  # fmt: skip
    parser.add_argument("--options", default="{}", metavar="YAML", help="the engine's, as '{k1: 1.2}'")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one; default: %(default)s")
    parser.add_argument("--topk", type=int, default=3, help="for a request without topk; default: %(default)s")
    parser.add_argument("--max-topk", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--max-queries", type=int, default=4096, help="of one request; default: %(default)s")
    parser.add_argument("--max-length", type=int, default=10_000, help="characters of a query; default: %(default)s")
    parser.set_defaults(call=call_serve)


def call_serve(args) -> int:
    from rezero.extras.serve import Limits, serve

    limits = Limits(args.topk, args.max_topk, args.max_queries, args.max_length)
    serve(args.engine, args.corpus, read_options(args.options), args.host, args.port, limits)
    return 0


def read_options(text: str) -> dict:
    import yaml

    try:
        options = yaml.safe_load(text)
    except yaml.YAMLError:
        options = None
    if not isinstance(options, dict):
        raise ValueError(f"--options is {text!r}; want a mapping such as '{{k1: 1.2}}'")
    return options


def add_ask(commands) -> None:
    parser = commands.add_parser(
        "ask", help="put one question to a policy, or check one claim, and print the episode",
        description="One greedy episode, turn by turn. Budgets, prompt, engine and corpus are those that the policy's "
        "run or export recorded, else the profile's. Exit status 0 whatever is answered.",
    )  # fmt: skip
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("question", nargs="?", help="in quotes")
    what.add_argument("--verify", metavar="CLAIM", help="check a statement that ends with the name or number in "
                      "question: supported, refuted or not found, by a rule on answer and passages; rezero/ask.py "
                      "tells what it cannot do")  # fmt: skip
    parser.add_argument("--policy", default="", metavar="PATH_OR_NAME", help="a run's folder, an export or another "
                        "policy's folder, or a model's name on the hub; default: the profile's")  # fmt: skip
    parser.add_argument("--engine", default="", help="default: the profile's")
    parser.add_argument("--corpus", default="", metavar="PATH", help="a file of chunks, or a folder with "
                        "chunks.jsonl, .json or .csv, or else .txt and .md files; default: the profile's")  # fmt: skip
    parser.add_argument("--options", metavar="YAML", help="the engine's, as '{k1: 1.2}'")
    parser.add_argument("--profile", default="", help="a name in rezero.config.PROFILES")
    parser.set_defaults(call=call_ask)


def call_ask(args) -> int:
    from rezero.extras import ask

    options = None if args.options is None else read_options(args.options)
    config = ask.find_settings(args.policy, args.profile, args.engine, options)
    question, value = (args.question, "") if args.verify is None else ask.masked(args.verify)
    episode = ask.ask(question, config, args.corpus)
    print(ask.show(episode))
    if value:
        verdict = ask.verify(episode, args.verify, value)
        print(f"\nclaim     {ask.printable(args.verify)}\n{verdict.name}: {ask.printable(verdict.why)}")
        print("\n".join(["resting on:" if verdict.hits else "resting on no passage", *map(ask.passage, verdict.hits)]))
    return 0


def add_export(commands) -> None:
    parser = commands.add_parser(
        "export", help="write a run's best policy as a model folder with a card, and upload it when asked",
        description="The adapter merged into 16-bit safetensors, with adapter, tokenizer, model card and GGUF beside "
        "it. Nothing is uploaded without --push.",
    )  # fmt: skip
    parser.add_argument("run_dir", help="the folder that holds the run's config.json and best/, or one above it")
    parser.add_argument("--out", default="", metavar="DIR", help="must not exist; default: export/ in the run's folder")
    parser.add_argument("--gguf", action="store_true", help="convert it for llama.cpp, too, with its "
                        "convert_hf_to_gguf.py: on PATH, or $LLAMA_CPP is its path or that of a clone")  # fmt: skip
    parser.add_argument("--push", default="", metavar="OWNER/NAME", help="upload it there with the token in $HF_TOKEN; "
                        "a new repository is private")  # fmt: skip
    parser.set_defaults(call=call_export)


def call_export(args) -> int:
    from rezero.extras.export import export

    print(f"written: {export(args.run_dir, args.out, args.gguf, args.push)}")
    return 0


COMMANDS = [add_run, add_reference, add_lab, add_serve, add_export, add_ask]


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status. What the user got wrong is one line on stderr, status 2."""
    parser = argparse.ArgumentParser(prog="python -m rezero", description="The ReZero workspace.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    args = parser.parse_args(argv)
    if not hasattr(args, "call"):
        parser.print_help()
        return 0
    try:
        return args.call(args)
    except (ValueError, OSError, ImportError, SearchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
