"""Figures: the numbers that are drawn, ticks and labels that can be read, errors that name the missing column."""

from io import StringIO
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import answer, search

from rezero.analysis import outcomes, plots
from rezero.evaluation.stats import wilson
from rezero.protocol import Episode
from rezero.questions import Question

plt.switch_backend("Agg")


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


STEPS = np.array([2, 1, 3, 5, 4])  # the order that the lines of resumed runs may have
EVAL = pd.DataFrame({"kind": "eval", "step": [0, 5], "accuracy": [0.4, 0.6], "retried": [np.nan, 0.8]})
EVAL = EVAL.assign(accuracy_low=0.0, accuracy_high=1.0, retried_low=0.0, retried_high=1.0)
REWARDS = {"rewards/correctness": STEPS / 10, "rewards/correctness_std": 9.0, "rewards/retry": 1 - STEPS / 10}
HEALTH = {"searches": 1.5, "malformed_turns": STEPS / 500, "entropy": 2.0 - STEPS / 10, "zero_variance_groups": 0.25}
SECONDS = {"seconds/generation": 3.0, "seconds/search": 1.0, "seconds/rewards": 0.01}
TRAIN = pd.DataFrame({"kind": "train", "step": STEPS, "reward": STEPS * 1.0} | REWARDS | HEALTH | SECONDS)
METRICS = pd.concat([EVAL, TRAIN], ignore_index=True)

EPISODES = """policy kind correct searches missed retried recovered
start direct 1 1 0 0 0
start direct 0 1 1 0 0
start alias 0 2 1 1 0
start alias 0 0 0 0 0
trained direct 1 1 0 0 0
trained direct 1 2 1 1 1
trained alias 1 3 1 1 1
trained alias 0 2 1 1 0"""
FRAME = pd.read_csv(StringIO(EPISODES), sep=" ")
FRAME = FRAME.astype(dict.fromkeys(["correct", "missed", "retried", "recovered"], bool))


def texts(labels) -> list[str]:
    return [label.get_text() for label in labels]


def ticks(axis) -> list[str]:
    """The labels of the ticks in view."""
    low, high = sorted(axis.get_view_interval())
    places = axis.get_majorticklocs()
    labels = axis.get_major_formatter().format_ticks(places)
    return [label for label, place in zip(labels, places, strict=True) if low <= place <= high]


def boxes(ax) -> list:
    """Where the texts in the axes stand; all of them are inside."""
    ax.figure.draw_without_rendering()
    found = [text.get_window_extent() for text in ax.texts]
    assert all(ax.bbox.contains(box.x0, box.y0) and ax.bbox.contains(box.x1, box.y1) for box in found)
    return found


def heights(ax) -> list[list[float]]:
    """Heights of the bars, group by group."""
    groups = [group for group in ax.containers if hasattr(group, "patches")]
    return [[round(float(bar.get_height()), 6) for bar in group] for group in groups]


def band(ax) -> list[float]:
    """The lowest and the highest value of the first band."""
    values = ax.collections[0].get_paths()[0].vertices[:, 1]
    return [values.min(), values.max()]


def test_reward_curves_draw_each_step_and_its_centred_mean():
    total, parts = plots.reward_curves(METRICS, smooth=3)
    raw, mean = total.lines
    assert raw.get_xdata().tolist() == [1, 2, 3, 4, 5] and raw.get_ydata().tolist() == [1, 2, 3, 4, 5]
    assert mean.get_ydata().tolist() == [1.5, 2, 3, 4, 4.5] and "mean of 3 steps" in total.get_title()
    assert texts(parts.get_legend().texts) == ["correctness", "retry"]  # the deviation is not a reward
    assert parts.lines[2].get_ydata().tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5])


def test_advantages_stand_beside_their_rewards():
    ax = plots.advantages([4.5, 0, 2], [1.5, -2.0, 0.5])
    assert [bar.get_width() for bar in ax.patches] == [1.5, -2.0, 0.5]
    assert texts(ax.texts) == ["reward 4.50", "reward 0.00", "reward 2.00"]
    assert ticks(ax.yaxis) == ["1", "2", "3"] and ax.yaxis_inverted()
    pairs = zip(boxes(ax), ax.patches, strict=True)
    assert not any(box.overlaps(bar.get_window_extent()) for box, bar in pairs)
    assert plots.advantages([2.0, 2.0], [0.0, 0.0]).get_xlim() == (-1, 1)  # a group without variance


