"""GRPO on a toy: what is trained on, in which order, and that a seed gives the same metrics."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from rezero.config import Collapse, Curriculum, load_config
from rezero.evaluation.evaluate import Estimate, evaluate
from rezero.files import ROOT, read_jsonl
from rezero.questions import Question
from rezero.training import callbacks
from rezero.training import train as training
from rezero.training.curriculum import draw_questions, measure_difficulty
from rezero.training.grpo import build_trainer, grpo_config, lean_batches
from rezero.training.train import train


def length(episode):
    """A reward that tells a random policy's episodes apart."""
    return float(len(episode.completion_ids))


LENGTH = f"{__name__}:length"


def make_trainer(config, policy, task, tmp_path, weights=None):
    weights = weights or {"correctness": 1.0}
    return build_trainer(policy, task, task.questions["train"] * 4, weights, grpo_config(config, weights, tmp_path))


def test_a_run_writes_what_it_promises(config, task, tmp_path, capsys):
    train(config, tmp_path / "run", task)
    rows = list(read_jsonl(tmp_path / "run" / "metrics.jsonl"))
    steps = [row["step"] for row in rows if row["kind"] == "train"]
    assert steps == [1, 2, 3, 4]
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [0, 2, 4]
    wanted = {"reward", "rewards/correctness", "rewards/correctness_std", "searches", "malformed_turns", "entropy"}
    wanted |= {"zero_variance_groups"} | {f"seconds/{s}" for s in ("generation", "search", "rewards", "optimisation")}
    assert wanted <= set(rows[-2]) | set(rows[1])
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))
    assert capsys.readouterr().out.count("\nstep ") + 1 >= 4  # one progress line per step


@pytest.mark.parametrize("place", ["measure_difficulty", "build_trainer"])
def test_a_full_gpu_is_answered_with_what_to_change_wherever_it_was_full(config, task, tmp_path, monkeypatch, place):
    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training, place, full)
    with pytest.raises(MemoryError, match="lower, in this order: micro_batch=2 "):
        train(config, tmp_path / "run", task)


def test_a_collapsing_run_stops_and_keeps_its_best(config, task, tmp_path):
    hopeless = replace(config, collapse=Collapse(drop=-2.0, patience=1))  # whatever dev says is a fall
    train(hopeless, tmp_path / "run", task)
    rows = list(read_jsonl(tmp_path / "run" / "metrics.jsonl"))
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2]  # of 4
    assert rows[-1]["kind"] == "collapse"
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()


def test_what_a_collapse_leaves_is_the_policy_of_the_best_evaluation(config, task, tmp_path, monkeypatch):
    """Dev accuracy as given: best after step 1, three evaluations below it, then training stops."""
    curve, seen = [0.2, 0.5, 0.1, 0.3, 0.1, 0.9], []

    def evaluated(policy, *args, **options):
        seen.append({name: w.clone() for name, w in policy.model.state_dict().items()})
        found = evaluate(policy, *args, **options)
        value = Estimate(curve[len(seen) - 1], 0.0, 1.0, 2)
        return replace(found, metrics=found.metrics | {"accuracy": value})

    monkeypatch.setattr(callbacks, "evaluate", evaluated)
    varied = replace(config, steps=5, eval_every=1, reward_weights={LENGTH: 1.0})  # so that weights move
    best, last = train(varied, tmp_path / "run", task)
    *_, row = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert (row["kind"], row["step"]) == ("collapse", 4)
    assert row["why"] == "dev accuracy was 0.100, 0.300, 0.100, each more than 0.1 below 0.500 at step 1"
    assert (tmp_path / "run" / "best" / "step.txt").read_text() == "1\n"
    for policy, weights in ((best, seen[1]), (last, seen[4])):
        assert all(torch.equal(w, weights[name]) for name, w in policy.model.state_dict().items())
    assert any(not torch.equal(w, seen[4][name]) for name, w in seen[1].items())


def test_only_sampled_tokens_carry_loss(config, policy, task, tmp_path):
    """What reaches TRL's loss is the rollout's own tokens under the rollout's own mask."""
    trainer = make_trainer(config, policy, task, tmp_path)
    seen = []
    rollout_func = trainer.rollout_func
    trainer.rollout_func = lambda prompts, t: seen.append(rollout_func(prompts, t)) or seen[-1]
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    before = super(type(trainer), trainer)._prepare_inputs  # TRL's own: nothing dropped
    inputs = [before(batch), *trainer._buffered_inputs[1:]]
    rows = {}
    for part in inputs:
        for ids, mask, tool in zip(part["completion_ids"], part["completion_mask"], part["tool_mask"], strict=True):
            n = int(mask.sum())
            rows[tuple(ids[:n].tolist())] = (mask * tool)[:n].tolist()
    assert len(seen) == 1
    for ids, mask in zip(seen[0]["completion_ids"], seen[0]["env_mask"], strict=True):
        assert rows[tuple(ids)] == mask
    assert any(0 in mask for mask in seen[0]["env_mask"])


