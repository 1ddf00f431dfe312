"""Execute the notebooks without hands: parameters are checked first, the outcome is recorded, no failure is silent.

A run lives in `papermill_runs/<run_id>/`: the executed copies, `params.yaml`, `environment.txt`, `run.json`, and what
the notebooks write into the folder that their `run_dir` parameter names.
"""

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from rezero.files import ROOT, resolve, shown, write_text
from rezero.runner.kernel import describe_machine, end_leftovers, execute, output_of, this_kernel
from rezero.runner.parameters import choose_parameters, read_flags, read_parameters, read_params_file

NOTEBOOKS, RUNS = ROOT / "notebooks", ROOT / "papermill_runs"
WRITTEN_FIRST = {"lock", "params.yaml", "environment.txt"}  # files of a run that are there before its run.json


def run(
    chosen: Sequence[str] = (),
    flags: Sequence[str] | dict = (),
    file: str | None = None,
    run_id: str | None = None,
    resume: bool = False,
    notebooks: str | Path = NOTEBOOKS,
    runs: str | Path = RUNS,
    renamed: dict[str, str] | None = None,
) -> int:
    """Execute the chosen notebooks in order and stop at the first that fails.

    Args:
        chosen: numbers or names of notebooks; none: all, or, with `resume`, those that the run started with.
        flags: "name=value" overrides, or {name: value}. They win over those of `file`, a YAML file.
        resume: go on with run `run_id`: keep its parameters and skip the notebooks that it finished.
        renamed: {former parameter: overrides that replace it}, for error messages.

    Returns the exit status: 0, 1 after a failed notebook, 130 after an interrupt.

    Raises ValueError or OSError, with nothing run, if an argument or a notebook is not right.
    """
    notebooks, runs = resolve(notebooks), resolve(runs)
    run_dir = find_run_dir(run_id, runs, resume)
    recorded = read_params_file(run_dir / "params.yaml") if resume else {}
    paths = find_notebooks(list(chosen) or list(recorded) or ["all"], notebooks)
    parameters = {path.stem: read_parameters(path) for path in paths}
    known = [path.stem for path in find_notebooks(["all"], notebooks)]
    sources = [(str(resolve(file)), read_params_file(file))] if file else []
    sources.append(("-p", flags if isinstance(flags, dict) else read_flags(flags)))
    used = choose_parameters(parameters, sources, recorded, known, renamed)
    run_dir.mkdir(parents=True, exist_ok=True)
    with only_writer(run_dir), this_kernel(run_dir) as kernel:
        if resume:
            end_leftovers(run_dir)
        record = start_record(run_dir, recorded | used, list(used))
        status = run_each(paths, parameters, used, run_dir, record, kernel)
    print_outcome(run_dir, record, status, list(chosen))
    return status


