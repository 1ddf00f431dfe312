"""What a policy is trained and evaluated on: an engine over a corpus, and its questions by split."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rezero.config import Config
from rezero.corpus import chunks_file, load_chunks
from rezero.files import append_jsonl, resolve
from rezero.questions import SPLITS, Question, assign_splits, keywords, load_questions
from rezero.search import Asker, Engine, build_engine

LEDGER = "test_ledger.jsonl"


@dataclass(frozen=True)
class Task:
    """`questions`: "train" and "dev" -> questions, in the order of the file; `sealed`: test, see `open_test`."""

    engine: Engine
    questions: dict[str, list[Question]]
    sealed: tuple[Question, ...] = field(default=(), repr=False)


def load_task(config: Config) -> Task:
    """Load corpus, questions and engine of a configuration; with split="by_row" test stands in for the dev it lacks."""
    folder = resolve(config.corpus)
    chunks = load_chunks(chunks_file(folder))
    questions = assign_splits(load_questions(folder / "questions.jsonl", chunks), config.split)
    splits = {name: [q for q in questions if q.split == name] for name in SPLITS}
    sealed = tuple(splits.pop("test"))
    if config.split == "by_row":
        splits["dev"] = list(sealed)  # the published runs chose their checkpoint on test
    return Task(build_engine(config.engine, chunks, **config.engine_options), splits, sealed)


def open_test(task: Task, run_dir: str | Path, purpose: str) -> list[Question]:
    """The test questions; that they were opened, when and what for, is recorded in <run_dir>/test_ledger.jsonl first.

    Whatever is chosen after test was seen is chosen on test: the ledger tells how often that could have been.
    """
    row = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "purpose": purpose, "questions": len(task.sealed)}
    append_jsonl(resolve(run_dir) / LEDGER, row)
    return list(task.sealed)


def pick_missed(task: Task, k: int, question_id: str = "") -> Question:
    """A dev question to show a retry on: the named one, or the first reworded one that only its last rewrite finds.

    Raises:
        ValueError: the named question is not in the dev split, or every first search finds its gold chunks.
    """
    dev = {question.id: question for question in task.questions["dev"]}
    if question_id:
        if question_id not in dev:
            raise ValueError(f"question {question_id!r} is not in the dev split; allowed: {', '.join(dev)}")
        return dev[question_id]
    for question in dev.values():
        if question.kind == "reworded" and question.rewrites:
            queries = [keywords(question.text), question.rewrites[-1]]
            found = task.engine.search(queries, k, [Asker(question.id, 1)] * 2)
            first, last = ({hit.chunk_id for hit in hits} for hits in found)
            if last >= set(question.gold_chunk_ids) > first & set(question.gold_chunk_ids):
                return question
    raise ValueError("no reworded dev question is missed by its own words; choose a smaller k or another engine")