def test_dev_curve_and_training_health():
    ax = plots.dev_curve(METRICS)
    curves = [line.get_ydata().tolist() for line in ax.lines[:2]]
    assert curves == [[0.4, 0.6], pytest.approx([np.nan, 0.8], nan_ok=True)]
    assert ax.lines[2].get_xdata() == [5, 5]  # the step that is kept
    assert band(ax) == [0, 1]
    assert texts(ax.get_legend().texts) == ["accuracy (exact match)", "P(retried | missed)", "kept: step 5"]
    plots.dev_curve(METRICS.assign(retried=np.nan))  # no first search missed
    axes = plots.training_health(METRICS)
    assert axes[1].lines[0].get_ydata().tolist() == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
    assert axes[1].lines[1].get_ydata().tolist() == pytest.approx([0.006] * 5)  # the mean of 9 steps
    assert [max(y for _, y in layer.get_paths()[0].vertices) for layer in axes[4].collections] == [3, 4]  # stacked
    assert texts(axes[5].get_legend().texts) == ["search", "generation"]  # in the order of the stack, none without area
    axes[0].figure.draw_without_rendering()
    assert len({round(ax.bbox.width) for ax in axes}) == len({ax.get_xlim() for ax in axes[:5]}) == 1
    without = plots.training_health(METRICS.drop(columns="entropy"))  # Unsloth's trainer measures none
    assert [ax.get_title().endswith(": not measured") for ax in without] == [False, False, True, *[False] * 3]


def test_bars_of_each_policy():
    recovery = outcomes.headline(FRAME, "A title")
    assert ticks(recovery.xaxis) == ["accuracy (exact match)", "P(retried | missed)", "P(recovered | retried)"]
    assert heights(recovery) == [[0.25, 0.5, 0], [0.75, 1, round(2 / 3, 6)]]
    assert texts(recovery.texts) == ["1/4", "1/2", "0/1", "3/4", "3/3", "2/3"]
    errors = [path[:, 1] for bars in recovery.containers[::2] for path in bars.lines[2][0].get_segments()]
    assert np.allclose(errors, [wilson(*map(int, text.split("/"))) for text in texts(recovery.texts)])
    assert texts(outcomes.headline(FRAME[~FRAME.missed]).texts)[1:3] == ["none"] * 2
    unjudged = FRAME.assign(correct=FRAME.correct.astype("boolean").mask(FRAME.index == 1))
    kinds = outcomes.kinds_bars(unjudged)
    assert ticks(kinds.xaxis) == ["direct", "alias"] and heights(kinds) == [[1, 0], [1, 0.5]]
    assert texts(kinds.texts) == ["1/1", "0/2", "2/2", "1/2"]


def test_episodes_flow_from_a_first_search_to_recovery():
    frame = FRAME.assign(searches=[1, 1, 2, 0, 1, 2, 3, 2])
    assert outcomes.fates(frame).to_dict("split") == {
        "index": ["start", "trained"],
        "columns": ["found at the first search", "missed, retried, recovered", "missed, retried, not recovered",
                    "missed, gave up", "never searched"],
        "data": [[1, 0, 1, 1, 1], [1, 2, 1, 0, 0]],
    }  # fmt: skip
    ax = outcomes.stacked(outcomes.fates(frame))
    parts = [[bar.get_width() for bar in bars] for bars in ax.containers]
    assert np.allclose(parts, [[0.25, 0.25], [0, 0.5], [0.25, 0.25], [0.25, 0], [0.25, 0]])
    assert texts(ax.texts) == ["1", "1", "", "2", "1", "1", "1", "", "1", ""]
    assert ticks(ax.yaxis) == ["start", "trained"] and ax.yaxis_inverted()


