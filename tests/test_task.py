"""The task that a configuration names: its splits, and the test questions under seal."""

from collections import Counter

import pytest

from rezero.config import load_config
from rezero.files import read_jsonl, write_jsonl
from rezero.protocol import Sampling
from rezero.task import load_task, open_test


@pytest.fixture(scope="module")
def shipped():
    return load_task(load_config())


def test_the_shipped_task(shipped):
    assert list(shipped.questions) == ["train", "dev"]  # test is sealed
    assert all(q.split == name and q.gold_texts for name, questions in shipped.questions.items() for q in questions)
    assert shipped.sampling == Sampling(2, 5, 40, 800, "short", 1.0)
    assert "sealed=" not in repr(shipped)


def test_opening_test_is_recorded(shipped, tmp_path):
    test = open_test(shipped, tmp_path, "the first look")
    assert len(test) == len(shipped.sealed) >= 240 and all(question.split == "test" for question in test)
    some = open_test(shipped, tmp_path, "a sample", n=20)
    assert len(some) == 20 and Counter(q.kind for q in some) == {"direct": 9, "reworded": 6, "alias": 3, "two-hop": 2}
    rows = list(read_jsonl(tmp_path / "test_ledger.jsonl"))
    assert [(row["purpose"], row["questions"]) for row in rows] == [("the first look", len(test)), ("a sample", 20)]


@pytest.fixture
def published(tmp_path):
    """Twenty chunks with two questions each, in the format in which AutoDidact and ReZero publish theirs."""
    rows = [f'{i},"Tank {i} held {i} litres.\n\nIts valve was of type V{i}.",{{}}' for i in range(1, 21)]
    (tmp_path / "chunks.csv").write_text("\n".join(["chunk_id,content,metadata", *rows]))
    asked = [{"id": str(i), "question": f"How much did tank {i} hold?", "answer": f"{i} litres"} for i in range(1, 21)]
    asked += [{"id": str(i), "question": f"Which valve had tank {i}?", "answer": f"V{i}"} for i in range(1, 21)]
    write_jsonl(tmp_path / "questions.jsonl", sorted(asked, key=lambda row: int(row["id"])))
    return str(tmp_path)


def leaks(task) -> int:
    """How many test questions have a gold chunk that a training question has, too."""
    trained = {gold for question in task.questions["train"] for gold in question.gold_chunk_ids}
    return sum(not trained.isdisjoint(question.gold_chunk_ids) for question in task.sealed)


def sizes(task) -> list[int]:
    return [len(task.questions["train"]), len(task.questions["dev"]), len(task.sealed)]


def test_published_files_are_split_by_chunk_or_as_published(published):
    ours = load_task(load_config(corpus=published))
    assert sizes(ours) == [28, 4, 8] and leaks(ours) == 0
    assert ours.engine.search(["type V13"], 1)[0][0].chunk_id == "13"
    theirs = load_task(load_config(corpus=published, split="by_row"))
    assert sizes(theirs) == [36, 4, 4] and leaks(theirs) >= 2
    assert theirs.questions["dev"] == list(theirs.sealed)  # the published runs chose their checkpoint on test
