"""Figures: tidy data in, Axes out, 95% intervals; call `style()` once for the look they share.

Frames of episodes are `traces.to_frame`'s, metrics a run's metrics.jsonl; a missing or empty column is a ValueError.
"""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from pandas import DataFrame

from rezero.evaluation.stats import wilson

HEALTH = {  # column of a train row -> title of its panel
    "searches": "searches per episode",
    "malformed_turns": "share of turns malformed",
    "entropy": "entropy (nats per token)",
    "zero_variance_groups": "share of groups, no variance",
}


def style() -> None:
    """The one look: colour-blind-safe, light grid, no frame. Changes matplotlib's settings for the process."""
    look = {"axes.titlelocation": "left", "axes.titlesize": "medium", "axes.grid.axis": "y", "grid.alpha": 0.5}
    look |= {"axes.spines.top": False, "axes.spines.right": False, "errorbar.capsize": 3}
    sns.set_theme(style="whitegrid", palette="colorblind", rc=look)


def reward_curves(metrics: DataFrame, smooth: int = 9) -> np.ndarray:
    """The weighted sum and the rewards by name, two Axes: faint as measured, bold a centred mean of `smooth` steps."""
    rows = _rows(metrics, "train", "reward")
    names = [c for c in rows if c.startswith("rewards/") and not c.endswith("_std") and rows[c].notna().any()]
    _, axes = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained")
    for i, (name, color) in enumerate(zip(["reward", *names], ["black", *_colors(len(names))], strict=True)):
        ax, dashes = axes[min(i, 1)], ("-", "--", "-.", ":")[i % 4]
        mean = rows[name].rolling(smooth, center=True, min_periods=1).mean()
        ax.plot(rows.step, rows[name], color=color, alpha=0.2, linewidth=1)
        ax.plot(rows.step, mean, dashes, color=color, label=name.removeprefix("rewards/"), linewidth=2)
    axes[0].set(title=f"Reward, weighted sum (mean of {smooth} steps)", xlabel="step", ylabel="mean over episodes")
    axes[1].set(title="Each reward, unweighted", xlabel="step")
    _finish(axes[1])
    return axes


def dev_curve(metrics: DataFrame, ax: Axes | None = None) -> Axes:
    """Accuracy and P(search again | first miss) on dev by step, with their intervals."""
    curves = {"accuracy": "accuracy (exact match)", "retry_after_miss": "P(search again | first miss)"}
    rows = _rows(metrics, "eval", "accuracy", "accuracy_low", "accuracy_high")
    _need(rows, "retry_after_miss", "retry_after_miss_low", "retry_after_miss_high", filled=False)  # no miss: no share
    ax = ax or plt.figure(figsize=(7, 3.6), layout="constrained").gca()
    for (name, label), color, marker in zip(curves.items(), _colors(2), "os", strict=True):
        ax.plot(rows.step, rows[name], color=color, marker=marker, label=label)
        ax.fill_between(rows.step, rows[f"{name}_low"], rows[f"{name}_high"], color=color, alpha=0.2, linewidth=0)
    ax.set(title="Dev set (bands: 95% intervals)", xlabel="step", ylabel="share", ylim=(0, 1))
    return _finish(ax, "y")


def searches_histogram(frame: DataFrame, hue: str | None = "policy", ax: Axes | None = None) -> Axes:
    """Share of episodes by their number of searches, a bar a policy; the legend says the mean."""
    groups = _groups(frame, hue, "searches")
    counts = np.arange(frame.searches.max() + 1)
    ax = ax or plt.figure(figsize=(7.5, 3.4), layout="constrained").gca()
    for (name, part), (shift, width), color in zip(groups.items(), _slots(groups), _colors(len(groups)), strict=True):
        shares = [(part.searches == n).mean() for n in counts]
        ax.bar(counts + shift, shares, width, color=color, label=f"{name} (mean {part.searches.mean():.2f})")
    ax.set(title="Searches per episode", xlabel="searches", ylabel="share of episodes", xticks=counts)
    return _finish(ax, "y")


def recovery_bars(frame: DataFrame, hue: str | None = "policy", ax: Axes | None = None) -> Axes:
    """What follows a first search that missed: P(search again), and P(found) of those that did. Above: the counts."""
    steps = {
        "P(search again |\nfirst miss)": ("first_miss", "retried_after_miss"),
        "P(found |\nsearched again)": ("retried_after_miss", "recovered"),
    }
    table = [
        (label, name, int((part[given] & part[then]).sum()), int(part[given].sum()))
        for name, part in _groups(frame, hue, "first_miss", "retried_after_miss", "recovered").items()
        for label, (given, then) in steps.items()
    ]
    return _rates(table, ax, "After a first search that missed", "share")


