"""Run one notebook many times with different parameters: one job after the other, or on a Ray cluster."""

import json
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from rezero.files import resolve
from rezero.runner.parameters import overrides, read_parameters, read_params_file
from rezero.runner.run import NOTEBOOKS, run, safe_name


def sweep(
    jobs: dict[str, dict],
    folder: str | Path,
    notebook: str = "02_train_grpo",
    launcher: str = "local",
    resources: dict | None = None,
    wait_for: dict[str, str] | None = None,
    books: str | Path = NOTEBOOKS,
) -> dict[str, Path]:
    """Run `notebook` once per job, in `folder`/<name>; what it prints goes to `folder`/<name>.log.

    Finished jobs are skipped and killed ones go on. A job that fails does not stop the others.

    Args:
        jobs: {name: parameters of the notebook}.
        launcher: "local" runs the jobs in their order, "ray" as many at once as `resources` allow; see `on_ray`.
        resources: what Ray reserves for each job, such as {"num_gpus": 1}.
        wait_for: {name: name of an earlier job}: the first starts when the other has ended.
        books: the folder of the notebook.

    Returns {name: folder of its run}.

    Raises:
        ValueError: nothing was run, because of an unknown launcher or parameter, an unsafe name, a job that ran with
            other parameters before, or one that waits for no earlier job.
        RuntimeError: jobs failed; names them with their cells and errors.
    """
    if launcher not in ("local", "ray"):
        raise ValueError(f"unknown launcher {launcher!r}; allowed: local, ray")
    folder, books, names, wait_for = resolve(folder), resolve(books), list(jobs), wait_for or {}
    for name, other in wait_for.items():
        if not {name, other} <= set(names) or names.index(other) >= names.index(name):
            raise ValueError(f"job {name!r} waits for {other!r}; want an earlier one of the jobs: {', '.join(names)}")
    parameters = {notebook: read_parameters(books / f"{notebook}.ipynb")}
    jobs = {name: check_job(name, given, folder, parameters) for name, given in jobs.items()}
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    place = {"folder": folder, "notebook": notebook, "books": books}
    ended = ((name, run_job(name, own, **place)) for name, own in jobs.items())
    if launcher == "ray":
        ended = on_ray(jobs, place, wait_for, resources or {})
    for number, (name, entry) in enumerate(ended, start=1):
        print(f"[{number}/{len(jobs)}] {name}: {entry['status']}, {entry['seconds']} s", flush=True)
        failed += [f"{name}, {entry['error']}"] if entry["error"] else []
    if failed:
        again = "when this is mended, run the sweep again, which keeps what is done"
        raise RuntimeError(f"{len(failed)} of {len(jobs)} jobs failed; {again}: {'; '.join(failed)}")
    return {name: folder / name for name in names}


def check_job(name: str, given: dict, folder: Path, parameters: dict) -> dict:
    """All parameters of a job, which must be those that it ran with if it ran before."""
    (notebook,) = parameters
    checked = overrides(given, parameters, f"job {name!r}")[notebook]
    used = {key: one.default for key, one in parameters[notebook].items()} | checked
    run_dir = folder / safe_name(name, "job")
    before = read_params_file(run_dir / "params.yaml")[notebook] if (run_dir / "run.json").is_file() else {}
    other = {key: value for key, value in before.items() if used.get(key) != value}
    if other:
        raise ValueError(
            f"{run_dir} ran with other parameters: {other}; give the job another name, or go on with these"
        )
    return used


def run_job(name: str, parameters: dict, folder: Path, notebook: str, books: Path, after: object = None) -> dict:
    """Run a job; returns its entry of run.json with status, seconds and error. Ray waits until `after` is there."""
    record = folder / name / "run.json"
    with (folder / f"{name}.log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
        status = run([notebook], parameters, run_id=name, resume=record.is_file(), notebooks=books, runs=folder)
    if status == 130:
        raise KeyboardInterrupt
    return json.loads(record.read_text("utf-8"))["notebooks"][notebook]


def on_ray(jobs: dict, place: dict, wait_for: dict, resources: dict) -> Iterator[tuple[str, dict]]:
    """Run each job as a Ray task, on the cluster that RAY_ADDRESS names or else on this machine's cores.

    The machines of a cluster need this clone and the sweep's folder at the same path. Yields jobs as they end.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("launcher 'ray' needs one more package: pip install 'rezero[ray]'") from error
    ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=False)
    task, started = ray.remote(run_job).options(**resources), {}
    for name, parameters in jobs.items():
        started[name] = task.remote(name, parameters, **place, after=started.get(wait_for.get(name)))
    names = {job: name for name, job in started.items()}
    try:
        while names:
            (job,), _ = ray.wait(list(names))
            yield names.pop(job), ray.get(job)
    finally:
        ray.shutdown()
