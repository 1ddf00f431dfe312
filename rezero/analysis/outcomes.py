"""Figures of what became of episodes, before and after training, of the frame that `traces.to_frame` returns."""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from rezero.analysis import plots
from rezero.evaluation.evaluate import LABELS
from rezero.evaluation.stats import wilson
from rezero.evaluation.traces import Row
from rezero.text import keywords

FATES = ["found at the first search", "missed, retried, recovered", "missed, retried, not recovered", "missed, gave up"]
FATES.append("never searched")
SHADES = [plots.COLORS[i] for i in (9, 2, 8, 1, 7, 4, 6, 3, 5)]  # none too dark for numbers on it


def headline(frame: pd.DataFrame, title: str = "") -> plt.Axes:
    """Accuracy, P(retried | missed) and P(recovered | retried) of each policy; above the bars, the counts."""
    frame = frame.assign(accuracy=frame.correct, asked=True)
    pairs = (("accuracy", "asked"), ("retried", "missed"), ("recovered", "retried"))
    sums = frame.groupby("policy", sort=False)[["accuracy", "asked", "missed", "retried", "recovered"]].sum()
    counts = {LABELS[metric]: pd.DataFrame({"sum": sums[metric], "count": sums[given]}) for metric, given in pairs}
    return rates(pd.concat(counts), title, "share of episodes")


def fates(frame: pd.DataFrame) -> pd.DataFrame:
    """How many episodes of each policy (index) came to each of `FATES` (columns)."""
    retried, gave_up, recovered = frame.missed & frame.retried, frame.missed & ~frame.retried, frame.recovered
    cases = [frame.searches == 0, gave_up, retried & recovered, retried]
    fate = np.select(cases, [FATES[i] for i in (4, 3, 1, 2)], FATES[0])
    return pd.crosstab(frame.policy, fate).reindex(index=frame.policy.unique(), columns=FATES, fill_value=0)


def stacked(counts: pd.DataFrame, title: str = "What became of the episodes") -> plt.Axes:
    """One bar per policy (index), divided by what became of its episodes (columns), with their number from 3% on."""
    colors = dict(zip(counts, SHADES, strict=False))
    counts = counts.loc[:, counts.any()]
    shares = counts.div(counts.sum(axis=1), axis=0)
    _, ax = plt.subplots(figsize=(8.5, 2 + 0.5 * len(counts)), layout="constrained")
    shares.plot.barh(stacked=True, ax=ax, color=colors, width=0.7, legend=False)
    for bars, name in zip(ax.containers, counts, strict=True):
        words = [str(n) if share >= 0.03 else "" for n, share in zip(counts[name], shares[name], strict=True)]
        ax.bar_label(bars, words, label_type="center", fontsize="small")
    ax.set(title=title, xlabel="share of episodes", ylabel="", xlim=(0, 1), ylim=(len(counts) - 0.5, -0.5))
    ax.grid(visible=False)
    ax.xaxis.set_major_formatter(plots.PERCENT)
    ax.figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    return ax


def query_changes(rows: Iterable[Row]) -> pd.DataFrame:
    """One row per search after one that left gold unseen: how its query differs, and whether all gold was then seen.

    Columns: policy, "new words" and "shared words" ("0" to "3+", without stop words, against the query before), found.
    """
    found = []
    for labels, episode in rows:
        shares = episode.evidence() if episode.missed else []
        queries = [set(keywords(turn.argument).lower().split()) for turn in episode.searches]
        for i in range(1, len(shares)):
            if shares[i - 1] < 1:
                sizes = len(queries[i] - queries[i - 1]), len(queries[i] & queries[i - 1])
                found.append((labels.get("policy"), *("3+" if n > 2 else str(n) for n in sizes), shares[i] == 1))
    return pd.DataFrame(found, columns=["policy", "new words", "shared words", "found"])


def changes(frame: pd.DataFrame, title: str = "Searches after a miss: was all gold seen then?") -> plt.Axes:
    """`query_changes` as a table of shares: new words by shared words; below each share, the counts."""
    cells = frame.groupby(["shared words", "new words"]).found.agg(["mean", "sum", "count"]).unstack()
    below = cells["sum"].map("{:.0f}".format) + " of " + cells["count"].map("{:.0f}".format)
    return plots.heat(cells["mean"], below, title, "share of searches")


def kinds_bars(frame: pd.DataFrame) -> plt.Axes:
    """Accuracy by kind of question; above the bars, how many are right of how many were asked."""
    counts = frame.groupby(["kind", "policy"], sort=False).correct.agg(["sum", "count"])
    return rates(counts, "Accuracy by kind of question", LABELS["accuracy"])


def rates(counts: pd.DataFrame, title: str, ylabel: str) -> plt.Axes:
    """Bars of sum / count with Wilson intervals, the counts above them; rows are (place along x, policy)."""
    xs, policies = (list(counts.index.unique(level)) for level in (0, 1))
    _, ax = plt.subplots(figsize=(8.5, 3.6), layout="constrained")
    width, words = 0.8 / len(policies), []
    for i, (policy, color) in enumerate(zip(policies, plots.COLORS, strict=False)):
        rows = counts.xs(policy, level=1).reindex(xs, fill_value=0).to_numpy(int)
        shares = np.array([right / max(asked, 1) for right, asked in rows])
        bounds = [wilson(*row) if row[1] else (0, 0) for row in rows]
        style = {"color": color, "label": policy, "yerr": np.abs(np.transpose(bounds) - shares)}
        bars = ax.bar(np.arange(len(xs)) + (i + 0.5) * width - 0.4, shares, 0.92 * width, **style)
        counted = [f"{right}/{asked}" if asked else "none" for right, asked in rows]
        words += ax.bar_label(bars, counted, padding=3, fontsize="x-small")
    ax.yaxis.set_major_formatter(plots.PERCENT)
    ax.set(title=title, ylabel=ylabel, ylim=(0, 1.08), xticks=range(len(xs)), xticklabels=xs)
    if len(counts) > 8:  # too many to stand side by side
        plt.setp(words, rotation=90)
        ax.set_ylim(0, 1.25)
    ax.figure.legend(loc="outside lower center", ncols=len(policies), frameon=False)
    return ax