def kinds_bars(frame: DataFrame, hue: str | None = "policy", ax: Axes | None = None) -> Axes:
    """Accuracy (exact match) by kind of question. Above: right of asked."""
    table = [
        (kind, name, int(some.correct.sum()), int(some.correct.count()))
        for name, part in _groups(frame, hue, "kind", "correct").items()
        for kind, some in part.groupby("kind", sort=False)
    ]
    return _rates(table, ax, "Accuracy by kind of question", "accuracy")


def training_health(metrics: DataFrame) -> np.ndarray:
    """Five small panels: those of `HEALTH`, and the seconds of a step by phase, stacked.

    The entropy's stays empty where it was not measured: Unsloth's trainer does not.
    """
    measured = [name for name in HEALTH if name != "entropy" or name in metrics]
    rows = _rows(metrics, "train", *measured, "seconds/generation")
    seconds = rows.filter(like="seconds/").fillna(0).rename(columns=lambda name: name.removeprefix("seconds/"))
    _, panels = plt.subplot_mosaic("abc;dee", figsize=(11.5, 5), sharex=True, layout="constrained")
    axes = np.array(list(panels.values()))
    for ax, (name, title) in zip(axes, HEALTH.items(), strict=False):
        if name in measured:
            ax.plot(rows.step, rows[name], color=_colors(1)[0])
        else:
            ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center")
        ax.set(title=title, ylim=(0, None))
        if title.startswith("share"):
            ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[-1].stackplot(rows.step, seconds.T, labels=list(seconds), colors=_colors(seconds.shape[1]), linewidth=0)
    axes[-1].set(title="seconds per step", xlabel="step", ylim=(0, None))
    axes[-2].set_xlabel("step")
    _finish(axes[-1], reverse=True)
    return axes


def _rates(table: list[tuple[str, str, int, int]], ax: Axes | None, title: str, ylabel: str) -> Axes:
    """Bars of k / n with Wilson intervals from (x, hue, k, n), with "k/n" above; no bar where n is 0."""
    ax = ax or plt.figure(figsize=(7, 3.6), layout="constrained").gca()
    xs, hues = (list(dict.fromkeys(row[i] for row in table)) for i in (0, 1))
    for name, (shift, width), color in zip(hues, _slots(hues), _colors(len(hues)), strict=True):
        rows = [(xs.index(x) + shift, k, n) for x, hue, k, n in table if hue == name]
        at, rate, low, high = np.array([(at, k / n, *wilson(k, n)) if n else (at, 0, 0, 0) for at, k, n in rows]).T
        bars = ax.bar(at, rate, width, color=color, label=name, yerr=np.maximum([rate - low, high - rate], 0))
        ax.bar_label(bars, [f"{k}/{n}" for _, k, n in rows], padding=1, fontsize="x-small")
    ax.set_xticks(range(len(xs)), xs)
    ax.set(title=title, ylabel=ylabel, ylim=(0, 1.08), yticks=np.linspace(0, 1, 6))
    return _finish(ax, "y")


def _rows(metrics: DataFrame, kind: str, *columns: str) -> DataFrame:
    """The metrics of one kind, by step."""
    _need(metrics, "kind", "step")
    rows = metrics[metrics.kind == kind]
    if rows.empty:
        raise ValueError(f"no metrics of kind {kind!r}; have: {', '.join(map(str, metrics.kind.unique()))}")
    _need(rows, *columns)
    return rows.sort_values("step")


def _need(frame: DataFrame, *columns: str, filled: bool = True) -> None:
    if bad := [c for c in columns if c not in frame or (filled and frame[c].isna().all())]:
        have = [str(c) for c in frame if frame[c].notna().any()]
        raise ValueError(f"missing or empty: {', '.join(bad)}; have: {', '.join(have) or 'no rows'}")


def _groups(frame: DataFrame, hue: str | None, *columns: str) -> dict[str, DataFrame]:
    """The rows of each value of `hue`, in order of appearance."""
    _need(frame, *columns, *([] if hue is None else [hue]))
    groups = [("all", frame)] if hue is None else frame.groupby(hue, sort=False, dropna=False)
    return {str(name): part for name, part in groups}


def _slots(names) -> list[tuple[float, float]]:
    """(shift, width) of each name's bar around an integer position."""
    width = 0.8 / len(names)
    return [((i - (len(names) - 1) / 2) * width, 0.92 * width) for i in range(len(names))]


def _colors(n: int) -> list:
    return sns.color_palette("colorblind", n)


def _finish(ax: Axes, percent: str = "", **options) -> Axes:
    """Legend on the right; the axes named in `percent` ("x", "y") count in percent."""
    for name in percent:
        getattr(ax, f"{name}axis").set_major_formatter(PercentFormatter(1, decimals=0))
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, frameon=False, **options)
    return ax
