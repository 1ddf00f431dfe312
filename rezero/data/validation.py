"""Checks of a question set: whether each question is sound, and whether its splits share anything."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations

from rezero.corpus import Chunk
from rezero.questions import SPLITS, Question
from rezero.text import normalized

# Phrases that mean something only to a reader who has the passage before them.
DEICTIC = re.compile(
    r"\b(?:this|these|those|above|below|aforementioned|here|the (?:report|passage|text|document|article|chunk)|"
    r"(?:said|given|same) (?:mission|flight|report|passage))\b",
    re.IGNORECASE,
)

SHARED = {  # column of `leakage` -> what it counts
    "gold_chunks": lambda question: question.gold_chunk_ids,
    "chains": lambda question: [question.gold_chunk_ids] * (len(question.gold_chunk_ids) > 1),
    "same_text": lambda question: [normalized(question.text)],
    "same_words": lambda question: [frozenset(normalized(question.text).split())],
}


def validate(questions: Iterable[Question], chunks: Iterable[Chunk]) -> list[str]:
    """One line per problem, which begins with the id of its question; an empty list for a sound set."""
    texts = {chunk.id: chunk.text for chunk in chunks}
    problems, id_by_text, ids = [], {}, Counter()
    for question in questions:
        ids[question.id] += 1
        problems += [f"{question.id}: {problem}" for problem in _problems(question, texts)]
        text = normalized(question.text)
        if text in id_by_text:
            problems.append(f"{question.id}: same text as {id_by_text[text]}")
        id_by_text.setdefault(text, question.id)
    return problems + [f"{name}: id used {count} times" for name, count in ids.items() if count > 1]


def _problems(question: Question, texts: dict[str, str]) -> Iterator[str]:
    deictic, golds = DEICTIC.search(question.text), question.gold_chunk_ids
    if deictic:
        yield f"deictic: {deictic[0]!r}"
    answer = question.answers[0] if question.answers else ""
    if not answer or not all(map(str.strip, question.answers)):
        yield "empty answer"
    elif f" {normalized(answer)} " in f" {normalized(question.text)} ":
        yield f"answer {answer!r} occurs in the question"
    unknown = [f"unknown gold chunk {gold!r}" for gold in golds if gold not in texts]
    yield from unknown if golds else ["no gold chunk"]
    if golds and not unknown and answer not in texts[golds[-1]]:
        yield f"answer {answer!r} is not in {golds[-1]}"


def leakage(questions: Iterable[Question]) -> list[dict]:
    """How much two splits share, by the columns of `SHARED`, as a row per pair of splits; 0 if nothing leaks."""
    held = defaultdict(set)  # (split, column) -> what must not be in two splits
    for question in questions:
        for column, parts in SHARED.items():
            held[question.split, column].update(parts(question))
    rows = []
    for a, b in combinations(SPLITS, 2):
        counts = {column: len(held[a, column] & held[b, column]) for column in SHARED}
        rows.append({"splits": f"{a}/{b}"} | counts)
    return rows
