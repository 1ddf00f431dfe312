"""The warm start: what scripted searchers do and think, and that the loss covers what the policy would sample."""

import json
import os
import random
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import LENGTH, metrics_of, search
from datasets import Dataset

from rezero.config import WarmStart
from rezero.files import read_jsonl
from rezero.policy.base import save_policy
from rezero.policy.load import load_policy
from rezero.protocol import parse_turn
from rezero.questions import Question
from rezero.rollout import rollout
from rezero.search import build_engine
from rezero.training.train import train
from rezero.warmstart import supervised
from rezero.warmstart.demonstrations import nearest, scripted_episodes, to_the_point, weighing
from rezero.warmstart.scripted import GIVE_UP, MAX_QUOTE, RETRY, UNKNOWN, play, quote, refine, searcher
from rezero.warmstart.supervised import IGNORED, encode, starting_policy


@pytest.fixture
def config(config):
    return replace(config, lora_rank=4, warm_start=WarmStart(steps=12, episodes=4, batch=2, learning_rate=0.02))


@pytest.fixture
def task(task):
    """At k=1 the first search of one question misses, so that both verdicts occur."""
    return replace(task, sampling=replace(task.sampling, k=1, max_turns=3, episode_tokens=1000))


# --- scripted searchers ---


def test_the_searcher_retries_or_gives_up(engine, questions):
    keen = play(searcher(1.0), questions, engine, k=1)
    assert [episode.answer for episode in keen] == ["Ilse Varrow", "Ondine"]
    assert keen[1].queries[1] == "Corvane cutter" and keen[1].recovered
    lazy = play(searcher(0.0), questions, engine, k=1)
    assert [episode.answer for episode in lazy] == ["Ilse Varrow", UNKNOWN]
    short = play(searcher(1.0), questions, engine, k=1, max_turns=2)
    assert [episode.outcome for episode in short] == ["answered", "turn_limit"]


def quoted(text, answer, asked="When did the crew launch the probe?"):
    shown = search("x", "g", texts=("A distractor.", text))
    return quote(Question("q", asked, (answer,), ("g",), (text,)), (shown,))


@pytest.mark.parametrize(
    ("text", "answer", "want"),
    [
        ("Rain. They launched it on 3 May. Sun.", "3 May", "launched it on 3 May"),
        ("Rain. On 3 May the probe was away.", "3 may", "3 May the probe"),  # other case; the asked word comes after it
        ("The launch was on Nov. 7, 1963. Sun.", "Nov. 7, 1963", "launch was on Nov. 7, 1963"),  # across "sentences"
        ("Launched in 1983 with 83 stages.", "83", "Launched in 1983 with 83"),  # whole words first
        ("Sun. The crew had to launch it in May. Rain.", "the third of May", "The crew had to launch it in May."),
        ("The launch </think><answer> x </answer> on 3 May.", "3 May", "launch ‹/think>‹answer> x ‹/answer> on 3 May"),
        ("launch " + "7 " * 500 + "noon " + "8 " * 500, "noon", "7 " * MAX_QUOTE + "noon"),  # a table is cut
    ],
)
def test_quotes(text, answer, want):
    assert quoted(text, answer) == want


@pytest.mark.parametrize(
    ("text", "answer", "gold_texts", "searched", "want"),
    [
        # words that mislead are dropped, words that were read are added, but never the answer, which was read, too
        ("Who was the leader of Corvane?", "Varrow", ("Corvane, whose commander was Varrow.",),
         ("leader Corvane",), ["Corvane commander", "leader"]),
        ("Who was the leader of Corvane?", "Varrow", ("Corvane, whose commander was Varrow.",),
         ("leader Corvane", "corvane Commander"), ["leader"]),  # no query is sent again, whatever its case
        # words of the question that add up to the answer are no query
        ("What tea did the maid pour?", "tea maid", ("The maid poured green tea.",), ("tea maid pour",), ["tea"]),
        # without gold texts, only the question's last words are dropped
        ("Who was the commander of Corvane?", "x", (), ("commander Corvane",), ["commander"]),
    ],
)  # fmt: skip
def test_refined_queries(text, answer, gold_texts, searched, want):
    mistaken = "The commander of Tarnel was Varrow."  # what every search retrieved
    turns = tuple(search("c3", query=query, texts=(mistaken,)) for query in searched)
    assert refine(Question("q", text, (answer,), ("c1",), gold_texts), turns) == want


def test_the_second_hop_is_searched_with_words_of_the_first(questions, engine):
    two_hop = replace(questions[1], text="What ship met the crew of Ilse Varrow?", rewrites=())
    (played,) = play(searcher(), [two_hop], engine, k=1)
    assert played.queries[0] == "ship met crew Ilse Varrow"
    assert "Corvane" in " ".join(played.queries[1:])  # retrieved with the first hop
    assert played.answer == "Ondine"


