"""Figures of one run: its training, and the episodes of its policies. `figures` compares several runs.

Every function takes tidy data, returns matplotlib Axes and draws 95% intervals; call `style()` once before. "Metrics"
are the rows of a run's metrics.jsonl as a DataFrame, "a frame of episodes" is what `traces.to_frame` returns. A missing
or empty column is a ValueError that names it.
"""

from collections.abc import Sequence
from itertools import combinations, cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axis import Axis
from matplotlib.ticker import MaxNLocator, PercentFormatter
from pandas import DataFrame

from rezero.evaluation.evaluate import LABELS, SHARES
from rezero.evaluation.stats import wilson

HEALTH = {  # metric of a training step -> title of its panel; shares are drawn in percent
    "searches": "Searches per episode",
    "malformed_turns": "Share of turns that are malformed",
    "entropy": "Entropy (nats per token)",
    "zero_variance_groups": "Share of groups without variance",
}


def style() -> None:
    """Set the look of all figures of this process: colour-blind-safe palette, light grid, no frame."""
    look = {"axes.titlelocation": "left", "axes.titlesize": "medium", "axes.grid.axis": "y", "grid.alpha": 0.5}
    look |= {"axes.spines.top": False, "axes.spines.right": False, "errorbar.capsize": 3}
    sns.set_theme(style="whitegrid", palette="colorblind", rc=look)


def need(frame: DataFrame, *columns: str, filled: bool = True) -> None:
    """Raise a ValueError if one of `columns` is missing from `frame` or, with `filled`, has no value."""
    bad = [c for c in columns if c not in frame or (filled and frame[c].isna().all())]
    if bad:
        have = [str(c) for c in frame if frame[c].notna().any()]
        raise ValueError(f"missing or empty: {', '.join(bad)}; have: {', '.join(have) or 'no rows'}")


def colors(n: int) -> list:
    return sns.color_palette("colorblind", n)


def step_axis(ax: plt.Axes) -> None:
    """Count training steps along x: in whole numbers, which panels that share the axis show as well."""
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    ax.tick_params(labelbottom=True)
    ax.set_xlabel("step")


def percent_axis(axis: Axis) -> None:
    """Label an axis of shares in percent, with decimals only if its present range is short."""
    low, high = axis.get_view_interval()
    decimals = 0 if high - low > 0.05 else 1 if high - low > 0.005 else 2
    axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
    axis.set_major_formatter(PercentFormatter(1, decimals))


def legend_right(ax: plt.Axes, **options) -> plt.Axes:
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, frameon=False, **options)
    return ax


def reward_curves(metrics: DataFrame, smooth: int = 9) -> np.ndarray:
    """The weighted sum of the rewards, and each of them, by step: measured (faint), centred mean of `smooth` (bold)."""
    rows = _rows(metrics, "train", "reward")
    names = [c for c in rows if c.startswith("rewards/") and not c.endswith("_std") and rows[c].notna().any()]
    _, axes = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained")
    curves = [(axes[0], "reward", "black", "-")]
    curves += zip(cycle([axes[1]]), names, colors(len(names)), cycle(["-", "--", "-.", ":"]), strict=False)
    for ax, name, color, dashes in curves:
        mean = rows[name].rolling(smooth, center=True, min_periods=1).mean()
        ax.plot(rows.step, rows[name], color=color, alpha=0.2, linewidth=1)
        ax.plot(rows.step, mean, dashes, color=color, label=name.removeprefix("rewards/"), linewidth=2)
        step_axis(ax)
    axes[0].set(title=f"Reward, weighted sum (bold: mean of {smooth} steps)", ylabel="mean over episodes")
    axes[1].set(title="Each reward, unweighted", ylabel="mean over episodes")
    legend_right(axes[1])
    return axes


def advantages(rewards: Sequence[float], advantages: Sequence[float]) -> plt.Axes:
    """The advantages of the episodes of one question as bars, the first on top, each beside its reward."""
    _, ax = plt.subplots(figsize=(7, 0.9 + 0.3 * len(rewards)), layout="constrained")
    numbers = range(1, len(rewards) + 1)
    better, worse = colors(2)
    bars = ax.barh(numbers, advantages, color=[worse if advantage < 0 else better for advantage in advantages])
    ax.bar_label(bars, [f"reward {reward:.2f}" for reward in rewards], padding=4, fontsize="small")
    ax.axvline(0, color="0.3", linewidth=1)
    ax.grid(visible=False)
    reach = 1.4 * max(np.abs(advantages)) or 1  # leaves room for the rewards
    ax.set(title="Above 0, training makes an episode more likely; below 0, less", xlabel="advantage", ylabel="episode")
    ax.set(xlim=(-reach, reach), ylim=(len(rewards) + 0.6, 0.4), yticks=numbers)
    return ax


def dev_curve(metrics: DataFrame) -> plt.Axes:
    """Accuracy and P(retried | missed) on dev by step, with their intervals as bands."""
    rows = _rows(metrics, "eval", "accuracy", "accuracy_low", "accuracy_high")
    need(rows, "retried", "retried_low", "retried_high", filled=False)  # without a miss there is no share
    _, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for name, color, marker in zip(("accuracy", "retried"), colors(2), "os", strict=True):
        ax.plot(rows.step, rows[name], color=color, marker=marker, label=LABELS[name], clip_on=False)
        ax.fill_between(rows.step, rows[f"{name}_low"], rows[f"{name}_high"], color=color, alpha=0.2, linewidth=0)
    ax.set(title="Dev set (bands: 95% intervals)", ylabel="share", ylim=(0, 1))
    step_axis(ax)
    percent_axis(ax.yaxis)
    return legend_right(ax)


