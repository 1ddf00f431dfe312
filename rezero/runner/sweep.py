"""Run one notebook many times with different parameters: side by side on all cores, or on a Ray cluster."""

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

from rezero.files import read_json, resolve
from rezero.runner.machine import cpu_share, kernel_environment, output_of
from rezero.runner.parameters import check_unchanged, choose_parameters, read_cells, read_parameters, read_params_file
from rezero.runner.run import NOTEBOOKS, run, safe_name
from rezero.text import duration

LAUNCHERS = ("local", "ray")


def sweep(
    jobs: dict[str, dict],
    folder: str | Path,
    notebook: Path = NOTEBOOKS / "02_train_grpo.ipynb",
    launcher: str = "local",
    resources: dict | None = None,
) -> dict[str, Path]:
    """Run `notebook` once per job, in `folder`/<name>; what it prints goes to `folder`/<name>.log.

    Finished jobs are skipped and killed ones go on. A job that fails does not stop the others.

    Args:
        jobs: {name: parameters of the notebook}. ValueError, with nothing run, if one ran with others before.
        launcher: "local" uses all cores of this machine (with a GPU it runs one job after the other), "ray" a cluster.
        resources: what a job takes: {"num_cpus": 1} and, on Ray, whatever else Ray can reserve.

    Returns {name: folder of its run}. Raises RuntimeError at the end if jobs failed, with their cells and errors.
    """
    if launcher not in LAUNCHERS:
        raise ValueError(f"unknown launcher {launcher!r}; allowed: {', '.join(LAUNCHERS)}")
    folder, parameters, resources = resolve(folder), {notebook.stem: read_parameters(notebook)}, resources or {}
    calls, failed = {}, []
    for name, given in jobs.items():
        used, run_dir = choose_parameters(parameters, {f"job {name!r}": given}), folder / safe_name(name, "job")
        if (run_dir / "params.yaml").is_file():
            check_unchanged(run_dir, read_params_file(run_dir / "params.yaml"), used)
        places = {"notebooks": str(notebook.parent), "runs": str(folder)}
        calls[name] = dict(chosen=[notebook.stem], flags=used[notebook.stem], run_id=name, **places)
    folder.mkdir(parents=True, exist_ok=True)
    if launcher == "ray":
        ended = on_ray(calls, resources)
    elif sys.platform != "linux" or output_of("nvidia-smi", "-L"):  # no safe forks; or jobs would share the GPU
        ended = ((name, run_job(call)) for name, call in calls.items())
    else:
        ended = side_by_side(calls, notebook, max(1, int(resources.get("num_cpus", 1))))
    began = time.monotonic()
    for number, (name, entry) in enumerate(ended, start=1):
        left = duration((time.monotonic() - began) * (len(jobs) - number) / number)
        print(f"[{number}/{len(jobs)}] {name}: {entry['status']}, {entry['seconds']} s; about {left} left", flush=True)
        if entry["error"]:
            failed.append(f"{name}, {entry['error']}")
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(jobs)} jobs failed; a rerun keeps what is done: {'; '.join(failed)}")
    return {name: folder / name for name in jobs}


def run_job(call: dict) -> dict:
    """Call `run`; returns the entry of run.json with status, seconds and error."""
    run_dir = Path(call["runs"]) / call["run_id"]
    with run_dir.with_name(f"{run_dir.name}.log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
        status = run(**call, resume=(run_dir / "params.yaml").is_file())
    if status == 130:
        raise KeyboardInterrupt
    return read_entry(run_dir)


def read_entry(run_dir: Path) -> dict:
    (entry,) = read_json(run_dir / "run.json")["notebooks"].values()
    return entry


def side_by_side(calls: dict[str, dict], notebook: Path, threads: int) -> Iterator[tuple[str, dict]]:
    """Run the jobs in `forks`, as many at once as the cores allow with `threads` each. Yields jobs as they end."""
    workers = max(1, min(len(calls), cpu_share() // threads))
    plan = {"imports": imports_of(notebook), "calls": calls, "workers": workers}
    logs = Path(notebook if not calls else next(iter(calls.values()))["runs"]) / "*.log"
    print(f"{len(calls)} jobs, {workers} at once; what they print goes to {logs}", flush=True)
    env = os.environ | kernel_environment(logs.parent) | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "rezero.runner.forks"]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    left = dict(calls)
    with subprocess.Popen(command, **pipes, env=env, cwd=notebook.parent, start_new_session=True) as process:
        try:
            print(json.dumps(plan), file=process.stdin, flush=True)
            for line in process.stdout:
                name, status = json.loads(line)
                del left[name]
                failed = {"status": "failed", "seconds": float("nan"), "error": f"see {logs.with_name(name)}.log"}
                yield name, failed if status else read_entry(logs.parent / name)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if left:
        raise RuntimeError(f"the process of the jobs died, often for lack of memory; not done: {', '.join(left)}")


def imports_of(notebook: Path) -> list[str]:
    """The import statements of the notebook's cells."""
    nodes = []
    for cell in read_cells(notebook):
        with suppress(SyntaxError):  # a line for IPython, such as %pip
            nodes += ast.parse("".join(cell["source"])).body if cell["cell_type"] == "code" else []
    return [ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def on_ray(calls: dict, resources: dict) -> Iterator[tuple[str, dict]]:
    """Run each job as a Ray task, on the cluster that RAY_ADDRESS names or else on this machine's cores.

    The machines of a cluster need this clone and the sweep's folder at the same path. Yields jobs as they end.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("launcher 'ray' needs one more package: pip install -e '.[ray]'") from error
    ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=False)
    task = ray.remote(run_job).options(**resources)
    names = {task.remote(call): name for name, call in calls.items()}
    try:
        while names:
            (job,), _ = ray.wait(list(names))
            yield names.pop(job), ray.get(job)
    finally:
        ray.shutdown()
