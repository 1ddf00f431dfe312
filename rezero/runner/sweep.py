"""Sweeps: notebook 02 once for every arm, one after the other or on a Ray cluster; `ablations` reads what they leave.

An arm is a plain dict of notebook 02's parameters, as {"reward_set": "recovery", "seed": 1, "engine": "dense"}, with a
`name` if its words are not enough of one. Test stays sealed: arms are compared on dev, as their last step leaves them.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from rezero.files import resolve
from rezero.runner.parameters import overrides, read_parameters
from rezero.runner.run import NOTEBOOKS, run, shown

NOTEBOOK = "02_train_grpo"

START = ("profile", "engine", "engine_options", "options", "difficulty_samples")  # arms alike in these share a start

Runs = dict[tuple[str, int], Path]  # (arm, seed) -> its run folder


def named(arms: list[dict]) -> list[dict]:
    """The arms, those without a name called by their words: {"reward_set": "recovery", ...} is "recovery"."""
    return [{"name": "-".join(value for value in arm.values() if isinstance(value, str)), **arm} for arm in arms]


def grid(arms: list[dict], seeds: list[int], **shared) -> tuple[dict, ...]:
    """Every arm with every seed and the `shared` parameters; what an arm says itself wins, in `options` one by one."""
    options = shared.pop("options", {})
    every = [shared | {"seed": seed} | arm for seed in seeds for arm in named(arms)]
    return tuple(arm | {"options": options | arm.get("options", {})} for arm in every)


def sweep(arms, folder: str | Path, launcher: str = "local", resources: dict | None = None, books=NOTEBOOKS) -> Runs:
    """Run notebook 02 for every arm in `folder`/<name>-<seed>; finished arms are skipped, killed ones go on.

    What an arm prints stands in `folder`/<name>-<seed>.log. One that fails does not stop the others.

    Args:
        launcher: "local", one after the other, or "ray", see `on_ray`; `resources` are what Ray sets aside for an arm.
        books: the folder of notebook 02.

    Raises:
        ValueError: an unknown launcher, a parameter that notebook 02 does not have, two arms of one name, or an arm
            that ran with other parameters in this folder.
        RuntimeError: arms failed; names them, the cells and the errors.
    """
    if launcher not in LAUNCHERS:
        raise ValueError(f"unknown launcher {launcher!r}; allowed: {', '.join(LAUNCHERS)}")
    folder, runs, jobs, failed = resolve(folder), {}, {}, []
    for arm in arms:
        place = runs[arm["name"], arm["seed"]] = folder / f"{arm['name']}-{arm['seed']}"
        parameters = check_arm(arm, folder, books)
        if jobs.setdefault(place, parameters) != parameters:
            raise ValueError(f"two arms are called {place.name!r}; give one another name, as {{'name': 'other', ...}}")
    folder.mkdir(parents=True, exist_ok=True)
    for number, (place, record) in enumerate(LAUNCHERS[launcher](jobs, books, resources or {}), start=1):
        print(f"[{number}/{len(jobs)}] {place.name}: {record['status']}, {record['seconds']} s", flush=True)
        failed += [f"{place.name}, {record['error']}"] if record["error"] else []
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(jobs)} arms failed; once mended, run the sweep again, what is done "
                           f"is kept: {'; '.join(failed)}")  # fmt: skip
    return runs


def check_arm(arm: dict, folder: Path, books: Path) -> dict:
    """All parameters that notebook 02 gets for an arm."""
    defaults = read_parameters(books / f"{NOTEBOOK}.ipynb")
    start = hashlib.sha1(json.dumps([arm.get(name) for name in START], sort_keys=True).encode()).hexdigest()[:8]
    own = {"test": False, "difficulty": shown(folder / f"difficulty-{start}.jsonl")} | arm
    own.pop("name")
    used = defaults | overrides(own, {NOTEBOOK: defaults}, f"arm {arm['name']!r}", [NOTEBOOK])[NOTEBOOK]
    return {name: value for name, value in used.items() if name != "run_dir"}


def run_arm(place: Path, parameters: dict, books: Path, after: object = None) -> dict:
    """Run notebook 02 in `place`; what run.json records of it: status, seconds, error. `after` is for Ray to wait."""
    with place.with_name(f"{place.name}.log").open("a") as log, redirect_stdout(log), redirect_stderr(log):
        known = (place / "run.json").is_file()
        status = run([NOTEBOOK], parameters, run_id=place.name, resume=known, notebooks=books, runs=place.parent)
    if status == 130:
        raise KeyboardInterrupt
    return json.loads((place / "run.json").read_text("utf-8"))["notebooks"][NOTEBOOK]


def in_turn(jobs: dict[Path, dict], books: Path, resources: dict) -> Iterator[tuple[Path, dict]]:
    """One arm after the other, in their order."""
    for place, parameters in jobs.items():
        yield place, run_arm(place, parameters, books)


def on_ray(jobs: dict[Path, dict], books: Path, resources: dict) -> Iterator[tuple[Path, dict]]:
    """Every arm a Ray task, on the cluster that RAY_ADDRESS names or else on this machine's cores, as they end.

    An arm waits for the one that measures its questions' difficulty. The machines of a cluster need this clone and
    the run folder at the same path.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("launcher 'ray' needs one more package: pip install 'rezero[ray]'") from error
    ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=False)
    task, first, waiting = ray.remote(run_arm).options(**resources), {}, {}
    for place, parameters in jobs.items():
        job = task.remote(place, parameters, books, first.get(parameters["difficulty"]))
        first.setdefault(parameters["difficulty"], job)
        waiting[job] = place
    try:
        while waiting:
            (job,), _ = ray.wait(list(waiting))
            yield waiting.pop(job), ray.get(job)
    finally:
        ray.shutdown()


LAUNCHERS = {"local": in_turn, "ray": on_ray}
