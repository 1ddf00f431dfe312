"""Ablation tables: pooled intervals, paired differences, and words that follow from the numbers."""

import pytest

from rezero.evaluate import report
from rezero.protocol import Episode, Turn
from rezero.questions import Question
from rezero.search import Hit
from rezero.sweep import arms_table, paired_table


def episodes(right, n=40):
    """`n` one-search episodes of which the first `right` are right."""
    made = []
    for i in range(n):
        question = Question(f"q{i}", f"question {i}", ("yes",), ("c1",))
        search = Turn("t", "", "search", "q", (Hit("c1", "", "", 1.0),), "info")
        made.append(Episode(question, (search, Turn("t", "", "answer", "yes" if i < right else "no")), "answered"))
    return made


@pytest.fixture
def reports():
    counts = {("start", 0): 10, ("good", 0): 30, ("good", 1): 34, ("same", 0): 11, ("same", 1): 9, ("bad", 0): 0}
    return {arm: report(episodes(right), str(arm)) for arm, right in counts.items()}


def test_arms_pool_their_seeds(reports):
    arms, seeds = arms_table(reports, "accuracy")
    assert arms.set_index("arm").accuracy.to_dict() == {"start": 0.25, "good": 0.8, "same": 0.25, "bad": 0.0}
    assert (arms.accuracy_low <= arms.accuracy).all() and (arms.accuracy <= arms.accuracy_high).all()
    assert seeds[seeds.arm == "good"].accuracy.to_list() == [0.75, 0.85]


def test_differences_are_put_into_words(reports):
    table = paired_table(reports, "start").set_index("arm")
    assert table["in words"].to_dict() == {"good": "higher", "same": "no difference shown", "bad": "lower"}
    assert set(table.metric) == {"accuracy minus start"}
    assert table.loc["good", "difference"] == pytest.approx(0.55)
    assert table.loc["bad", "high"] < 0
