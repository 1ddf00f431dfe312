"""Questions over a corpus: the record, reading and writing it, and splits that do not leak."""

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Literal, get_args

from rezero.corpus import Chunk
from rezero.files import numbered_rows, parse_record, read_jsonl, resolve, write_jsonl

Kind = Literal["direct", "reworded", "alias", "two-hop"]
Split = Literal["train", "dev", "test"]
KINDS, SPLITS = get_args(Kind), get_args(Split)


@dataclass(frozen=True)
class Question:
    """One question with everything needed to judge an answer and to tell whether the evidence was seen."""

    id: str
    text: str
    answers: tuple[str, ...]  # accepted answers; the first stands verbatim in the last gold chunk
    gold_chunk_ids: tuple[str, ...]  # every chunk that must be seen to answer, in the order of the hops
    gold_texts: tuple[str, ...] = ()  # their texts, filled in when loading, for transcripts that carry no hits
    kind: Kind = "direct"
    split: Split = "train"
    # Queries that a careful searcher could write, in order, after a first query made of the question's words missed.
    # They measure the room to retry and feed the scripted searcher; no policy ever sees them.
    rewrites: tuple[str, ...] = ()

    def __post_init__(self) -> None:  # of a gold chunk that is named twice, the evidence would never be complete
        if len(set(self.gold_chunk_ids)) < len(self.gold_chunk_ids):
            raise ValueError(f"gold_chunk_ids is {list(self.gold_chunk_ids)!r:.80}; want each id once")


def load_questions(path: str | Path, chunks: Iterable[Chunk] | None = None) -> list[Question]:
    """Read questions from JSON Lines; with `chunks`, fill in `gold_texts`.

    The fields are those of `Question`, or AutoDidact's (`data.shapes`). ValueError for a wrong field, a repeated id, or
    a gold chunk that does not exist, names file and line; FileNotFoundError says how questions are made.
    """
    if not resolve(path).is_file():
        made = "`python -m rezero data questions` or `data cloze` makes questions for a corpus"
        raise FileNotFoundError(f"{resolve(path)}: no such file; {made}")
    texts = None if chunks is None else {chunk.id: chunk.text for chunk in chunks}
    others = "question" in next(read_jsonl(path), {})
    rows = resolve_name("rezero.data.shapes:autodidact_questions")(path) if others else numbered_rows(path)
    questions: dict[str, Question] = {}
    for where, row in rows:
        try:
            question = _with_gold_texts(parse_record(row, Question), texts)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if question.id in questions:  # two questions would count as one wherever episodes are paired by id
            raise ValueError(f"{where}: the id {question.id!r:.80} was used before")
        questions[question.id] = question
    return list(questions.values())


def _with_gold_texts(question: Question, texts: dict[str, str] | None) -> Question:
    parts = {"id": (question.id,), "text": (question.text,)}
    parts |= {name: getattr(question, name) for name in ("answers", "gold_chunk_ids")}
    for name, values in parts.items():
        if not values or not all(map(str.strip, values)):
            raise ValueError(f"{name} is {list(values)!r:.80}; want at least one, none of them blank")
    if texts is None:
        return question
    for gold in question.gold_chunk_ids:
        if gold not in texts:
            raise ValueError(f"gold chunk {gold!r:.80} is none of the {len(texts)} chunks of the corpus")
    return replace(question, gold_texts=tuple(texts[gold] for gold in question.gold_chunk_ids))


def save_questions(path: str | Path, questions: Iterable[Question]) -> Path:
    """Write questions as JSON Lines, without the gold texts, which are in the chunks."""
    rows = [asdict(question) for question in questions]
    for row in rows:
        del row["gold_texts"]
    return write_jsonl(path, rows)


def spread(questions: list[Question], n: int, seed: int = 0) -> list[Question]:
    """`n` of `questions` in their order, drawn so that each kind keeps its share; all if `n` is 0 or too large."""
    if n < 0:
        raise ValueError(f"{n} questions are asked for; want at least 1, or 0 for all")
    if not n or n >= len(questions):
        return list(questions)
    by_kind = defaultdict(list)
    for index in random.Random(seed).sample(range(len(questions)), len(questions)):
        by_kind[questions[index].kind].append(index)
    ranked = []  # (place of the question in its kind's random order, from 0 to 1; its index)
    for indices in by_kind.values():
        ranked += [((place + 0.5) / len(indices), index) for place, index in enumerate(indices)]
    return [questions[index] for index in sorted(index for _, index in sorted(ranked)[:n])]
