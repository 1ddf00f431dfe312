"""Questions over a corpus: the record, its validation, and splits that do not leak."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import combinations

from rezero.corpus import Chunk
from rezero.questions import KINDS, SPLITS, Question
from rezero.text import normalized

# Phrases that mean something only to a reader who has the passage before them.
DEICTIC = re.compile(
    r"\b(?:this|these|those|above|below|aforementioned|here|the (?:report|passage|text|document|article|chunk)|"
    r"(?:said|given|same) (?:mission|flight|report|passage))\b",
    re.IGNORECASE,
)


def validate(questions: Iterable[Question], chunks: Iterable[Chunk]) -> list[str]:
    """One line per problem: nothing to say about a good set."""
    texts = {chunk.id: chunk.text for chunk in chunks}
    problems, first_by_text, ids = [], {}, Counter()
    for question in questions:
        ids[question.id] += 1
        found = [*_problems(question, texts)]
        if (twin := first_by_text.setdefault(normalized(question.text), question)) is not question:
            found.append(f"same text as {twin.id}")
        problems += [f"{question.id}: {problem}" for problem in found]
    return problems + [f"{name}: id used {count} times" for name, count in ids.items() if count > 1]


def _problems(question: Question, texts: dict[str, str]) -> Iterable[str]:
    for key, choices in (("kind", KINDS), ("split", SPLITS)):
        if getattr(question, key) not in choices:
            yield f"{key} is {getattr(question, key)!r}, allowed: {', '.join(choices)}"
    if match := DEICTIC.search(question.text):
        yield f"deictic: {match[0]!r}"
    if not question.answers or not all(answer.strip() for answer in question.answers):
        yield "empty answer"
    elif f" {normalized(question.answers[0])} " in f" {normalized(question.text)} ":
        yield f"answer {question.answers[0]!r} stands in the question"
    if not question.gold_chunk_ids:
        yield "no gold chunk"
        return
    unknown = [gold for gold in question.gold_chunk_ids if gold not in texts]
    yield from (f"unknown gold chunk {gold!r}" for gold in unknown)
    if not unknown and question.answers and question.answers[0] not in texts[question.gold_chunk_ids[-1]]:
        yield f"answer {question.answers[0]!r} is not in {question.gold_chunk_ids[-1]}"


def leakage(questions: Iterable[Question]) -> list[dict]:
    """A row per pair of splits: what both hold. All counts are 0 if nothing leaks.

    `gold_chunks`: chunks that are gold in both; `chains`: gold tuples of two or more chunks in both;
    `same_text`: question texts in both but for case, space and punctuation; `same_words`: word sets in both.
    """
    held = {name: defaultdict(set) for name in SPLITS}
    for question in questions:
        mine, text = held[question.split], normalized(question.text)
        mine["gold_chunks"] |= set(question.gold_chunk_ids)
        if len(question.gold_chunk_ids) > 1:
            mine["chains"].add(question.gold_chunk_ids)
        mine["same_text"].add(text)
        mine["same_words"].add(frozenset(text.split()))
    columns = ("gold_chunks", "chains", "same_text", "same_words")
    return [
        {"splits": f"{a}/{b}"} | {column: len(held[a][column] & held[b][column]) for column in columns}
        for a, b in combinations(SPLITS, 2)
    ]
