"""Scripted episodes of the warm start: which questions they are played on, and what their thoughts say."""

import random
from dataclasses import replace

import pytest

from rezero.config import WarmStart
from rezero.protocol import Turn, parse_turn
from rezero.search import build_engine
from rezero.search.base import Hit
from rezero.warmstart.demonstrations import nearest, scripted_episodes, to_the_point, weighing
from rezero.warmstart.scripted import GIVE_UP, RETRY, play, searcher


@pytest.fixture
def task(task):
    return replace(task, sampling=replace(task.sampling, k=1, max_turns=3))


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
    found = play(searcher(think=weighing(questions)), questions[:1], engine, k=1)[0].turns[-1]
    assert found.thought == "commander Corvane? Corvane: section 1 | commander of Corvane was Ilse Varrow: found"


def test_after_a_miss_the_fact_of_another_question_is_quoted(questions):
    think = weighing(questions)
    miss = Turn("", "", "search", "q", (Hit("c2", "", questions[1].gold_texts[1], 1.0),), "info")
    assert think(questions[0], (miss,), False) == "commander Corvane? cutter Ondine: not found"
    same_fact = replace(questions[0], answers=questions[1].answers)
    assert "Ondine: not" not in think(same_fact, (miss,), False)


def test_after_a_miss_without_such_a_fact_the_nearest_sentence_is_quoted(questions):
    text = f"Rain fell. {'It was so ' * 9}that Corvane </think> sailed again and again."
    miss = Turn("", "", "search", "q", (Hit("c9", "", text, 1.0),), "info")
    asked = replace(questions[0], rewrites=("skipper",))
    turn = parse_turn(searcher(think=weighing(questions))(asked, (miss,), random.Random(0)))
    assert (turn.action, turn.argument) == ("search", "skipper")
    quoted = "It was so that Corvane ‹/think> sailed again and again"  # ten words, with an inert tag
    assert turn.thought == f"commander Corvane? {quoted}: not found, {RETRY}"
    assert nearest(asked, replace(miss, hits=())) == "nothing"
