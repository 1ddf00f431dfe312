"""Baselines: a policy that would search for ever must answer, from what it was given."""

from dataclasses import replace
from functools import partial

import pytest

from rezero.analysis.baselines import ForcedGeneration, baselines, gold_engine, must_answer
from rezero.evaluation.evaluate import table
from rezero.rollout import rollout
from rezero.warmstart.scripted import play, searcher

NAMES = ["closed book", "single search", "RAG, k=2", "oracle passages", "scripted always-retry"]
SEARCH = "<think> hm </think><search> Tarnel </search>"
FOUND = "<think> found: </think><answer> Varrow </answer>"


@pytest.fixture
def written(policy):
    """Makes a policy that writes `turn`, whatever it reads, and `answer` where an answer was opened for it."""

    class Writer:
        def __init__(self, turn, answer, prompts, temperature, generator):
            opened = [policy.decode(ids).endswith("<answer>") for ids in prompts]
            self.turns = [policy.encode(answer if at_answer else turn) for at_answer in opened]

        def generate(self, max_new_tokens):
            return self.turns

    def make(turn=SEARCH, answer=" Varrow </answer>"):
        return replace(policy, backend=lambda _, *asked: Writer(turn, answer, *asked))

    return make


@pytest.fixture
def wide(task):
    return replace(task, sampling=replace(task.sampling, episode_tokens=2000, turn_tokens=40, max_turns=4))


def test_which_turns_of_each_baseline_are_given_or_forced(written, wide, questions):
    closed, single, rag, oracle, script = baselines(written(), wide, questions)
    assert [report.name for report in (closed, single, rag, oracle, script)] == NAMES
    assert [t.text for t in closed.episodes[0].turns] == [FOUND]
    assert [e.queries for e in closed.episodes] == [(), ()]
    assert [e.queries for e in single.episodes] == [("Tarnel",)] * 2
    assert [e.queries for e in rag.episodes] == [(q.text,) for q in questions]
    assert rag.episodes[0].turns[0].hits == tuple(wide.engine.search([questions[0].text], 2)[0])
    for report in (closed, single, rag, oracle):
        assert [e.turns[-1].action for e in report.episodes] == ["answer"] * 2
        assert report.frame.correct.to_list() == [True, False]  # "Varrow" is right for the first question only
    assert script["accuracy"].value == 1.0
    assert list(table([closed, script]).columns) == [NAMES[0], NAMES[-1]]


def test_the_oracle_brings_all_gold_with_its_titles_above_what_was_found(engine, questions, chunks):
    oracle = gold_engine(engine, questions)
    shown = play(searcher(), questions, oracle, k=2)
    assert [[hit.chunk_id for hit in e.turns[0].hits] for e in shown] == [["c1", "c2"], ["c1", "c2"]]
    assert shown[1].turns[0].hits[1].title == chunks[1].title
    assert [e.evidence_search for e in shown] == [1, 1]
    alone = play(searcher(), questions, oracle, k=1)
    assert [[hit.chunk_id for hit in e.turns[0].hits] for e in alone] == [["c1"], ["c1", "c2"]]


@pytest.mark.parametrize(
    ("turn", "forced", "answer"),
    [
        ("<think> easy </think><answer> Keld </answer>", "never needed", "Keld"),  # it answers by itself
        ("", " Varrow </answer>", "Varrow"),
        ("<think> for ever", " Varrow </answer>", "Varrow"),
        ("</think><search> a </answer><think>", " Varrow </answer>", "Varrow"),
        (SEARCH, " Varrow Varrow", None),  # an answer that never closes is wrong
    ],
)
def test_any_turn_can_be_made_an_answer(written, wide, questions, turn, forced, answer):
    report = must_answer(written(turn, forced), wide, questions, "forced", searches=0)
    assert [episode.answer for episode in report.episodes] == [answer] * 2
    assert answer != "Keld" or [e.turns[0].text for e in report.episodes] == [turn] * 2


def test_a_real_generation_goes_on_from_what_was_given(policy, wide, questions):
    """With nothing forced, the stand-in gives the very episodes of a rollout."""
    greedy = replace(wide.sampling, temperature=0.0)
    free = replace(policy, backend=partial(ForcedGeneration, policy, {}, 99))
    assert rollout(free, wide.engine, questions, greedy) == rollout(policy, wide.engine, questions, greedy)
    given = baselines(policy, wide, questions)[2].episodes[0]
    assert given.completion_ids[: len(policy.encode(given.turns[0].text))] == tuple(policy.encode(given.turns[0].text))
    assert "<answer>" in given.turns[-1].text


def test_a_judge_reads_every_baseline_and_gold_texts_are_needed(written, wide, questions):
    reports = baselines(written(), wide, questions, judge=lambda pairs: ["right"] * len(pairs))
    assert [report["judged"].value for report in reports] == [1.0] * 5
    with pytest.raises(ValueError, match="shorter"):  # no gold texts
        baselines(written(), wide, [replace(questions[0], gold_texts=())])
