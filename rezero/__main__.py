"""`python -m rezero COMMAND`. Each command is a function `call_<command>`, whose arguments stand in `make_parser`."""

import argparse
import json
import os
import signal
import sys
from contextlib import nullcontext

import yaml
from filelock import FileLock

from rezero.config import load_config, read_renamed
from rezero.files import resolve
from rezero.search.base import SearchError


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rezero", description="The ReZero workspace.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")

    def command(name: str, text: str, more: str = ""):
        return commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}. {more}").add_argument

    overrides = dict(nargs="+", action="extend", default=[], metavar="NAME=VALUE")
    overrides["help"] = "override a parameter; the value is YAML: write 1.0e-6, not 1e-6"
    corpus = "a file of chunks, or a folder with chunks.jsonl or chunks.csv"

    status = "Exit status: 0, 1 a notebook failed, 2 a wrong argument, 130 interrupted."
    add = command("run", "execute the notebooks into papermill_runs/<run_id>/", status)
    add("notebooks", nargs="*", help="numbers or names, such as 00 02; default: all")
    add("-p", **overrides)
    add("-f", metavar="FILE", help="YAML file of parameters; -p wins over it")
    add("--launcher", choices=["local", "ray"], help="of notebook 03's arms, as -p launcher=...")
    add("--run-id", help="name of the run's folder; default: UTC time and git revision")
    add("--resume", action="store_true", help="go on with that run, skip what it finished")
    add("--runs-dir", default="papermill_runs", help="default: %(default)s")

    several = "Several GPUs: torchrun --nproc_per_node 4 -m rezero train ..., after warm-start in one process."
    train = command("train", "train a profile without a notebook, and evaluate it on dev", several)
    for add in (train, command("warm-start", "make a profile's warm start, and stop there")):
        add("--profile", default="laptop", help="default: %(default)s")
        add("--run-dir", required=True, metavar="DIR", help="goes on with the run that is there, if any")
        add("-p", **overrides)

    add = command("reward-lab", "show what each reward pays honest and cheating scripts")
    add("--engine", nargs="+", default=["bm25"], help="default: bm25; several are played in turn")
    add("--questions", type=int, default=0, metavar="N", help="N dev questions across kinds; default: all")
    add("--traces", metavar="FILE", help="score these recorded episodes instead")
    add("--weights", type=read_weights, metavar="JSON", help='one more weighting: {"correctness": 4}')
    add("--out", default="papermill_runs/lab", help="folder of pay.csv, pay.png; default: %(default)s")

    recorded = "Budgets, prompt, engine and corpus are those that the policy's run or export recorded."
    add = command("ask", "put one question to a policy, or check one claim", recorded)
    add("question", nargs="?", help="in quotes")
    add("--verify", metavar="CLAIM", help="check a statement that ends with the name or number in question")
    add("--policy", default="", metavar="PATH_OR_NAME", help="a run's, an export's or a policy's folder, or a hub name")
    add("--engine", default="", help="default: the profile's")
    add("--corpus", default="", metavar="PATH", help=f"{corpus}; default: the profile's")
    add("--options", metavar="YAML", help="of the engine: '{k1: 1.2}'")
    add("--profile", default="", help="a file in rezero/profiles")

    nothing = "Nothing is uploaded without --push."
    add = command("export", "write a run's best policy as a model folder with a card", nothing)
    add("run_dir", help="the folder that holds the run's config.json and best/, or one above it")
    add("--out", default="", metavar="DIR", help="must not exist; default: export/ in the run's folder")
    add("--gguf", action="store_true", help="convert it with llama.cpp's converter, on PATH or at $LLAMA_CPP")
    add("--push", default="", metavar="OWNER/NAME", help="upload it with the token in $HF_TOKEN; private when new")

    password = "There is no password: a host other than loopback is open to all who reach it."
    add = command("serve", "answer the Search-R1 /retrieve protocol with an engine, until Ctrl-C", password)
    add("--engine", default="bm25", help="default: %(default)s")
    add("--corpus", default="", metavar="PATH", help=f"{corpus}; not for remote engines")
    add("--options", default="{}", metavar="YAML", help="of the engine: '{k1: 1.2}'")
    add("--host", default="127.0.0.1", help="default: %(default)s")
    add("--port", type=int, default=8000, help="0 takes a free one; default: %(default)s")
    add("--topk", type=int, default=3, help="for a request without topk; default: %(default)s")
    add("--max-topk", type=int, default=100, help="default: %(default)s")
    add("--max-queries", type=int, default=4096, help="per request; default: %(default)s")
    add("--max-length", type=int, default=10_000, help="characters per query; default: %(default)s")
    return parser


