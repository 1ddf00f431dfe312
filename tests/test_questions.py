"""Questions: loading, validation, queries made of their words, splits and leaks."""

from dataclasses import replace

import pytest

from rezero.analysis.retrieval import room_to_retry
from rezero.corpus import Chunk
from rezero.data.validation import leakage, validate
from rezero.files import write_jsonl
from rezero.questions import Question, load_questions, save_questions, split_by_chunk, unseen_names
from rezero.search import build_engine
from rezero.text import keywords
from rezero.warmstart.demonstrations import to_the_point

CHUNKS = [
    Chunk("c1", "Vess", "The pump of Vess, known as the Kettle, was built by Orrin Works."),
    Chunk("c2", "Vess", "The trial of the pump of Vess reached 40 bar."),
    Chunk("c3", "Tamm", "Tamm was led by Ilse Varrow and lasted 9 days."),
    Chunk("c4", "Tamm", "The cutter Peldan met Tamm after 31 minutes."),
]
GOOD = Question("q1", "Who built the pump of Vess?", ("Orrin Works", "Orrin"), ("c1",))


def make(number: int, gold: tuple[str, ...], split: str = "train", text: str = "") -> Question:
    return Question(f"q{number}", text or f"What about number {number}?", ("x",), gold, split=split)


def test_round_trip_fills_gold_texts(tmp_path):
    question = replace(GOOD, kind="alias", gold_chunk_ids=("c1", "c2"), answers=("40 bar",), rewrites=("Kettle",))
    path = save_questions(tmp_path / "q.jsonl", [question])
    assert load_questions(path) == [question]
    assert load_questions(path, CHUNKS) == [replace(question, gold_texts=(CHUNKS[0].text, CHUNKS[1].text))]


ROW = {"id": "q1", "text": "Who?", "answers": ["a"], "gold_chunk_ids": ["c1"]}
BROKEN = [
    ({**ROW, "colour": 1}, "unknown field 'colour', allowed: id, text"),
    ({key: ROW[key] for key in ("id", "text", "answers")}, "field 'gold_chunk_ids' is missing"),
    ({**ROW, "kind": "easy"}, "kind is 'easy', allowed: direct, reworded, alias, two-hop"),
    ({**ROW, "split": "validation"}, "split is 'validation', allowed: train, dev, test"),
    ({**ROW, "answers": "a"}, "answers is 'a', allowed: a list of strings"),  # a string would become its letters
    ({**ROW, "answers": [41]}, "answers is \\[41\\], allowed: a list of strings"),
    ({**ROW, "text": 7}, "text is 7, allowed: a string"),
    ({**ROW, "gold_chunk_ids": ["c9"]}, "gold chunk 'c9' does not exist, allowed: an id of the 4 chunks"),
]


@pytest.mark.parametrize(("row", "message"), BROKEN)
def test_load_names_the_line_and_what_is_allowed(tmp_path, row, message):
    path = write_jsonl(tmp_path / "q.jsonl", [ROW, row])
    with pytest.raises(ValueError, match=f"q.jsonl:2: {message}"):
        load_questions(path, CHUNKS)


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("Who built the pump of Vess?", "built pump Vess"),  # question and function words go
        ("How far into Tamm was the re-entry?", "Tamm re-entry"),  # hyphens and case stay
        ("What was it?", ""),  # nothing to search by
        ("Who met Mulder's crew, and when?", "met Mulder's crew"),  # punctuation goes, apostrophes stay
    ],
)
def test_keywords(text, query):
    assert keywords(text) == query


PLANTED = [
    (replace(GOOD, gold_chunk_ids=("c1", "c9")), "unknown gold chunk 'c9'"),
    (replace(GOOD, gold_chunk_ids=()), "no gold chunk"),
    (replace(GOOD, answers=()), "empty answer"),
    (replace(GOOD, answers=("Orrin Works", " ")), "empty answer"),  # a blank variant would match a blank reply
    (replace(GOOD, answers=("Orrin works",)), "answer 'Orrin works' is not in c1"),  # verbatim: case counts
    (replace(GOOD, gold_chunk_ids=("c1", "c2")), "answer 'Orrin Works' is not in c2"),  # must be in the last one
    (replace(GOOD, text="Did Orrin Works build the pump?"), "answer 'Orrin Works' stands in the question"),
    (replace(GOOD, text="Who built the pump of this mission?"), "deictic: 'this'"),
    (replace(GOOD, text="According to the report, who built the pump?"), "deictic: 'the report'"),
    (replace(GOOD, text="Who is named here?"), "deictic: 'here'"),
    (replace(GOOD, kind="easy"), "kind is 'easy', allowed: direct, reworded, alias, two-hop"),
    (replace(GOOD, split="eval"), "split is 'eval', allowed: train, dev, test"),
]


