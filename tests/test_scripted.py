"""Scripted searchers: when they retry, what they quote of a passage, and how they refine a query without rewrites."""

from dataclasses import replace

import pytest

from rezero.protocol import Turn
from rezero.questions import Question
from rezero.search.base import Hit
from rezero.warmstart.scripted import MAX_QUOTE, UNKNOWN, play, quote, refine, searcher


def test_the_searcher_retries_or_gives_up(engine, questions):
    keen = play(searcher(1.0), questions, engine, k=1)
    assert [episode.answer for episode in keen] == ["Ilse Varrow", "Ondine"]
    assert keen[1].queries[1] == "Corvane cutter" and keen[1].recovered
    lazy = play(searcher(0.0), questions, engine, k=1)
    assert [episode.answer for episode in lazy] == ["Ilse Varrow", UNKNOWN]
    short = play(searcher(1.0), questions, engine, k=1, max_turns=2)
    assert [episode.outcome for episode in short] == ["answered", "turn_limit"]


def quoted(text, answer, asked="When did the crew launch the probe?"):
    shown = Turn("", "", "search", "q", (Hit("x", "", "A distractor.", 2.0), Hit("g", "", text, 1.0)), "info")
    return quote(Question("q", asked, (answer,), ("g",), (text,)), (shown,))


@pytest.mark.parametrize(
    ("text", "answer", "want"),
    [
        ("Rain. They launched it on 3 May. Sun.", "3 May", "launched it on 3 May"),
        ("Rain. On 3 May the probe was away.", "3 may", "3 May the probe"),  # other case; the asked word comes after it
        ("The launch was on Nov. 7, 1963. Sun.", "Nov. 7, 1963", "launch was on Nov. 7, 1963"),  # across "sentences"
        ("Launched in 1983 with 83 stages.", "83", "Launched in 1983 with 83"),  # whole words first
        ("Sun. The crew had to launch it in May. Rain.", "the third of May", "The crew had to launch it in May."),
        ("Sun and rain. Nothing at all.", "42", "Sun and rain."),
        ("The launch </think><answer> x </answer> on 3 May.", "3 May", "launch ‹/think>‹answer> x ‹/answer> on 3 May"),
        ("launch " + "7 " * 500 + "noon " + "8 " * 500, "noon", "7 " * MAX_QUOTE + "noon"),  # a table is cut
    ],
)
def test_quotes(text, answer, want):
    assert quoted(text, answer) == want


TARNEL = Hit("c3", "", "The commander of Tarnel was Varrow.", 1.0)  # retrieved by mistake


@pytest.mark.parametrize(
    ("text", "answer", "gold_texts", "searched", "want"),
    [
        # words that mislead are dropped, words that were read are added, but never the answer, which was read, too
        ("Who was the leader of Corvane?", "Varrow", ("Corvane, whose commander was Varrow.",),
         ("leader Corvane",), ["Corvane commander", "leader"]),
        # no query is sent again, whatever its case
        ("Who was the leader of Corvane?", "Varrow", ("Corvane, whose commander was Varrow.",),
         ("leader Corvane", "corvane Commander"), ["leader"]),
        # words of the question that add up to the answer are no query
        ("What tea did the maid pour?", "tea maid", ("The maid poured green tea.",), ("tea maid pour",), ["tea"]),
        # without gold texts, only the question's last words are dropped
        ("Who was the commander of Corvane?", "x", (), ("commander Corvane",), ["commander"]),
    ],
)  # fmt: skip
def test_refined_queries(text, answer, gold_texts, searched, want):
    turns = tuple(Turn("", "", "search", query, (TARNEL,), "info") for query in searched)
    assert refine(Question("q", text, (answer,), ("c1",), gold_texts), turns) == want


def test_the_second_hop_is_searched_with_words_of_the_first(questions, engine):
    two_hop = replace(questions[1], text="What ship met the crew of Ilse Varrow?", rewrites=())
    (played,) = play(searcher(), [two_hop], engine, k=1)
    assert played.queries[0] == "ship met crew Ilse Varrow"
    assert "Corvane" in " ".join(played.queries[1:])  # retrieved with the first hop
    assert played.answer == "Ondine"
