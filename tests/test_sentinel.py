"""The collapse sentinel: stops what falls and keeps falling, and nothing else."""

import pytest

from rezero.callbacks import Sentinel
from rezero.config import load_config
from rezero.files import read_jsonl, write_jsonl
from rezero.sentinel import LIMITS, collapse, replay

PUBLISHED = [21.9, 28.1, 28.1, 37.5, 46.9, 31.3, 12.5, 18.8, 0, 3.1, 0]  # % right at steps 50, 100, ...
MOST = {"searches": 4, "policy_tokens": 200}


def evals(percent):
    return [{"kind": "eval", "step": 50 * i, "accuracy": p / 100} for i, p in enumerate(percent, start=1)]


def steps(n, **metrics):
    return [{"kind": "train", "step": i, **metrics} for i in range(n)]


def said(rows):
    return collapse(rows, 0.1, 3, 20, MOST)


def test_the_published_collapse_stops_at_step_400_with_step_250():
    step, why = replay(evals(PUBLISHED), 0.1, 3, 20, MOST)
    assert step == 400
    assert why.endswith("each more than 0.1 below 0.469 at step 250")
    assert replay([*evals(PUBLISHED[:7]), {"kind": "collapse", "step": 360}], 0.1, 3, 20, MOST) is None


@pytest.mark.parametrize("curve", [[50, 30, 60, 30, 60, 30], [50, 30, 30], [50, 41, 41, 41, 41], [10, 20, 30, 40]])
def test_noise_and_rising_curves_do_not_stop(curve):
    assert all(said(evals(curve[:n])) is None for n in range(len(curve) + 1))


@pytest.mark.parametrize("metric", LIMITS)
def test_each_limit_stops_when_it_is_passed_for_a_whole_window(metric):
    high = 1.02 * LIMITS[metric] * MOST.get(metric, 1)
    assert said(steps(20, **{metric: high})).startswith(f"{metric} was ")
    assert said(steps(19, **{metric: high})) is None
    assert said(steps(19, **{metric: high}) + steps(1, **{metric: 0.0})) is None
    assert said(steps(40, **{metric: 0.9 * LIMITS[metric] * MOST.get(metric, 1)})) is None


def test_the_callback_stops_and_says_why(tmp_path, capsys):
    class Namespace:
        global_step, should_training_stop, is_world_process_zero = 400, False, True

    write_jsonl(tmp_path / "metrics.jsonl", evals(PUBLISHED[:8]))
    Sentinel(tmp_path, load_config()).on_log(None, Namespace, Namespace, logs={"reward": 0.0})
    assert Namespace.should_training_stop
    *_, last = read_jsonl(tmp_path / "metrics.jsonl")
    assert (last["kind"], last["step"]) == ("collapse", 400)
    assert last["why"] in capsys.readouterr().out
