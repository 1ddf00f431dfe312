"""What the collapse sentinel would have said of recorded runs, the published one among them."""

import json
from pathlib import Path

from pandas import DataFrame

from rezero.config import Collapse
from rezero.files import read_jsonl
from rezero.training.sentinel import LIMITS, collapse, most_of

# Percent correct in the published run exp_01, every 50 steps: it rose and then fell to nothing.
EXP_01 = [21.9, 28.1, 28.1, 37.5, 46.9, 31.3, 12.5, 18.8, 0, 3.1, 0]
PUBLISHED = [{"kind": "eval", "step": 50 * i, "accuracy": share / 100} for i, share in enumerate(EXP_01, start=1)]

Run = tuple[list[dict], dict[str, float]]  # rows of metrics.jsonl in order, and what `sentinel.most_of` returns


def read_run(folder: Path) -> Run:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    rows = list(read_jsonl(folder / "metrics.jsonl", appended=True))
    return rows, most_of(config["max_turns"], config["turn_tokens"])


def read_runs(folder: Path) -> dict[str, Run]:
    """The run of a folder, as "this run", and the arms of a sweep that was run in it."""
    arms = [path.parent for path in sorted(folder.glob("ablations/*/metrics.jsonl"))]
    return {"this run": read_run(folder)} | {arm.name: read_run(arm) for arm in arms}


def replay(run: Run, settings: Collapse) -> tuple[int, str] | None:
    """At which step the sentinel would have stopped a recorded run, and why; None if it never would have."""
    rows, most = run
    for end, row in enumerate(rows, start=1):
        why = None if row["kind"] == "collapse" else collapse(rows[:end], settings, most)
        if why:
            return row["step"], why
    return None


def kept_step(run: Run, end: float = float("inf")) -> int:
    """The step whose policy is in best/ when a run ends at step `end`: the first one with the best dev accuracy."""
    evals = [row for row in run[0] if row["kind"] == "eval" and row["step"] <= end]
    return max(evals, key=lambda row: row["accuracy"])["step"]


def margins(runs: dict[str, Run], window: int) -> DataFrame:
    """The highest value of each metric of `LIMITS` in each run over `window` steps, as the sentinel sees it."""
    table = DataFrame({"limit": LIMITS})
    for name, (rows, most) in runs.items():
        steps = DataFrame([row for row in rows if row["kind"] == "train"]).reindex(columns=list(LIMITS))
        windows = steps.rolling(window)
        highest = windows.mean().clip(upper=windows.median()).max()
        table[name] = highest / [most.get(metric, 1) for metric in LIMITS]
    return table
