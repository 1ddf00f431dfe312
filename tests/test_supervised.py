"""The warm start: the loss covers what the policy would sample and nothing else, and GRPO starts from its adapter."""

import json
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import LENGTH, metrics_of
from datasets import Dataset

from rezero.config import WarmStart
from rezero.files import read_jsonl
from rezero.policy.base import save_policy
from rezero.policy.load import load_policy
from rezero.rollout import rollout
from rezero.training.train import train
from rezero.warmstart import supervised
from rezero.warmstart.demonstrations import scripted_episodes
from rezero.warmstart.supervised import IGNORED, encode, starting_policy


@pytest.fixture
def config(config):
    return replace(config, lora_rank=4, warm_start=WarmStart(steps=12, episodes=4, batch=2, learning_rate=0.02))


@pytest.fixture
def task(task):
    """At k=1 the first search of one question misses, so that both verdicts occur."""
    return replace(task, sampling=replace(task.sampling, k=1, max_turns=3, episode_tokens=1000))


def test_rows_are_laid_out_and_masked_as_in_a_rollout(policy, task, config):
    """A policy that writes a script's turns gets the token ids and the mask that the warm start trains on."""
    for script in scripted_episodes(task, config.warm_start, seed=0):
        turns = [policy.encode(turn.text) for turn in script.turns]
        recited = SimpleNamespace(generate=lambda _, turns=turns: [turns.pop(0)], extend=lambda rows, ids: None)
        acting = replace(policy, backend=lambda *_, recited=recited: recited)
        (episode,) = rollout(acting, task.engine, [script.question], replace(task.sampling, turn_tokens=400))
        row, mask = encode(policy, script), [0] * len(episode.prompt_ids) + list(episode.env_mask)
        assert row["input_ids"] == [*episode.prompt_ids, *episode.completion_ids]
        assert row["labels"] == [i if m else IGNORED for i, m in zip(row["input_ids"], mask, strict=True)]
        assert row["labels"][-1] == policy.end_of_turn  # stopping is trained


@pytest.mark.parametrize(("found", "missed"), [(1.0, 1.0), (11.0, 1.0), (1.0, 11.0)])
def test_the_loss_is_the_weighted_mean_over_labelled_tokens(policy, task, config, tmp_path, found, missed):
    """The loss computed by hand from our labels shows that TRL keeps them. With weights of 1 it is also TRL's own."""
    from trl import SFTTrainer

    rows = [encode(policy, episode) for episode in scripted_episodes(task, config.warm_start, seed=0)]
    settings = replace(config.warm_start, found_weight=found, missed_weight=missed, batch=len(rows))
    labelled = sum(label != IGNORED for row in rows for label in row["labels"])

    def loss(kind: type) -> float:
        trainer = kind(
            model=deepcopy(policy.model),
            processing_class=policy.tokenizer,
            args=supervised.trainer_settings(settings, tmp_path, seed=0, micro_batch=2, optim="adamw_torch"),
            train_dataset=Dataset.from_list(rows),
        )
        batches = [dict(batch) for batch in trainer.get_train_dataloader()]
        return sum(trainer.compute_loss(trainer.model, b, num_items_in_batch=torch.tensor(labelled)) for b in batches)

    weights = dict(zip(supervised.verdict_tokens(policy), (found, missed), strict=True))
    expected, verdicts = 0.0, set()
    for row in rows:
        with torch.no_grad():
            scores = policy.model(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        for position, label in enumerate(row["labels"]):
            if label != IGNORED:
                expected -= weights.get(label, 1.0) * scores[position - 1, label].item() / labelled
                verdicts |= weights.keys() & {label}
    assert len(verdicts) == 2
    assert loss(supervised.trainer_class(policy, settings, "transformers")).item() == pytest.approx(expected, rel=1e-5)
    if found == missed:
        assert loss(SFTTrainer).item() == pytest.approx(expected, rel=1e-5)
    assert supervised.trainer_class(policy, settings, "unsloth") is SFTTrainer  # which Unsloth gives its own loss


def logits(policy):
    return policy.start([[5, 6, 7, 8]], 0.0).logits


def test_grpo_starts_from_the_adapter_that_the_warm_start_left(config, task, tmp_path, capsys):
    run = tmp_path / "run"
    trained = starting_policy(config, task, run)
    losses = [row["loss"] for row in read_jsonl(run / "warm.jsonl")]
    assert len(losses) == 12 and all(loss < losses[0] - 0.1 for loss in losses[-3:])
    assert json.loads((run / "warm" / "adapter_config.json").read_text())["r"] == 4
    assert not (run / "warm" / "model.safetensors").exists()
    warm = logits(load_policy(run / "warm"))
    assert (logits(trained) == warm).all()

    capsys.readouterr()
    assert (logits(starting_policy(config, task, run)) == warm).all()
    assert "warm start" not in capsys.readouterr().out  # it is not done twice
    further = replace(config, policy=str(run / "warm"), warm_start=WarmStart())
    assert (logits(starting_policy(further, task, tmp_path / "other")) == warm).all()
    with pytest.raises(ValueError, match="lora_rank=2"):
        starting_policy(replace(further, lora_rank=2), task, tmp_path / "other")


@pytest.mark.parametrize("rank", [0, 4], ids=["all weights", "an adapter that was warm-started"])
def test_kl_is_to_the_policy_that_grpo_started_from(config, task, tmp_path, rank):
    warm = config.warm_start if rank else WarmStart()
    moving = dict(grpo=config.grpo | {"beta": 0.1, "warmup_steps": 0}, reward_weights={LENGTH: 1.0})
    config = replace(config, **moving, lora_rank=rank, warm_start=warm, steps=2)
    last = train(config, tmp_path, task, starting_policy(config, task, tmp_path)).last
    first, second = (row["kl"] for row in metrics_of(tmp_path, "train"))
    assert first == pytest.approx(0, abs=1e-5) and second > 1e-3
    assert (logits(load_policy(save_policy(last, tmp_path / "last"))) == logits(last)).all()


def test_without_an_adapter_nothing_is_trained_before_grpo(config, policy, task, tmp_path):
    plain = starting_policy(replace(config, lora_rank=0, warm_start=WarmStart()), task, tmp_path)
    assert all(torch.equal(plain.model.get_parameter(name), p) for name, p in policy.model.named_parameters())
    assert not (tmp_path / "warm").exists()


def test_episodes_that_no_rollout_could_hold_are_left_out(policy, task, config, tmp_path):
    short = replace(task, sampling=replace(task.sampling, episode_tokens=20))
    with pytest.raises(ValueError, match="no scripted episode fits in episode_tokens=20; raise it, or lower k=1"):
        supervised.warm_start(policy, short, config, tmp_path)


def test_a_trainer_that_measures_no_accuracy_is_logged(tmp_path):
    """Unsloth's trainer is one, as a run on a GPU showed."""
    state = SimpleNamespace(global_step=1, max_steps=1)
    supervised.Log(tmp_path / "warm.jsonl").on_log(None, state, None, {"loss": 2.5})
    assert list(read_jsonl(tmp_path / "warm.jsonl")) == [{"step": 1, "loss": 2.5, "token_accuracy": None}]
