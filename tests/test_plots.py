"""Plots: the numbers that are drawn, and errors that name the missing column."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from rezero.analysis import plots
from rezero.evaluation.stats import wilson


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


EVAL = pd.DataFrame(
    {
        "kind": "eval",
        "step": [0, 5],
        "accuracy": [0.4, 0.6],
        "accuracy_low": [0.3, 0.5],
        "accuracy_high": [0.5, 0.7],
        "retry_after_miss": [np.nan, 0.8],
        "retry_after_miss_low": [np.nan, 0.7],
        "retry_after_miss_high": [np.nan, 0.9],
    }
)
STEPS = np.array([2, 1, 3, 5, 4])  # as lines of resumed runs may come
TRAIN = pd.DataFrame(
    {
        "kind": "train",
        "step": STEPS,
        "reward": STEPS.astype(float),
        "rewards/correctness": STEPS / 10,
        "rewards/correctness_std": 9.0,
        "rewards/retry": 1 - STEPS / 10,
        "searches": 1.5,
        "malformed_turns": STEPS / 100,
        "entropy": 2.0 - STEPS / 10,
        "zero_variance_groups": 0.25,
        "seconds/generation": 3.0,
        "seconds/search": 1.0,
    }
)
METRICS = pd.concat([EVAL, TRAIN], ignore_index=True)

# per policy: (kind, correct, searches, first_miss, retried_after_miss, recovered)
ROWS = {
    "start": [
        ("direct", True, 1, False, False, False),
        ("direct", False, 1, True, False, False),
        ("alias", False, 2, True, True, False),
        ("alias", False, 0, False, False, False),
    ],
    "trained": [
        ("direct", True, 1, False, False, False),
        ("direct", True, 2, True, True, True),
        ("alias", True, 3, True, True, True),
        ("alias", False, 2, True, True, False),
    ],
}
NAMES = ["policy", "kind", "correct", "searches", "first_miss", "retried_after_miss", "recovered"]
FRAME = pd.DataFrame([(policy, *row) for policy, rows in ROWS.items() for row in rows], columns=NAMES)


def title(ax) -> str:
    """Wherever it stands: `style` moves it to the left."""
    return ax.get_title() or ax.get_title(loc="left")


def heights(ax) -> list[list[float]]:
    """Heights of the bars of each group of bars."""
    bars = [c for c in ax.containers if hasattr(c, "patches")]
    return [[round(float(bar.get_height()), 6) for bar in group] for group in bars]


def errors(ax) -> list[list[tuple]]:
    """(low, high) of the error bars, group by group."""
    groups = [c.lines[2][0] for c in ax.containers if hasattr(c, "has_yerr") and c.has_yerr]
    return [[tuple(path[:, 1]) for path in group.get_segments()] for group in groups]


def legend(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_reward_curves_draw_each_step_and_its_centred_mean():
    total, parts = plots.reward_curves(METRICS, smooth=3)
    raw, mean = total.lines
    assert raw.get_xdata().tolist() == [1, 2, 3, 4, 5] and raw.get_ydata().tolist() == [1, 2, 3, 4, 5]
    assert mean.get_ydata().tolist() == [1.5, 2, 3, 4, 4.5]
    assert legend(parts) == ["correctness", "retry"]  # the spread is no reward
    assert parts.lines[2].get_ydata().tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5])
    assert parts.lines[0].get_alpha() < 0.5 and parts.lines[1].get_alpha() is None
    assert "mean of 3 steps" in title(total)


def test_dev_curve_draws_shares_and_their_bands():
    ax = plots.dev_curve(METRICS)
    accuracy, retry = ax.lines
    assert accuracy.get_xdata().tolist() == [0, 5] and accuracy.get_ydata().tolist() == [0.4, 0.6]
    assert np.isnan(retry.get_ydata()[0]) and retry.get_ydata()[1] == 0.8
    band = ax.collections[0].get_paths()[0].vertices
    assert {(0, 0.3), (0, 0.5), (5, 0.5), (5, 0.7)} <= {tuple(point) for point in band.tolist()}
    assert legend(ax) == ["accuracy (exact match)", "P(search again | first miss)"]


def test_dev_curve_when_no_first_search_missed():
    ax = plots.dev_curve(METRICS.assign(retry_after_miss=np.nan))
    assert ax.lines[0].get_ydata().tolist() == [0.4, 0.6] and np.isnan(ax.lines[1].get_ydata()).all()


def test_searches_histogram_shares_sum_to_one_for_each_policy():
    ax = plots.searches_histogram(FRAME)
    assert heights(ax) == [[0.25, 0.5, 0.25, 0], [0, 0.25, 0.5, 0.25]]
    assert legend(ax) == ["start (mean 1.00)", "trained (mean 2.00)"]
    lefts = [[bar.get_x() for bar in group] for group in ax.containers]
    assert lefts[0][1] < 1 < lefts[1][1]  # side by side around their number
    assert heights(plots.searches_histogram(FRAME, hue=None)) == [[0.125, 0.375, 0.375, 0.125]]


def test_recovery_bars_condition_on_the_step_before():
    ax = plots.recovery_bars(FRAME)
    assert heights(ax) == [[0.5, 0], [1, round(2 / 3, 6)]]
    for drawn, counts in zip(errors(ax), [[(1, 2), (0, 1)], [(3, 3), (2, 3)]], strict=True):
        assert np.allclose(drawn, [wilson(k, n) for k, n in counts])
    assert [text.get_text() for text in ax.texts] == ["1/2", "0/1", "3/3", "2/3"]


def test_recovery_bars_say_when_there_is_nothing_to_count():
    ax = plots.recovery_bars(FRAME[~FRAME.first_miss])
    assert [text.get_text() for text in ax.texts] == ["0/0"] * 4
    assert all(low == high == 0 for group in errors(ax) for low, high in group)


def test_kinds_bars_count_right_of_asked():
    ax = plots.kinds_bars(FRAME)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["direct", "alias"]
    assert heights(ax) == [[0.5, 0], [1, 0.5]]
    assert np.allclose(errors(ax)[1], [wilson(2, 2), wilson(1, 2)])


def test_kinds_bars_leave_out_what_was_not_judged():
    unjudged = FRAME.assign(correct=FRAME.correct.astype("boolean").mask(FRAME.index == 1))
    assert [text.get_text() for text in plots.kinds_bars(unjudged).texts][:2] == ["1/1", "0/2"]


def test_training_health_panels_and_stacked_seconds():
    axes = plots.training_health(METRICS)
    assert len(axes) == 5
    assert axes[1].lines[0].get_ydata().tolist() == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05])
    assert axes[3].lines[0].get_ydata().tolist() == [0.25] * 5
    tops = [max(y for _, y in layer.get_paths()[0].vertices) for layer in axes[4].collections]
    assert tops == [3, 4] and legend(axes[4]) == ["search", "generation"]  # the legend in the order of the stack


def test_training_health_without_an_entropy():
    """Unsloth's trainer measures none."""
    texts = [t.get_text() for ax in plots.training_health(METRICS.drop(columns="entropy")) for t in ax.texts]
    assert texts == ["not measured"]


