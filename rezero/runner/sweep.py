"""Run one notebook many times with different parameters: one job after the other, or on a Ray cluster."""

from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from rezero.files import read_json, resolve
from rezero.runner.parameters import check_unchanged, choose_parameters, read_parameters, read_params_file
from rezero.runner.run import NOTEBOOKS, run, safe_name


def sweep(
    jobs: dict[str, dict],
    folder: str | Path,
    notebook: Path = NOTEBOOKS / "02_train_grpo.ipynb",
    launcher: str = "local",
    resources: dict | None = None,
    wait_for: dict[str, str] | None = None,
) -> dict[str, Path]:
    """Run `notebook` once per job, in `folder`/<name>; what it prints goes to `folder`/<name>.log.

    Finished jobs are skipped and killed ones go on. A job that fails does not stop the others.

    Args:
        jobs: {name: parameters of the notebook}. ValueError, with nothing run, if one ran with others before.
        launcher: "local" runs one job after the other, "ray" several; `resources` are what Ray reserves for each.
        wait_for: {name: name of an earlier job}: on Ray the first starts when the other has ended.

    Returns {name: folder of its run}. Raises RuntimeError at the end if jobs failed, with their cells and errors.
    """
    if launcher not in ("local", "ray"):
        raise ValueError(f"unknown launcher {launcher!r}; allowed: local, ray")
    folder, parameters = resolve(folder), {notebook.stem: read_parameters(notebook)}
    calls, failed = {}, []
    for name, given in jobs.items():
        used, run_dir = choose_parameters(parameters, {f"job {name!r}": given}), folder / safe_name(name, "job")
        if (run_dir / "params.yaml").is_file():
            check_unchanged(run_dir, read_params_file(run_dir / "params.yaml"), used)
        calls[name] = dict(chosen=[notebook.stem], flags=used, run_id=name, notebooks=notebook.parent, runs=folder)
    folder.mkdir(parents=True, exist_ok=True)
    ended = ((name, run_job(call)) for name, call in calls.items())
    if launcher == "ray":
        ended = on_ray(calls, wait_for or {}, resources or {})
    for number, (name, entry) in enumerate(ended, start=1):
        print(f"[{number}/{len(jobs)}] {name}: {entry['status']}, {entry['seconds']} s", flush=True)
        if entry["error"]:
            failed.append(f"{name}, {entry['error']}")
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(jobs)} jobs failed; a rerun keeps what is done: {'; '.join(failed)}")
    return {name: folder / name for name in jobs}


def run_job(call: dict, after: object = None) -> dict:
    """Call `run`; returns the entry of run.json with status, seconds and error. Ray waits until `after` is there."""
    run_dir = call["runs"] / call["run_id"]
    with run_dir.with_name(f"{run_dir.name}.log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
        status = run(**call, resume=(run_dir / "params.yaml").is_file())
    if status == 130:
        raise KeyboardInterrupt
    (entry,) = read_json(run_dir / "run.json")["notebooks"].values()
    return entry


def on_ray(calls: dict, wait_for: dict, resources: dict) -> Iterator[tuple[str, dict]]:
    """Run each job as a Ray task, on the cluster that RAY_ADDRESS names or else on this machine's cores.

    The machines of a cluster need this clone and the sweep's folder at the same path. Yields jobs as they end.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("launcher 'ray' needs one more package: pip install -e '.[ray]'") from error
    ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=False)
    task, started = ray.remote(run_job).options(**resources), {}
    for name, call in calls.items():
        started[name] = task.remote(call, after=started[wait_for[name]] if name in wait_for else None)
    names = {job: name for name, job in started.items()}
    try:
        while names:
            (job,), _ = ray.wait(list(names))
            yield names.pop(job), ray.get(job)
    finally:
        ray.shutdown()
