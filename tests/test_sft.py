"""The warm start: loss on what the policy would sample and on nothing else, and training that goes on from it."""

import json
import shutil
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset

from rezero.config import load_config
from rezero.files import read_jsonl
from rezero.policy.base import save_policy
from rezero.policy.load import load_policy
from rezero.rewards import REWARDS
from rezero.rollout import Budget, rollout
from rezero.scripted import GIVE_UP, HIT, MISSED, RETRY
from rezero.training.train import starting_policy, train
from rezero.warmstart.demonstrations import play_searcher, scripted_episodes
from rezero.warmstart.supervised import IGNORED, Log, encode, sft_config, sft_trainer, verdicts, warm_start

WARM = dict(
    steps=2,
    max_turns=3,
    difficulty_samples=0,
    save_every=1,
    beta=0.1,
    lora_rank=4,
    warm_start_steps=12,
    warm_start_episodes=4,
    warm_start_batch=2,
    warm_start_lr=0.02,
)


@pytest.fixture
def config(config):
    return replace(config, **WARM)


def test_only_what_the_policy_writes_is_labelled(policy, task, config):
    for episode in scripted_episodes(task, config):
        row = encode(policy, episode)
        kept = [i for i, label in enumerate(row["labels"]) if label != IGNORED]
        assert all(row["labels"][i] == row["input_ids"][i] for i in kept)
        text = "".join(turn.text for turn in episode.turns)
        assert policy.decode([row["input_ids"][i] for i in kept]) == text
        assert row["labels"][-1] == policy.end_of_turn  # stopping is trained
        whole = policy.tokenizer.apply_chat_template(episode.to_messages(), tokenize=False)
        assert policy.tokenizer.decode(row["input_ids"]) + "\n" == whole


def test_the_layout_is_the_rollouts(policy, task, config, monkeypatch):
    """A policy that writes the script's very turns gets the ids and the mask that the warm start is trained on."""
    script = scripted_episodes(task, replace(config, warm_start_episodes=2))[0]
    turns = [policy.encode(turn.text) for turn in script.turns]

    class Scripted:
        def generate(self, _):
            return [turns.pop(0)]

        def extend(self, rows, ids):
            pass

    acting = replace(policy, backend=lambda *_: Scripted())
    budget = Budget(config.max_turns, 400, 2000)
    (episode,) = rollout(acting, task.engine, [script.question], k=config.k, budget=budget, prompt_style="short")
    row = encode(policy, script)
    assert row["input_ids"] == [*episode.prompt_ids, *episode.completion_ids]
    assert [label != IGNORED for label in row["labels"]][len(episode.prompt_ids) :] == list(map(bool, episode.env_mask))


@pytest.fixture
def trainer(policy, task, config, tmp_path):
    """(rows, weights) -> the trainer of a warm start, about to take them all in one step."""

    def make(rows: list[dict], found: float = 1.0, missed: float = 1.0, like: type | None = None):
        chosen = replace(config, found_weight=found, missed_weight=missed, warm_start_batch=len(rows))
        return (like or sft_trainer(policy, chosen))(
            model=deepcopy(policy.model),
            processing_class=policy.tokenizer,
            args=sft_config(chosen, tmp_path),
            train_dataset=Dataset.from_list(rows),
        )

    return make


def test_trl_takes_the_loss_from_our_labels(policy, task, config, trainer):
    """What TRL's collator and its dataset preparation leave of the rows: the same labels, padded."""
    rows = [encode(policy, episode) for episode in scripted_episodes(task, config)[:2]]
    (batch,) = trainer(rows).get_train_dataloader()
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        n = int(mask.sum())
        assert {"input_ids": ids[:n].tolist(), "labels": labels[:n].tolist()} in rows
        assert (labels[n:] == IGNORED).all()


