"""Execute the notebooks headlessly into papermill_runs/<run_id>/, whose files papermill_runs/README.md lists."""

import json
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import yaml
from filelock import FileLock

from rezero.files import ROOT, append_text, read_json, resolve, shown, writable, write_text
from rezero.runner.machine import describe_machine, output_of
from rezero.runner.parameters import check_unchanged, choose_parameters, read_flags, read_parameters, read_params_file

NOTEBOOKS, RUNS = ROOT / "notebooks", ROOT / "papermill_runs"
NEXT = {  # file of a run's folder -> what the folder is good for from then on
    "episodes.html": "open {run}/episodes.html  # every episode, in a browser",
    "best": 'python -m rezero ask "your question" --policy {run}',
    "tensorboard": "tensorboard --logdir {run}  # the curves",
    "params.yaml": "python -m rezero run NOTEBOOKS --run-id {run_id} --resume  # goes on in this folder",
}


def run(
    chosen: list[str] | tuple = (),
    flags: list[str] | dict | tuple = (),
    file: str | None = None,
    run_id: str | None = None,
    resume: bool = False,
    notebooks: str | Path = NOTEBOOKS,
    runs: str | Path = RUNS,
    renamed: dict[str, str] | None = None,
    check: Callable[[dict[str, dict]], None] | None = None,
) -> int:
    """Execute the chosen notebooks in order; returns 0, 1 after the first that fails, 130 after an interrupt.

    Args:
        chosen: numbers or names of notebooks; none: all, or, with `resume`, those that the run started with.
        flags: "name=value" overrides, or {name: value}. They win over those of `file`, a YAML file.
        resume: go on with run `run_id`: keep its parameters and skip the notebooks that it finished.
        renamed: {former parameter: overrides that replace it}, for error messages.
        check: called with {notebook: its parameters} before anything runs; raises ValueError for a wrong value.
    """
    notebooks, runs = resolve(notebooks), resolve(runs)
    run_dir = find_run_dir(run_id, runs, resume)
    recorded = read_params_file(run_dir / "params.yaml") if resume else {}
    known = [path.stem for path in find_notebooks(["all"], notebooks)]
    paths = find_notebooks(list(chosen) or list(recorded) or ["all"], notebooks)
    parameters = {path.stem: read_parameters(path) for path in paths}
    sources = {"params.yaml of the resumed run": recorded}
    if file:
        sources[str(resolve(file))] = read_params_file(file)
    sources["-p"] = flags if isinstance(flags, dict) else read_flags(flags)
    used = choose_parameters(parameters, sources, known, renamed)
    check_unchanged(run_dir, recorded, used)
    if check:
        check(used)
    from rezero.runner.kernel import end_leftovers  # papermill takes seconds to import, and a mistake has been said

    run_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(run_dir / "lock", blocking=False):  # while another process writes there, this raises an OSError
        if resume:
            end_leftovers(run_dir)
        write_text(run_dir / "params.yaml", yaml.safe_dump(recorded | used, sort_keys=False, allow_unicode=True))
        append_text(run_dir / "environment.txt", describe_machine())
        error = run_each(paths, parameters, used, run_dir)
    if (run_dir / "summary.txt").exists():
        print(f"\n{(run_dir / 'summary.txt').read_text('utf-8').rstrip()}")
    if not error:
        left = [line for name, line in NEXT.items() if (run_dir / name).exists()]
        print("\n  ".join(["\nnext:", *left]).format(run=shown(run_dir), run_id=run_dir.name))
    else:
        again = f"repeat the command with --run-id {run_dir.name} --resume"
        print(f"\n{error}\nWhen this is mended, {again}", file=sys.stderr)
    return 130 if ": KeyboardInterrupt: " in error else int(bool(error))


def find_notebooks(chosen: list[str], folder: Path) -> list[Path]:
    """The notebooks of `folder` with the chosen numbers ("02") or names ("02_train_grpo"), in their order."""
    found = {path.stem: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    numbers = [name[:2] for name in found]
    if not found or len(set(numbers)) < len(found):
        raise ValueError(f"{folder}: want notebooks 00_*.ipynb, 01_*.ipynb, ..., each number once; has {list(found)}")
    for choice in chosen:
        if choice not in ["all", *found, *numbers]:
            raise ValueError(f"no notebook {choice!r} in {folder}; allowed: all, {', '.join(found)}")
    return [path for name, path in found.items() if {"all", name, name[:2]} & set(chosen)]


def find_run_dir(run_id: str | None, runs: Path, resume: bool) -> Path:
    """The folder of a run, not made yet. A run that was killed before it wrote its parameters does not take it."""
    if run_id is None:
        revision = output_of("git", "rev-parse", "--short", "HEAD") or "nogit"
        run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{revision}"
    run_dir = writable(runs / safe_name(run_id, "--run-id"))
    if resume and not (run_dir / "params.yaml").is_file():
        raise ValueError(f"{run_dir} holds no params.yaml; --resume needs the --run-id of the run to go on with")
    if not resume and {path.name for path in run_dir.glob("[!.]*")} - {"lock"}:
        raise ValueError(f"{run_dir} exists: choose another --run-id, or go on with that run with --resume")
    return run_dir


def safe_name(name: str, what: str) -> str:
    """`name`, if a folder can have it and it leads out of no other. Raises ValueError, which says `what` it names."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name) and ".." not in name:
        return name
    raise ValueError(f"{what} {name!r}: want up to 100 letters, digits, '.', '_', '-'; no '.' or '-' first, no '..'")


def run_each(paths: list[Path], parameters: dict, used: dict, run_dir: Path) -> str:
    """Execute those of `paths` that run.json does not call done, and record them there; returns the error, or ""."""
    from rezero.runner.kernel import execute

    file = run_dir / "run.json"
    record = read_json(file) if file.exists() else {"run_id": run_dir.name, "notebooks": {}}
    entries = record.get("notebooks")
    fits = isinstance(entries, dict) and all(isinstance(entry, dict) for entry in entries.values())
    if not fits or not all(isinstance(entry.get("seconds", 0), int | float) for entry in entries.values()):
        raise ValueError(f"{file}: notebooks is {entries!r:.80}; want one object per notebook, its seconds a number")
    for number, path in enumerate(paths, start=1):
        stem, copy, declared = path.stem, run_dir / path.name, parameters[path.stem]
        changed = {name: value for name, value in used[stem].items() if value != declared[name].default}
        print(f"[{number}/{len(paths)}] {stem} {changed or '...'}", flush=True)
        if entries.get(stem, {}).get("status") == "done" and copy.exists():
            print(f"done before: {copy}", flush=True)
            continue
        earlier = entries.get(stem, {}).get("seconds", 0)  # by starts that failed: what is read is how long all took
        entry = {"status": "running", "start": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": earlier}
        record["notebooks"][stem] = entry
        write_text(file, json.dumps(record, indent=1))
        began = time.monotonic()
        error = execute(path, copy, changed | {"run_dir": shown(run_dir)})
        seconds = round(earlier + time.monotonic() - began, 1)
        entry |= {"status": "failed" if error else "done", "seconds": seconds, "error": error}
        try:
            write_text(file, json.dumps(record, indent=1))
        except OSError:  # on a full disk it goes over the old one, whose block has room for a short error
            entry["error"] = error[:200]
            with file.open("r+") as old:
                old.write(json.dumps(record, indent=1))
                old.truncate()
        print(f"{entry['status']} after {seconds} s: {copy}", flush=True)
        if error:
            return f"{stem}, {error}"
    return ""
