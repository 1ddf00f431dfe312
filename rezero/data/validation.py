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


def validate(questions: Iterable[Question], chunks: Iterable[Chunk]) -> list[str]:
    """One line per problem, which begins with the id of its question; an empty list for a sound set.

    Kinds and splits are not checked here: `load_questions` refuses unknown ones.
    """
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
    deictic = DEICTIC.search(question.text)
    if deictic:
        yield f"deictic: {deictic[0]!r}"
    answer = question.answers[0] if question.answers else ""
    if not answer or not all(variant.strip() for variant in question.answers):
        yield "empty answer"
    elif f" {normalized(answer)} " in f" {normalized(question.text)} ":
        yield f"answer {answer!r} stands in the question"
    unknown = [gold for gold in question.gold_chunk_ids if gold not in texts]
    if not question.gold_chunk_ids:
        yield "no gold chunk"
    elif unknown:
        yield from (f"unknown gold chunk {gold!r}" for gold in unknown)
    elif answer not in texts[question.gold_chunk_ids[-1]]:
        yield f"answer {answer!r} is not in {question.gold_chunk_ids[-1]}"


def leakage(questions: Iterable[Question]) -> list[dict]:
    """How much two splits share, as a row per pair of splits. All counts are 0 if nothing leaks.

    `gold_chunks`: chunks that are gold in both; `chains`: tuples of two or more gold chunks in both; `same_text`:
    question texts in both, up to case, spaces and punctuation; `same_words`: sets of question words in both.
    """
    held = {split: defaultdict(set) for split in SPLITS}  # split -> column -> what is compared
    for question in questions:
        mine, text = held[question.split], normalized(question.text)
        mine["gold_chunks"] |= set(question.gold_chunk_ids)
        if len(question.gold_chunk_ids) > 1:
            mine["chains"].add(question.gold_chunk_ids)
        mine["same_text"].add(text)
        mine["same_words"].add(frozenset(text.split()))
    rows = []
    for a, b in combinations(SPLITS, 2):
        row = {"splits": f"{a}/{b}"}
        for column in ("gold_chunks", "chains", "same_text", "same_words"):
            row[column] = len(held[a][column] & held[b][column])
        rows.append(row)
    return rows