def _batches():
    """Two micro-batches of two rows: lengths 2 and 4, 1 and 3; the second row has no advantage."""
    completion = torch.tensor([[1, 2, 0, 0], [3, 4, 5, 6], [7, 0, 0, 0], [8, 9, 9, 0]])
    prompt = torch.tensor([[0, 5], [6, 6], [0, 7], [0, 8]])
    whole = {
        "prompt_ids": prompt,
        "prompt_mask": (prompt > 0).long(),
        "completion_ids": completion,
        "completion_mask": (completion > 0).long(),
        "tool_mask": torch.ones_like(completion),
        "advantages": torch.tensor([1.0, 0.0, -1.0, 0.5]),
    }
    return [{k: v[i : i + 2] for k, v in whole.items()} | {"num_items_in_batch": torch.tensor(10)} for i in (0, 2)]


def test_lean_batches_keep_every_row_that_matters():
    lean = lean_batches(_batches(), drop=True)
    rows = [tuple(r[r > 0].tolist()) for batch in lean for r in batch["completion_ids"]]
    assert rows == [(7,), (1, 2), (8, 9, 9)]  # the row without advantage is gone, the rest by length
    assert [batch["completion_ids"].shape[1] for batch in lean] == [2, 3]
    assert [batch["prompt_ids"].shape[1] for batch in lean] == [1, 1]
    assert all(batch["num_items_in_batch"] == 10 for batch in lean)
    assert len(lean_batches(_batches(), drop=False)[1]["advantages"]) == 2


def test_lean_batches_never_leave_a_batch_empty():
    batches = _batches()
    for batch in batches:
        batch["advantages"] = torch.zeros(2)
    assert [len(batch["advantages"]) for batch in lean_batches(batches, drop=True)] == [1, 1]


def test_lean_batches_do_not_change_the_gradient(config, policy, task, tmp_path):
    """One step's gradient with TRL's own micro-batches and with ours, on the same sampled episodes."""
    trainer = make_trainer(config, policy, task, tmp_path)
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    super(type(trainer), trainer)._prepare_inputs(batch)
    whole = trainer._buffered_inputs
    for i, part in enumerate(whole):  # a random policy is never right: give it advantages, one of them zero
        part["advantages"] = torch.tensor([1.0, -0.5]) if i else torch.tensor([0.0, 2.0])
    gradients = []
    for batches in (whole, lean_batches(whole, drop=True)):
        trainer.model.zero_grad()
        trainer.current_gradient_accumulation_steps = len(batches)
        for part in batches:
            trainer.compute_loss(trainer.model, part).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]))
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def _many(n):
    return [Question(f"q{i}", f"question {i}", ("a",), ("c1",)) for i in range(n)]


def test_questions_are_drawn_by_difficulty():
    share_of = {f"q{i}": [0.5, 1.0, 0.0][i % 3] for i in range(90)}
    shares = [(question, share_of[question.id]) for question in _many(90)]
    order = draw_questions(shares, Curriculum(), steps=10, questions_per_step=4, seed=0)
    assert len(order) == 40
    drawn = [share_of[question.id] for question in order]
    assert drawn.count(0.5) > 2 * drawn.count(1.0)
    assert order == draw_questions(shares, Curriculum(), steps=10, questions_per_step=4, seed=0)
    for i in range(0, 40, 4):
        assert len({q.id for q in order[i : i + 4]}) == 4  # no group twice in a step


def test_a_question_whose_words_find_the_evidence_counts_as_solved(policy, task, tmp_path):
    path = tmp_path / "difficulty.jsonl"
    narrow = replace(task, sampling=replace(task.sampling, k=1))
    measured = measure_difficulty(policy, narrow, Curriculum(by="first_search"), path, seed=0)
    assert {question.id: share for question, share in measured} == {"q1": 1.0, "q2": 0.0}
    assert not path.exists()


def test_a_file_of_difficulties_is_shared_and_checked(policy, task, tmp_path):
    path = tmp_path / "shared" / "difficulty.jsonl"
    measured = measure_difficulty(policy, task, Curriculum(samples=1), path, seed=0)
    assert measured == measure_difficulty(None, task, Curriculum(samples=1), path, seed=0)  # read, not sampled
    other = replace(task, questions={"train": _many(1)})
    with pytest.raises(ValueError, match="has no difficulty of question 'q0'; delete the file"):
        measure_difficulty(policy, other, Curriculum(samples=1), path, seed=0)