def test_what_the_sentinel_watches_stands_below_its_limits():
    def run(step, accuracy, **metrics):
        return [{"kind": "eval", "step": step, "accuracy": accuracy}, {"kind": "train", "step": step} | metrics]

    runs = {"sound": (run(0, 0.4, searches=2.0), {}), "spam": (run(5, 0.1, searches=3.0, entropy=1.0), {"searches": 4})}
    axes = plots.watched(runs, {"searches": 0.95, "entropy": 3.0, "kl": 10.0}, {"spam": 6})
    shown = {title(ax): ax for ax in axes.flat if ax.figure}
    assert list(shown) == ["accuracy on dev", "searches", "entropy"]  # nobody logged kl
    drawn = {}
    for name, ax in shown.items():
        drawn[name] = [line.get_ydata()[0] for line in ax.lines if len(line.get_xdata()) == 1]
    assert drawn["accuracy on dev"] == [0.4, 0.1]
    assert drawn["searches"] == [2.0, 0.75]  # as a share of the most, where that is known
    styles = {line.get_linestyle(): line for line in shown["searches"].lines}
    assert styles[":"].get_xdata()[0] == 6 and styles["--"].get_ydata()[0] == 0.95
    assert legend(shown["searches"]) == ["sound", "spam"]


def test_heat_writes_and_colours_every_share():
    table = pd.DataFrame([[0.25, 1.0], [0.5, np.nan]], index=["a", "b"], columns=["x", "y"])
    ax = plots.heat(table, pd.DataFrame([["n = 8", "n = 9"], ["n = 10", ""]], index=["a", "b"], columns=["x", "y"]))
    assert [text.get_text() for text in ax.texts] == ["25%\nn = 8", "100%\nn = 9", "50%\nn = 10"]
    assert ax.collections[0].get_clim() == (0, 1)  # the same colour means the same share in every figure
    assert [text.get_text() for text in plots.heat(table).texts] == ["25%", "100%", "50%"]
    for wrong in (table * 100, table.iloc[:0]):
        with pytest.raises(ValueError, match="shares between 0 and 1"):
            plots.heat(wrong)


