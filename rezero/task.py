"""What a policy is trained and evaluated on; the test questions are sealed, `open_test` records when they are used."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from pkgutil import resolve_name

from rezero.config import Config
from rezero.corpus import load_chunks
from rezero.files import append_jsonl, resolve
from rezero.protocol import Sampling
from rezero.questions import SPLITS, Question, load_questions, spread
from rezero.search import build_engine, check_options
from rezero.search.base import Engine

LEDGER = "test_ledger.jsonl"


@dataclass(frozen=True)
class Task:
    """An engine, the questions of "train" and "dev" in the order of their file, and how episodes are played."""

    engine: Engine
    questions: dict[str, list[Question]]
    sampling: Sampling = field(default_factory=Sampling)
    sealed: tuple[Question, ...] = field(default=(), repr=False)  # the test questions; `open_test` returns them


def load_task(config: Config) -> Task:
    """Load corpus, questions and engine; ValueError for splits that `data.leaks.check_splits` refuses."""
    check_options(config.engine, config.engine_options)  # before anything is loaded
    chunks, leaks = load_chunks(config.corpus), resolve_name("rezero.data.leaks")
    file = resolve(config.corpus) / "questions.jsonl"
    questions = leaks.assign_splits(load_questions(file, chunks), config.split)
    splits = {name: [q for q in questions if q.split == name] for name in SPLITS}
    leaks.check_splits(splits, file, config.split)
    sealed = tuple(splits.pop("test"))
    if config.split == "by_row":
        splits["dev"] = list(sealed)  # it has none; the published runs chose their checkpoint on test
    sampling = Sampling(**{name: getattr(config, name) for name in Sampling.__dataclass_fields__})
    return Task(build_engine(config.engine, chunks, **config.engine_options), splits, sampling, sealed)


def open_test(task: Task, run_dir: str | Path, purpose: str, n: int = 0) -> list[Question]:
    """`n` test questions drawn across kinds (0: all), after recording in <run_dir>/test_ledger.jsonl when and why.

    Whatever is chosen after test was opened is chosen on test; the ledger shows how often that could have happened.
    """
    questions = spread(list(task.sealed), n)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    append_jsonl(resolve(run_dir) / LEDGER, {"time": now, "purpose": purpose, "questions": len(questions)})
    return questions
