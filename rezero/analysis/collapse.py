"""The collapse sentinel: tells from a run's metrics when training is losing what it had learned.

Notebook 04 shows what it says of runs that collapse, and of those that do not, under these and other thresholds.
"""

import json
from pathlib import Path

from rezero.files import read_jsonl
from rezero.training.sentinel import LIMITS, Run, collapse, most_of

EXP_01 = [21.9, 28.1, 28.1, 37.5, 46.9, 31.3, 12.5, 18.8, 0, 3.1, 0]  # % right in the published run, every 50 steps

PUBLISHED = [{"kind": "eval", "step": 50 * i, "accuracy": share / 100} for i, share in enumerate(EXP_01, start=1)]


def read_run(folder: Path) -> Run:
    rows = list(read_jsonl(folder / "metrics.jsonl", appended=True))
    return rows, most_of(json.loads((folder / "config.json").read_text("utf-8")))


def read_runs(folder: Path) -> dict[str, Run]:
    """The run of a folder, as "this run", and the arms of a sweep that was run in it."""
    arms = sorted(folder.glob("ablations/*/metrics.jsonl"))
    return {"this run": read_run(folder)} | {path.parent.name: read_run(path.parent) for path in arms}


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
