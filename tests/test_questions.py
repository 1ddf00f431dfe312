"""Questions: reading and writing them, splits without leaks, samples across kinds, and planted problems."""

import unicodedata
from collections import Counter
from dataclasses import replace

import pytest
from datasets import Dataset

from rezero.corpus import Chunk
from rezero.data.validation import validate
from rezero.files import write_jsonl
from rezero.questions import Question, assign_splits, leakage, load_questions, save_questions, split_by_chunk, spread
from rezero.text import keywords, normalized

CHUNKS = [Chunk(f"c{i}", "Vess", f"Passage {i}.") for i in range(1, 5)]


def make(number: int, *gold: str, **fields) -> Question:
    return Question(f"q{number}", f"What about number {number}?", ("x",), gold or ("c",), **fields)


def test_what_was_saved_is_loaded_and_gold_texts_are_filled_in(tmp_path):
    question = make(1, "c1", "c2", kind="alias", split="dev", rewrites=("Kettle",))
    path = save_questions(tmp_path / "q.jsonl", [question])
    assert load_questions(path) == [question]
    assert load_questions(path, CHUNKS) == [replace(question, gold_texts=("Passage 1.", "Passage 2."))]


ROW = {"id": "q1", "text": "Who?", "answers": ["a"], "gold_chunk_ids": ["c1"]}
PUBLISHED = {"id": "c1", "question": "Q?", "answer": "x"}


@pytest.mark.parametrize(
    ("good", "row", "message"),
    [
        (ROW, ROW | {"colour": 1}, "unknown field 'colour'; allowed: id, text"),
        (ROW, {key: ROW[key] for key in ("id", "text", "answers")}, "gold_chunk_ids is missing"),
        (ROW, ROW | {"kind": "easy"}, "kind is 'easy'; want 'direct', 'reworded', 'alias' or 'two-hop'"),
        (ROW, ROW | {"answers": "a"}, "answers is 'a'; want a valid array"),  # a string would become its letters
        (ROW, ROW | {"answers": ["a", " "]}, r"answers is \['a', ' '\]; want at least one, none of them blank"),
        (ROW, ROW | {"gold_chunk_ids": ["c9"]}, "gold chunk 'c9' is none of the 4 chunks of the corpus"),
        (PUBLISHED, PUBLISHED | {"id": "z"}, "gold chunk 'z' is none of the 4 chunks"),
        (PUBLISHED, {"id": "c1", "question": "Q?"}, "answers.0 is None; want a valid string"),
        (PUBLISHED, PUBLISHED | {"question": " "}, r"text is \[' '\]; want at least one, none of them blank"),
        (PUBLISHED, PUBLISHED | {"answer": 5}, "answers.0 is 5; want a valid string"),
        # evidence that could never be complete, and questions that would count as one
        (
            ROW,
            ROW | {"gold_chunk_ids": ["c1", "c2", "c1"]},
            r"gold_chunk_ids is \['c1', 'c2', 'c1'\]; want each id once",
        ),
        (ROW, ROW, "the id '.*' was used before"),
        (ROW, ROW | {"id": " "}, r"id is \[' '\]; want at least one, none of them blank"),
        (PUBLISHED, PUBLISHED | {"id": None}, "the id is None; want text or an integer, not blank"),
        (PUBLISHED, PUBLISHED | {"id": {}}, "the id is {}; want text"),
    ],
)
def test_messages_name_the_line_and_what_is_allowed(tmp_path, good, row, message):
    path = write_jsonl(tmp_path / "q.jsonl", [good, row])
    with pytest.raises(ValueError, match=f"q.jsonl:2: {message}"):
        load_questions(path, CHUNKS)


def test_autodidacts_questions_are_read(tmp_path):
    rows = [PUBLISHED | {"supporting_paragraphs": ["p"]}, PUBLISHED | {"question": "Q2?"}]
    one, two = load_questions(write_jsonl(tmp_path / "q.jsonl", rows), CHUNKS)
    assert (one.id, one.text, one.answers, one.kind) == ("c1.1", "Q?", ("x",), "direct")
    assert (two.id, two.gold_chunk_ids, two.gold_texts) == ("c1.2", ("c1",), ("Passage 1.",))


def test_keywords():
    """Question and function words go, and punctuation; hyphens, apostrophes and case stay."""
    assert keywords("How far into Tamm was the re-entry?") == "Tamm re-entry"
    assert keywords("Who met Mulder's crew, and when?") == "met Mulder's crew"
    assert keywords("What was it?") == ""
    for text in ("हिन्दी की भाषा", "ที่นี่", "中国的首都", "été"):  # \\w+ would cut at vowel signs
        assert keywords(f"What is {unicodedata.normalize('NFD', text)}?") == text


