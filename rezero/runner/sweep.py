"""Call one function many times with different arguments: side by side on all cores, or on a Ray cluster."""

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from pkgutil import resolve_name
from threading import Thread

from filelock import FileLock, Timeout

from rezero.files import ROOT, read_json, resolve, write_text
from rezero.runner.machine import cpu_share, output_of
from rezero.runner.run import safe_name
from rezero.text import duration, redact

LAUNCHERS = ("local", "ray")
SPAWN = get_context("spawn")
RECORD = "job.json"  # in a job's folder: its arguments, and its status, seconds and error


def sweep(
    jobs: dict[str, dict], folder: str | Path, work: str, launcher: str = "local", resources: dict | None = None
) -> dict[str, Path]:
    """Call the function `work` ("package.module:function") once per job, as work(folder=`folder`/<name>, **arguments).

    What it prints goes to `folder`/<name>.log. Finished jobs are skipped; one that was killed is called again with the
    same folder. A job that fails does not stop the others.

    Args:
        jobs: {name: arguments, as plain data}. ValueError, with nothing run, if one ran with others before.
        launcher: "local" uses all cores of this machine (with a GPU it runs one job after the other), "ray" a cluster.
        resources: what a job takes: {"num_cpus": 1} and, on Ray, whatever else Ray can reserve.

    Returns {name: folder of the job}. Raises RuntimeError at the end if jobs failed, with their errors.
    """
    if launcher not in LAUNCHERS:
        raise ValueError(f"unknown launcher {launcher!r}; allowed: {', '.join(LAUNCHERS)}")
    folder, resources, calls, failed = resolve(folder), resources or {}, {}, []
    for name, given in jobs.items():
        place, given = folder / safe_name(name, "job"), json.loads(json.dumps(given))
        record = read_json(place / RECORD) if (place / RECORD).is_file() else {"arguments": given}
        if record["arguments"] != given:
            raise ValueError(f"{place} was begun with {record['arguments']}, not {given}; want another folder")
        if record.get("status") != "done":
            calls[name] = {"work": work, "folder": str(place), "arguments": given}
    folder.mkdir(parents=True, exist_ok=True)
    if launcher == "ray":
        ended = on_ray(calls, resources)
    elif output_of("nvidia-smi", "-L"):  # jobs would share the GPU
        ended = ((name, run_job(call)) for name, call in calls.items())
    else:
        ended = side_by_side(calls, max(1, int(resources.get("num_cpus", 1))))
    n, began = len(calls), time.monotonic()
    print(f"{len(jobs)} jobs, {len(jobs) - n} done before; each prints to a .log beside its folder", flush=True)
    for number, (name, entry) in enumerate(ended, start=1):
        left = duration((time.monotonic() - began) * (n - number) / number)
        print(f"[{number}/{n}] {name}: {entry['status']}, {entry['seconds']} s; about {left} left", flush=True)
        failed += [f"{name}: {entry['error']}"] if entry["error"] else []
    if failed:
        raise RuntimeError(f"{len(failed)} of {n} jobs failed; a rerun keeps what is done: {'; '.join(failed)}")
    return {name: folder / name for name in jobs}


def run_job(call: dict, root: str = str(ROOT)) -> dict:
    """`do` a job in this process, with what it prints in its log. `root` is the clone of the sweep."""
    if root != str(ROOT):
        raise RuntimeError(f"this process imported the rezero of {ROOT}, the sweep that of {root}")
    with log_of(call).open("a") as log, redirect_stdout(log), redirect_stderr(log):
        return do(call)


def do(call: dict) -> dict:
    """Do one job and record it, unless another sweep does or has; returns its status, seconds and error."""
    folder, record, began = Path(call["folder"]), {"arguments": call["arguments"]}, time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    entry = {"status": "done", "error": "", "seconds": 0.0}
    try:
        with FileLock(folder / "lock", blocking=False):
            if (folder / RECORD).is_file() and read_json(folder / RECORD).get("status") == "done":
                return entry
            write_text(folder / RECORD, json.dumps(record, indent=1))
            try:
                resolve_name(call["work"])(folder=folder, **call["arguments"])
            except Exception as failure:
                traceback.print_exc()
                entry |= {"status": "failed", "error": redact(f"{type(failure).__name__}: {failure}")}
            gc.collect()  # on a GPU the next job needs the memory of this one
            entry["seconds"] = round(time.monotonic() - began, 1)
            write_text(folder / RECORD, json.dumps(record | entry, indent=1))
    except Timeout:
        entry |= {"status": "failed", "error": "another process is doing it"}
    return entry


def log_of(call: dict) -> Path:
    return Path(f"{call['folder']}.log")


def side_by_side(calls: dict[str, dict], threads: int) -> Iterator[tuple[str, dict]]:
    """Do the jobs in as many processes as the cores allow with `threads` each; yields those that ended.

    A process does one job after the other, so that what they import is imported once. One that dies fails only the job
    that it was doing, and another takes its place. They end with this process, whatever ends it.
    """
    workers, waiting, running, processes = max(1, cpu_share() // threads), list(calls.items()), {}, []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                pipe, theirs = SPAWN.Pipe()
                processes.append(SPAWN.Process(target=work_off, args=(theirs, threads)))
                processes[-1].start()
                theirs.close()
                running[pipe] = waiting.pop(0)
                pipe.send(running[pipe][1])
            for pipe in connection.wait(list(running)):
                name, call = running.pop(pipe)
                entry = {"status": "failed", "seconds": float("nan"), "error": f"its process died, see {log_of(call)}"}
                with suppress(EOFError, ConnectionError):
                    entry = pipe.recv()
                    if waiting:
                        running[pipe] = waiting.pop(0)
                        pipe.send(running[pipe][1])
                yield name, entry
    finally:
        for process in processes:
            process.kill()


def work_off(pipe: connection.Connection, threads: int) -> None:
    """A worker: do the jobs that come through `pipe`, until the process that sends them ends."""
    sweep_ended = parent_process().sentinel
    Thread(target=lambda: connection.wait([sweep_ended]) and os._exit(1), daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is imported
    if "torch" in sys.modules:  # already by the script that started the sweep, which a spawned process runs first
        sys.modules["torch"].set_num_threads(threads)
    sys.stdout.reconfigure(line_buffering=True)
    with suppress(EOFError):  # there are no more jobs
        while True:
            call = pipe.recv()
            with log_of(call).open("a") as log:  # by descriptor, because loggers keep the stream that they met first
                os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
            pipe.send(do(call))


def on_ray(calls: dict, resources: dict) -> Iterator[tuple[str, dict]]:
    """Do each job as a Ray task, on the cluster that RAY_ADDRESS names or else on this machine's cores.

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
            name = names.pop(job)
            try:
                entry = ray.get(job)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
                why = f"{type(error).__name__}, see {log_of(calls[name])}"
                entry = {"status": "failed", "seconds": float("nan"), "error": why}
            yield name, entry
    finally:
        ray.shutdown()
