"""The collapse sentinel: stops what falls and keeps falling, and nothing else."""

import json

import pytest
from rezero.sentinel import settings_table

from rezero.analysis.collapse import PUBLISHED, kept, margins, read_run, read_runs, replay
from rezero.config import load_config
from rezero.files import read_jsonl, write_jsonl, write_text
from rezero.training.callbacks import Sentinel
from rezero.training.sentinel import LIMITS, check_limits, collapse

CURVE = [21.9, 28.1, 28.1, 37.5, 46.9, 31.3, 12.5, 18.8, 0, 3.1, 0]  # % right at steps 50, 100, ...
MOST = {"searches": 4, "policy_tokens": 200}


def evals(percent):
    return [{"kind": "eval", "step": 50 * i, "accuracy": p / 100} for i, p in enumerate(percent, start=1)]


def steps(n, **metrics):
    return [{"kind": "train", "step": i} | metrics for i in range(n)]


def said(rows):
    return collapse(rows, 0.1, 3, 20, MOST)


def test_the_published_collapse_stops_at_step_400_with_step_250():
    default = load_config()
    settings = default.collapse_drop, default.collapse_patience, default.collapse_window
    assert evals(CURVE) == PUBLISHED
    step, why = replay(PUBLISHED, *settings, MOST)
    assert step == 400 and kept(PUBLISHED, step) == 250
    assert why.endswith("each more than 0.1 below 0.469 at step 250")
    assert replay([*evals(CURVE[:7]), {"kind": "collapse", "step": 360}], *settings, MOST) is None


@pytest.mark.parametrize("curve", [[50, 30, 60, 30, 60, 30], [50, 30, 30], [50, 41, 41, 41, 41], [10, 20, 30, 40]])
def test_noise_and_rising_curves_do_not_stop(curve):
    assert all(said(evals(curve[:n])) is None for n in range(len(curve) + 1))


@pytest.mark.parametrize("metric", LIMITS)
def test_each_limit_stops_when_it_is_passed_for_a_whole_window(metric):
    high = 1.02 * LIMITS[metric] * MOST.get(metric, 1)
    assert said(steps(20, **{metric: high})).startswith(f"{metric} was ")
    assert said(steps(19, **{metric: high})) is None
    assert said(steps(10, **{metric: high}) + steps(10, **{metric: 0.0})) is None
    assert said(steps(19, **{metric: 0.0}) + steps(1, **{metric: 1000 * high})) is None  # a mean that one step made
    assert said(steps(40, **{metric: 0.9 * LIMITS[metric] * MOST.get(metric, 1)})) is None


def test_limits_are_parameters(tmp_path):
    noisy = steps(20, entropy=3.5)
    assert collapse(noisy, 0.1, 3, 20, MOST).startswith("entropy was 3.500")
    assert collapse(noisy, 0.1, 3, 20, MOST, check_limits({"entropy": 4})) is None
    assert collapse(steps(20, kl=2.0), 0.1, 3, 20, MOST, check_limits({"kl": 1.0})).endswith("the limit is 1.0")
    for wrong in ({"entropie": 4.0}, {"entropy": "4"}, {"entropy": True}):
        with pytest.raises(ValueError, match=f"collapse_limits.*{next(iter(wrong))}"):
            Sentinel(tmp_path, load_config(collapse_limits=wrong))
    assert Sentinel(tmp_path, load_config(collapse_limits={"kl": 1.0})).limits == LIMITS | {"kl": 1.0}


def test_runs_are_judged_under_other_settings(tmp_path):
    curve = [{"kind": "eval", "step": i, "accuracy": a} for i, a in enumerate([0.5, 0.8, 0.3, 0.6, 0.3, 0.3])]
    spam = [row for i in range(30) for row in steps(1, step=i, searches=1.0 if i < 10 else 4.0)]
    sound = [{"kind": "eval", "step": i, "accuracy": i / 10} for i in range(6)]
    runs, others = {"fall": (curve, MOST), "spam": (sound + spam, MOST)}, {"a": (sound, MOST), "b": (curve, MOST)}
    table = settings_table(runs, others, [0.1, 0.4], [1, 2], [5, 15])
    assert table["fall", "patience 1"].to_list() == ["2 (1)"] * 4
    assert table["fall", "patience 2"].to_list() == ["3 (1)", "5 (1)"] * 2
    assert table["spam", "patience 2"].to_list() == ["14 (5)"] * 2 + ["24 (5)"] * 2
    assert settings_table({"sound": others["a"]}, {}, [0.1], [1], [5]).to_numpy().tolist() == [["-", "0 of 0"]]
    assert set(table["others"].to_numpy().ravel()) == {"1 of 2"}
    highest = margins({"spam": runs["spam"]}, 5)["spam"]
    assert highest["searches"] == 1.0 and highest.drop("searches").isna().all()
    spikes = steps(4, kl=1.0) + steps(1, kl=500.0)
    assert margins({"spikes": (spikes, MOST)}, 5)["spikes"]["kl"] == 1.0


def test_a_run_is_read_from_its_folder(tmp_path):
    config = load_config(max_turns=6, turn_tokens=50)
    write_jsonl(tmp_path / "metrics.jsonl", evals(CURVE))
    write_text(tmp_path / "config.json", json.dumps(config.to_dict()))
    assert read_run(tmp_path) == (PUBLISHED, {"searches": 5, "policy_tokens": 300})
    for arm in ("b-0", "a-0"):
        write_jsonl(tmp_path / "ablations" / arm / "metrics.jsonl", [])
        write_text(tmp_path / "ablations" / arm / "config.json", json.dumps(config.to_dict()))
    assert [(name, len(rows)) for name, (rows, _) in read_runs(tmp_path).items()] == [
        ("this run", len(CURVE)), ("a-0", 0), ("b-0", 0),
    ]  # fmt: skip


def test_the_callback_stops_and_says_why(tmp_path, capsys):
    class Namespace:
        global_step, should_training_stop, is_world_process_zero = 400, False, True

    write_jsonl(tmp_path / "metrics.jsonl", evals(CURVE[:8]))
    Sentinel(tmp_path, load_config()).on_log(None, Namespace, Namespace, logs={"reward": 0.0})
    assert Namespace.should_training_stop
    *_, last = read_jsonl(tmp_path / "metrics.jsonl")
    assert (last["kind"], last["step"]) == ("collapse", 400)
    assert last["why"] in capsys.readouterr().out
