"""Problems and leaks that were planted in a question set are reported."""

from dataclasses import replace

import pytest

from rezero.corpus import Chunk
from rezero.data.validation import leakage, validate
from rezero.questions import Question

CHUNKS = [
    Chunk("c1", "Vess", "The pump of Vess, known as the Kettle, was built by Orrin Works."),
    Chunk("c2", "Vess", "The trial of the pump of Vess reached 40 bar."),
]
GOOD = Question("q1", "Who built the pump of Vess?", ("Orrin Works", "Orrin"), ("c1",))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"gold_chunk_ids": ("c1", "c9")}, "unknown gold chunk 'c9'"),
        ({"gold_chunk_ids": ()}, "no gold chunk"),
        ({"answers": ("Orrin Works", " ")}, "empty answer"),  # a blank variant would match a blank reply
        ({"answers": ("Orrin works",)}, "answer 'Orrin works' is not in c1"),  # case counts
        ({"gold_chunk_ids": ("c1", "c2")}, "answer 'Orrin Works' is not in c2"),  # it must be in the last one
        ({"text": "Did Orrin Works build the pump?"}, "answer 'Orrin Works' stands in the question"),
        ({"text": "Who built the pump of this mission?"}, "deictic: 'this'"),
        ({"text": "According to the report, who built the pump?"}, "deictic: 'the report'"),
        ({"text": "Who is named here?"}, "deictic: 'here'"),
    ],
)
def test_planted_problems_are_found(changes, problem):
    assert validate([GOOD], CHUNKS) == []
    assert validate([replace(GOOD, **changes)], CHUNKS) == [f"q1: {problem}"]
    assert "q1: empty answer" in validate([replace(GOOD, answers=())], CHUNKS)


def test_duplicates_are_found():
    same = replace(GOOD, id="q2", text="who  built the pump of VESS")  # up to case, spaces and punctuation
    assert validate([GOOD, same], CHUNKS) == ["q2: same text as q1"]
    assert validate([GOOD, replace(GOOD, text="Who made the pump?")], CHUNKS) == ["q1: id used 2 times"]


def make(number: int, gold: tuple[str, ...], split: str = "train", text: str = "") -> Question:
    return Question(f"q{number}", text or f"What about number {number}?", ("x",), gold, split=split)


def test_planted_leaks_are_found():
    clean = [make(1, ("c1",)), make(2, ("c2",), "dev"), make(3, ("c3", "c4"), "test")]
    nothing = {"gold_chunks": 0, "chains": 0, "same_text": 0, "same_words": 0}
    assert [{**row, "splits": None} for row in leakage(clean)] == [{**nothing, "splits": None}] * 3
    leaks = [
        make(4, ("c3", "c4")),  # a test chain, and its two chunks, in train
        make(5, ("c5",), "test", "What, about NUMBER 1"),  # a train text in test
        make(6, ("c6",), "dev", "Number 3, what about"),  # a test question's words in dev
    ]
    rows = {row.pop("splits"): row for row in leakage(clean + leaks)}
    assert rows["train/test"] == {"gold_chunks": 2, "chains": 1, "same_text": 1, "same_words": 1}
    assert rows["dev/test"] == {**nothing, "same_words": 1}
    assert rows["train/dev"] == nothing
