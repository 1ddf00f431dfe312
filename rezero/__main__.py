"""`python -m rezero COMMAND`: commands.yaml has the commands with their arguments, `CALLS` what each of them calls."""

import argparse
import os
import signal
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from pkgutil import resolve_name

import yaml
from filelock import FileLock

from rezero.config import RENAMED, load_config
from rezero.files import ROOT, writable
from rezero.search.base import SearchError
from rezero.text import printable, redact


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rezero", description="The ReZero workspace.")
    commands = {"": parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")}
    for name, row in yaml.safe_load(Path(__file__).with_name("commands.yaml").read_text("utf-8")).items():
        group, _, last = name.rpartition(" ")  # "data import" is the command import of the group data
        text = row["help"]
        more = f"{text[0].upper()}{text[1:]}. {row.get('more', '')}"
        command = commands[group].add_parser(last, help=text, description=more)
        if "arguments" not in row:
            commands[name] = command.add_subparsers(title="commands", metavar="COMMAND", required=True)
            continue
        command.set_defaults(command=name)
        for argument, options in row["arguments"].items():
            kind = {"type": TYPES[options["type"]]} if "type" in options else {}
            command.add_argument(argument, **options | kind)
    return parser


def read_mapping(text: str) -> dict:
    from rezero.runner.parameters import parse_yaml

    try:
        return dict(parse_yaml(text, ""))
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r:.80}; want a mapping such as '{{k1: 1.2}}'") from None


TYPES = {"int": int, "float": float, "mapping": read_mapping}  # of the arguments in commands.yaml


def call_run(notebooks, flags, file, launcher, run_id, resume, runs_dir) -> int:
    from rezero.analysis.check import check_notebooks
    from rezero.runner.run import NOTEBOOKS, run

    sys.path[:0] = [str(NOTEBOOKS), str(ROOT)]  # where kernels look for a user's "module:function"
    flags = flags + ([f"launcher={launcher}"] if launcher else [])
    return run(
        notebooks, flags, file, run_id=run_id, resume=resume, runs=runs_dir, renamed=RENAMED, check=check_notebooks
    )


def call_train(profile, run_dir, flags, only_warm=False) -> None:
    from rezero.analysis.check import check_config
    from rezero.runner.parameters import read_flags

    config, run_dir = load_config(profile, **read_flags(flags)), writable(run_dir)
    check_config(config)
    from rezero.extras.early import import_unsloth

    if config.backend == "unsloth":
        import_unsloth()
    from accelerate import PartialState  # from here on seconds pass

    from rezero.analysis.watch import Watch
    from rezero.task import load_task
    from rezero.training.train import train
    from rezero.warmstart.supervised import starting_policy

    processes, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    steps = config.warm_start.steps
    if only_warm and (processes > 1 or not steps):
        raise ValueError(f"warm-start needs one process and warm_start.steps={steps} above 0")
    if processes > 1 and steps and not (run_dir / "warm").is_dir():
        raise ValueError(f"{run_dir / 'warm'} is missing; make it in one process first: python -m rezero warm-start")
    run_dir.mkdir(parents=True, exist_ok=True)
    task = load_task(config)
    with FileLock(run_dir / "lock", blocking=False) if rank == 0 else nullcontext():
        try:
            policy = starting_policy(config, task, run_dir)
            if not only_warm:
                train(config, run_dir, task, policy, callbacks=[Watch(config, run_dir, task, policy)])
        finally:
            PartialState().destroy_process_group()


CALLS = {  # a function or its name; it takes the command's arguments by name
    "run": call_run,
    "train": call_train,
    "warm-start": partial(call_train, only_warm=True),
    "traces": "rezero.analysis.report:run_traces",
    "compare": "rezero.analysis.compare:run_compare",
    "reward-lab": "rezero.analysis.reward_lab:run_lab",
    "ask": "rezero.extras.ask:run_ask",
    "demo": "rezero.analysis.demo:run_demo",
    "data import": lambda **options: resolve_name("rezero.data.importing:import_data")(**options) and None,
    "data questions": "rezero.data.generate:make_questions",
    "data cloze": "rezero.data.splits:split_corpus",
    "data split": "rezero.data.splits:split_corpus",
    "data noise": "rezero.data.noise:make_noise",
    "export": lambda **options: print("written:", resolve_name("rezero.extras.export:export")(**options)),
    "serve": "rezero.extras.serve:serve",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status. A mistake of the user is one line on stderr and status 2."""
    parser = make_parser()
    arguments = vars(parser.parse_args(argv))
    command = arguments.pop("command")
    if not command:
        parser.print_help()
        return 0
    # A scheduler's or `timeout`'s SIGTERM ends a command as Ctrl-C does: recorded, cleaned up, its kernel stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if not command.startswith("data "):  # whose --name and --corpus may be new, or on the hub
            resolve_name("rezero.analysis.check:check_names")(**arguments)
        call = CALLS[command]
        return (resolve_name(call) if isinstance(call, str) else call)(**arguments) or 0
    except (ValueError, OSError, ImportError, MemoryError, SearchError) as error:  # filelock's Timeout is an OSError
        print(f"error: {printable(redact(str(error)))[:2000]}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
