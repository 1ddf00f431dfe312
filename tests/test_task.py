"""The task of the shipped profile, and the question of the tour."""

import json

import pytest
from datasets import Dataset
from test_engines import APOLLO

from rezero.config import load_config
from rezero.data.validation import leakage
from rezero.files import read_jsonl
from rezero.questions import Question, assign_splits
from rezero.task import load_task, open_test, pick_missed
from rezero.text import keywords


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


# --- a corpus as AutoDidact and ReZero publish it ---


@pytest.fixture
def published(tmp_path):
    """Twenty chunks of made-up text with two questions each, in the published files' format."""
    rows = [f'{i},"Tank {i} held {i} litres.\n\nIts valve was of type V{i}.",{{}}' for i in range(1, 21)]
    (tmp_path / "chunks.csv").write_text("\n".join(["chunk_id,content,metadata", *rows]))
    asked = [(i, f"How much did tank {i} hold?", f"{i} litres") for i in range(1, 21)]
    asked += [(i, f"Of what type was the valve of tank {i}?", f"V{i}") for i in range(1, 21)]
    rows = [{"id": str(i), "question": q, "answer": a, "supporting_paragraphs": []} for i, q, a in sorted(asked)]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(tmp_path)


def shared(task):
    """How many test questions have a gold chunk that training has, too."""
    trained = {gold for q in task.questions["train"] for gold in q.gold_chunk_ids}
    return sum(not trained.isdisjoint(q.gold_chunk_ids) for q in task.sealed)


def test_published_files_are_split_by_chunk(published):
    task = load_task(load_config(corpus=published))
    assert [len(task.questions["train"]), len(task.questions["dev"]), len(task.sealed)] == [28, 4, 8]
    everything = [*task.questions["train"], *task.questions["dev"], *task.sealed]
    assert not any(row["gold_chunks"] for row in leakage(everything)) and shared(task) == 0
    question = next(q for q in everything if q.id == "3.1")
    assert (question.text, question.answers) == ("How much did tank 3 hold?", ("3 litres",))
    assert question.gold_texts == ("Tank 3 held 3 litres.\n\nIts valve was of type V3.",)
    assert task.engine.search(["type V13"], 1)[0][0].chunk_id == "13"


def test_published_files_are_split_by_row_as_published(published):
    task = load_task(load_config(corpus=published, split="by_row"))
    assert len(task.questions["train"]) == 36 and len(task.sealed) == 4
    assert shared(task) >= 2  # it leaks
    assert task.questions["dev"] == list(task.sealed)  # the checkpoint was chosen on test


@pytest.mark.parametrize("n", [7, 10, 30, 318])
def test_the_published_split_is_that_of_datasets(n):
    questions = [Question(str(i), "?", ("a",), ("c",)) for i in range(n)]
    split = Dataset.from_dict({"id": [q.id for q in questions]}).train_test_split(test_size=0.1, seed=42)
    assert {q.id for q in assign_splits(questions, "by_row") if q.split == "test"} == set(split["test"]["id"])


def test_splits_of_a_file_are_kept(task):
    questions = [*task.questions["train"], *task.questions["dev"], *task.sealed]
    assert assign_splits(questions) == questions


def test_a_folder_without_a_corpus(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no corpus; want one of chunks\.jsonl, chunks\.json, chunks\.csv"):
        load_task(load_config(corpus=str(tmp_path)))


@pytest.mark.skipif(not APOLLO.exists(), reason="the published corpus is not beside the clone")
def test_the_published_corpus():
    published = load_task(load_config(corpus=str(APOLLO), split="by_row"))
    assert (len(published.questions["train"]), len(published.sealed), shared(published)) == (286, 32, 24)
    ours = load_task(load_config(corpus=str(APOLLO)))
    assert [len(ours.questions["train"]), len(ours.questions["dev"]), len(ours.sealed)] == [222, 32, 64]
    assert shared(ours) == 0
