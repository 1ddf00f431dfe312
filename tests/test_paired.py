"""Paired differences of arms over questions and seeds, and their words."""

import numpy as np
import pandas as pd
import pytest
from conftest import answer, search

from rezero.analysis import paired
from rezero.evaluation.evaluate import summarize
from rezero.protocol import Episode
from rezero.questions import Question


def episodes(right, n=40, missed=0):
    """`n` episodes: the first `right` are right; the first search of the last `missed` misses, and half try again."""
    made = []
    for i in range(n):
        question = Question(f"q{i}", f"question {i}", ("yes",), ("c1",))
        searches = [search("c1")] if i < n - missed else [search(), search()] if i % 2 else [search()]
        made.append(Episode(question, (*searches, answer("yes" if i < right else "no")), "answered"))
    return made


@pytest.fixture
def reports():
    counts = {("start", 0): 10, ("good", 0): 30, ("good", 1): 34, ("same", 0): 11, ("same", 1): 9, ("bad", 0): 0}
    return {arm: summarize(episodes(right), str(arm)) for arm, right in counts.items()}


def test_differences_are_put_into_words(reports):
    table = paired.paired_table([reports], "start").set_index("arm")
    assert table["in words"].to_dict() == {"good": "higher", "same": "no difference shown", "bad": "lower"}
    assert table.loc["good", "difference"] == pytest.approx(0.55) and table.loc["bad", "high"] < 0
    assert set(table.n) == {40} and 0.25 < table["4 in 5"].iloc[0] < 0.35  # 25% against 55%, 40 each: power 79%
    said = paired.in_words(table.reset_index())
    assert said.startswith("accuracy (exact match): good is higher than start by 0.550 (95% interval of the difference")
    assert "bad is lower than start by 0.250" in said and "No difference from start was shown for same." in said
    assert said.endswith(f"With 40 episodes per seed a gain of {table['4 in 5'].iloc[0]:.3f} is found 4 times in 5.")


def missing(reports):
    """The same reports, but the first search of half of the episodes missed."""
    return {arm: summarize(episodes(round(r["accuracy"].value * 40), missed=20), "") for arm, r in reports.items()}


def test_p_is_corrected_for_all_rows_and_a_share_of_nothing_has_none(reports):
    table = paired.paired_table([reports], "start", ("accuracy", "retried"))
    rows = table[table.metric == "retried"]  # no first search missed
    assert rows.difference.isna().all() and set(rows["p (Holm)"]) == {1.0} and set(rows.n) == {0}
    assert "With 0 episodes per seed no gain is found 4 times in 5." in paired.in_words(table)
    missed = missing(reports)
    one = paired.paired_table([missed], "start").set_index("arm")["p (Holm)"]
    both = paired.paired_table([missed], "start", ("accuracy", "retried")).set_index(["metric", "arm"])
    assert both.loc[("accuracy", "good"), "p (Holm)"] == pytest.approx(2 * one["good"])  # six rows, not three
    assert set(both.loc["retried"].n) == {20}


def test_a_comparison_needs_the_baseline_and_the_same_questions(reports):
    with pytest.raises(ValueError, match="baseline 'corectness' is no arm; allowed: start, good, same, bad"):
        paired.paired_table([reports], "corectness")
    with pytest.raises(ValueError, match="different questions"):
        paired.paired_table([reports | {("bad", 0): summarize(episodes(0, n=39), "")}], "start")


@pytest.mark.parametrize(("questions", "least"), [(1, 1.0), (3, 0.25), (6, 0.5**5), (12, 0.5**11)])
def test_few_questions_show_nothing(questions, least):
    """Each of three seeds retries after none of the misses before, after all of them afterwards."""
    missed = np.zeros((3, 60))
    missed[:, :questions] = 1
    difference, low, high, p = paired.paired_shares([((0 * missed, missed), (missed, missed))], seed=0)
    assert (difference, low, high) == (1, 1, 1) and p == pytest.approx(max(least, 1e-4))


def test_words_follow_the_correction_of_the_family_asked_for():
    """Alone, p = .03 and .9 in one family: .06; in another family with .01 the first is shown, with its direction."""
    table = pd.DataFrame({"arm": "x", "baseline": "y", "metric": ["accuracy", "retried", "accuracy", "retried"],
                          "reward": ["a", "a", "b", "b"], "difference": [-0.1, 0.2, -0.3, 0.1], "low": 0.0, "high": 0.0,
                          "p": [0.03, 0.9, 0.01, 0.8], "n": 9, "4 in 5": 0.2})  # fmt: skip
    own, pooled = (paired.corrected(table, family) for family in ("reward", "metric"))
    assert own["p (Holm)"].tolist() == pytest.approx([0.06, 0.9, 0.02, 0.8])
    again = paired.corrected(own, "metric")
    assert pooled.equals(again[pooled.columns]) and pooled["p (Holm)"].tolist()[:3] == pytest.approx([0.03, 1.0, 0.02])
    assert again["in words"].tolist() == ["lower", "no difference shown", "lower", "no difference shown"]


def test_a_place_without_cases_is_left_out_and_places_need_the_same_questions():
    three, none = np.ones((1, 3)), np.zeros((1, 3))
    pair, empty = ((none, three), (three, three)), ((none, none), (three, three))
    assert paired.paired_shares([pair], seed=0)[3] == paired.paired_shares([pair, empty], seed=0)[3] == 0.25
    difference, *_ = paired.paired_shares([pair, ((none, three), (none, three)), empty], seed=0)
    assert difference == 0.5  # the mean of 1 and 0
    here, other = ({("a", 0): summarize(episodes(2, n), ""), ("b", 0): summarize(episodes(1, n), "")} for n in (5, 4))
    assert paired.paired_table([here, here], "a").n.item() == 5
    with pytest.raises(ValueError, match="different questions"):
        paired.paired_table([here, other], "a")
