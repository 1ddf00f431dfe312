"""What the collapse sentinel would have said of recorded runs, the published one among them."""

from pathlib import Path

from pandas import DataFrame

from rezero.config import Collapse
from rezero.files import read_json
from rezero.training.checkpoints import read_metrics
from rezero.training.sentinel import LIMITS, collapse, most_of

# Percent correct in the published run exp_01, every 50 steps: it rose and then fell to nothing.
EXP_01 = [21.9, 28.1, 28.1, 37.5, 46.9, 31.3, 12.5, 18.8, 0, 3.1, 0]
PUBLISHED = [{"kind": "eval", "step": 50 * i, "accuracy": share / 100} for i, share in enumerate(EXP_01, start=1)]

Run = tuple[list[dict], dict[str, float]]  # rows of metrics.jsonl in order, and what `sentinel.most_of` returns


def read_runs(folder: Path) -> dict[str, Run]:
    """The run of a folder, as "this run", and by their names those inside, as in its collapse/ and ablations/."""
    runs = {}
    for path in [folder / "metrics.jsonl", *sorted(folder.glob("*/*/metrics.jsonl"))]:
        config = read_json(path.with_name("config.json"))
        name = "this run" if path.parent == folder else path.parent.name
        runs[name] = read_metrics(path.parent), most_of(config["max_turns"], config["turn_tokens"])
    return runs


def replay(run: Run, settings: Collapse) -> tuple[int, str, int] | None:
    """At which step the sentinel would have stopped a run, why, and which step's policy best/ would have; or None."""
    rows, most = run
    for end, row in enumerate(rows, start=1):
        why = collapse(rows[:end], settings, most)
        if why:
            evals = [row for row in rows[:end] if row["kind"] == "eval"]
            return row["step"], why, max(evals, key=lambda row: row["accuracy"])["step"]
    return None


def margins(runs: dict[str, Run], window: int) -> DataFrame:
    """The highest value of each metric of `LIMITS` in each run over `window` steps, as the sentinel sees it."""
    table = DataFrame({"limit": LIMITS})
    for name, (rows, most) in runs.items():
        steps = DataFrame([row for row in rows if row["kind"] == "train"])
        windows = steps.reindex(columns=list(LIMITS)).rolling(window)
        table[name] = windows.mean().clip(upper=windows.median()).max() / [most.get(metric, 1) for metric in LIMITS]
    return table
