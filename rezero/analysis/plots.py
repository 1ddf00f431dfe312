"""All figures: of one run, its training and its episodes; then those that compare arms, runs and places.

Every function takes tidy data, returns matplotlib Axes and draws 95% intervals; call `style()` once before. "Metrics"
are the rows of a run's metrics.jsonl as a DataFrame, "a frame of episodes" is what `traces.to_frame` returns.
"""

from collections.abc import Sequence
from itertools import cycle, product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rezero.evaluation.evaluate import LABELS

PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.3g}%")
COLORS = sns.color_palette("colorblind", 99)  # repeats after 10
PANELS = {  # metric -> title and unit of its panel
    "accuracy": ("Accuracy on dev", "share of questions"),
    "malformed_turns": ("Malformed turns", "share of turns"),
    "malformed_ends": ("Malformed ends", "share of episodes"),
    "zero_variance_groups": ("Groups without variance", "share of groups"),
    "entropy": ("Entropy", "nats per token"),
    "kl": ("KL to the starting policy", "nats per token"),
    "searches": ("Searches", "per episode"),
    "policy_tokens": ("Sampled tokens", "per episode"),
}


def style() -> None:
    """Set the look of all figures of this process: colour-blind-safe palette, light grid, no frame."""
    look = {"axes.titlelocation": "left", "axes.titlesize": "medium", "axes.grid.axis": "y", "grid.alpha": 0.5}
    look |= {"axes.spines.top": False, "axes.spines.right": False, "errorbar.capsize": 3}
    sns.set_theme(style="whitegrid", palette="colorblind", rc=look)


def by_step(ax: plt.Axes, title: str, unit: str) -> None:
    """Label a panel in which x counts training steps, in whole numbers; a unit that is a share is shown in percent."""
    ax.set(title=title, xlabel="step", ylabel=unit)
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    ax.tick_params(labelbottom=True)  # also in panels that share the axis
    if unit.startswith("share"):
        ax.yaxis.set_major_formatter(PERCENT)


def legend_right(ax: plt.Axes, **options) -> plt.Axes:
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, frameon=False, **options)
    return ax


def reward_curves(metrics: pd.DataFrame, smooth: int = 9) -> np.ndarray:
    """The weighted sum of the rewards, and each of them, by step: measured (faint), centred mean of `smooth` (bold)."""
    rows = _rows(metrics, "train", "reward")
    rewards = rows.filter(regex="^rewards/.*(?<!_std)$").dropna(axis=1, how="all")
    _, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    draw_smoothed(axes[0], rows, "reward", "black", smooth=smooth)
    for name, color, dashes in zip(rewards, COLORS, cycle(["-", "--", "-.", ":"]), strict=False):
        draw_smoothed(axes[1], rows, name, color, dashes, smooth)
    by_step(axes[0], f"Reward (bold: mean of {smooth} steps)", "mean over episodes")
    by_step(axes[1], "Each reward, unweighted", "mean over episodes")
    legend_right(axes[1])
    return axes


def draw_smoothed(ax: plt.Axes, rows: pd.DataFrame, name: str, color, dashes: str = "-", smooth: int = 9) -> None:
    """A metric by step: as measured (faint), and the centred mean of `smooth` steps (bold)."""
    values = rows.get(name, np.nan * rows.step)
    mean = values.rolling(smooth, center=True, min_periods=1).mean()
    ax.plot(rows.step, values, color=color, alpha=0.25, linewidth=1)
    ax.plot(rows.step, mean, dashes, color=color, label=name.removeprefix("rewards/"), linewidth=2)


def advantages(rewards: Sequence[float], advantages: Sequence[float]) -> plt.Axes:
    """The advantages of the episodes of one question as bars, the first on top, each beside its reward."""
    _, ax = plt.subplots(figsize=(7, 0.9 + 0.3 * len(rewards)), layout="constrained")
    (better, worse, *_), numbers = COLORS, range(1, len(rewards) + 1)
    bars = ax.barh(numbers, advantages, color=[worse if advantage < 0 else better for advantage in advantages])
    ax.bar_label(bars, [f"reward {reward:.2f}" for reward in rewards], padding=4, fontsize="small")
    ax.axvline(0, color="0.3", linewidth=1)
    ax.grid(visible=False)
    reach = 1.4 * max(np.abs(advantages)) or 1  # leaves room for the rewards
    ax.set(title="Above 0, training makes an episode more likely; below 0, less", xlabel="advantage", ylabel="episode")
    ax.set(xlim=(-reach, reach), ylim=(len(rewards) + 0.6, 0.4), yticks=numbers)
    return ax


def dev_curve(metrics: pd.DataFrame) -> plt.Axes:
    """Accuracy and P(retried | missed) on dev by step, with their intervals as bands, and the step that is kept."""
    _, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
    draw_dev(ax, _rows(metrics, "eval", "accuracy"))
    return legend_right(ax)