def test_an_answer_stands_in_a_text_in_any_script():
    for answer, text in (
        ("北京", "首都是北京。"),
        ("王", "姓王的人"),
        ("서울", "서울은 수도"),
        ("ไทย", "ของไทย"),
        ("ﬁn", "Fin."),
    ):
        assert f" {normalized(answer)} " in f" {normalized(text)} "
    assert f" {normalized('ที')} " not in f" {normalized('ที่')} "


def test_questions_that_are_connected_by_chunks_get_one_split():
    """A chain a-b, b-c, c-d must end in one split, although its first and last question share nothing."""
    questions = [make(n, f"k{n}", f"k{n + 1}") for n in range(4)] + [make(n, f"s{n}") for n in range(10, 26)]
    shares = {"train": 0.6, "dev": 0.2, "test": 0.2}
    split = split_by_chunk(questions, shares, seed=3)
    assert len({question.split for question in split[:4]}) == 1
    assert [sum(question.split == name for question in split) for name in shares] == [12, 4, 4]
    assert split == split_by_chunk(questions, shares, seed=3) != split_by_chunk(questions, shares, seed=4)
    with pytest.raises(ValueError, match="split 'eval' is unknown; allowed: train, dev, test"):
        split_by_chunk(questions, {"train": 0.5, "eval": 0.5})


def test_splits_of_a_file_are_kept_and_missing_ones_assigned():
    named = [make(1, split="train"), make(2, split="test")]
    assert assign_splits(named) == named
    unnamed = assign_splits([make(n, f"c{n}") for n in range(10)])
    assert Counter(question.split for question in unnamed) == {"train": 7, "dev": 1, "test": 2}


@pytest.mark.parametrize("n", [7, 10, 30, 318])
def test_the_published_split_is_that_of_datasets(n):
    questions = [make(number) for number in range(n)]
    split = Dataset.from_dict({"id": [q.id for q in questions]}).train_test_split(test_size=0.1, seed=42)
    assert {q.id for q in assign_splits(questions, "by_row") if q.split == "test"} == set(split["test"]["id"])


def test_a_sample_is_spread_over_kinds():
    kinds = ["direct"] * 40 + ["reworded"] * 20 + ["alias"] * 10 + ["two-hop"] * 10
    questions = [make(number, kind=kinds[number * 7 % 80]) for number in range(80)]
    drawn = spread(questions, 8)
    assert Counter(question.kind for question in drawn) == {"direct": 4, "reworded": 2, "alias": 1, "two-hop": 1}
    assert drawn == [question for question in questions if question in drawn]  # their order is kept
    assert drawn == spread(questions, 8) != spread(questions, 8, seed=1)
    with pytest.raises(ValueError, match="-1 questions are asked for; want at least 1, or 0 for all"):
        spread(questions, -1)
    assert spread(questions, 0) == spread(questions, 80) == spread(questions, 99) == questions


# Problems and leaks that were planted in a question set

PASSAGES = [
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
        ({"text": "Did Orrin Works build the pump?"}, "answer 'Orrin Works' occurs in the question"),
        ({"text": "Who built the pump of this mission?"}, "deictic: 'this'"),
        ({"text": "According to the report, who built the pump?"}, "deictic: 'the report'"),
    ],
)
def test_planted_problems_are_found(changes, problem):
    assert validate([GOOD], PASSAGES) == []
    assert validate([replace(GOOD, **changes)], PASSAGES) == [f"q1: {problem}"]
    assert "q1: empty answer" in validate([replace(GOOD, answers=())], PASSAGES)


def test_duplicates_are_found():
    same = replace(GOOD, id="q2", text="who  built the pump of VESS")  # up to case, spaces and punctuation
    assert validate([GOOD, same], PASSAGES) == ["q2: same text as q1"]
    assert validate([GOOD, replace(GOOD, text="Who made the pump?")], PASSAGES) == ["q1: its id was used before"]


def test_planted_leaks_are_found():
    def planted(text: str, split: str, *gold: str) -> Question:
        return Question("q", text, ("x",), gold, split=split)

    clean = [planted("What about one?", "train", "c1"), planted("What about 2?", "dev", "c2")]
    clean.append(planted("What about three?", "test", "c3", "c4"))
    assert {row[key] for row in leakage(clean) for key in row if key != "splits"} == {0}
    leaks = [
        planted("Why?", "train", "c3", "c4"),  # a test chain, and its two chunks
        planted("What, about ONE", "test", "c5"),  # a train text
        planted("Three, what about", "dev", "c6"),  # a test question's words
    ]
    assert leakage(clean + leaks) == [
        {"splits": "train/dev", "gold_chunks": 0, "chains": 0, "same_text": 0, "same_words": 0, "passages": 0},
        {"splits": "train/test", "gold_chunks": 2, "chains": 1, "same_text": 1, "same_words": 1, "passages": 0},
        {"splits": "dev/test", "gold_chunks": 0, "chains": 0, "same_text": 0, "same_words": 1, "passages": 0},
    ]
