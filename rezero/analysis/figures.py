"""Figures that compare: the arms of an ablation, runs that collapse, policies in several places.

As in `plots`, every function takes tidy data, returns matplotlib Axes, and raises a ValueError that names a missing or
empty column.
"""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.ticker import PercentFormatter
from pandas import DataFrame, MultiIndex, Series

from rezero.analysis.plots import colors, legend_right, need, percent_axis, step_axis
from rezero.evaluation.evaluate import LABELS

WATCHED = {  # metric -> title and unit of its panel
    "accuracy": ("Accuracy on dev", "share of questions"),
    "malformed_ends": ("Malformed ends", "share of episodes"),
    "zero_variance_groups": ("Groups without variance", "share of groups"),
    "entropy": ("Entropy", "nats per token"),
    "kl": ("KL to the starting policy", "nats per token"),
    "searches": ("Searches", "share of the maximum"),
    "policy_tokens": ("Sampled tokens", "share of the maximum"),
}


def learning_curves(frame: DataFrame) -> np.ndarray:
    """Accuracy and P(retried | missed) by step, a column per arm of `ablations.curves`: the mean and range of seeds."""
    need(frame, "arm", "seed", "step", "accuracy")
    need(frame, "retried", filled=False)  # without a miss there is no share
    arms, seeds = frame.groupby("arm", sort=False), frame.seed.nunique()
    size = {"figsize": (max(6, 1.2 + 2.1 * len(arms)), 5.4), "layout": "constrained"}
    figure, axes = plt.subplots(2, len(arms), sharex=True, sharey="row", squeeze=False, **size)
    for row, metric in zip(axes, ("accuracy", "retried"), strict=True):
        spread = {arm: part.groupby("step")[metric].agg(["mean", "min", "max"]) for arm, part in arms}
        for ax, (arm, own), color in zip(row, spread.items(), colors(len(arms)), strict=True):
            for other in spread.values():
                ax.plot(other.index, other["mean"], color="0.8", linewidth=1)
            ax.plot(own.index, own["mean"], color=color, linewidth=2, marker="o", markersize=3, clip_on=False)
            ax.fill_between(own.index, own["min"], own["max"], color=color, alpha=0.25, linewidth=0)
            ax.set_title(arm if metric == "accuracy" else "")
            step_axis(ax)
        row[0].set(ylabel=LABELS[metric], ylim=(max(0, row[0].get_ylim()[0]), None))
        percent_axis(row[0].yaxis)
    grey = "; grey: means of the other arms" if len(arms) > 1 else ""
    figure.suptitle(f"Dev set: mean and range of {seeds} seed{'s' if seeds > 1 else ''}{grey}", size="medium")
    return axes


