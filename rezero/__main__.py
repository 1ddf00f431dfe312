"""`python -m rezero COMMAND`. A command is a function that adds its arguments and one that is called, in COMMANDS."""

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
from rezero.runner.parameters import read_flags
from rezero.search.base import SearchError

P_HELP = "override a parameter; the value is YAML: write 1.0e-6, not 1e-6"


def add_run(parser) -> None:
    parser.description = (
        "Execute notebooks in order into papermill_runs/<run_id>/. Relative paths count from the project's root. "
        "Exit status: 0, 1 a notebook failed, 2 a wrong argument, 130 interrupted."
    )
    parser.add_argument("notebooks", nargs="*", help="numbers or names, such as 00 02; default: all")
    parser.add_argument("-p", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help=P_HELP)
    parser.add_argument("-f", metavar="FILE", help="YAML file of parameters; -p wins over it")
    parser.add_argument("--launcher", choices=["local", "ray"], help="of notebook 03's arms, as -p launcher=...")
    parser.add_argument("--run-id", help="name of the run's folder; default: UTC time and git revision")
    parser.add_argument("--resume", action="store_true", help="go on with that run, skip what it finished")
    parser.add_argument("--runs-dir", default="papermill_runs", help="default: %(default)s")


def call_run(args) -> int:
    from rezero.runner.run import run

    # A scheduler's or `timeout`'s SIGTERM ends a run as Ctrl-C does: recorded, and its kernel stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    flags = args.p + ([f"launcher={args.launcher}"] if args.launcher else [])
    where = dict(run_id=args.run_id, resume=args.resume, runs=args.runs_dir)
    return run(args.notebooks, flags, args.f, **where, renamed=read_renamed())


def add_train(parser) -> None:
    parser.description = (
        "Train a profile and evaluate it on dev, without a notebook. Several GPUs: torchrun --nproc_per_node 4 -m "
        "rezero train ..., after `warm-start` in one process if the profile has one."
    )
    parser.add_argument("--profile", default="laptop", help="default: %(default)s")
    parser.add_argument("--run-dir", required=True, metavar="DIR", help="goes on with the run that is there, if any")
    parser.add_argument("-p", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help=P_HELP)


def call_train(args, only_warm_start: bool = False) -> int:
    from accelerate import PartialState

    from rezero.task import load_task
    from rezero.training.train import train
    from rezero.warmstart.supervised import starting_policy

    config, run_dir = load_config(args.profile, **read_flags(args.p)), resolve(args.run_dir)
    processes, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if only_warm_start and (processes > 1 or not config.warm_start.steps):
        raise ValueError(f"warm-start needs one process and warm_start.steps={config.warm_start.steps} above 0")
    if processes > 1 and config.warm_start.steps and not (run_dir / "warm").is_dir():
        raise ValueError(f"{run_dir / 'warm'} is missing; make it in one process first: python -m rezero warm-start")
    run_dir.mkdir(parents=True, exist_ok=True)
    task = load_task(config)
    with FileLock(run_dir / "lock", blocking=False) if rank == 0 else nullcontext():
        try:
            policy = starting_policy(config, task, run_dir) if config.warm_start.steps else None
            if not only_warm_start:
                train(config, run_dir, task, policy)
        finally:
            PartialState().destroy_process_group()
    return 0


def call_warm_start(args) -> int:
    return call_train(args, only_warm_start=True)


def add_reward_lab(parser) -> None:
    parser.description = (
        "Play scripted policies on the dev questions, or read recorded episodes, and show what each reward and "
        "weighting pays them, where cheating pays, and which rewards make up the advantage."
    )
    parser.add_argument("--engine", nargs="+", default=["bm25"], help="default: bm25; several are played in turn")
    parser.add_argument("--questions", type=int, default=0, metavar="N", help="N of them across kinds; default: all")
    parser.add_argument("--traces", metavar="FILE", help="score these recorded episodes instead")
    parser.add_argument("--weights", type=read_weights, metavar="JSON", help='one more weighting: {"correctness": 4}')
    parser.add_argument("--out", default="papermill_runs/lab", help="folder of pay.csv, pay.png; default: %(default)s")


def read_weights(text: str) -> dict:
    return dict(json.loads(text))


def call_reward_lab(args) -> int:
    from rezero.analysis.reward_lab import run_lab

    run_lab(args.engine, args.questions, args.traces, args.weights, args.out)
    return 0


CORPUS_HELP = "a file of chunks, or a folder with chunks.jsonl or chunks.csv"


