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


def test_planted_leaks_are_found():
    def make(text: str, split: str, *gold: str) -> Question:
        return Question("q", text, ("x",), gold, split=split)

    clean = [make("What about one?", "train", "c1"), make("What about 2?", "dev", "c2")]
    clean.append(make("What about three?", "test", "c3", "c4"))
    assert {row[key] for row in leakage(clean) for key in row if key != "splits"} == {0}
    leaks = [
        make("Why?", "train", "c3", "c4"),  # a test chain, and its two chunks
        make("What, about ONE", "test", "c5"),  # a train text
        make("Three, what about", "dev", "c6"),  # a test question's words
    ]
    assert leakage(clean + leaks) == [
        {"splits": "train/dev", "gold_chunks": 0, "chains": 0, "same_text": 0, "same_words": 0},
        {"splits": "train/test", "gold_chunks": 2, "chains": 1, "same_text": 1, "same_words": 1},
        {"splits": "dev/test", "gold_chunks": 0, "chains": 0, "same_text": 0, "same_words": 1},
    ]
