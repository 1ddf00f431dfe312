"""Run one notebook many times with different parameters: side by side on all cores, or on a Ray cluster."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from threading import Thread

from rezero.files import ROOT, read_json, resolve
from rezero.runner.machine import cpu_share, output_of
from rezero.runner.parameters import check_unchanged, choose_parameters, read_parameters, read_params_file
from rezero.runner.run import NOTEBOOKS, run, safe_name
from rezero.text import duration

LAUNCHERS = ("local", "ray")
SPAWN = get_context("spawn")


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
    elif output_of("nvidia-smi", "-L"):  # jobs would share the GPU
        ended = ((name, run_job(call)) for name, call in calls.items())
    else:
        ended = side_by_side(calls, max(1, int(resources.get("num_cpus", 1))))
    began = time.monotonic()
    for number, (name, entry) in enumerate(ended, start=1):
        left = duration((time.monotonic() - began) * (len(jobs) - number) / number)
        print(f"[{number}/{len(jobs)}] {name}: {entry['status']}, {entry['seconds']} s; about {left} left", flush=True)
        if entry["error"]:
            failed.append(f"{name}, {entry['error']}")
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(jobs)} jobs failed; a rerun keeps what is done: {'; '.join(failed)}")
    return {name: folder / name for name in jobs}


def run_job(call: dict, root: str = str(ROOT)) -> dict:
    """Call `run`; returns the entry of run.json with status, seconds and error. `root` is the clone of the sweep."""
    if root != str(ROOT):
        raise RuntimeError(f"this process imported the rezero of {ROOT}, the sweep that of {root}")
    resume = Path(call["runs"], call["run_id"], "params.yaml").is_file()
    with log_of(call).open("a") as log, redirect_stdout(log), redirect_stderr(log):
        status = run(**call, resume=resume)
    if status == 130:
        raise KeyboardInterrupt
    return read_entry(call)


def log_of(call: dict) -> Path:
    return Path(call["runs"], f"{call['run_id']}.log")


def read_entry(call: dict) -> dict:
    (entry,) = read_json(Path(call["runs"], call["run_id"], "run.json"))["notebooks"].values()
    return entry


def side_by_side(calls: dict[str, dict], threads: int) -> Iterator[tuple[str, dict]]:
    """Run each job in a process of its own, as many at once as the cores allow with `threads` each; yields the ended.

    The processes end with this one, and whatever ends them ends their kernels.
    """
    workers = max(1, min(len(calls), cpu_share() // threads))
    print(f"{len(calls)} jobs, {workers} at once; what they print goes to a .log beside their folders", flush=True)
    waiting, running = list(calls.items()), {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                name, call = waiting.pop(0)
                process = SPAWN.Process(target=run_alone, args=(call, threads))
                process.start()
                running[process.sentinel] = name, process
            for ended in connection.wait(list(running)):
                name, process = running.pop(ended)
                process.join()
                failed = {"status": "failed", "seconds": float("nan"), "error": f"see {log_of(calls[name])}"}
                yield name, failed if process.exitcode else read_entry(calls[name])
    finally:
        for _, process in running.values():
            process.kill()


def run_alone(call: dict, threads: int) -> None:
    sweep_ended = parent_process().sentinel
    Thread(target=lambda: connection.wait([sweep_ended]) and os._exit(1), daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    sys.stderr = log_of(call).open("a")  # to which multiprocessing writes what ends the job
    run_job(call)


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
    names = {task.remote(call, str(ROOT)): name for name, call in calls.items()}
    try:
        while names:
            (job,), _ = ray.wait(list(names))
            yield names.pop(job), ray.get(job)
    finally:
        ray.shutdown()
