"""One step of GRPO by hand: which group is shown, and what its table says."""

import pytest

from rezero.analysis.one_step import group_table, sample_group
from rezero.protocol import Episode, Turn
from rezero.search.base import Hit


def test_a_group_is_of_one_question_and_the_same_for_a_seed(policy, task):
    group = sample_group(policy, task, {"correctness": 1.0}, n=3, seed=1)
    assert len(group) == 3 and len({episode.question.id for episode in group}) == 1
    assert group == sample_group(policy, task, {"correctness": 1.0}, n=3, seed=1)


def test_advantages_by_hand(questions):
    hit = Turn("t", "", "search", "q", (Hit("c1", "", "", 1.0),), "info")
    said = [Turn("t", "", "answer", text) for text in ("Varrow", "x", "Varrow", "x")]
    group = [Episode(questions[0], (hit, answer), "answered") for answer in said]
    table = group_table(group, {"correctness": 4, "recovery": 2})
    assert table.reward.tolist() == [6, 2, 6, 2] and table.searches.tolist() == [1] * 4
    assert table.advantage.tolist() == pytest.approx([0.866, -0.866, 0.866, -0.866], abs=1e-3)  # 2 / 2.309
    assert group_table(group[:1] * 4, {"correctness": 4}).advantage.tolist() == [0] * 4
