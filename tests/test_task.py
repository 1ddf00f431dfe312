"""The task that a configuration names: its splits, and the test questions under seal."""

import re
from collections import Counter
from dataclasses import replace

import pytest

from rezero.__main__ import main
from rezero.config import load_config
from rezero.corpus import Chunk, save_chunks
from rezero.files import read_jsonl, write_jsonl
from rezero.protocol import Sampling
from rezero.questions import Question, save_questions
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


PASSAGES = [Chunk(f"c{i}", "", f"In year {i} the tank number {i} held {i} litres of oil.") for i in range(9)]
ASKED = [
    Question(f"q{i}", f"How much did tank {i} hold?", (f"{i} litres",), (f"c{i}",), split=split)
    for i, split in enumerate(("train", "train", "dev", "test"))
]
LONG = "A passage of which only the last word differs, since somebody has copied it and changed its end from one to {}."


def corpus(folder, questions, chunks=PASSAGES):
    save_chunks(folder / "chunks.jsonl", chunks)
    if questions is not None:
        save_questions(folder / "questions.jsonl", questions)
    return str(folder)


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        (None, "questions.jsonl: no such file; `python -m rezero data questions` or `data cloze` makes questions"),
        ([], "0 train, 0 dev, 0 test questions; want some in every split"),
        (ASKED[:1], "1 train, 0 dev, 0 test questions; want"),
        (ASKED[2:], "0 train, 1 dev, 1 test questions; want"),
        (ASKED[:3], "2 train, 1 dev, 0 test questions; want"),
        ([*ASKED, ASKED[0]], "questions.jsonl:5: the id 'q0' was used before"),
        ([replace(q, gold_chunk_ids=("c1",), split="train") for q in ASKED], "4 train, 0 dev, 0 test questions; want"),
        (
            [*ASKED, replace(ASKED[0], id="q9", split="test")],
            "share 1 gold_chunks (train/test), 1 same_text (train/test)",
        ),
        (
            [*ASKED, replace(ASKED[0], id="q9", split="dev", gold_chunk_ids=("c8",))],
            "share 1 same_text (train/dev), 1 same_words",
        ),
    ],
)
def test_a_corpus_that_cannot_be_trained_on_is_refused_before_anything_is(tmp_path, questions, message):
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        load_task(load_config(corpus=corpus(tmp_path, questions)))


def test_nearly_equal_passages_leak_and_given_splits_are_only_warned_about(tmp_path):
    chunks = [Chunk("x", "", LONG.format("two")), Chunk("y", "", LONG.format("three")), *PASSAGES]
    asked = [*ASKED, replace(ASKED[0], id="x", text="X?", gold_chunk_ids=("x",))]
    asked += [replace(ASKED[3], id="y", text="Y?", gold_chunk_ids=("y",))]
    folder = corpus(tmp_path, asked, chunks)
    with pytest.raises(ValueError, match=r"share 1 passages \(train/test\); `python -m rezero data split` divides"):
        load_task(load_config(corpus=folder))
    with pytest.warns(UserWarning, match="share 1 passages"):
        assert sizes(load_task(load_config(corpus=folder, split="given"))) == [3, 1, 2]
    with pytest.warns(UserWarning, match="2 train, 1 dev, 0 test"):
        assert sizes(load_task(load_config(corpus=corpus(tmp_path / "b", ASKED[:3]), split="given"))) == [2, 1, 0]
    with pytest.raises(ValueError, match="0 train, 1 dev, 1 test"):
        load_task(load_config(corpus=corpus(tmp_path / "c", ASKED[2:]), split="given"))
    assert main(["data", "split", folder, "--out", str(tmp_path / "new"), "--dev", "0.2"]) == 0
    task = load_task(load_config(corpus=str(tmp_path / "new")))
    split = {q.id: q.split for questions in (*task.questions.values(), task.sealed) for q in questions}
    assert split["x"] == split["y"] and len(split) == 6
