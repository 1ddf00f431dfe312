"""`python -m rezero <command>`. A command is one function that adds its parser, named in COMMANDS."""

import argparse
import json
import signal
import sys

from rezero.search import SearchError


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
    parser.add_argument("--run-id", help="name of the run's folder; default: UTC time and git revision")
    parser.add_argument("--resume", action="store_true", help="go on with that run, skip what it finished")
    parser.add_argument("--runs-dir", default="papermill_runs", help="default: %(default)s")
    parser.set_defaults(call=call_run)


def call_run(args) -> int:
    from rezero.run import run

    # A scheduler's or `timeout`'s SIGTERM ends a run as Ctrl-C does: recorded, and its kernel stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return run(args.notebooks, args.p, args.f, args.run_id, args.resume, runs=args.runs_dir)


def add_reference(commands) -> None:
    parser = commands.add_parser(
        "reference", help="keep an executed run as papermill_runs/reference/ and show its summary in the README"
    )
    parser.add_argument("run_id")
    parser.add_argument("--name", default="", help="keep it in reference/NAME instead, and leave the README")
    parser.set_defaults(call=call_reference)


def call_reference(args) -> int:
    from rezero.reference import keep_as_reference

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
    from rezero.lab import report

    report(args.engine, args.questions, args.traces, args.weights, args.out)
    return 0


def add_serve(commands) -> None:
    parser = commands.add_parser(
        "serve", help="answer the Search-R1 /retrieve protocol with an engine",
        description="Serve an engine at POST /retrieve, as Search-R1's clients ask, with GET /health; until Ctrl-C or "
        "SIGTERM. There is no password: a host other than loopback is open to all who reach it.",
    )  # fmt: skip
    parser.add_argument("--engine", default="bm25", help="default: %(default)s")
    parser.add_argument("--corpus", default="", metavar="PATH", help="a file of chunks or a folder with chunks.jsonl, "
                        "or else .txt and .md files; may be left out for an engine that holds its own")  # fmt: skip
    parser.add_argument("--options", default="{}", metavar="YAML", help="the engine's, as '{k1: 1.2}'")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one; default: %(default)s")
    parser.add_argument("--topk", type=int, default=3, help="for a request without topk; default: %(default)s")
    parser.add_argument("--max-topk", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--max-queries", type=int, default=4096, help="of one request; default: %(default)s")
    parser.add_argument("--max-length", type=int, default=10_000, help="characters of a query; default: %(default)s")
    parser.set_defaults(call=call_serve)


def call_serve(args) -> int:
    import yaml

    from rezero.serve import Limits, serve

    try:
        options = yaml.safe_load(args.options)
    except yaml.YAMLError:
        options = None
    if not isinstance(options, dict):
        raise ValueError(f"--options is {args.options!r}; want a mapping such as '{{k1: 1.2}}'")
    limits = Limits(args.topk, args.max_topk, args.max_queries, args.max_length)
    serve(args.engine, args.corpus, options, args.host, args.port, limits)
    return 0


COMMANDS = [add_run, add_reference, add_lab, add_serve]


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