def test_matrix_has_an_arm_a_row_and_a_place_a_column_with_intervals():
    rows = [
        ("b", "y", 0.5, 0.4, 0.6),
        ("b", "x", 1.0, 0.76, 1.0),
        ("a", "y", 0.25, 0.0, 0.5),
        ("a", "x", *[np.nan] * 3),
    ]
    frame = pd.DataFrame(rows, columns=["arm", "tested", "gain", "gain_low", "gain_high"])
    ax = plots.matrix(frame, "gain", "A title")
    assert [text.get_text() for text in ax.texts] == ["50%\n40–60%", "100%\n76–100%", "25%\n0–50%"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["b", "a"]  # in the order given
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["y", "x"]
    assert (ax.get_xlabel(), ax.get_ylabel(), title(ax)) == ("tested on", "trained as", "A title")


def test_learning_curves_draw_the_mean_and_the_range_of_the_seeds():
    rows = [("b", 0, 0, 0.4), ("b", 0, 5, 0.6), ("b", 1, 0, 0.4), ("b", 1, 5, 0.8), ("a", 0, 0, 0.4), ("a", 0, 5, 0.5)]
    frame = pd.DataFrame(rows, columns=["arm", "seed", "step", "accuracy"]).assign(retry_after_miss=np.nan)
    frame.loc[frame.step == 5, "retry_after_miss"] = [0.1, 0.3, 0.9]
    axes = plots.learning_curves(frame)
    assert axes.shape == (2, 2) and [title(ax) for ax in axes[0]] == ["b", "a"]
    mean = axes[0, 0].lines[-1]
    assert mean.get_xdata().tolist() == [0, 5] and mean.get_ydata().tolist() == pytest.approx([0.4, 0.7])
    band = {tuple(point) for point in axes[0, 0].collections[0].get_paths()[0].vertices.round(6).tolist()}
    assert {(5, 0.6), (5, 0.8), (0, 0.4)} <= band
    assert [line.get_ydata().tolist() for line in axes[0, 1].lines[:2]] == [
        pytest.approx([0.4, 0.7]),
        [0.4, 0.5],
    ]  # grey
    assert np.isnan(axes[1, 0].lines[-1].get_ydata()[0]) and axes[1, 0].lines[-1].get_ydata()[1] == pytest.approx(0.2)
    assert "of 2 seed(s)" in axes[0, 0].figure.get_suptitle()


def test_arms_draw_a_row_an_arm_with_its_seeds_below():
    table = pd.DataFrame({"arm": ["b", "a"], "gain": [0.1, -0.2], "gain_low": [0.0, -0.3], "gain_high": [0.3, -0.1]})
    seeds = pd.DataFrame({"arm": ["a", "a", "b"], "gain": [-0.25, -0.15, 0.1]})
    ax = plots.arms(table, seeds, value="gain")
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["b", "a"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first arm on top
    assert ax.lines[0].get_xdata().tolist() == [0.1, -0.2]
    segments = ax.containers[0].lines[2][0].get_segments()
    assert np.allclose([s[:, 0] for s in segments], [[0, 0.3], [-0.3, -0.1]])
    dots = ax.collections[-1].get_offsets()
    assert np.allclose(dots, [[-0.25, 1.22], [-0.15, 1.22], [0.1, 0.22]])
    with pytest.raises(ValueError, match="unknown arm: 'c'; have: b, a"):
        plots.arms(table, seeds.assign(arm="c"), value="gain")


@pytest.mark.parametrize(
    "draw, message",
    [
        (lambda: plots.reward_curves(METRICS.drop(columns="reward")), "missing or empty: reward; have: kind, step"),
        (lambda: plots.dev_curve(METRICS[METRICS.kind == "train"]), "no metrics of kind 'eval'; have: train"),
        (
            lambda: plots.dev_curve(METRICS.drop(columns="retry_after_miss_low")),
            "missing or empty: retry_after_miss_low",
        ),
        (lambda: plots.training_health(METRICS.assign(entropy=np.nan)), "missing or empty: entropy"),
        (lambda: plots.training_health(METRICS.drop(columns="seconds/generation")), "empty: seconds/generation"),
        (lambda: plots.searches_histogram(FRAME.drop(columns="policy")), "missing or empty: policy; have: kind"),
        (lambda: plots.recovery_bars(FRAME.iloc[:0]), "have: no rows"),
        (lambda: plots.kinds_bars(FRAME.drop(columns="kind")), "missing or empty: kind"),
        (lambda: plots.learning_curves(FRAME), "missing or empty: arm, seed, step, accuracy; have: policy"),
        (lambda: plots.matrix(FRAME), "missing or empty: arm, tested, accuracy"),
        (lambda: plots.arms(FRAME), "missing or empty: arm, accuracy, accuracy_low, accuracy_high"),
    ],
)
def test_what_is_missing_is_named(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_the_style_is_set_only_when_asked_for():
    before = dict(plt.rcParams)
    plots.searches_histogram(FRAME)
    assert dict(plt.rcParams) == before
    with plt.rc_context():
        plots.style()
        colors = [to_rgb(entry["color"]) for entry in plt.rcParams["axes.prop_cycle"]]
        assert colors[:3] == [to_rgb(color) for color in plots._colors(3)]