def draw_dev(ax: plt.Axes, rows: pd.DataFrame) -> None:
    for name, color, marker in zip(("accuracy", "retried"), COLORS, "os", strict=False):
        ax.plot(rows.step, rows[name], color=color, marker=marker, label=LABELS[name], clip_on=False)
        ax.fill_between(rows.step, rows[f"{name}_low"], rows[f"{name}_high"], color=color, alpha=0.2, linewidth=0)
    kept = rows.step[rows.accuracy.idxmax()]  # the first of the best
    ax.axvline(kept, color="0.3", linestyle="--", linewidth=1, label=f"kept: step {kept}", zorder=0)
    by_step(ax, "Dev set (bands: 95% intervals)", "share of episodes")
    ax.set_ylim(0, 1)


def training_health(metrics: pd.DataFrame) -> np.ndarray:
    """Five panels by step: four metrics (Unsloth's trainer does not measure the entropy), and the seconds by phase.

    Phases that together take less than 1% of the time are not drawn.
    """
    rows = _rows(metrics, "train", "searches", "malformed_turns", "zero_variance_groups", "seconds/generation")
    _, axes = plt.subplots(2, 3, figsize=(9, 4.8), sharex=True, layout="constrained")
    *axes, last, legend = axes.flat
    for ax, name in zip(axes, ("searches", "malformed_turns", "entropy", "zero_variance_groups"), strict=True):
        title, unit = PANELS[name]
        draw_smoothed(ax, rows, name, COLORS[0])
        by_step(ax, title if name in rows else f"{title}: not measured", unit)
    seconds = rows.filter(like="seconds/").fillna(0).rename(columns=lambda name: name.removeprefix("seconds/"))
    seconds = seconds.loc[:, seconds.sum() >= 0.01 * seconds.sum().sum()]
    last.stackplot(rows.step, seconds.T, labels=list(seconds), colors=COLORS, linewidth=0)
    by_step(last, "Time", "seconds per step")
    plt.setp([*axes, last], ylim=(0, None))
    handles, names = last.get_legend_handles_labels()
    legend.legend(handles, names, loc="upper left", frameon=False, reverse=True)  # in the order of the stack
    legend.set_axis_off()
    return np.array([*axes, last, legend])


def _rows(metrics: pd.DataFrame, kind: str, *columns: str) -> pd.DataFrame:
    """The metrics of one kind ("train" or "eval") by step; ValueError if one of `columns` has no value there."""
    rows = metrics[metrics.kind == kind].sort_values("step")
    empty = [name for name in columns if name not in rows or rows[name].isna().all()]
    if empty:
        raise ValueError(f"{len(rows)} rows of kind {kind!r} have no {', '.join(empty)}; want a run's metrics.jsonl")
    return rows


