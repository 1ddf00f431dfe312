"""What a policy is trained and evaluated on: an engine over a corpus, and its questions by split."""

from dataclasses import dataclass

from rezero.config import Config
from rezero.corpus import load_chunks
from rezero.files import resolve
from rezero.questions import SPLITS, Question, load_questions
from rezero.search import Engine, build_engine


@dataclass(frozen=True)
class Task:
    """`questions`: split name -> questions, in the order of the file."""

    engine: Engine
    questions: dict[str, list[Question]]


def load_task(config: Config) -> Task:
    """Load corpus, questions and engine of a configuration."""
    folder = resolve(config.corpus)
    chunks = load_chunks(folder / "chunks.jsonl")
    questions = load_questions(folder / "questions.jsonl", chunks)
    splits = {name: [q for q in questions if q.split == name] for name in SPLITS}
    return Task(build_engine(config.engine, chunks), splits)
