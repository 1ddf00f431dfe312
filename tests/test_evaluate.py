"""Reports: every share and mean on episodes whose numbers can be counted by hand."""

import math
from dataclasses import replace

import pytest
from conftest import answer, search

from rezero.analysis.compare import before_and_after, gain
from rezero.analysis.watch import in_words
from rezero.evaluation.evaluate import Estimate, evaluate, summarize, table
from rezero.protocol import Episode, Turn, build_prompt


def episode(question, *turns, outcome="answered"):
    return Episode(question, turns, outcome, tuple(build_prompt(question.text)))


@pytest.fixture
def episodes(questions):
    one, two = questions
    return [
        episode(one, search("c1"), answer("Ilse Varrow")),  # found at once, right
        episode(one, search("c3"), answer("Bram Keld")),  # missed, gave up, wrong
        episode(one, search("c3"), search("c1"), answer("varrow.")),  # missed, retried, found, right
        episode(two, search("c1"), search("c3"), answer("x")),  # half of the evidence, retried, not found, wrong
        episode(two, Turn("t", "", "malformed", "", (), "please"), search("c1", "c2"), answer("Ondine")),
    ]


def test_every_metric_by_hand(episodes):
    found = summarize(episodes, "toy")
    by_hand = {
        "accuracy": (3 / 5, 5),
        "evidence": (3 / 5, 5),
        "missed": (3 / 5, 5),
        "retried": (2 / 3, 3),
        "recovered": (1 / 2, 2),
        "malformed": (1 / 5, 5),
        "answered": (1.0, 5),
        "unsupported": (2 / 5, 5),
        "searches": (7 / 5, 5),
        "wasted": (0.0, 5),
    }
    for name, (value, n) in by_hand.items():
        assert (found[name].value, found[name].n) == (pytest.approx(value), n), name
        assert found[name].low <= value <= found[name].high


def test_waste_and_shares_of_nothing(episodes, questions):
    found = summarize(episodes[:1], "no miss")
    assert math.isnan(found["retried"].value) and str(found["retried"]) == "no such episode"
    late = episode(questions[0], search("c1"), search("c2"), search("c3"), answer("x"))
    assert summarize([late], "late")["wasted"].value == 2  # searches after the evidence
    bare = summarize([replace(episodes[0], question=None)] * 2, "bare")
    assert bare["answered"].value == 1.0 and "accuracy" not in bare.metrics
    with pytest.raises(KeyError, match=r"'speed'.*accuracy"):
        found["speed"]


def test_paired_difference(episodes):
    more = gain(summarize([episodes[0], episodes[3]], "before"), summarize([episodes[0], episodes[4]], "after"))
    assert (more.value, more.n) == (0.5, 2)
    assert 0 <= more.low <= more.high <= 1
    with pytest.raises(ValueError, match="not evaluated on the same questions"):
        gain(summarize(episodes[:1], "a"), summarize(episodes[3:4], "b"))


def test_samples_of_a_question_are_no_further_questions(questions):
    one, two = questions
    sampled = summarize([*[episode(one, answer("Varrow"))] * 8, *[episode(two, answer("x"))] * 8], "eight samples")
    assert str(sampled["accuracy"]) == "0.500 [0.000, 1.000]"  # two questions tell nothing, however often asked
    assert gain(sampled, sampled).n == 2


def test_policies_are_evaluated_greedily_and_timed(policy, task, questions):
    report = evaluate(policy, task, questions * 4, "random")
    assert report.frame.question_id.to_list() == ["q1", "q2"] * 4
    assert len({episode.completion_ids for episode in report.episodes}) == 2
    assert float(table([report]).loc["seconds per episode", "random"]) > 0
    assert report.rows[0] == ({"policy": "random"}, report.episodes[0])


def test_a_judge_decides_beside_exact_match(episodes):
    def judge(pairs):
        assert pairs[0] == ("Who was the commander of Corvane?", ("Ilse Varrow", "Varrow"), "Ilse Varrow")
        return ["right", "right", "undecided", "wrong", "wrong"]

    both = table([summarize(episodes, "judged", judge), summarize(episodes, "not judged")])
    assert both.loc["accuracy (judge)", "judged"].startswith("0.400 [")
    assert both.loc["accuracy (judge)", "not judged"] == "not measured"
    assert "accuracy (judge)" not in table([summarize(episodes, "not judged")]).index


def test_table_has_a_column_per_report(episodes):
    both = table([summarize(episodes, "before"), summarize(episodes, "after")])
    assert list(both.columns) == ["before", "after"]
    assert both.loc["accuracy (exact match)", "after"].startswith("0.600 [")
    assert str(Estimate(0.5, 0.25, 0.75, 4)) == "0.500 [0.250, 0.750]"


def test_what_training_gained_in_words(episodes):
    before, after = summarize([episodes[1], episodes[3]], "before"), summarize([episodes[2], episodes[4]], "after")
    lines = before_and_after([before, after], "test").splitlines()
    assert lines[0].split() == ["before", "after"]
    assert lines[-2] == "accuracy gained by GRPO, paired over 2 test questions: 1.000 [1.000, 1.000]"
    assert lines[-1] == "P(retried | missed) gained: +0.500"
    hits = [summarize([one for one in episodes if not one.missed], name) for name in ("before", "after")]
    assert before_and_after(hits, "test").endswith("P(retried | missed) gained: no episode missed")
    assert in_words({"retried": float("nan")}, "retried") == "no such episode" == in_words({}, "retried")