def test_how_much_a_query_changes_is_counted_against_what_it_found():
    question = Question("q", "who?", ("x",), ("a", "b"))
    found = [search("z", query="pilot of Corvane"), search("a", query="the Corvane pilot"),
             search("b", query="One two three four"), search("b", query="more"), answer("x")]  # fmt: skip
    hit = Episode(question, (search("a", "b", query="pilot"), search("a", query="again"), answer("x")), "answered")
    rows = [({"policy": "p"}, Episode(question, tuple(found), "answered")), ({"policy": "p"}, hit)]
    changes = outcomes.query_changes(rows)
    assert changes.to_numpy().tolist() == [["p", "0", "2", False], ["p", "3+", "0", True]]  # not after all was seen
    ax = outcomes.changes(changes)
    assert texts(ax.texts) == ["100%\n1 of 1", "0%\n0 of 1"]
    assert (ticks(ax.xaxis), ticks(ax.yaxis)) == (["0", "3+"], ["0", "2"])
    assert outcomes.query_changes(rows[1:]).empty


@pytest.mark.parametrize("policies, turned", [(2, False), (4, True)])
def test_the_counts_above_bars_never_meet(policies, turned):
    rows = [(f"policy {i}", f"kind {k}", n < 105) for i in range(policies) for k in range(4) for n in range(115)]
    ax = outcomes.kinds_bars(pd.DataFrame(rows, columns=["policy", "kind", "correct"]))
    assert not any(one.overlaps(other) for one, other in combinations(boxes(ax), 2))
    assert {text.get_rotation() for text in ax.texts} == {90 * turned}


def test_what_the_sentinel_watches_stands_below_its_limits():
    def rows(accuracy, **metrics):
        evals = [{"kind": "eval", "step": step, "accuracy": accuracy} for step in (0, 10)]
        return evals + [{"kind": "train", "step": step} | metrics for step in range(1, 11)]

    runs = {"sound": (rows(0.4, searches=2.0), {}), "spam": (rows(0.1, searches=3.0, entropy=1.0), {"searches": 4})}
    axes = plots.watched(runs, {"searches": 0.95, "entropy": 3.0, "kl": 10.0}, {"spam": 6})
    axes = [ax for ax in axes.flat if ax.figure]
    assert [ax.get_title() for ax in axes] == ["Accuracy on dev", "Searches", "Entropy"]  # no run logged kl
    curves = [line.get_ydata()[0] for line in axes[1].lines if len(line.get_xdata()) > 2]
    assert curves == [2.0, 0.75]  # as a share of the maximum, where that is known
    styles = {line.get_linestyle(): line for line in axes[1].lines}
    assert styles[":"].get_xdata()[0] == 6 and styles["--"].get_ydata()[0] == 0.95
    assert texts(axes[0].figure.legends[0].texts) == ["sound", "spam", "limit", "stopped"]


def test_steps_are_whole_numbers_and_no_percentage_stands_twice():
    health = plots.training_health(METRICS)
    for ax in [*plots.reward_curves(METRICS), plots.dev_curve(METRICS), *health[:5]]:
        steps, labels = ticks(ax.xaxis), ticks(ax.yaxis)
        assert len(steps) > 1 and all(label.isdigit() for label in steps)
        assert ax.get_xlabel() == "step" and ax.xaxis.get_tick_params()["labelbottom"]  # shared axes hide it
        assert len(set(labels)) == len(labels) > 1
    assert ticks(health[1].yaxis)[:3] == ["0%", "0.2%", "0.4%"] and ticks(health[3].yaxis)[:3] == ["0%", "5%", "10%"]


@pytest.mark.parametrize(
    "draw, data, message",
    [
        (plots.reward_curves, METRICS.drop(columns="reward"), "5 rows of kind 'train' have no reward; want"),
        (plots.dev_curve, TRAIN, "0 rows of kind 'eval' have no accuracy; want a run's metrics.jsonl"),
        (plots.training_health, METRICS.assign(searches=np.nan), "have no searches"),
    ],
)
def test_what_is_missing_is_named(draw, data, message):
    with pytest.raises(ValueError, match=message):
        draw(data)
