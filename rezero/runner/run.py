"""Execute the notebooks without hands: parameters checked first, the outcome recorded, no failure silent.

papermill does the executing. What is ours is what it leaves open: it saves a notebook whose kernel was killed
as completed, lets sys.exit(0) pass, and starts whatever kernel the machine calls `python3`. A run lives in
`papermill_runs/<run_id>/`: the executed copies, `params.yaml`, `environment.txt`, `run.json`, and what the
notebooks write into the folder that their `run_dir` parameter names.
"""

import json
import re
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rezero.files import ROOT, locked, resolve, write_text
from rezero.runner.kernel import describe, now, output_of, this_kernel
from rezero.runner.parameters import choose_parameters, read_flags, read_parameters, read_params_file

NOTEBOOKS, RUNS = ROOT / "notebooks", ROOT / "papermill_runs"

INTERRUPTED = "KeyboardInterrupt"

RECORDS = {"lock", "params.yaml", "environment.txt"}  # what stands in a run's folder before run.json

NOT_OURS = {"injected-parameters", "papermill-error-cell-tag"}  # tags of the cells that papermill adds


def find_notebooks(chosen: list[str], folder: Path) -> list[Path]:
    """The notebooks of `folder` with the chosen numbers ("02") or names ("02_train_grpo"), in their order.

    Raises:
        ValueError: an unknown number, two notebooks with one number, or no notebooks; lists what there is.
    """
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    names = [path.stem for path in found]
    if not found or len({name[:2] for name in names}) < len(names):
        raise ValueError(f"{folder}: want notebooks 00_*.ipynb, 01_*.ipynb, ..., each number once; has {names}")
    for choice in chosen:
        if choice != "all" and choice not in names and choice not in {name[:2] for name in names}:
            raise ValueError(f"no notebook {choice!r} in {folder}: choose from all, {', '.join(names)}")
    return [path for path in found if {"all", path.stem, path.stem[:2]} & set(chosen)]


def find_run_dir(run_id: str | None, runs: Path, resume: bool) -> Path:
    """The folder of the run, not made yet. Raises ValueError on a bad, a taken or (`resume`) an unknown id.

    A folder is not taken by a run that was killed before anything of it was recorded in run.json.
    """
    if resume and run_id is None:
        raise ValueError("--resume needs the --run-id of the run to go on with")
    if run_id is None:
        revision = output_of("git", "rev-parse", "--short", "HEAD") or "nogit"
        run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{revision}"
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", run_id) or ".." in run_id:
        raise ValueError(f"--run-id {run_id!r}: want 1 to 100 letters, digits, '.', '_' and '-' "
                         "that do not begin with '.' or '-' nor contain '..'")  # fmt: skip
    run_dir = runs / run_id
    if resume and not (run_dir / "run.json").is_file():
        raise ValueError(f"--resume: {run_dir} holds no run.json, so there is no run to go on with")
    if not resume and {path.name for path in run_dir.glob("[!.]*")} - RECORDS:
        raise ValueError(f"{run_dir} exists: choose another --run-id, or go on with that run with --resume")
    return run_dir


def execute(notebook: Path, copy: Path, parameters: dict, kernel: str, lock: int) -> str | None:
    """Execute `notebook` into `copy`, its output streamed to the terminal. None, or in words what went wrong.

    The kernel works in the notebook's folder, as in JupyterLab, and holds the run's `lock` with us.
    """
    import logging

    import papermill
    from nbclient.exceptions import DeadKernelError

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # its guesses at our parameters; we checked them
    problem = None
    try:
        executed = papermill.execute_notebook(
            *(str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, copy)),  # str.format'ed
            parameters=parameters, kernel_name=kernel, language="python", cwd=notebook.parent,
            progress_bar=False, stdout_file=sys.stdout, stderr_file=sys.stderr, coalesce_streams=True,
            store_widget_state=False, start_timeout=180, iopub_timeout=60,
            kernel_manager_class=manager_class(lock))  # fmt: skip
        if executed.metadata.papermill.get("exception"):  # papermill lets sys.exit(0) pass as a success
            problem = "SystemExit", "the cell called sys.exit(); no cell after it ran"
    except papermill.PapermillExecutionError as error:
        problem = error.ename, error.evalue
    except DeadKernelError:  # papermill marks this cell and those after it completed, and records no exception
        problem = "DeadKernelError", "the kernel was killed, often for want of memory, or crashed"
    except KeyboardInterrupt:
        problem = INTERRUPTED, "stopped by hand, or by a signal"
    except Exception as error:  # the kernel did not start, or its channel broke: any reason is a failed run
        problem = type(error).__name__, str(error)
    return settle_copy(copy, problem)


def manager_class(lock: int) -> type:
    """A starter of kernels that inherit the file descriptor `lock`: when we are killed, a kernel lives on for a second
    or two and may write, and as long as it does nobody else gets the run's lock."""
    from jupyter_client import AsyncKernelManager

    class Manager(AsyncKernelManager):
        async def start_kernel(self, **options):
            await super().start_kernel(**options, pass_fds=(lock,))

    return Manager


def settle_copy(copy: Path, problem: tuple[str, str] | None) -> str | None:
    """Make the executed copy say what happened, without this machine's paths; returns the problem in words."""
    import nbformat

    if not copy.exists():
        return problem and f"before the first cell: {problem[0]}: {problem[1]}"
    try:
        book = nbformat.read(copy, as_version=4)
    except ValueError:  # papermill could not write it whole, as on a full disk
        copy.unlink()
        return f"{shown(copy)} could not be written: {problem and ': '.join(problem)}"
    for key in ("input_path", "output_path"):
        book.metadata.papermill[key] = shown(Path(book.metadata.papermill[key]))
    where = problem and mark_failure(book, *problem)
    write_text(copy, nbformat.writes(book) + "\n")
    return problem and f"{where}: {problem[0]}: {problem[1]}"