def watched(runs: dict, limits: dict[str, float], stops: dict[str, int]) -> np.ndarray:
    """Dev accuracy and what the sentinel watches, one panel per metric that is logged, and one line per run.

    `runs`: name -> `collapse.Run`; metrics with a maximum are drawn as shares of it. `limits`: metric -> its limit, a
    dashed line; values far above it leave the panel. `stops`: run -> where the sentinel stops it, a dotted line.
    """
    frames = {name: (DataFrame(rows), most) for name, (rows, most) in runs.items()}
    shown = ["accuracy", *(name for name in limits if any(name in frame for frame, _ in frames.values()))]
    figure, axes = plt.subplots(2, -(-len(shown) // 2), figsize=(11.5, 5.4), sharex=True, layout="constrained")
    for ax, metric in zip(axes.flat, shown, strict=False):
        for (name, (frame, most)), color in zip(frames.items(), colors(len(frames)), strict=True):
            rows = frame[frame.kind == ("eval" if metric == "accuracy" else "train")].reindex(columns=["step", metric])
            ax.plot(rows.step, rows[metric] / most.get(metric, 1), color=color, label=name)
            ax.axvline(stops.get(name, np.nan), color=color, linestyle=":")
        ax.axhline(limits.get(metric, np.nan), color="0.3", linestyle="--", linewidth=1)
        title, unit = WATCHED[metric]
        ax.set(title=title, ylabel=unit, ylim=(0, 1 if metric == "accuracy" else 1.3 * limits[metric]))
        if unit.startswith("share"):
            percent_axis(ax.yaxis)
        step_axis(ax)
    for ax in axes.flat[len(shown) :]:
        ax.remove()
    lines = axes[0, 0].get_legend_handles_labels()[0]
    for dashes, name in {"--": "limit", ":": "stopped"}.items():
        lines.append(plt.Line2D([], [], color="0.3", linestyle=dashes, label=name))
    figure.legend(handles=lines, loc="outside upper left", ncols=len(lines), frameon=False)
    return axes


def matrix(frame: DataFrame, value: str = "accuracy", title: str = "") -> plt.Axes:
    """The shares of `ablations.matrix` with their 95% intervals: one row per arm, one column per place."""
    need(frame, "arm", "tested", value, f"{value}_low", f"{value}_high")
    table = frame.pivot(index="arm", columns="tested")
    table = table.reindex(index=frame.arm.unique()).reindex(columns=frame.tested.unique(), level="tested")
    below = (100 * table[f"{value}_low"]).map("{:.0f}".format) + "–" + table[f"{value}_high"].map("{:.0%}".format)
    ax = heat(table[value], below, title, LABELS.get(value, value))
    ax.set(xlabel="tested on", ylabel="trained as")
    return ax


def heat(table: DataFrame, below: DataFrame | None = None, title: str = "", label: str = "share") -> plt.Axes:
    """A table of shares in [0, 1] as a heat map, index down, columns across; `below` has what stands below each."""
    if table.empty or not (((table >= 0) & (table <= 1)) | table.isna()).all(axis=None):
        raise ValueError(f"heat wants a table of shares between 0 and 1, got\n{table}")
    size = max(5, 2 + 1.1 * table.shape[1], 1 + 0.09 * len(title)), 1.6 + 0.5 * table.shape[0]
    _, ax = plt.subplots(figsize=size, layout="constrained")
    words = table.map("{:.0%}".format) + ("" if below is None else "\n" + below)
    bar = {"label": label, "format": PercentFormatter(1)}
    sns.heatmap(table, annot=words, fmt="", vmin=0, vmax=1, cmap="Blues", linewidths=1, cbar_kws=bar, ax=ax)
    ax.set_title(title, pad=14)  # above the colour bar's uppermost label
    ax.set_facecolor("0.9")  # grey: no value
    ax.grid(visible=False)
    ax.tick_params(rotation=0)
    return ax


def heat_map(table: DataFrame, marked: DataFrame, title: str = "") -> plt.Axes:
    """Any numbers, shaded from the lowest to the highest of each column; cells `marked` True are outlined and bold.

    Rows and columns have two levels, (part, name), as in `reward_lab.means`. A gap separates the parts.
    """
    height, width = table.shape
    _, ax = plt.subplots(figsize=(2.6 + 0.5 * width, 2 + 0.32 * height), layout="constrained")
    shade = (table - table.min()) / (table.max() - table.min()).replace(0, 1)
    words = {"annot": table, "fmt": ".2f", "annot_kws": {"size": 8, "color": "0.1"}}
    look = {"vmin": 0, "vmax": 2, "cmap": "Blues", "linewidths": 1, "cbar": False}  # no blue too dark to read on
    sns.heatmap(shade, **words, **look, xticklabels=True, yticklabels=True, ax=ax)
    for row, column in np.argwhere(marked.to_numpy()):
        box = {"fill": False, "edgecolor": "#d55e00", "linewidth": 1.8, "zorder": 3}
        ax.add_patch(plt.Rectangle((column + 0.07, row + 0.09), 0.86, 0.82, **box))
        ax.texts[row * width + column].set_fontweight("bold")
    for start, end, part in _parts(table.index):
        ax.axhline(start or np.nan, color="white", linewidth=7, zorder=2)
        place = {"xycoords": ax.get_yaxis_transform(), "va": "center", "rotation": -90}
        ax.annotate(part, (1.005, (start + end) / 2), color="0.4", **place)
    for start, end, part in _parts(table.columns):
        ax.axvline(start or np.nan, color="white", linewidth=7, zorder=2)
        place = {"xycoords": ax.get_xaxis_transform(), "va": "top", "ha": "center"}
        ax.annotate(part, ((start + end) / 2, -0.01), color="0.4", **place)
    ax.set_xticks(ax.get_xticks(), [name for _, name in table.columns], rotation=40, ha="left", rotation_mode="anchor")
    ax.set_yticks(ax.get_yticks(), [name for _, name in table.index], rotation=0)
    ax.xaxis.tick_top()
    ax.tick_params(length=0, pad=1)
    ax.set(title=title, xlabel="", ylabel="")
    return ax


def _parts(index: MultiIndex) -> list[tuple[int, int, str]]:
    """(start, end, name) of each part."""
    places = Series(range(len(index))).groupby(index.get_level_values(0), sort=False)
    return [(rows.min(), rows.max() + 1, part) for part, rows in places]


def arms(frame: DataFrame, seeds: DataFrame, value: str = "accuracy") -> plt.Axes:
    """The shares of `ablations.arms_table` with their intervals, the first arm on top, and its seeds as small dots."""
    need(frame, "arm", value, f"{value}_low", f"{value}_high")
    _, ax = plt.subplots(figsize=(6.5, 1.2 + 0.45 * len(frame)), layout="constrained")
    (blue, orange), places = colors(2), list(frame.arm)
    errors = np.maximum([frame[value] - frame[f"{value}_low"], frame[f"{value}_high"] - frame[value]], 0)
    ax.errorbar(frame[value], range(len(frame)), xerr=errors, fmt="o", color=blue, label="95% interval")
    rows = [places.index(arm) + 0.22 for arm in seeds.arm]
    ax.scatter(seeds[value], rows, s=14, color=orange, label="one seed")
    ax.set_yticks(range(len(frame)), places)
    ax.set(xlabel=LABELS.get(value, value.replace("_", " ")), ylim=(len(frame) - 0.5, -0.5))
    percent_axis(ax.xaxis)
    return legend_right(ax)
