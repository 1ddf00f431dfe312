"""The collapse sentinel: it stops what falls and keeps falling, and nothing else; and what it says of recorded runs."""

import json
import math

import pytest

from rezero.analysis.collapse import PUBLISHED, margins, read_runs, replay
from rezero.config import Collapse, load_config
from rezero.files import read_jsonl, write_jsonl, write_text
from rezero.training.callbacks import Sentinel
from rezero.training.sentinel import LIMITS, check_limits, collapse, hopeless, most_of, stalled

CURVE = [21.9, 28.1, 28.1, 37.5, 46.9, 31.3, 12.5, 18.8, 0, 3.1, 0]  # % right at steps 50, 100, ...
MOST = {"searches": 4, "policy_tokens": 200}


def evals(percent):
    return [{"kind": "eval", "step": 50 * i, "accuracy": p / 100} for i, p in enumerate(percent, start=1)]


def steps(n, **metrics):
    return [{"kind": "train", "step": i} | metrics for i in range(n)]


def said(rows):
    return collapse(rows, Collapse(), MOST)


def test_the_published_collapse_stops_at_step_400_with_step_250():
    assert evals(CURVE) == PUBLISHED and load_config().collapse == Collapse()
    step, why, kept = replay((PUBLISHED, MOST), Collapse())
    assert (step, kept) == (400, 250)
    assert why.endswith("each more than 0.1 below 0.469 at step 250")
    assert replay(([*evals(CURVE[:7]), {"kind": "collapse", "step": 360}], MOST), Collapse()) is None


@pytest.mark.parametrize("curve", [[50, 30, 60, 30, 60, 30], [50, 30, 30], [50, 41, 41, 41, 41], [10, 20, 30, 40]])
def test_noise_and_rising_curves_do_not_stop(curve):
    assert all(said(evals(curve[:n])) is None for n in range(len(curve) + 1))


@pytest.mark.parametrize("metric", LIMITS)
def test_each_limit_stops_when_it_is_passed_for_a_whole_window(metric):
    high = 1.02 * LIMITS[metric] * MOST.get(metric, 1)
    assert said(steps(20, **{metric: high})).startswith(f"{metric} was ")
    assert said(steps(19, **{metric: high})) is None
    spike = steps(19, **{metric: 0.0}) + steps(1, **{metric: 1000 * high})
    assert said(spike) is None  # one step alone raised the mean
    assert said(steps(40, **{metric: 0.9 * LIMITS[metric] * MOST.get(metric, 1)})) is None


FAILED, CUT, WORKS = {"failed_searches": 1.0}, {"cut_ends": 1.0}, {"failed_searches": 0.9, "cut_ends": 0.9}


@pytest.mark.parametrize(("rows", "ended", "said"), [
    ([], True, None),
    (steps(2, **FAILED), False, None),
    (steps(3, **FAILED), False, "every search of the first 3 steps failed"),
    (steps(1, **FAILED), True, "every search of the first 1 steps failed"),
    (steps(2, **FAILED) + steps(9, **WORKS), True, None),
    (steps(1, **WORKS) + steps(9, **FAILED), True, None),  # an outage, which resuming mends
    (steps(3), True, None),  # nobody searched: no search failed
    (steps(9, **CUT), False, None),  # it may still learn to be brief
    (steps(9, **CUT), True, "every episode of all 9 steps was cut by episode_tokens"),
    (steps(8, **CUT) + steps(1, **WORKS), True, None),
])  # fmt: skip
def test_a_training_that_cannot_have_worked_is_told_from_one_that_may_have(rows, ended, said):
    why = hopeless(evals([10]) + rows, ended)
    assert why is None if said is None else why.startswith(said)


def test_limits_are_parameters():
    noisy = steps(20, entropy=3.5)
    assert said(noisy).startswith("entropy was 3.500")
    assert collapse(noisy, Collapse(limits={"entropy": 4.0}), MOST) is None
    assert collapse(steps(20, kl=2.0), Collapse(limits={"kl": 1.0}), MOST).endswith("the limit is 1.0")
    assert check_limits({"kl": 1.0}) == LIMITS | {"kl": 1.0}
    with pytest.raises(ValueError, match=r"collapse\.limits names 'entropie'; allowed: malformed_ends"):
        check_limits({"entropie": 4.0})


@pytest.mark.parametrize(("accuracy", "retried", "stops"), [
    ([56, 82, 78, 79, 81], [0, 88, 83, 83, 88], 4),  # the shipped reference: its best at once
    ([56, 82, 78, 79, 81], [0, 88, 83, 83, 90], None),  # one of the two rises
    ([56, 82, 78, 83, 81], [0, 88, 83, 83, 80], None),
    ([56, 56, 56, 56, 56], [0, 0, 0, 0, 0], 3),  # no rise at all: the starting policy is the best
    ([50, 60, 60, 60, 60], [math.nan] * 5, 4),  # no first search missed
    ([50, 60, 60, 60], [math.nan, math.nan, math.nan, 10], None),
    ([50], [0], None),
])  # fmt: skip
def test_training_stops_when_neither_accuracy_nor_retrying_rises(accuracy, retried, stops):
    pairs = zip(accuracy, retried, strict=True)
    rows = [{"kind": "eval", "step": i, "accuracy": a / 100, "retried": r / 100} for i, (a, r) in enumerate(pairs)]
    assert next((i for i in range(len(rows)) if stalled(rows[: i + 1], patience=3)), None) == stops
    assert stalled(rows, patience=0) is None


def test_margins_are_what_the_sentinel_compares():
    spam = [row for i in range(30) for row in steps(1, step=i, searches=1.0 if i < 10 else 4.0)]
    step, why, kept = replay((evals([50]) + spam, MOST), Collapse(window=5))
    assert (step, why) == (14, "searches was 1.000 of at most 4 on average over 5 steps, the limit is 0.95")
    assert kept == 50
    highest = margins({"spam": (spam, MOST)}, 5)["spam"]
    assert highest["searches"] == 1.0 and highest.drop("searches").isna().all()
    spikes = steps(4, kl=1.0) + steps(1, kl=500.0)
    assert margins({"spikes": (spikes, MOST)}, 5)["spikes"]["kl"] == 1.0


def test_a_run_is_read_from_its_folder(tmp_path):
    config = load_config(max_turns=6, turn_tokens=50)
    write_jsonl(tmp_path / "metrics.jsonl", evals(CURVE))
    write_text(tmp_path / "config.json", json.dumps(config.to_dict()))
    for arm in ("b-0", "a-0"):
        write_jsonl(tmp_path / "ablations" / arm / "metrics.jsonl", [])
        write_text(tmp_path / "ablations" / arm / "config.json", json.dumps(config.to_dict()))
    most = {"searches": 5, "policy_tokens": 300}
    assert read_runs(tmp_path) == {"this run": (PUBLISHED, most), "a-0": ([], most), "b-0": ([], most)}


def test_the_callback_stops_and_says_why(tmp_path, capsys):
    class Namespace:
        global_step, should_training_stop, should_save, is_world_process_zero = 400, False, False, True

    write_jsonl(tmp_path / "metrics.jsonl", evals(CURVE[:8]))
    sentinel = Sentinel(tmp_path, Collapse(), most_of(5, 40), 0, None)
    sentinel.on_log(Namespace, Namespace, Namespace, logs={"reward": 0.0})
    assert Namespace.should_training_stop and Namespace.should_save
    *_, last = read_jsonl(tmp_path / "metrics.jsonl")
    assert (last["kind"], last["step"]) == ("collapse", 400)
    assert last["why"] in capsys.readouterr().out