def test_the_loss_is_trls_and_a_verdict_weighs_more(policy, questions, config, task, trainer):
    """With weights of 1 the loss of TRL's own trainer; a weight more adds that verdict's loss, over as many tokens."""
    from trl import SFTTrainer

    task = replace(task, questions={"train": questions})
    rows = [encode(policy, episode) for episode in scripted_episodes(task, replace(config, k=1))[:4]]
    said = sum(label != IGNORED for row in rows for label in row["labels"])

    def loss(**options) -> float:
        made = trainer(rows, **options)
        batches = [made.compute_loss(made.model, dict(batch), num_items_in_batch=torch.tensor(said))
                   for batch in made.get_train_dataloader()]  # fmt: skip
        return sum(batches).item()

    assert loss() == pytest.approx(loss(like=SFTTrainer), rel=1e-5)
    words = verdicts(policy)
    assert words[0] != words[1]
    for word, option in zip(words, ("found", "missed"), strict=True):
        extra = 0.0
        for row in rows:
            with torch.no_grad():
                scores = policy.model(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
            extra -= sum(scores[i - 1, word].item() for i, label in enumerate(row["labels"]) if label == word)
        assert extra > 0
        assert loss(**{option: 11.0}) - loss() == pytest.approx(10 * extra / said, rel=1e-3)


def test_unsloths_trainer_keeps_its_own_loss(policy):
    from trl import SFTTrainer

    assert sft_trainer(policy, load_config("colab_t4")) is SFTTrainer


def test_misses_are_drawn_twice_and_thoughts_need_not_quote(questions, task, config):
    config, task = replace(config, k=1), replace(task, questions={"train": questions})
    train = task.questions["train"]
    missed = {e.question.id for e in play_searcher(train, task.engine, config) if e.evidence_search != 1}
    n = len(train) + len(missed)
    drawn = [e.question.id for e in scripted_episodes(task, replace(config, warm_start_episodes=n))]
    assert missed and all(drawn.count(q.id) == 1 + (q.id in missed) for q in train)
    bare = replace(config, warm_start_quotes=False, warm_start_episodes=n)
    thoughts = {turn.thought for e in scripted_episodes(task, bare) for turn in e.turns[1:]}
    assert thoughts <= {HIT, f"{MISSED}, {RETRY}", f"{MISSED}, {GIVE_UP}"} and HIT in thoughts


def test_warm_start_then_grpo_and_neither_is_done_twice(config, task, tmp_path, capsys):
    trained = train(config, tmp_path / "run", task)
    losses = [row["loss"] for row in read_jsonl(tmp_path / "run" / "warm.jsonl")]
    assert len(losses) == 12
    assert all(loss < losses[0] - 0.1 for loss in losses[-3:])
    assert (tmp_path / "run" / "best" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "run" / "best" / "model.safetensors").exists()
    kl = [row["kl"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"]
    assert kl[0] == pytest.approx(0, abs=1e-3) and len(kl) == 2  # KL is to the warm start, not to the bare model
    save_policy(trained.last, tmp_path / "last")
    start = [[5, 6, 7, 8]]
    again = load_policy(tmp_path / "last").start(start, 0.0).logits
    assert (again == trained.last.start(start, 0.0).logits).all()
    capsys.readouterr()
    resumed = starting_policy(config, task, tmp_path / "run")
    assert "warm start" not in capsys.readouterr().out
    warm = load_policy(tmp_path / "run" / "warm").start(start, 0.0).logits
    assert (resumed.start(start, 0.0).logits == warm).all()
    further = replace(config, policy=str(tmp_path / "run" / "warm"), warm_start_steps=0)
    assert (starting_policy(further, task, tmp_path / "other").start(start, 0.0).logits == warm).all()
    with pytest.raises(ValueError, match="has rank 4 on layers None; lora_rank=2 and lora_layers=0 must say the same"):
        starting_policy(replace(further, lora_rank=2), task, tmp_path / "other")
    assert json.loads((tmp_path / "run" / "warm" / "adapter_config.json").read_text())["r"] == 4


def test_episodes_that_no_rollout_could_hold_are_left_out(policy, task, config, tmp_path):
    with pytest.raises(ValueError, match="no scripted episode fits episode_tokens=20: raise it, or lower k"):
        warm_start(policy, task, replace(config, episode_tokens=20), tmp_path)


@pytest.mark.parametrize("beta", [0.0, 0.1])  # with a KL term TRL keeps a second adapter
def test_a_killed_adapter_run_resumes_where_it_was(config, task, tmp_path, monkeypatch, beta):
    """Without its last checkpoint the run goes on from the one before, to the very same adapter."""
    monkeypatch.setitem(REWARDS, "length", lambda episode: float(len(episode.completion_ids)))
    options = dict(beta=beta, reward_weights={"length": 1.0}, warm_start_steps=0, steps=4, save_every=2, eval_every=4)
    config, run = replace(config, **options), tmp_path / "run"
    whole = train(config, run, task).last.model
    shutil.rmtree(run / "checkpoints" / "checkpoint-4")
    resumed = train(config, run, task).last.model
    weights = {name: weight for name, weight in whole.named_parameters() if weight.requires_grad}
    assert any(weight.abs().max() > 0 for name, weight in weights.items() if "lora_B" in name)
    assert all(torch.equal(resumed.get_parameter(name), weight) for name, weight in weights.items())
    assert [r["step"] for r in read_jsonl(run / "metrics.jsonl") if r["kind"] == "train"] == [1, 2, 3, 4]


def test_a_trainer_that_measures_no_accuracy_is_logged(tmp_path):
    """Unsloth's, seen on a GPU."""
    Log(tmp_path / "warm.jsonl", 1).on_log(None, SimpleNamespace(global_step=1), None, {"loss": 2.5})
    assert list(read_jsonl(tmp_path / "warm.jsonl")) == [{"step": 1, "loss": 2.5, "token_accuracy": None}]
