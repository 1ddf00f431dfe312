"""Reports: every share and mean on episodes whose numbers can be counted by hand."""

import math
from dataclasses import replace

import pytest

from rezero.evaluation.evaluate import Estimate, compare, evaluate, pass_at, report, table
from rezero.protocol import Episode, Turn, build_prompt
from rezero.search.base import Hit


def search(*ids):
    return Turn("t", "", "search", "q", tuple(Hit(i, "", "", 1.0) for i in ids), "info")


def answer(text):
    return Turn("t", "", "answer", text)


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
    found = report(episodes, "toy")
    by_hand = {
        "accuracy": (3 / 5, 5),
        "evidence": (3 / 5, 5),
        "first_miss": (3 / 5, 5),
        "retry_after_miss": (2 / 3, 3),
        "found_after_retry": (1 / 2, 2),
        "malformed": (1 / 5, 5),
        "answered": (1.0, 5),
        "unsupported": (2 / 5, 5),
        "searches": (7 / 5, 5),
        "wasted": (0.0, 5),
    }
    for name, (value, n) in by_hand.items():
        assert (found[name].value, found[name].n) == (pytest.approx(value), n), name
        assert found[name].low <= value <= found[name].high


def test_a_share_of_nothing_is_said_to_be_that(episodes):
    found = report(episodes[:1], "no miss")
    assert math.isnan(found["retry_after_miss"].value)
    assert str(found["retry_after_miss"]) == "no such episode"


def test_accuracy_by_kind(episodes):
    kinds = report(episodes, "toy").by_kind().set_index("kind")
    assert kinds.accuracy.to_dict() == {"direct": pytest.approx(2 / 3), "two-hop": 0.5}
    assert kinds.n.to_dict() == {"direct": 3, "two-hop": 2}


def test_searches_after_the_evidence_are_wasted(questions):
    late = episode(questions[0], search("c1"), search("c2"), search("c3"), answer("x"))
    assert report([late], "late")["wasted"].value == 2


def test_pass_at_k_by_hand(questions):
    one, two = questions
    right, wrong = (lambda q: episode(q, answer(q.answers[0]))), (lambda q: episode(q, answer("x")))
    sampled = report([right(one), wrong(one), wrong(one), wrong(one), *(wrong(two) for _ in range(4))], "four samples")
    assert pass_at(sampled, 1).value == pytest.approx(1 / 8)
    assert pass_at(sampled, 2).value == pytest.approx((1 - 3 / 6) / 2)  # 3 of 6 pairs of samples miss the right one
    assert pass_at(sampled, 4).value == 0.5
    with pytest.raises(ValueError, match="pass@5 of 4 samples"):
        pass_at(sampled, 5)


def test_paired_difference(episodes):
    asked = [episodes[0], episodes[3]]
    better = [episodes[0], episodes[4]]
    gain = compare(report(asked, "before"), report(better, "after"))
    assert (gain.value, gain.n) == (0.5, 2)
    assert 0 <= gain.low <= gain.high <= 1


def test_other_questions_cannot_be_compared(episodes):
    with pytest.raises(ValueError, match="not evaluated on the same questions"):
        compare(report(episodes[:1], "a"), report(episodes[3:4], "b"))


def test_samples_of_a_question_are_no_further_questions(questions):
    one, two = questions
    sampled = report([*[episode(one, answer("Varrow"))] * 8, *[episode(two, answer("x"))] * 8], "eight samples")
    assert str(sampled["accuracy"]) == "0.500 [0.000, 1.000]"  # two questions tell nothing, however often asked
    assert sampled["avg@8"].value == sampled["pass@8"].value == 0.5
    assert "pass@8" in table([sampled]).index
    assert compare(sampled, sampled).n == 2


def test_policies_are_sampled_and_timed(policy, engine, questions, config):
    asked = dict(engine=engine, questions=questions, config=config, name="random")
    sampled = evaluate(policy, **asked, samples=4, temperature=1.0)
    assert sampled.frame.question_id.to_list() == ["q1"] * 4 + ["q2"] * 4
    assert len({e.completion_ids for e in sampled.episodes}) > 2
    assert sampled.episodes == evaluate(policy, **asked, samples=4, temperature=1.0).episodes
    assert float(table([sampled]).loc["seconds per episode", "random"]) > 0
    with pytest.raises(ValueError, match="samples=4 at temperature=0"):
        evaluate(policy, **asked, samples=4)


def test_a_judge_decides_beside_exact_match(episodes):
    def judge(pairs):
        assert pairs[0] == ("Who was the commander of Corvane?", ("Ilse Varrow", "Varrow"), "Ilse Varrow")
        return ["right", "right", "undecided", "wrong", "wrong"]

    both = table([report(episodes, "judged", judge), report(episodes, "not judged")])
    assert both.loc["accuracy (judge)", "judged"].startswith("0.400 [")
    assert both.loc["accuracy (judge)", "not judged"] == "not measured"
    assert "accuracy (judge)" not in table([report(episodes, "not judged")]).index


def test_transcripts_without_questions_have_a_report(episodes):
    bare = report([replace(episodes[0], question=None)] * 2, "bare")
    assert bare["answered"].value == 1.0
    assert "accuracy" not in bare.metrics


def test_unknown_metric_names_the_allowed_ones(episodes):
    with pytest.raises(KeyError, match=r"'speed'.*accuracy"):
        report(episodes, "toy")["speed"]


def test_table_has_a_column_a_report(episodes):
    both = table([report(episodes, "before"), report(episodes, "after")])
    assert list(both.columns) == ["before", "after"]
    assert both.loc["accuracy (exact match)", "after"].startswith("0.600 [")
    assert str(Estimate(0.5, 0.25, 0.75, 4)) == "0.500 [0.250, 0.750]"