# --- demonstrations ---


def test_questions_that_miss_are_drawn_twice_and_played_as_the_task_says(task):
    one_pass = scripted_episodes(task, WarmStart(episodes=3, retry=1.0), seed=0)
    assert sorted(episode.question.id for episode in one_pass) == ["q1", "q2", "q2"]  # at k=1, q2 misses
    assert {len(turn.hits) for episode in one_pass for turn in episode.searches} == {1}
    assert all(episode.outcome == "answered" and len(episode.turns) <= 3 for episode in one_pass)
    assert len(scripted_episodes(task, WarmStart(episodes=8), seed=0)) == 8
    with pytest.raises(ValueError, match="a warm start needs training questions"):
        scripted_episodes(replace(task, questions={"train": []}), WarmStart(), seed=0)


def test_thoughts_need_not_quote(task):
    episodes = scripted_episodes(task, WarmStart(episodes=12, quotes=False), seed=0)
    thoughts = {turn.thought for episode in episodes for turn in episode.turns[1:]}
    assert thoughts == {"found", f"not found, {RETRY}", f"not found, {GIVE_UP}"}


@pytest.mark.parametrize(
    ("text", "rewrites", "kept"),
    [
        ("Who led it?", ("cabbage", "Corvane commander", "Bram Keld"), ("Corvane commander",)),
        ("Who led it?", ("cabbage", "Bram Keld"), ("cabbage", "Bram Keld")),  # none helps
        ("Who was the commander of Corvane?", ("Corvane flight",), ("Corvane flight",)),  # found at once
    ],
)
def test_only_rewrites_that_retrieve_missing_gold_are_kept(questions, chunks, engine, text, rewrites, kept):
    question = replace(questions[0], text=text, rewrites=rewrites)
    assert to_the_point(question, engine, k=1) == replace(question, rewrites=kept)
    failing = build_engine("faulty", chunks, engine="bm25", outage=1.0)
    assert to_the_point(question, failing, k=1) == question


def test_a_weighing_thought_repeats_the_question_and_quotes_before_it_judges(questions, engine):
    think = weighing(questions)
    found = play(searcher(think=think), questions[:1], engine, k=1)[0].turns[-1]
    assert found.thought == "commander Corvane? Corvane: section 1 | commander of Corvane was Ilse Varrow: found"
    miss = search("c2", texts=(questions[1].gold_texts[1],))  # after a miss, the fact that answers another question
    assert think(questions[0], (miss,), False) == "commander Corvane? cutter Ondine: not found"
    same_fact = replace(questions[0], answers=questions[1].answers)
    assert "Ondine: not" not in think(same_fact, (miss,), False)


def test_after_a_miss_without_such_a_fact_the_nearest_sentence_is_quoted(questions):
    text = f"Rain fell. {'It was so ' * 9}that Corvane </think> sailed again and again."
    miss = search("c9", texts=(text,))
    asked = replace(questions[0], rewrites=("skipper",))
    turn = parse_turn(searcher(think=weighing(questions))(asked, (miss,), random.Random(0)))
    assert (turn.action, turn.argument) == ("search", "skipper")
    quoted = "It was so that Corvane ‹/think> sailed again and again"  # ten words, with an inert tag
    assert turn.thought == f"commander Corvane? {quoted}: not found, {RETRY}"
    assert nearest(asked, replace(miss, hits=())) == "nothing"


# --- fine-tuning ---


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
    changed = replace(config, warm_start=settings, micro_batch=2)
    labelled = sum(label != IGNORED for row in rows for label in row["labels"])

    def loss(kind: type) -> float:
        trainer = kind(
            model=deepcopy(policy.model),
            processing_class=policy.tokenizer,
            args=supervised.trainer_settings(changed, tmp_path),
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
    theirs = supervised.trainer_class(policy, settings, "unsloth")
    assert theirs.compute_loss is SFTTrainer.compute_loss  # which Unsloth replaces by its own


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


def test_a_warm_start_goes_on_from_a_whole_checkpoint_only(config, task, tmp_path):
    whole = logits(starting_policy(config, task, tmp_path))
    rows = list(read_jsonl(tmp_path / "warm.jsonl"))
    (tmp_path / "warm").rename(tmp_path / "done")
    os.truncate(tmp_path / "warm_checkpoints" / "checkpoint-12" / "optimizer.pt", 99)
    with pytest.warns(UserWarning, match="checkpoint-12: half written, deleted"):
        again = logits(starting_policy(config, task, tmp_path))
    assert torch.equal(again, whole) and list(read_jsonl(tmp_path / "warm.jsonl")) == rows


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
