"""Numbers that are not finite, in gradients and rewards: a step is skipped or the training stops, and says why."""

import re
from dataclasses import replace

import pytest
import torch
from conftest import LENGTH, metrics_of

from rezero.config import WarmStart
from rezero.policy.base import save_policy
from rezero.policy.load import load_policy, load_trainable
from rezero.training.train import train
from rezero.warmstart.supervised import starting_policy, warm_start

CAUSES = {  # what is broken -> (what the message says of the cause)
    "gradient": r"1 of \d+, first .*lora_B.*; the loss is finite: the backward pass broke them",
    "loss": r"(\d+) of \1, first .*; nor is the loss: look at rewards and weights",
}


def breaking(policy, what: str, steps: set[int], passes: int) -> None:
    """Make the gradient of one weight, or the loss, NaN in the backward (forward) passes of the given steps."""
    calls = []

    def spoil(value):
        calls.append(1)
        return value * (float("nan") if -(-len(calls) // passes) in steps else 1)

    if what == "gradient":
        next(weight for name, weight in policy.model.named_parameters() if "lora_B" in name).register_hook(spoil)
    else:
        head = policy.model.get_output_embeddings()
        head.register_forward_hook(lambda module, inputs, out: spoil(out) if module.training else None)


def run(way: str, policy, config, task, folder) -> None:
    if way == "warm start":
        warm_start(policy, task, config, folder)
    else:
        train(replace(config, warm_start=WarmStart()), folder, task, policy)


@pytest.fixture
def config(config):
    config = replace(config, lora_rank=4, reward_weights={LENGTH: 1.0}, micro_batch=4, steps=5, eval_every=9)
    return replace(config, warm_start=WarmStart(steps=5, episodes=4, batch=4, learning_rate=0.02))


@pytest.fixture
def task(task):
    return replace(task, sampling=replace(task.sampling, episode_tokens=1000))


@pytest.mark.parametrize("what", CAUSES)
@pytest.mark.parametrize("way", ["warm start", "GRPO"])
def test_a_broken_step_is_skipped_and_said(config, task, tmp_path, capsys, way, what):
    policy = load_trainable(config)
    breaking(policy, what, {2}, passes=1)
    run(way, policy, config, task, tmp_path)
    said = [line for line in capsys.readouterr().out.splitlines() if "not finite" in line]
    assert len(said) == 1
    assert re.fullmatch(rf"step 2: gradients are not finite \({CAUSES[what]}.*\. The step is skipped", said[0]), said
    trained = [weight for weight in policy.model.parameters() if weight.requires_grad]
    assert all(torch.isfinite(weight).all() for weight in trained) and any(weight.abs().max() > 0 for weight in trained)


@pytest.mark.parametrize("what", CAUSES)
@pytest.mark.parametrize("way", ["warm start", "GRPO"])
def test_three_broken_steps_stop_the_training_with_the_weights_before_them(config, task, tmp_path, way, what):
    policy = load_trainable(config)
    before = save_policy(policy, tmp_path / "before")
    breaking(policy, what, set(range(1, 99)), passes=1)
    with pytest.raises(ValueError, match=rf"^step 3: gradients are not finite \({CAUSES[what]}.*Stopped after 3 such"):
        run(way, policy, config, task, tmp_path / "run")
    again = load_policy(before)
    for name, weight in again.model.named_parameters():
        assert torch.equal(policy.model.get_parameter(name), weight), name


CALLS = []


def unscored(episode):
    """NaN for every episode of the first two steps, for one in two of the third, and numbers from then on."""
    CALLS.append(1)
    step = (len(CALLS) - 1) // 4
    return float("nan") if step < 2 or (step == 2 and len(CALLS) % 2) else float(len(episode.completion_ids))


def none(episode):
    return None


def infinite(episode):
    return float("inf")


@pytest.mark.parametrize("weights", [{f"{__name__}:unscored": 1.0}, {f"{__name__}:none": 1.0, "correctness": 0.0}])
def test_episodes_that_no_reward_scores_are_left_out(config, task, tmp_path, weights):
    CALLS.clear()
    train(replace(config, reward_weights=weights, warm_start=WarmStart()), tmp_path, task, load_trainable(config))
    rows = metrics_of(tmp_path, "train")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    if "correctness" not in weights:
        assert ["reward" in row for row in rows] == [False, False, True, True, True]
        assert all(row["reward"] > 0 for row in rows[2:])


def test_an_infinite_reward_is_refused(config, task, tmp_path):
    own = replace(config, reward_weights={f"{__name__}:infinite": 1.0}, warm_start=WarmStart())
    with pytest.raises(ValueError, match=r"^reward 'test_finite:infinite' is inf for question 'q\d'; want a finite"):
        train(own, tmp_path, task, starting_policy(own, task, tmp_path))