def test_every_field_that_reaches_trl(config, tmp_path):
    args = grpo_config(config, {"correctness": 4.0, "retry": 1.0}, tmp_path)
    assert (args.generation_batch_size, args.steps_per_generation, args.gradient_accumulation_steps) == (4, 2, 2)
    assert args.reward_weights == [4.0, 1.0]
    for name, value in config.grpo.items():
        assert getattr(args, name) in (value, [value]), name
    assert args.temperature == config.temperature
    assert not args.mask_truncated_completions


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (dict(reward_set="bribes"), r"unknown reward set 'bribes'; allowed: .*correctness"),
        (dict(reward_weights={"corectness": 4}), "unknown reward 'corectness'; allowed: correctness, "),
        (dict(collapse={"limits": {"accuracy": 1.0}}), "collapse.limits names 'accuracy'; allowed: malformed_ends"),
        (dict(lora_rank=4, warm_start={"steps": 2}), "warm_start.steps=2: pass policy=starting_policy"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_loaded(tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        train(load_config("laptop", policy="nowhere", **overrides), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_steps", 3, "grpo: max_steps is set by another field of the configuration"),
        ("learning_rte", 0.1, "grpo: TRL's GRPOConfig has no field 'learning_rte'"),
    ],
)
def test_a_wrong_field_of_trl_is_refused(config, tmp_path, name, value, message):
    with pytest.raises(ValueError, match=message):
        grpo_config(replace(config, grpo=config.grpo | {name: value}), {"correctness": 1.0}, tmp_path)


def test_a_folder_of_another_run_is_refused(config, task, tmp_path):
    (tmp_path / "run").mkdir()
    for other in ({"seed": 99}, {**config.to_dict(), "a_field_of_another_day": 1}):
        (tmp_path / "run" / "config.json").write_text(json.dumps(other))
        with pytest.raises(ValueError, match="records another configuration"):
            train(config, tmp_path / "run", task)


def test_a_run_of_before_a_field_was_added_goes_on(config, task, tmp_path):
    train(replace(config, steps=2), tmp_path / "run", task)
    path = tmp_path / "run" / "config.json"
    older = {name: value for name, value in json.loads(path.read_text()).items() if name != "test_questions"}
    path.write_text(json.dumps(older))
    before = path.with_name("metrics.jsonl").read_text()
    train(replace(config, steps=2), tmp_path / "run", task)
    assert path.with_name("metrics.jsonl").read_text() == before  # finished: no step is taken again
    assert json.loads(path.read_text())["test_questions"] == 0


SCRIPT = """
import sys
sys.path.insert(0, "tests")
import conftest
from rezero.protocol import Sampling
from rezero.search import build_engine
from rezero.task import Task
from rezero.training.train import train
from rezero.config import parse_config
import json
config = parse_config(json.loads(sys.argv[1]), "argument")
questions = {name: conftest.QUESTIONS for name in ("train", "dev")}
sampling = Sampling(k=2, prompt_style="short", temperature=1.0, **conftest.EPISODES)
train(config, sys.argv[2], Task(build_engine("bm25", conftest.CHUNKS), questions, sampling))
"""


def _metrics(folder):
    timeless = lambda row: {k: v for k, v in row.items() if not k.startswith("seconds/")}  # noqa: E731
    return [timeless(row) for row in read_jsonl(folder / "metrics.jsonl")]


def test_the_same_seed_gives_the_same_metrics(config, tmp_path):
    """Three processes, each of which hashes strings in its own way: two with one seed, one with another."""
    options = dict(cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    runs = {"one": 0, "again": 0, "other": 1}
    running = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(replace(config, seed=seed).to_dict()),
                          str(tmp_path / name)], **options) for name, seed in runs.items()
    ]  # fmt: skip
    assert [process.wait() for process in running] == [0, 0, 0]
    one, again, other = (_metrics(tmp_path / name) for name in runs)
    assert [row["step"] for row in one if row["kind"] == "train"] == [1, 2, 3, 4]
    assert one == again
    assert one != other


def test_kl_to_the_starting_policy_is_logged(config, task, tmp_path):
    train(replace(config, steps=2, grpo=config.grpo | {"beta": 0.1}), tmp_path / "run", task)
    rows = [row for row in read_jsonl(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"]
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-5)  # nothing has been learned yet
    assert all("kl" in row for row in rows)
