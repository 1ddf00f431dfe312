"""Questions over a corpus: the record, reading and writing it, and splits that do not leak."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from scipy.cluster.hierarchy import DisjointSet

from rezero.corpus import Chunk
from rezero.files import numbered_rows, read_jsonl, read_records, resolve, write_jsonl

Kind = Literal["direct", "reworded", "alias", "two-hop"]
Split = Literal["train", "dev", "test"]
KINDS, SPLITS = get_args(Kind), get_args(Split)
SHARES = {"train": 0.7, "dev": 0.1, "test": 0.2}  # of a file that names no splits


@dataclass(frozen=True)
class Question:
    """One question with everything needed to judge an answer and to tell whether the evidence was seen.

    `rewrites` are queries that a careful searcher could write, in order, after a first query made of the question's
    words missed. They measure the room to retry and feed the scripted searcher; no policy ever sees them.
    """

    id: str
    text: str
    answers: tuple[str, ...]  # accepted answers; the first stands verbatim in the last gold chunk
    gold_chunk_ids: tuple[str, ...]  # every chunk that must be seen to answer, in the order of the hops
    gold_texts: tuple[str, ...] = ()  # their texts, filled in when loading, for transcripts that carry no hits
    kind: Kind = "direct"
    split: Split = "train"
    rewrites: tuple[str, ...] = ()

    __pydantic_config__ = {"extra": "forbid"}


def load_questions(path: str | Path, chunks: Iterable[Chunk] | None = None) -> list[Question]:
    """Read questions from JSON Lines; with `chunks`, fill in `gold_texts`.

    The fields are ours or, with `chunks`, AutoDidact's: {"id": chunk id, "question", "answer"}.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a field is missing, unknown or of another type, or a gold chunk does not exist. Names file:line.
    """
    path = resolve(path)
    texts = None if chunks is None else {chunk.id: chunk.text for chunk in chunks}
    if texts is not None and "question" in next(read_jsonl(path), ()):
        return _load_autodidact(path, texts)
    return [_with_gold_texts(question, texts, where) for where, question in read_records(path, Question)]


def _with_gold_texts(question: Question, texts: dict[str, str] | None, where: str) -> Question:
    for name in ("answers", "gold_chunk_ids"):
        values = getattr(question, name)
        if not values or not all(value.strip() for value in values):
            raise ValueError(f"{where}: {name} is {list(values)!r}; want at least one, none of them blank")
    if texts is None:
        return question
    for gold in question.gold_chunk_ids:
        if gold not in texts:
            raise ValueError(f"{where}: gold chunk {gold!r} is none of the {len(texts)} chunks of the corpus")
    return replace(question, gold_texts=tuple(texts[gold] for gold in question.gold_chunk_ids))


def _load_autodidact(path: Path, texts: dict[str, str]) -> list[Question]:
    """Questions as AutoDidact and ReZero publish them. The second question of chunk 17 gets the id "17.2"."""
    counts: Counter = Counter()
    questions = []
    for where, row in numbered_rows(path):
        for name in ("id", "question", "answer"):
            if not str(row.get(name) or "").strip():
                raise ValueError(f"{where}: no {name}; want id, question, answer")
            if name != "id" and not isinstance(row[name], str):
                raise ValueError(f"{where}: {name} is {row[name]!r}, a {type(row[name]).__name__}; want text")
        gold = str(row["id"])
        if gold not in texts:
            raise ValueError(f"{where}: the chunk {gold!r} is not in the corpus")
        counts[gold] += 1
        questions.append(Question(f"{gold}.{counts[gold]}", row["question"], (row["answer"],), (gold,), (texts[gold],)))
    return questions


def save_questions(path: str | Path, questions: Iterable[Question]) -> Path:
    """Write questions as JSON Lines, without the gold texts, which stand in the chunks."""
    rows = []
    for question in questions:
        row = asdict(question)
        del row["gold_texts"]
        rows.append(row)
    return write_jsonl(path, rows)


def assign_splits(questions: list[Question], how: str = "disjoint") -> list[Question]:
    """Questions with the splits that they are used in.

    "disjoint": the splits of the file or, where all are "train" because it names none, `split_by_chunk` with `SHARES`.
    "by_row": as in the published code, `train_test_split(test_size=0.1, seed=42)` of the library datasets: a tenth of
    the rows is test, even if it shares a chunk with train, and there is no dev.
    """
    if how == "by_row":
        order = np.random.default_rng(42).permutation(len(questions))
        test = set(order[: math.ceil(0.1 * len(questions))].tolist())
        return [replace(q, split="test" if row in test else "train") for row, q in enumerate(questions)]
    unsplit = all(question.split == "train" for question in questions)
    return split_by_chunk(questions, SHARES) if unsplit else questions


def split_by_chunk(questions: list[Question], shares: dict[str, float], seed: int = 0) -> list[Question]:
    """Assign splits so that no chunk is gold in two of them, for any corpus.

    Questions that share a gold chunk, directly or through others, form a group. Groups are assigned, the largest
    first, to the split that is furthest below its share; the seed decides among groups of the same size.

    Args:
        shares: split -> share of the questions; shares need not add up to 1.
    """
    for name in shares:
        if name not in SPLITS:
            raise ValueError(f"split {name!r} is unknown; allowed: {', '.join(SPLITS)}")
    groups = _connected(questions)
    random.Random(seed).shuffle(groups)
    groups.sort(key=len, reverse=True)
    total = sum(shares.values()) or 1
    wanted = {name: share / total * len(questions) for name, share in shares.items()}
    filled: Counter = Counter()
    split_of = {}
    for group in groups:
        split = max(shares, key=lambda name: wanted[name] - filled[name])
        filled[split] += len(group)
        split_of |= dict.fromkeys(group, split)
    return [replace(question, split=split_of[index]) for index, question in enumerate(questions)]


def _connected(questions: list[Question]) -> list[list[int]]:
    """Groups of question indices that are connected by gold chunks."""
    joined = DisjointSet(range(len(questions)))
    for index, question in enumerate(questions):
        for gold in question.gold_chunk_ids:
            joined.add(gold)
            joined.merge(index, gold)
    groups = defaultdict(list)
    for index in range(len(questions)):
        groups[joined[index]].append(index)
    return list(groups.values())


def spread(questions: list[Question], n: int, seed: int = 0) -> list[Question]:
    """`n` of `questions` in their order, drawn so that each kind keeps its share; all if `n` is 0 or too large."""
    if not n or n >= len(questions):
        return list(questions)
    by_kind = defaultdict(list)
    for index in random.Random(seed).sample(range(len(questions)), len(questions)):
        by_kind[questions[index].kind].append(index)
    ranked = []  # (place of the question in its kind's random order, from 0 to 1; its index)
    for indices in by_kind.values():
        ranked += [((place + 0.5) / len(indices), index) for place, index in enumerate(indices)]
    return [questions[index] for index in sorted(index for _, index in sorted(ranked)[:n])]