def training_health(metrics: DataFrame) -> np.ndarray:
    """Five panels: those of `HEALTH` (Unsloth's trainer does not measure the entropy), and the seconds by phase."""
    rows = _rows(metrics, "train", *(name for name in HEALTH if name != "entropy"), "seconds/generation")
    _, panels = plt.subplot_mosaic("abc;dee", figsize=(11.5, 5.4), sharex=True, layout="constrained")
    *axes, last = panels.values()
    for ax, (name, title) in zip(axes, HEALTH.items(), strict=True):
        if name in rows:
            ax.plot(rows.step, rows[name], color=colors(1)[0])
        else:
            ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center")
        ax.set(title=title, ylim=(0, None))
        step_axis(ax)
        if title.startswith("Share"):
            percent_axis(ax.yaxis)
    seconds = rows.filter(like="seconds/").fillna(0).rename(columns=lambda name: name.removeprefix("seconds/"))
    last.stackplot(rows.step, seconds.T, labels=list(seconds), colors=colors(seconds.shape[1]), linewidth=0)
    last.set(title="Seconds per step", ylim=(0, None))
    step_axis(last)
    legend_right(last, reverse=True)  # in the order of the stack
    return np.array([*axes, last])


def _rows(metrics: DataFrame, kind: str, *columns: str) -> DataFrame:
    """The metrics of one kind ("train" or "eval"), in the order of their steps."""
    rows = metrics[metrics.kind == kind]
    if rows.empty:
        raise ValueError(f"no metrics of kind {kind!r}; have: {', '.join(metrics.kind.unique())}")
    need(rows, "step", *columns)
    return rows.sort_values("step")


def searches_histogram(frame: DataFrame) -> plt.Axes:
    """Share of the episodes of each policy by their number of searches; the legend has the means."""
    need(frame, "policy", "searches")
    means = frame.groupby("policy", sort=False).searches.mean()
    shares = pd.crosstab(frame.searches, frame.policy, normalize="columns")[means.index]
    shares = shares.reindex(range(frame.searches.max() + 1), fill_value=0)
    shares.columns = [f"{policy} (mean {mean:.2f})" for policy, mean in means.items()]
    _, ax = plt.subplots(figsize=(7.5, 3.4), layout="constrained")
    shares.plot.bar(ax=ax, color=colors(len(means)), width=0.8, rot=0)
    ax.set(title="Searches per episode", xlabel="searches", ylabel="share of episodes")
    ax.grid(visible=False, axis="x")
    percent_axis(ax.yaxis)
    return legend_right(ax)


def recovery_bars(frame: DataFrame) -> plt.Axes:
    """P(retried | missed) and P(recovered | retried) of each policy; above the bars, the counts."""
    need(frame, "policy", "missed", "retried", "recovered")
    tables = {}
    for metric in ("retried", "recovered"):
        column, given = SHARES[metric]
        counts = frame[frame[given]].groupby("policy")[column].agg(["sum", "count"])
        tables[LABELS[metric]] = counts.reindex(frame.policy.unique(), fill_value=0)
    return _rates(pd.concat(tables), "After a first search that missed", "share of episodes")


def kinds_bars(frame: DataFrame) -> plt.Axes:
    """Accuracy by kind of question; above the bars, how many are right of how many were asked."""
    need(frame, "policy", "kind", "correct")
    counts = frame.groupby(["kind", "policy"], sort=False).correct.agg(["sum", "count"])
    return _rates(counts, "Accuracy by kind of question", LABELS["accuracy"])


def _rates(counts: DataFrame, title: str, ylabel: str) -> plt.Axes:
    """Bars of sum / count with Wilson intervals, the counts above them; rows are (place along x, policy)."""
    xs, policies = (list(counts.index.unique(level)) for level in (0, 1))
    _, ax = plt.subplots(figsize=(8.5, 3.6), layout="constrained")
    width, words = 0.8 / len(policies), []
    for i, (policy, color) in enumerate(zip(policies, colors(len(policies)), strict=True)):
        rows = counts.xs(policy, level=1).astype(int)
        places = [xs.index(x) + (i + 0.5) * width - 0.4 for x in rows.index]
        rates = (rows["sum"] / rows["count"]).fillna(0)
        bounds = [wilson(k, n) if n else (0, 0) for k, n in rows.to_numpy()]
        errors = np.abs(np.transpose(bounds) - rates.to_numpy())
        bars = ax.bar(places, rates, 0.92 * width, color=color, label=policy, yerr=errors)
        words += ax.bar_label(bars, [f"{k}/{n}" for k, n in rows.to_numpy()], padding=3, fontsize="x-small")
    percent_axis(ax.yaxis)
    ax.set_xticks(range(len(xs)), xs)
    ax.set(title=title, ylabel=ylabel, ylim=(0, 1.08), yticks=np.linspace(0, 1, 6))
    legend_right(ax)
    ax.figure.draw_without_rendering()  # places the labels, so that those that meet can be turned
    boxes = [word.get_window_extent().padded(2) for word in words]
    if any(one.overlaps(other) for one, other in combinations(boxes, 2)):
        plt.setp(words, rotation=90)
        ax.set_ylim(0, 1.25)
    return ax
