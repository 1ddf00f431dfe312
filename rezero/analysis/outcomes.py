"""Figures of what became of episodes, before and after training, of the frame that `traces.to_frame` returns."""

from collections.abc import Iterable
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from rezero.analysis import plots
from rezero.evaluation.evaluate import LABELS
from rezero.evaluation.stats import wilson
from rezero.evaluation.traces import Row
from rezero.text import keywords

FATES = {  # what an episode can come to, in the order of the bars -> its colour
    "found at the first search": plots.COLORS[0],
    "missed, retried, recovered": plots.COLORS[9],
    "missed, retried, not recovered": plots.COLORS[8],
    "missed, gave up": plots.COLORS[1],
    "never searched": "0.7",
}


def headline(frame: pd.DataFrame, title: str = "") -> plt.Axes:
    """Accuracy, P(retried | missed) and P(recovered | retried) of each policy; above the bars, the counts."""
    frame = frame.assign(accuracy=frame.correct, asked=True)
    pairs = (("accuracy", "asked"), ("retried", "missed"), ("recovered", "retried"))
    sums = frame.groupby("policy", sort=False)[["accuracy", "asked", "missed", "retried", "recovered"]].sum()
    counts = {LABELS[metric]: pd.DataFrame({"sum": sums[metric], "count": sums[given]}) for metric, given in pairs}
    return rates(pd.concat(counts), title, "share of episodes")


def fates(frame: pd.DataFrame) -> pd.DataFrame:
    """How many episodes of each policy (index) came to each of `FATES` (columns)."""
    fate = pd.Series("found at the first search", frame.index).mask(frame.missed, "missed, gave up")
    fate = fate.mask(frame.retried, "missed, retried, not recovered")
    fate = fate.mask(frame.retried & frame.recovered, "missed, retried, recovered")
    counts = pd.crosstab(frame.policy, fate.mask(frame.searches == 0, "never searched"))
    return counts.reindex(index=frame.policy.unique(), columns=[name for name in FATES if name in counts])


def flow(frame: pd.DataFrame, title: str = "What became of the episodes") -> plt.Axes:
    """One bar per policy, divided by `fates`; in each part of 3% or more, how many episodes it is."""
    counts = fates(frame)
    shares = counts.div(counts.sum(axis=1), axis=0)
    _, ax = plt.subplots(figsize=(8.5, 2 + 0.5 * len(counts)), layout="constrained")
    shares.plot.barh(stacked=True, ax=ax, color=FATES, width=0.7)
    for bars, name in zip(ax.containers, counts, strict=True):
        words = [str(n) if share >= 0.03 else "" for n, share in zip(counts[name], shares[name], strict=True)]
        color = "white" if name == "found at the first search" else "black"
        ax.bar_label(bars, words, label_type="center", fontsize="small", color=color)
    ax.set(title=title, xlabel="share of episodes", ylabel="", xlim=(0, 1))
    ax.invert_yaxis()
    ax.grid(visible=False)
    ax.xaxis.set_major_formatter(plots.PERCENT)
    ax.get_legend().remove()
    ax.figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    return ax


def query_changes(rows: Iterable[Row]) -> pd.DataFrame:
    """One row per search after one that left gold unseen: how its query differs, and whether all gold was then seen.

    Columns: policy, "new words" and "shared words" (without stop words, against the query before; 3 stands for 3 or
    more), and found.
    """
    found = []
    for labels, episode in rows:
        shares = episode.evidence() if episode.missed else []
        queries = [set(keywords(turn.argument).lower().split()) for turn in episode.searches]
        for i in range(1, len(shares)):
            if shares[i - 1] < 1:
                new, shared = len(queries[i] - queries[i - 1]), len(queries[i] & queries[i - 1])
                found.append((labels.get("policy", "episodes"), min(new, 3), min(shared, 3), shares[i] == 1))
    return pd.DataFrame(found, columns=["policy", "new words", "shared words", "found"])


def changes(frame: pd.DataFrame, title: str = "Searches after a miss: was all gold seen then?") -> plt.Axes:
    """`query_changes` as a table of shares: new words by shared words; below each share, the counts."""
    cells = frame.groupby(["shared words", "new words"]).found.agg(["mean", "sum", "count"]).unstack()
    below = cells["sum"].map("{:.0f}".format) + " of " + cells["count"].map("{:.0f}".format)
    ax = plots.heat(cells["mean"], below, title, "share of searches")
    ax.set(xticklabels=_or_more(cells["mean"].columns), yticklabels=_or_more(cells.index))
    return ax


def _or_more(numbers: Iterable[int]) -> list[str]:
    return [f"{number} or more" if number == 3 else str(number) for number in numbers]


def searches_histogram(frame: pd.DataFrame) -> plt.Axes:
    """Share of the episodes of each policy by their number of searches; the legend has the means."""
    means = frame.groupby("policy", sort=False).searches.mean()
    shares = pd.crosstab(frame.searches, frame.policy, normalize="columns")[means.index]
    shares = shares.reindex(range(frame.searches.max() + 1), fill_value=0)
    shares.columns = [f"{policy} (mean {mean:.2f})" for policy, mean in means.items()]
    _, ax = plt.subplots(figsize=(7.5, 3.4), layout="constrained")
    shares.plot.bar(ax=ax, color=plots.COLORS, width=0.8, rot=0)
    ax.set(title="Searches per episode", ylabel="share of episodes")
    ax.grid(visible=False, axis="x")
    ax.yaxis.set_major_formatter(plots.PERCENT)
    return plots.legend_right(ax)


def kinds_bars(frame: pd.DataFrame) -> plt.Axes:
    """Accuracy by kind of question; above the bars, how many are right of how many were asked."""
    counts = frame.groupby(["kind", "policy"], sort=False).correct.agg(["sum", "count"])
    return rates(counts, "Accuracy by kind of question", LABELS["accuracy"])


def causes_bars(table: pd.DataFrame) -> plt.Axes:
    """The shares of `causes.causes_table`, one group of bars per cause; above the bars, the counts."""
    places = {cause: fill(cause, 9) for cause in table.index}  # in several lines, side by side
    counts = table.rename(index=places).stack().rename("sum").to_frame()
    counts["count"] = table.sum()[counts.index.get_level_values(1)].to_numpy()
    ax = rates(counts, "What became of the episodes: each has one cause", "share of episodes")
    ax.figure.set_size_inches(10.5, 3.8)
    ax.set_yticks(np.arange(0, 1.1, 0.25))
    ax.tick_params(axis="x", labelsize="small")
    return ax


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
