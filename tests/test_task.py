"""The task of the shipped profile, and the question of the tour."""

import pytest

from rezero.config import load_config
from rezero.files import read_jsonl
from rezero.questions import keywords
from rezero.task import load_task, open_test, pick_missed


@pytest.fixture(scope="module")
def task():
    return load_task(load_config())


def test_splits(task):
    assert list(task.questions) == ["train", "dev"]
    assert all(q.split == name and q.gold_texts for name, questions in task.questions.items() for q in questions)


def test_opening_test_is_recorded(task, tmp_path):
    for purpose in ("the first look", "another look"):
        test = open_test(task, tmp_path, purpose)
    assert len(test) >= 240 and all(q.split == "test" for q in test)
    rows = list(read_jsonl(tmp_path / "test_ledger.jsonl"))
    assert [(row["purpose"], row["questions"]) for row in rows] == [
        ("the first look", len(test)),
        ("another look", len(test)),
    ]


def test_the_tour_gets_a_question_that_only_a_retry_finds(task):
    question = pick_missed(task, k=2)
    first, last = task.engine.search([keywords(question.text), question.rewrites[-1]], 2)
    assert question.gold_chunk_ids[0] not in [hit.chunk_id for hit in first]
    assert question.gold_chunk_ids[0] in [hit.chunk_id for hit in last]
    assert question.split == "dev"  # the test split stays closed


def test_a_named_question(task):
    wanted = task.questions["dev"][3]
    assert pick_missed(task, 2, wanted.id) == wanted
    with pytest.raises(ValueError, match="question 'q9999' is not in the dev split; allowed: "):
        pick_missed(task, 2, "q9999")


def test_nothing_is_missed_when_everything_is_shown(task):
    with pytest.raises(ValueError, match="no reworded dev question is missed"):
        pick_missed(task, k=1000)