def watched(runs: dict, limits: dict[str, float], stops: dict[str, int]) -> np.ndarray:
    """Dev accuracy and what the sentinel watches: one panel per metric that is logged, one line per `collapse.Run`.

    `limits`: metric -> its limit, a dashed line; values far above it leave the panel. `stops`: run -> the step at which
    the sentinel stops it, a dotted line. Metrics with a maximum are drawn as shares of it.
    """
    frames = {name: (pd.DataFrame(rows), most) for name, (rows, most) in runs.items()}
    shown = ["accuracy", *(name for name in limits if any(name in frame for frame, _ in frames.values()))]
    figure, axes = plt.subplots(2, -(-len(shown) // 2), figsize=(11.5, 5.4), sharex=True, layout="constrained")
    for ax, metric in zip(axes.flat, shown, strict=False):
        title, unit = PANELS[metric]
        for (name, (frame, most)), color in zip(frames.items(), COLORS, strict=False):
            rows = frame[frame.kind == ("eval" if metric == "accuracy" else "train")].reindex(columns=["step", metric])
            ax.plot(rows.step, rows[metric] / most.get(metric, 1), color=color, label=name)
            ax.axvline(stops.get(name, np.nan), color=color, linestyle=":")
        ax.axhline(limits.get(metric, np.nan), color="0.3", linestyle="--", linewidth=1)
        by_step(ax, title, "share of the maximum" if unit == "per episode" else unit)
        ax.set_ylim(0, 1 if metric == "accuracy" else 1.3 * limits[metric])
    for ax in axes.flat[len(shown) :]:
        ax.remove()
    for dashes, name in (("--", "limit"), (":", "stopped")):
        axes[0, 0].plot([], [], dashes, color="0.3", label=name)
    lines, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside upper left", ncols=len(names), frameon=False)
    return axes


def heat(table: pd.DataFrame, below: pd.DataFrame | None = None, title: str = "", label: str = "share") -> plt.Axes:
    """A table of shares in [0, 1] as a heat map, index down, columns across; `below` has what stands below each."""
    size = max(5, 2 + 1.1 * table.shape[1], 1 + 0.09 * len(title)), 1.6 + 0.5 * table.shape[0]
    _, ax = plt.subplots(figsize=size, layout="constrained")
    words = table.map("{:.0%}".format) + ("" if below is None else "\n" + below)
    bar = {"label": label, "format": PERCENT}
    sns.heatmap(table, annot=words, fmt="", vmin=0, vmax=1, cmap="Blues", linewidths=1, cbar_kws=bar, ax=ax)
    ax.figure.suptitle(title, x=0.01, ha="left", size="medium")  # above the whole, colour bar included
    ax.set_facecolor("0.9")  # grey: no value
    ax.tick_params(rotation=0)
    return ax


def heat_map(table: pd.DataFrame, found: pd.DataFrame, title: str = "") -> plt.Axes:
    """`reward_lab.means`, shaded from the lowest to the highest of each column, with what `flags` found in frames."""
    height, width = table.shape
    _, ax = plt.subplots(figsize=(2.6 + 0.5 * width, 2 + 0.32 * height), layout="constrained")
    shade = (table - table.min()) / (table.max() - table.min()).replace(0, 1)
    words = {"annot": table, "fmt": ".2f", "annot_kws": {"size": 8, "color": "0.1"}}
    look = {"vmin": 0, "vmax": 2, "cmap": "Blues", "linewidths": 1, "cbar": False}  # no blue too dark to read on
    sns.heatmap(shade, **words, **look, xticklabels=True, yticklabels=True, ax=ax)
    for flag in found.itertuples():
        row, column = table.index.get_loc(("cheating", flag.cheater)), table.columns.get_loc((flag.pays, flag.name))
        box = {"fill": False, "edgecolor": "#d55e00", "linewidth": 1.8, "zorder": 3}
        ax.add_patch(plt.Rectangle((column + 0.07, row + 0.09), 0.86, 0.82, **box))
        ax.texts[row * width + column].set_fontweight("bold")
    right, below = ax.secondary_yaxis("right").yaxis, ax.secondary_xaxis("bottom").xaxis
    for index, line, axis in ((table.index, ax.axhline, right), (table.columns, ax.axvline, below)):
        places = pd.Series(range(len(index))).groupby(index.get_level_values(0), sort=False)
        for start in places.min()[1:]:
            line(start, color="white", linewidth=7, zorder=2)
        axis.set_ticks(places.mean() + 0.5, places.mean().index)
        axis.set_tick_params(length=0, labelcolor="0.4")
        axis.axes.spines[:].set_visible(False)
    plt.setp(right.get_ticklabels(), rotation=-90, va="center")
    ax.set_xticks(ax.get_xticks(), [name for _, name in table.columns], rotation=40, ha="left", rotation_mode="anchor")
    ax.set_yticks(ax.get_yticks(), [name for _, name in table.index], rotation=0)
    ax.xaxis.tick_top()
    ax.tick_params(length=0, pad=1)
    ax.set(title=title, xlabel="", ylabel="")
    return ax


def difference_map(table: pd.DataFrame, metrics: Sequence[str], labels: dict[str, str], title: str = "") -> np.ndarray:
    """The differences of `map.differences` with their intervals: a panel per metric (down) and reward (across).

    Within a panel, rows are starting policies and columns are places. Cells without a shown difference are dotted.
    """
    rewards, places, starts = (list(table[name].unique()) for name in ("reward", "place", "start"))
    size = 1 + max(2.6, 1.05 * len(places)) * len(rewards), 0.8 + (0.5 + 0.42 * len(starts)) * len(metrics)
    figure, axes = plt.subplots(len(metrics), len(rewards), figsize=size, squeeze=False, layout="constrained")
    for (metric, reward), ax in zip(product(metrics, rewards), axes.flat, strict=True):
        rows = table[table.metric == metric]
        most = 2 * (rows.difference.abs().fillna(0).max() or 1)  # no colour too dark to read on
        own = rows[rows.reward == reward].set_index(["start", "place"]).reindex(product(starts, places))
        shade = own.difference.where(own.shown, 0).to_numpy(float).reshape(len(starts), -1)
        names = {"xticklabels": places if metric == metrics[-1] else False, "yticklabels": starts}
        sns.heatmap(shade, cmap="PuOr", vmin=-most, vmax=most, cbar=False, linewidths=1, ax=ax, **names)
        for number, row in enumerate(own.itertuples()):
            y, x = divmod(number, len(places))
            look = {"ha": "center", "va": "center", "color": "black" if row.shown else "0.4"}
            weight, hatch = ("bold", "") if row.shown else ("normal", "....")
            words = f"{row.difference:+.2f}".replace("-0.00", "+0.00"), f"{row.low:+.2f} to {row.high:+.2f}"
            words = words if row.low or row.high else ("0", "")  # as where neither ever retries
            difference, interval = words if row.difference == row.difference else ("no case", "")
            ax.text(x + 0.5, y + 0.36, difference, size=9, weight=weight, **look)
            ax.text(x + 0.5, y + 0.75, interval, size=6.5, **look)
            box = {"fill": False, "linewidth": 0, "edgecolor": "0.85", "zorder": 1.5}
            ax.add_patch(plt.Rectangle((x, y), 1, 1, hatch=hatch, **box))
        ax.set_title(f"{labels[metric]}: {reward}", size=9)
        ax.tick_params(rotation=0, length=0, labelsize=9)
    figure.suptitle(title, x=0.01, ha="left", size="medium")
    figure.supylabel("share of its misses after which the starting policy retries", size=9)
    figure.supxlabel("how often searching again pays\n(coloured: p < 0.05 after Holm; dotted: not shown)", size=9)
    return axes
