"""What became of episodes after their first search, before and after training: figures of `traces.to_frame`'s frame."""

from collections.abc import Iterable

import matplotlib.pyplot as plt
import pandas as pd

from rezero.analysis import plots
from rezero.evaluation.evaluate import LABELS
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
    return plots.rates(pd.concat(counts), title, "share of episodes")


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