def add_serve(parser) -> None:
    parser.description = (
        "Serve an engine at POST /retrieve, as Search-R1's clients ask, with GET /health; until Ctrl-C or SIGTERM. "
        "There is no password: a host other than loopback is open to all who reach it."
    )
    parser.add_argument("--engine", default="bm25", help="default: %(default)s")
    parser.add_argument("--corpus", default="", metavar="PATH", help=f"{CORPUS_HELP}; not for remote engines")
    parser.add_argument("--options", type=read_options, default={}, metavar="YAML", help="of the engine: '{k1: 1.2}'")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one; default: %(default)s")
    parser.add_argument("--topk", type=int, default=3, help="for a request without topk; default: %(default)s")
    parser.add_argument("--max-topk", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--max-queries", type=int, default=4096, help="per request; default: %(default)s")
    parser.add_argument("--max-length", type=int, default=10_000, help="characters per query; default: %(default)s")


def call_serve(args) -> int:
    from rezero.extras.serve import Limits, serve

    limits = Limits(args.topk, args.max_topk, args.max_queries, args.max_length)
    serve(args.engine, args.corpus, args.options, args.host, args.port, limits)
    return 0


def read_options(text: str) -> dict:
    try:
        options = yaml.safe_load(text)
    except yaml.YAMLError:
        options = None
    if not isinstance(options, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no mapping such as '{{k1: 1.2}}'")
    return options


def add_ask(parser) -> None:
    parser.description = (
        "One greedy episode, turn by turn. Budgets, prompt, engine and corpus are those that the policy's run or "
        "export recorded, else the profile's. Exit status 0 whatever is answered."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("question", nargs="?", help="in quotes")
    what.add_argument("--verify", metavar="CLAIM", help="check a statement that ends with the name or number in "
                      "question: supported, refuted or not found; rezero/extras/ask.py has the rule")  # fmt: skip
    parser.add_argument("--policy", default="", metavar="PATH_OR_NAME", help="a run's folder, an export or another "
                        "policy's folder, or a model's name on the hub; default: the profile's")  # fmt: skip
    parser.add_argument("--engine", default="", help="default: the profile's")
    parser.add_argument("--corpus", default="", metavar="PATH", help=f"{CORPUS_HELP}; default: the profile's")
    parser.add_argument("--options", type=read_options, metavar="YAML", help="of the engine: '{k1: 1.2}'")
    parser.add_argument("--profile", default="", help="a file in rezero/profiles")


def call_ask(args) -> int:
    from rezero.extras.ask import run_ask

    run_ask(args.question, args.verify, args.policy, args.profile, args.engine, args.options, args.corpus)
    return 0


def add_export(parser) -> None:
    parser.description = (
        "The adapter merged into 16-bit safetensors, with adapter, tokenizer, model card and GGUF beside it. Nothing "
        "is uploaded without --push."
    )
    parser.add_argument("run_dir", help="the folder that holds the run's config.json and best/, or one above it")
    parser.add_argument("--out", default="", metavar="DIR", help="must not exist; default: export/ in the run's folder")
    parser.add_argument("--gguf", action="store_true", help="convert it for llama.cpp, too, with its "
                        "convert_hf_to_gguf.py: on PATH, or $LLAMA_CPP is its path or that of a clone")  # fmt: skip
    parser.add_argument("--push", default="", metavar="OWNER/NAME", help="upload it there with the token in $HF_TOKEN; "
                        "a new repository is private")  # fmt: skip


def call_export(args) -> int:
    from rezero.extras.export import export

    print(f"written: {export(args.run_dir, args.out, args.gguf, args.push)}")
    return 0


COMMANDS = {  # name -> (help, function that adds arguments, function that is called)
    "run": ("execute the notebooks into papermill_runs/<run_id>/", add_run, call_run),
    "train": ("train a profile without a notebook, on one GPU or several", add_train, call_train),
    "warm-start": ("make a profile's warm start, and stop there", add_train, call_warm_start),
    "reward-lab": ("what each reward pays honest and cheating scripts", add_reward_lab, call_reward_lab),
    "ask": ("put one question to a policy, or check one claim", add_ask, call_ask),
    "export": ("write a run's best policy as a model folder with a card", add_export, call_export),
    "serve": ("answer the Search-R1 /retrieve protocol with an engine", add_serve, call_serve),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status. A mistake of the user is one line on stderr and status 2."""
    parser = argparse.ArgumentParser(prog="python -m rezero", description="The ReZero workspace.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, (text, add, call) in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        add(command)
        command.set_defaults(call=call)
    args = parser.parse_args(argv)
    if not hasattr(args, "call"):
        parser.print_help()
        return 0
    try:
        return args.call(args)
    except (ValueError, OSError, ImportError, MemoryError, SearchError) as error:  # filelock's Timeout is an OSError
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
