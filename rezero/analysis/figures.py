"""Figures: tidy data in, Axes out, 95% intervals; call `style()` once for the look they share.

Frames of episodes are `traces.to_frame`'s, metrics a run's metrics.jsonl; a missing or empty column is a ValueError.
"""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from pandas import DataFrame

from rezero.analysis.plots import _colors, _finish, _need


def learning_curves(frame: DataFrame) -> np.ndarray:
    """Accuracy and P(search again | first miss) on dev by step, an arm a column: mean and range of its seeds.

    `frame` is `ablations.curves`'s. The other arms' means stand in grey, to compare with.
    """
    _need(frame, "arm", "seed", "step", "accuracy")
    rows = {"accuracy": "accuracy\n(exact match)", "retry_after_miss": "P(search again |\nfirst miss)"}
    arms = frame.groupby("arm", sort=False)
    size = {"figsize": (1.2 + 2.1 * len(arms), 4.6), "layout": "constrained"}
    figure, axes = plt.subplots(len(rows), len(arms), sharex=True, sharey="row", squeeze=False, **size)
    for line, (value, label) in zip(axes, rows.items(), strict=True):
        spread = {arm: part.groupby("step")[value].agg(["mean", "min", "max"]) for arm, part in arms}
        for ax, own, color in zip(line, spread.values(), _colors(len(arms)), strict=True):
            for other in spread.values():
                ax.plot(other.index, other["mean"], color="0.8", linewidth=1)
            ax.plot(own.index, own["mean"], color=color, linewidth=2, marker="o", markersize=3)
            ax.fill_between(own.index, own["min"], own["max"], color=color, alpha=0.25, linewidth=0)
            ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        line[0].set_ylabel(label)
    for top, bottom, (arm, _) in zip(axes[0], axes[-1], arms, strict=True):
        top.set_title(arm)
        bottom.set_xlabel("step")
    told = f"On dev: mean and range of {frame.seed.nunique()} seed(s); grey: the other arms' means"
    figure.suptitle(told, size="medium")
    return axes