def find_notebooks(chosen: list[str], folder: Path) -> list[Path]:
    """The notebooks of `folder` with the chosen numbers ("02") or names ("02_train_grpo"), in their order.

    Raises ValueError on an unknown number, two notebooks with one number, or no notebooks; it lists what there is.
    """
    found = {path.stem: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    numbers = [name[:2] for name in found]
    if not found or len(set(numbers)) < len(found):
        raise ValueError(f"{folder}: want notebooks 00_*.ipynb, 01_*.ipynb, ..., each number once; has {list(found)}")
    for choice in chosen:
        if choice not in ["all", *found, *numbers]:
            raise ValueError(f"no notebook {choice!r} in {folder}; allowed: all, {', '.join(found)}")
    return [path for name, path in found.items() if {"all", name, name[:2]} & set(chosen)]


def find_run_dir(run_id: str | None, runs: Path, resume: bool) -> Path:
    """The folder of the run, not made yet. Raises ValueError on a bad, a taken or (with `resume`) an unknown id.

    A run that was killed before it wrote run.json does not take its folder.
    """
    if resume and run_id is None:
        raise ValueError("--resume needs the --run-id of the run to go on with")
    if run_id is None:
        revision = output_of("git", "rev-parse", "--short", "HEAD") or "nogit"
        run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{revision}"
    run_dir = runs / safe_name(run_id, "--run-id")
    if resume and not (run_dir / "run.json").is_file():
        raise ValueError(f"--resume: {run_dir} holds no run.json, so there is no run to go on with")
    if not resume and {path.name for path in run_dir.glob("[!.]*")} - WRITTEN_FIRST:
        raise ValueError(f"{run_dir} exists: choose another --run-id, or go on with that run with --resume")
    return run_dir


def safe_name(name: str, what: str) -> str:
    """`name`, if a folder can have it and it leads out of no other. Raises ValueError, which says `what` it names."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name) or ".." in name:
        raise ValueError(
            f"{what} {name!r}: want up to 100 letters, digits, '.', '_', '-'; no '.' or '-' first, no '..'"
        )
    return name


@contextmanager
def only_writer(run_dir: Path) -> Iterator[None]:
    """Hold the lock of a run's folder. Raises ValueError if another process holds it."""
    path = run_dir / "lock"
    try:
        lock = FileLock(path).acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{run_dir} is being written by process {path.read_text().strip()}") from None
    with lock:
        path.write_text(f"{os.getpid()}\n")
        yield


def start_record(run_dir: Path, parameters: dict[str, dict], stems: list[str]) -> dict:
    """Write params.yaml, environment.txt (one section per start) and run.json; returns the content of the last."""
    path, machine = run_dir / "run.json", run_dir / "environment.txt"
    entries = json.loads(path.read_text("utf-8"))["notebooks"] if path.exists() else {}
    earlier = machine.read_text("utf-8") + "\n" if machine.exists() else ""
    write_text(run_dir / "params.yaml", yaml.safe_dump(parameters, sort_keys=False, allow_unicode=True))
    write_text(machine, earlier + describe_machine())
    for stem in stems:
        finished = entries.get(stem, {}).get("status") == "done"
        if not finished or not (run_dir / f"{stem}.ipynb").exists():
            entries[stem] = {"status": "pending", "start": None, "seconds": None, "error": None}
    record = {"run_id": run_dir.name, "notebooks": dict(sorted(entries.items()))}
    save_record(run_dir, record)
    return record


def save_record(run_dir: Path, record: dict) -> None:
    write_text(run_dir / "run.json", json.dumps(record, indent=1) + "\n")


def run_each(paths: list[Path], parameters: dict, used: dict, run_dir: Path, record: dict, kernel: str) -> int:
    """Execute those of `paths` that `record` does not call done, keep it up to date, and return the exit status."""
    for number, path in enumerate(paths, start=1):
        name, entry = f"[{number}/{len(paths)}] {path.stem}", record["notebooks"][path.stem]
        if entry["status"] == "done":
            print(f"{name}: done before, skipped", flush=True)
            continue
        print(f"{name} ...", flush=True)
        entry |= {"status": "running", "start": datetime.now(UTC).isoformat(timespec="seconds")}
        save_record(run_dir, record)
        declared = parameters[path.stem]
        changed = {key: value for key, value in used[path.stem].items() if value != declared[key].default}
        began = time.monotonic()
        error = execute(path, run_dir / path.name, changed | {"run_dir": shown(run_dir)}, kernel)
        seconds = round(time.monotonic() - began, 1)
        entry |= {"status": "failed" if error else "done", "seconds": seconds, "error": error}
        print(f"{name}: {entry['status']} after {seconds} s", flush=True)
        save_record(run_dir, record)
        if error:
            return 130 if ": KeyboardInterrupt: " in error else 1
    return 0


def print_outcome(run_dir: Path, record: dict, status: int, chosen: list[str]) -> None:
    """Print where the executed notebooks are, the summary that they wrote, and what failed."""
    for stem, entry in record["notebooks"].items():
        if entry["status"] in ("done", "failed"):
            print(f"{entry['status']}: {run_dir / stem}.ipynb")
    summary = run_dir / "summary.txt"
    if summary.exists():
        print(f"\n{summary.read_text('utf-8').rstrip()}")
    for stem, entry in record["notebooks"].items():
        if status and entry["error"]:
            where = [] if run_dir.parent == RUNS else ["--runs-dir", str(run_dir.parent)]
            again = " ".join(["python -m rezero run", *chosen, "--run-id", run_dir.name, *where, "--resume"])
            print(f"\n{stem}, {entry['error']}\nWhen this is mended, go on with: {again}", file=sys.stderr)