def read_weights(text: str) -> dict:
    return dict(json.loads(text))


def read_options(text: str) -> dict:
    try:
        return dict(yaml.safe_load(text))
    except (yaml.YAMLError, TypeError, ValueError):
        raise ValueError(f"--options is {text!r}; want a mapping such as '{{k1: 1.2}}'") from None


def call_run(args) -> int:
    from rezero.runner.run import run

    # A scheduler's or `timeout`'s SIGTERM ends a run as Ctrl-C does: recorded, and its kernel stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    flags = args.p + ([f"launcher={args.launcher}"] if args.launcher else [])
    where = dict(run_id=args.run_id, resume=args.resume, runs=args.runs_dir)
    return run(args.notebooks, flags, args.f, **where, renamed=read_renamed())


def call_train(args) -> None:
    from accelerate import PartialState

    from rezero.runner.parameters import read_flags
    from rezero.task import load_task
    from rezero.training.train import train
    from rezero.warmstart.supervised import starting_policy

    config, run_dir = load_config(args.profile, **read_flags(args.p)), resolve(args.run_dir)
    processes, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    only_warm = args.command == "warm-start"
    if only_warm and (processes > 1 or not config.warm_start.steps):
        raise ValueError(f"warm-start needs one process and warm_start.steps={config.warm_start.steps} above 0")
    if processes > 1 and config.warm_start.steps and not (run_dir / "warm").is_dir():
        raise ValueError(f"{run_dir / 'warm'} is missing; make it in one process first: python -m rezero warm-start")
    run_dir.mkdir(parents=True, exist_ok=True)
    task = load_task(config)
    with FileLock(run_dir / "lock", blocking=False) if rank == 0 else nullcontext():
        try:
            policy = starting_policy(config, task, run_dir) if config.warm_start.steps else None
            if not only_warm:
                train(config, run_dir, task, policy)
        finally:
            PartialState().destroy_process_group()


def call_reward_lab(args) -> None:
    from rezero.analysis.reward_lab import run_lab

    run_lab(args.engine, args.questions, args.traces, args.weights, args.out)


def call_ask(args) -> None:
    from rezero.extras.ask import run_ask

    if (args.question is None) == (args.verify is None):
        raise ValueError("ask wants a question in quotes, or --verify CLAIM")
    options = None if args.options is None else read_options(args.options)
    run_ask(args.question, args.verify, args.policy, args.profile, args.engine, options, args.corpus)


def call_export(args) -> None:
    from rezero.extras.export import export

    print(f"written: {export(args.run_dir, args.out, args.gguf, args.push)}")


def call_serve(args) -> None:
    from rezero.extras.serve import serve

    limits = dict(topk=args.topk, max_topk=args.max_topk, max_queries=args.max_queries, max_length=args.max_length)
    serve(args.engine, args.corpus, read_options(args.options), args.host, args.port, **limits)


CALLS = {
    "run": call_run,
    "train": call_train,
    "warm-start": call_train,
    "reward-lab": call_reward_lab,
    "ask": call_ask,
    "export": call_export,
    "serve": call_serve,
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status. A mistake of the user is one line on stderr and status 2."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if not args.command:
        parser.print_help()
        return 0
    try:
        return CALLS[args.command](args) or 0
    except (ValueError, OSError, ImportError, MemoryError, SearchError) as error:  # filelock's Timeout is an OSError
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