def mark_failure(book, ename: str, evalue: str) -> str:
    """Mark the cell that ran last as failed and those after it as pending; returns "cell 3 (In [2])".

    The number counts the cells of the source notebook, so not those that papermill added.
    """
    import nbformat

    started = [i for i, cell in enumerate(book.cells) if cell.metadata.get("papermill", {}).get("start_time")]
    last = started[-1] if started else -1
    book.metadata.papermill["exception"] = True
    for cell in book.cells[last + 1 :]:
        cell.metadata.papermill["status"] = "pending"
    if not started:
        return "before the first cell"
    cell = book.cells[last]
    cell.metadata.papermill.update(status="failed", exception=True)
    if cell.cell_type == "code" and not any(output.output_type == "error" for output in cell.outputs):
        text = f"{ename}: {evalue}"
        cell.outputs.append(nbformat.v4.new_output("error", ename=ename, evalue=evalue, traceback=[text]))
    number = sum(not NOT_OURS & set(cell.metadata.get("tags", [])) for cell in book.cells[: last + 1])
    return f"cell {number} (In [{cell.get('execution_count') or ' '}])"


def shown(path: Path) -> str:
    """`path` from the project's root if it is inside: what is recorded must not name somebody's machine."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def run(
    chosen: Sequence[str] = (), flags: Sequence[str] | dict = (), file: str | None = None, run_id: str | None = None,
    resume: bool = False, notebooks: str | Path = NOTEBOOKS, runs: str | Path = RUNS,
) -> int:  # fmt: skip
    """Execute the chosen notebooks in order, stopping at the first that fails; none named: all, or a run's own.

    Args:
        flags: "name=value" overrides, or {name: value}; `file`: a YAML file of them, which `flags` win over.
        resume: go on with run `run_id`: keep its parameters, skip the notebooks it finished.

    Returns the exit status: 0, 1 after a failed notebook, 130 after an interrupt.

    Raises:
        ValueError, FileNotFoundError: nothing was run, because an argument or a notebook is not right.
    """
    notebooks, runs = resolve(notebooks), resolve(runs)
    run_dir = find_run_dir(run_id, runs, resume)
    recorded = read_params_file(run_dir / "params.yaml") if resume else {}
    paths = find_notebooks(list(chosen) or list(recorded) or ["all"], notebooks)
    defaults = {path.stem: read_parameters(path) for path in paths}
    known = [path.stem for path in find_notebooks(["all"], notebooks)]
    flags = flags if isinstance(flags, dict) else read_flags(list(flags))
    used = choose_parameters(defaults, flags, file, recorded, known)
    with this_kernel() as kernel:
        run_dir.mkdir(parents=True, exist_ok=True)
        with locked(run_dir) as lock:
            record = start_record(run_dir, recorded | used, list(used))
            status = run_each(paths, defaults, used, run_dir, record, kernel, lock)
    report(run_dir, record, status, list(chosen))
    return status


def start_record(run_dir: Path, parameters: dict, stems: list[str]) -> dict:
    """Write params.yaml, environment.txt (one section a start) and run.json; returns the latter's content."""
    import yaml

    said, where, record = run_dir / "run.json", run_dir / "environment.txt", {"notebooks": {}}
    if said.exists():
        record = json.loads(said.read_text("utf-8"))
    write_text(run_dir / "params.yaml", yaml.safe_dump(parameters, sort_keys=False, allow_unicode=True))
    write_text(where, (where.read_text("utf-8") + "\n" if where.exists() else "") + describe())
    for stem in stems:
        finished = record["notebooks"].get(stem, {}).get("status") == "done"
        if not finished or not (run_dir / f"{stem}.ipynb").exists():
            record["notebooks"][stem] = {"status": "pending", "start": None, "seconds": None, "error": None}
    record = {"run_id": run_dir.name, "notebooks": dict(sorted(record["notebooks"].items()))}
    save(run_dir, record)
    return record


def save(run_dir: Path, record: dict) -> None:
    write_text(run_dir / "run.json", json.dumps(record, indent=1) + "\n")


def run_each(paths: list[Path], defaults: dict, used: dict, run_dir: Path, record: dict, kernel: str, lock: int) -> int:
    """Execute those of `paths` that `record` does not call done, keeping it current; returns the exit status."""
    for number, path in enumerate(paths, start=1):
        name, entry = f"[{number}/{len(paths)}] {path.stem}", record["notebooks"][path.stem]
        if entry["status"] == "done":
            print(f"{name}: done before, skipped", flush=True)
            continue
        print(f"{name} ...", flush=True)
        entry |= {"status": "running", "start": now()}
        save(run_dir, record)
        changed = {key: value for key, value in used[path.stem].items() if value != defaults[path.stem][key]}
        if "run_dir" in defaults[path.stem]:
            changed["run_dir"] = shown(run_dir)
        began = time.monotonic()
        error = execute(path, run_dir / path.name, changed, kernel, lock)
        entry |= {"status": "failed" if error else "done", "seconds": round(time.monotonic() - began, 1)}
        entry["error"] = error
        print(f"{name}: {entry['status']} after {entry['seconds']} s", flush=True)
        save(run_dir, record)
        if error:
            return 130 if f": {INTERRUPTED}: " in error else 1
    return 0


def report(run_dir: Path, record: dict, status: int, chosen: list[str]) -> None:
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
            print(f"\n{stem}, {entry['error']}\nonce mended, go on with: {again}", file=sys.stderr)