@pytest.mark.parametrize(("question", "problem"), PLANTED)
def test_validate_finds_what_was_planted(question, problem):
    assert validate([GOOD], CHUNKS) == []
    assert validate([question], CHUNKS) == [f"q1: {problem}"]


def test_validate_finds_duplicates():
    same = replace(GOOD, id="q2", text="who  built the pump of VESS")  # but for case, space and punctuation
    assert validate([GOOD, same], CHUNKS) == ["q2: same text as q1"]
    assert validate([GOOD, replace(GOOD, text="Who made the pump?")], CHUNKS) == ["q1: id used 2 times"]


def test_split_by_chunk_keeps_chains_together():
    """A chain a-b, b-c, c-d must end in one split, although its first and last question share nothing."""
    questions = [make(n, (f"k{n}", f"k{n + 1}")) for n in range(4)] + [make(n, (f"s{n}",)) for n in range(10, 26)]
    shares = {"train": 0.6, "dev": 0.2, "test": 0.2}
    split = split_by_chunk(questions, shares, seed=3)
    assert len({question.split for question in split[:4]}) == 1
    assert [sum(question.split == name for question in split) for name in shares] == [12, 4, 4]
    assert {row["gold_chunks"] for row in leakage(split)} == {0}
    assert split == split_by_chunk(questions, shares, seed=3)
    assert split != split_by_chunk(questions, shares, seed=4)


def test_split_by_chunk_refuses_unknown_splits():
    with pytest.raises(ValueError, match="split 'eval' is unknown, allowed: train, dev, test"):
        split_by_chunk([GOOD], {"train": 0.5, "eval": 0.5})


def test_leakage_finds_what_was_planted():
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


def test_room_to_retry_adds_up_the_evidence():
    engine = build_engine("bm25", CHUNKS)
    questions = [
        GOOD,  # found at once
        replace(GOOD, text="Which vessel met the trip of Varrow?", gold_chunk_ids=("c3", "c4"), kind="two-hop",
                rewrites=("Peldan",)),  # the first query brings one of two, the rewrite the other
        replace(GOOD, text="Who made the kennel?", kind="reworded", rewrites=("nothing", "kettle")),  # second rewrite
        replace(GOOD, text="Who made the kennel?", kind="reworded"),  # nothing left to try
    ]  # fmt: skip
    rows = {row.pop("kind"): row for row in room_to_retry(questions, engine, k=1)}
    assert list(rows) == ["direct", "reworded", "two-hop", "all"]
    assert rows["direct"] == {"k": 1, "questions": 1, "missed": 0.0, "recovered": None, "searches": None}
    assert rows["two-hop"] == {"k": 1, "questions": 1, "missed": 1.0, "recovered": 1.0, "searches": 1.0}
    assert rows["reworded"] == {"k": 1, "questions": 2, "missed": 1.0, "recovered": 0.5, "searches": 2.0}
    assert rows["all"] == {"k": 1, "questions": 4, "missed": 0.75, "recovered": 2 / 3, "searches": 1.5}


@pytest.mark.parametrize(
    ("asked", "rewrites", "kept"),
    [
        ("Who made the kennel?", ("nothing", "kettle", "pump Vess trial"), ("kettle",)),
        ("Who made the kennel?", ("nothing", "cutter"), ("nothing", "cutter")),  # none helps
        ("Who built the pump of Vess?", ("kettle",), ("kettle",)),  # found at once
    ],
)
def test_a_rewrite_to_the_point_brings_what_was_missing(asked, rewrites, kept):
    question = replace(GOOD, text=asked, rewrites=rewrites)
    assert to_the_point(question, build_engine("bm25", CHUNKS), k=1) == replace(question, rewrites=kept)


def test_an_engine_that_fails_leaves_the_rewrites_alone():
    failing = build_engine("faulty", CHUNKS, engine="bm25", outage=1.0)
    question = replace(GOOD, text="Who made the kennel?", rewrites=("nothing", "kettle"))
    assert to_the_point(question, failing, k=1) == question


def test_unseen_names():
    engine = build_engine("bm25", CHUNKS)
    question = replace(GOOD, text="Who led Tamm?", rewrites=("Ilse", "Kettle"))
    assert unseen_names(question, engine, k=1) == ["Kettle"]  # Ilse stood in what the first query brought
