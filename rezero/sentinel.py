"""The collapse sentinel: tells from a run's metrics when training is losing what it had learned.

Notebook 04 shows what it says of runs that collapse, and of those that do not, under these and other thresholds.
"""

import json
from itertools import product
from pathlib import Path
from statistics import fmean, median

from rezero.files import read_jsonl

LIMITS = {  # metric of a step -> limit, unless `Config.collapse_limits` has another
    "malformed_ends": 0.5,  # share of episodes that end in text that is no turn
    "zero_variance_groups": 0.98,  # share of groups: nothing is left to learn from
    "entropy": 3.0,  # nats a token: the policy writes noise
    "kl": 10.0,  # nats a token to the starting policy; logged when beta is above 0
    "searches": 0.95,  # share of the most that an episode can have: it only searches
    "policy_tokens": 0.95,  # share of the most that an episode can have: it does not stop
}
EXP_01 = [21.9, 28.1, 28.1, 37.5, 46.9, 31.3, 12.5, 18.8, 0, 3.1, 0]  # % right in the published run, every 50 steps
PUBLISHED = [{"kind": "eval", "step": 50 * i, "accuracy": share / 100} for i, share in enumerate(EXP_01, start=1)]
Run = tuple[list[dict], dict[str, float]]  # rows of metrics.jsonl in order; the most of an episode, see `most_of`


def most_of(config: dict) -> dict[str, float]:
    """The most an episode can have of those metrics that are judged as shares of it."""
    return {"searches": config["max_turns"] - 1, "policy_tokens": config["max_turns"] * config["turn_tokens"]}


def read_run(folder: Path) -> Run:
    rows = list(read_jsonl(folder / "metrics.jsonl", appended=True))
    return rows, most_of(json.loads((folder / "config.json").read_text("utf-8")))


def read_runs(folder: Path) -> dict[str, Run]:
    """The run of a folder, as "this run", and the arms of a sweep that was run in it."""
    arms = sorted(folder.glob("ablations/*/metrics.jsonl"))
    return {"this run": read_run(folder)} | {path.parent.name: read_run(path.parent) for path in arms}


def check_limits(changed: dict[str, float]) -> dict[str, float]:
    """`LIMITS` with some changed; ValueError for a metric that has none, or a limit that is no number."""
    for metric, limit in changed.items():
        if metric not in LIMITS:
            raise ValueError(f"collapse_limits names {metric!r}; allowed: {', '.join(LIMITS)}")
        if isinstance(limit, bool) or not isinstance(limit, int | float):
            raise ValueError(f"collapse_limits: the limit of {metric!r} is {limit!r}; want a number")
    return LIMITS | changed


def collapse(
    rows: list[dict], drop: float, patience: int, window: int, most: dict[str, float], limits: dict[str, float] = LIMITS
) -> str | None:
    """Why training should stop now, None while it should go on.

    Either the last `patience` evaluations on dev all lie more than `drop` below the best one before them, or mean and
    median of a metric of `limits` over the last `window` steps lie above its limit. A single bad evaluation or step,
    however far out (estimates of KL have such), never stops anything: both are noisy.

    Args:
        rows: those of metrics.jsonl, kinds "train" and "eval", in order.
        most: as `most_of` gives it.
    """
    curve = [(row["step"], row["accuracy"]) for row in rows if row["kind"] == "eval"]
    if len(curve) > patience:
        step, best = max(curve[:-patience], key=lambda point: point[1])
        if all(accuracy < best - drop for _, accuracy in curve[-patience:]):
            last = ", ".join(f"{accuracy:.3f}" for _, accuracy in curve[-patience:])
            return f"dev accuracy was {last}, each more than {drop} below {best:.3f} at step {step}"
    steps = [row for row in rows if row["kind"] == "train"][-window:]
    if len(steps) < window:
        return None
    for metric, limit in limits.items():
        values = [row[metric] / most.get(metric, 1) for row in steps if metric in row]
        if len(values) == window and (typical := min(fmean(values), median(values))) > limit:
            of = f" of at most {most[metric]}" if metric in most else ""
            return f"{metric} was {typical:.3f}{of} on average over {window} steps, the limit is {limit}"
    return None


def replay(rows: list[dict], drop: float, patience: int, window: int, most: dict[str, float]) -> tuple[int, str] | None:
    """At which step of a recorded run `collapse` would have stopped it, and why; None if it never would have."""
    for end, row in enumerate(rows, start=1):
        if row["kind"] != "collapse" and (why := collapse(rows[:end], drop, patience, window, most)):
            return row["step"], why
    return None


def kept(rows: list[dict], step: float = float("inf")) -> int:
    """The step whose policy is in best/ when a run ends at `step`: the first of those with the best dev accuracy."""
    curve = [(row["step"], row["accuracy"]) for row in rows if row["kind"] == "eval" and row["step"] <= step]
    return max(curve, key=lambda point: point[1])[0]


def settings_table(
    collapsed: dict[str, Run], others: dict[str, Run], drops: list[float], patiences: list[int], windows: list[int]
):
    """Where recorded runs would have stopped under every setting, and in brackets whose policy would have been kept.

    A row a window and drop, a column a run and patience; "-" where a run goes on to its end. Of the `others` it says
    how many would have been stopped.
    """
    from pandas import DataFrame

    cells = {(name, f"patience {patience}"): {} for name in (*collapsed, "others") for patience in patiences}
    for patience, window, drop in product(patiences, windows, drops):
        at, setting = (f"window {window}", f"drop {drop}"), (drop, patience, window)
        for name, (rows, most) in collapsed.items():
            found = replay(rows, *setting, most)
            cells[name, f"patience {patience}"][at] = f"{found[0]} ({kept(rows, found[0])})" if found else "-"
        stopped = sum(replay(rows, *setting, most) is not None for rows, most in others.values())
        cells["others", f"patience {patience}"][at] = f"{stopped} of {len(others)}"
    return DataFrame(cells)


def margins(runs: dict[str, Run], window: int):
    """What each metric of `LIMITS` reached at most in each run over `window` steps, as `collapse` sees it."""
    from pandas import DataFrame

    table = {"limit": LIMITS}
    for name, (rows, most) in runs.items():
        steps = DataFrame([row for row in rows if row["kind"] == "train"])
        windows = steps.reindex(columns=list(LIMITS)).rolling(window)
        highest = windows.mean().clip(upper=windows.median()).max()
        table[name] = {metric: highest[metric] / most.get(metric, 1) for metric in LIMITS}
    return DataFrame(table)
