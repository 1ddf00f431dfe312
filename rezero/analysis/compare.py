"""Two runs, or two policies of one, on the same questions: paired differences, curves, and questions won and lost."""

import base64
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from rezero.analysis import plots
from rezero.analysis.cards import MACROS, Page, side_by_side
from rezero.analysis.paired import in_words, paired_table
from rezero.analysis.report import SIDES, Run, common, two_runs
from rezero.config import Config
from rezero.evaluation.evaluate import LABELS, Estimate, Report, summarize, table
from rezero.evaluation.stats import paired_bootstrap
from rezero.files import resolve
from rezero.policy.base import Policy
from rezero.policy.load import with_weights
from rezero.task import Task
from rezero.training.checkpoints import read_metrics
from rezero.training.train import Trained, untrained_sampling

METRICS = ("accuracy", "evidence", "retried", "recovered")
SHOWN = ["metric", "difference", "low", "high", "p (Holm)", "n", "in words"]


def compare(first: Run, second: Run) -> Page:
    """How the last policies of two runs did on their common questions, for a notebook, a terminal or a file.

    The differences, second - first, resample questions and not seeds: they hold for these two policies. ValueError if
    the runs have no question in common.
    """
    shared, runs = common(first, second), (first, second)
    reports = [summarize([run.latest[id] for id in shared], run.name) for run in runs]
    paired = paired_table([{(one.name, 0): one for one in reports}], first.name, METRICS)
    asked = ", ".join(f"{run.name}: {len(run.latest)}" for run in runs)
    groups = {name: [] for name in SIDES.values()}
    for id, *right in zip(shared, *(report.frame.correct for report in reports), strict=True):
        groups[SIDES[tuple(map(bool, right))]].append(id)
    tables = [
        f"compared on {len(shared)} common questions (asked were {asked})",
        table(reports).to_string(),
        f"\n{second.name} - {first.name}, paired:",
        paired[SHOWN].assign(metric=paired.metric.map(LABELS)).round(4).to_string(index=False),
    ]
    words = f"{in_words(paired)}\n{', '.join(f'{name}: {len(ids)}' for name, ids in groups.items())}"
    cards = [(name, [_pair(*runs, id) for id in groups[name]]) for name in ("won", "lost")]
    curves = {run.name: dev_curve(run) for run in runs}
    drawn = _png(overlaid(curves)) if all(map(len, curves.values())) else ""
    said = "\n".join(tables), words
    body, preview = (MACROS.comparison(*said, image, cards) for image in (drawn, ""))
    return Page(f"{first.name} and {second.name}", body, "\n\n".join(said), preview)


def _pair(first: Run, second: Run, id: str) -> tuple[str, str]:
    a, b = first.latest[id], second.latest[id]
    weights = first.weights if first.weights == second.weights else None
    return a.question.text, side_by_side(a, b, (first.name, second.name), weights=weights).body


def policies_to_compare(
    trained: Trained, config: Config, task: Task, run_dir: str | Path, last: bool = False
) -> dict[str, tuple[Policy, Task]]:
    """The policies before training, after a warm start (if any) and after training: the best on dev, or the `last`.

    Each comes with the task that it is evaluated on, which differs in the prompt where `untrained_sampling` changes it;
    the first policy's name then says so, and the last one's the step whose policy it is.
    """
    untrained = replace(task, sampling=untrained_sampling(config, task.sampling))
    name = "before training" if untrained == task else "before training, rules in prompt"
    compared = {name: (with_weights(trained.last, config.policy), untrained)}
    warm = resolve(run_dir) / "warm"
    if warm.is_dir():
        compared["after the warm start"] = (with_weights(trained.last, warm), task)
    step = read_metrics(resolve(run_dir))[-1]["step"] if last else (resolve(run_dir) / "best" / "step.txt").read_text()
    return compared | {f"after training, step {int(step)}": (trained.last if last else trained.best, task)}


def gain(before: Report, after: Report) -> Estimate:
    """The paired difference in accuracy, after - before, over the same questions; of repeated ones the mean counts."""
    frames = [report.frame.astype({"correct": float}) for report in (before, after)]
    left, right = (frame.groupby("question_id", sort=False)["correct"].mean() for frame in frames)
    if set(left.index) != set(right.index):
        raise ValueError(f"{before.name!r} and {after.name!r} were not evaluated on the same questions")
    return Estimate(*paired_bootstrap(left, right.loc[left.index], seed=0), len(left))


def before_and_after(reports: list[Report], split: str) -> str:
    """The table of `reports` as text, and what GRPO gained: the last report against the one before it."""
    start, after = reports[-2:]
    gained, more = gain(start, after), after["retried"].value - start["retried"].value
    said = f"accuracy gained by GRPO, paired over {gained.n} {split} questions: {gained}"
    retried = "no episode missed" if more != more else f"{more:+.3f}"
    return f"{table(reports).to_string()}\n{said}\n{LABELS['retried']} gained: {retried}"


def dev_curve(run: Run) -> pd.DataFrame:
    """The evaluations on dev while the run trained, by step; empty where none were recorded."""
    return pd.DataFrame([row for row in read_metrics(run.folder) if row["kind"] == "eval"])


def overlaid(curves: dict[str, pd.DataFrame]) -> np.ndarray:
    """Accuracy and P(retried | missed) on dev by step, one line per run, with 95% intervals as bands."""
    _, axes = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained")
    for ax, metric in zip(axes, ("accuracy", "retried"), strict=True):
        for (name, rows), color in zip(curves.items(), plots.COLORS, strict=False):
            wanted = ["step", metric, f"{metric}_low", f"{metric}_high"]  # all NaN where a run did not measure one
            step, value, low, high = rows.sort_values("step").reindex(columns=wanted).to_numpy(float).T
            ax.plot(step, value, color=color, marker="o", markersize=3, label=name, clip_on=False)
            ax.fill_between(step, low, high, color=color, alpha=0.2, linewidth=0)
        plots.by_step(ax, f"Dev set: {LABELS[metric]}", "share")
        ax.set_ylim(0, 1)
    plots.legend_right(axes[1])
    return axes


def _png(axes: np.ndarray) -> str:
    file = BytesIO()
    axes[0].figure.savefig(file, format="png", dpi=110)
    plt.close(axes[0].figure)
    return base64.b64encode(file.getvalue()).decode()


def run_compare(runs: list[str], out: str) -> None:
    """Print how two runs compare, and write the page with curves and cards (default: compare.html in the second)."""
    plots.style()
    first, second = two_runs(runs)
    page = compare(first, second)
    print(page.text, f"written: {page.save(out or second.folder / 'compare.html')}", sep="\n\n")