def watched(runs: dict, limits: dict[str, float], stops: dict[str, int]) -> np.ndarray:
    """Dev accuracy and what the sentinel watches, a panel each, a line a run; dashed its limit, dotted where it stops.

    `runs`: name -> `sentinel.Run`; metrics that no run logged are left out.
    """
    frames = {name: (DataFrame(rows), most) for name, (rows, most) in runs.items()}
    shown = ["accuracy", *(name for name in limits if any(name in frame for frame, _ in frames.values()))]
    _, axes = plt.subplots(2, -(-len(shown) // 2), figsize=(11.5, 4.8), sharex=True, layout="constrained")
    for ax, metric in zip(axes.flat, shown, strict=False):
        for (name, (frame, most)), color in zip(frames.items(), _colors(len(frames)), strict=True):
            rows = frame[frame.kind == ("eval" if metric == "accuracy" else "train")].reindex(columns=["step", metric])
            ax.plot(rows.step, rows[metric] / most.get(metric, 1), color=color, label=name)
            ax.axvline(stops.get(name, np.nan), color=color, linestyle=":")
        ax.axhline(limits.get(metric, np.nan), color="0.3", linestyle="--", linewidth=1)
        title = metric.replace("_", " ") + " on dev" * (metric == "accuracy")
        ax.set(title=title, xlabel="step", ylim=(0, 1.3 * limits.get(metric, 0.77)))  # higher values leave the panel
    for ax in axes.flat[len(shown) :]:
        ax.remove()
    _finish(axes[0, -1])
    return axes


def matrix(frame: DataFrame, value: str = "accuracy", title: str = "", ax: Axes | None = None) -> Axes:
    """Which policy does what where: a row an arm, a column a place (`tested`), its share and 95% interval in the cell.

    `frame` has one row an arm and place, as `ablations.matrix` gives it.
    """
    _need(frame, "arm", "tested", value, f"{value}_low", f"{value}_high")
    order = {"index": frame.arm.unique(), "columns": frame.tested.unique()}
    at, low, high = (frame.pivot(index="arm", columns="tested", values=f"{value}{end}").reindex(**order)
                     for end in ("", "_low", "_high"))  # fmt: skip
    below = (100 * low).map("{:.0f}".format) + "–" + high.map("{:.0%}".format)
    ax = heat(at, below, title, value.replace("_", " "), ax)
    ax.set(xlabel="tested on", ylabel="trained as")
    return ax


def heat(table: DataFrame, below=None, title: str = "", label: str = "share", ax: Axes | None = None) -> Axes:
    """A table of shares in [0, 1] as a heat map, index down, columns across; `below` has what stands below each."""
    if table.empty or not (((table >= 0) & (table <= 1)) | table.isna()).all(axis=None):
        raise ValueError(f"heat wants a table of shares between 0 and 1, got\n{table}")
    size = max(5, 2 + 1.1 * table.shape[1]), 1.4 + 0.5 * table.shape[0]
    ax = ax or plt.figure(figsize=size, layout="constrained").gca()
    words = table.map("{:.0%}".format) + ("" if below is None else "\n" + below)
    bar = {"label": label, "format": PercentFormatter(1)}
    sns.heatmap(table, annot=words, fmt="", vmin=0, vmax=1, cmap="Blues", linewidths=1, cbar_kws=bar, ax=ax)
    ax.set(title=title, facecolor="0.9")  # grey: no value
    ax.grid(visible=False)
    ax.tick_params(rotation=0)
    return ax


def heat_map(table: DataFrame, marked: DataFrame, title: str = "", ax: Axes | None = None) -> Axes:
    """Any numbers, shaded from the lowest to the highest of each column; cells `marked` True are outlined and bold.

    Rows and columns have two levels, (part, name), as `lab.means` gives them: a gap stands between the parts.
    """
    height, width = table.shape
    ax = ax or plt.figure(figsize=(2.6 + 0.5 * width, 2 + 0.32 * height), layout="constrained").gca()
    shade = (table - table.min()) / (table.max() - table.min()).replace(0, 1)
    words = {"annot": table, "fmt": ".2f", "annot_kws": {"size": 8, "color": "0.1"}}
    look = {"vmin": 0, "vmax": 2, "cmap": "Blues", "linewidths": 1, "cbar": False}  # no blue too dark to read on
    sns.heatmap(shade, **words, **look, xticklabels=True, yticklabels=True, ax=ax)
    for row, column in np.argwhere(marked.to_numpy()):
        box = {"fill": False, "edgecolor": "#d55e00", "linewidth": 1.8, "zorder": 3}
        ax.add_patch(plt.Rectangle((column + 0.07, row + 0.09), 0.86, 0.82, **box))
        ax.texts[row * width + column].set_fontweight("bold")
    for index, line, along in ((table.index, ax.axhline, "y"), (table.columns, ax.axvline, "x")):
        parts = index.get_level_values(0)
        starts = [0, *(np.flatnonzero(parts[1:] != parts[:-1]) + 1), len(index)]
        for at in starts[1:-1]:
            line(at, color="white", linewidth=7, zorder=2)
        for at, end in pairwise(starts):
            place = {"xy": ((at + end) / 2, -0.01), "xycoords": ax.get_xaxis_transform(), "va": "top", "ha": "center"}
            if along == "y":
                place = {"xy": (1.005, (at + end) / 2), "xycoords": ax.get_yaxis_transform(), "va": "center"}
            ax.annotate(parts[at], **place, rotation=-90 * (along == "y"), color="0.4")
    ax.set_xticks(ax.get_xticks(), [name for _, name in table.columns], rotation=40, ha="left", rotation_mode="anchor")
    ax.set_yticks(ax.get_yticks(), [name for _, name in table.index], rotation=0)
    ax.xaxis.tick_top()
    ax.tick_params(length=0, pad=1)
    ax.set(title=title, xlabel="", ylabel="")
    return ax


def arms(frame: DataFrame, seeds: DataFrame | None = None, value: str = "accuracy", ax: Axes | None = None) -> Axes:
    """One row an ablation arm, first on top: its `value` with `<value>_low` to `<value>_high`, seeds as small dots.

    `frame` has one row an arm, `seeds` one an arm and seed; both have the columns arm and `value`, shares.
    """
    _need(frame, "arm", value, f"{value}_low", f"{value}_high")
    ax = ax or plt.figure(figsize=(6.5, 1.2 + 0.45 * len(frame)), layout="constrained").gca()
    (blue, orange), places = _colors(2), list(frame.arm)
    away = np.maximum([frame[value] - frame[f"{value}_low"], frame[f"{value}_high"] - frame[value]], 0)
    ax.errorbar(frame[value], range(len(frame)), xerr=away, fmt="o", color=blue, label="95% interval")
    if seeds is not None:
        _need(seeds, "arm", value)
        if strange := sorted(set(seeds.arm) - set(places)):
            raise ValueError(f"seeds of an unknown arm: {strange[0]!r}; have: {', '.join(places)}")
        rows = [places.index(arm) + 0.22 for arm in seeds.arm]  # a little below the interval
        ax.scatter(seeds[value], rows, s=14, color=orange, label="one seed")
    ax.set_yticks(range(len(frame)), places)
    ax.set(xlabel=value.replace("_", " "), ylim=(len(frame) - 0.5, -0.5))
    return _finish(ax, "x")
