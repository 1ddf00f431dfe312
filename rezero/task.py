"""What a policy is trained and evaluated on; the test questions are sealed, `open_test` records when they are used."""

import warnings
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rezero.config import Config
from rezero.corpus import load_chunks
from rezero.files import append_jsonl, resolve
from rezero.protocol import Sampling
from rezero.questions import SPLITS, Question, assign_splits, leakage, load_questions, spread
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
    """Load corpus, questions and engine. With split="by_row" there is no dev; the test questions stand in for it.

    ValueError for splits that `check_splits` refuses.
    """
    check_options(config.engine, config.engine_options)  # before anything is loaded
    chunks = load_chunks(config.corpus)
    file = resolve(config.corpus) / "questions.jsonl"
    questions = assign_splits(load_questions(file, chunks), config.split)
    splits = {name: [q for q in questions if q.split == name] for name in SPLITS}
    check_splits(splits, file, config.split)
    sealed = tuple(splits.pop("test"))
    if config.split == "by_row":
        splits["dev"] = list(sealed)  # the published runs chose their checkpoint on test
    sampling = Sampling(**{name: getattr(config, name) for name in Sampling.__dataclass_fields__})
    return Task(build_engine(config.engine, chunks, **config.engine_options), splits, sampling, sealed)


def check_splits(splits: dict[str, list[Question]], file: Path, how: str) -> None:
    """ValueError for an empty split, or for splits that share something.

    With `how` "given", both that and an empty test split are only warned about; with "by_row", what splits share.
    """
    counts = ", ".join(f"{len(questions)} {name}" for name, questions in splits.items())
    empty = [name for name in SPLITS if not splits[name] and (how, name) != ("by_row", "dev")]
    rows = leakage(question for questions in splits.values() for question in questions)
    shared = [f"{n} {name} ({row['splits']})" for row in rows for name, n in row.items() if name != "splits" and n]
    said = [f"{counts} questions; want some in every split"] * bool(empty)
    said += [f"its splits share {', '.join(shared)}"] * bool(shared)
    if said and (how == "disjoint" or (empty and empty != ["test"])):
        anew = "`python -m rezero data split` divides the questions anew, split='given' takes the splits as they are"
        raise ValueError(f"{file}: {'; '.join(said)}; {anew}")
    if said:
        warnings.warn(f"{file}: {'; '.join(said)}", stacklevel=3)


def open_test(task: Task, run_dir: str | Path, purpose: str, n: int = 0) -> list[Question]:
    """`n` test questions drawn across kinds (0: all), after recording in <run_dir>/test_ledger.jsonl when and why.

    Whatever is chosen after test was opened is chosen on test; the ledger shows how often that could have happened.
    """
    questions = spread(list(task.sealed), n)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    append_jsonl(resolve(run_dir) / LEDGER, {"time": now, "purpose": purpose, "questions": len(questions)})
    return questions
