"""Questions over a corpus: the record, its validation, and splits that do not leak."""

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from itertools import accumulate, combinations, pairwise
from pathlib import Path

import numpy as np

from rezero.corpus import Chunk, load_autodidact_questions
from rezero.files import read_jsonl, resolve, write_jsonl
from rezero.search import Asker, Engine, SearchError
from rezero.search.core import normalized

KINDS = ("direct", "reworded", "alias", "two-hop")
SPLITS = ("train", "dev", "test")
SHARES = {"train": 0.7, "dev": 0.1, "test": 0.2}  # of a file that says nothing of splits


@dataclass(frozen=True)
class Question:
    """One question with everything needed to score an answer and to tell whether the evidence was seen.

    `answers`: accepted answers, the first one stands verbatim in the last gold chunk.
    `gold_chunk_ids`: every chunk that must be seen to answer (two for a two-hop question, in hop order).
    `gold_texts`: their texts, filled in when loading, for transcripts that carry no hits.
    `rewrites`: queries that a careful searcher could write, in order, after a first query made of the question's
    words missed. They measure the room to retry and feed the scripted searcher; no policy is ever shown them.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    gold_chunk_ids: tuple[str, ...]
    gold_texts: tuple[str, ...] = ()
    kind: str = "direct"
    split: str = "train"
    rewrites: tuple[str, ...] = ()


# Words that ask or connect and say nothing about the subject. A query is a question without them.
STOP_WORDS = frozenset("""
a about after an and any are as at be been before by can could did do does during far for from gave give
given had has have how i in into is it its long many me much of on or out that the their then there these
they this those to was were what when where which who whom whose why will with would
""".split())

# Phrases that mean something only to a reader who has the passage before them.
DEICTIC = re.compile(
    r"\b(?:this|these|those|above|below|aforementioned|here|the (?:report|passage|text|document|article|chunk)|"
    r"(?:said|given|same) (?:mission|flight|report|passage))\b",
    re.IGNORECASE,
)


def load_questions(path: str | Path, chunks: Iterable[Chunk] | None = None) -> list[Question]:
    """Read questions from JSON Lines, ours or AutoDidact's (id, question, answer); with `chunks`, fill in `gold_texts`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a field is missing, unknown or of the wrong kind, or a gold chunk does not exist; names file:line.
    """
    path = resolve(path)
    if chunks is not None and "question" in next(read_jsonl(path), ()):
        return load_autodidact_questions(path, chunks)
    texts = None if chunks is None else {chunk.id: chunk.text for chunk in chunks}
    return [_read(row, texts, f"{path}:{number}") for number, row in enumerate(read_jsonl(path), start=1)]


def _read(row: dict, texts: dict[str, str] | None, where: str) -> Question:
    allowed = [field.name for field in fields(Question)]
    if unknown := [key for key in row if key not in allowed]:
        raise ValueError(f"{where}: unknown field {unknown[0]!r}, allowed: {', '.join(allowed)}")
    for key in ("id", "text", "answers", "gold_chunk_ids"):
        if key not in row:
            raise ValueError(f"{where}: field {key!r} is missing, allowed: {', '.join(allowed)}")
    for key, choices in (("kind", KINDS), ("split", SPLITS)):
        if row.get(key, choices[0]) not in choices:
            raise ValueError(f"{where}: {key} is {row[key]!r}, allowed: {', '.join(choices)}")
    for key in ("id", "text"):
        if not isinstance(row[key], str):
            raise ValueError(f"{where}: {key} is {row[key]!r}, allowed: a string")
    for key in ("answers", "gold_chunk_ids", "gold_texts", "rewrites"):
        value = row.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"{where}: {key} is {value!r}, allowed: a list of strings")
    for key in ("answers", "gold_chunk_ids"):
        if not row[key] or not all(item.strip() for item in row[key]):
            raise ValueError(f"{where}: {key} is {row[key]!r}, allowed: at least one, none of them blank")
    question = Question(**{key: tuple(value) if isinstance(value, list) else value for key, value in row.items()})
    if texts is None:
        return question
    for gold in question.gold_chunk_ids:
        if gold not in texts:
            raise ValueError(f"{where}: gold chunk {gold!r} does not exist, allowed: an id of the {len(texts)} chunks")
    return replace(question, gold_texts=tuple(texts[gold] for gold in question.gold_chunk_ids))


def save_questions(path: str | Path, questions: Iterable[Question]) -> Path:
    """Write questions as JSON Lines, without the gold texts, which stand in the chunks."""
    rows = (asdict(question) for question in questions)
    return write_jsonl(path, ({key: value for key, value in row.items() if key != "gold_texts"} for row in rows))


def keywords(text: str) -> str:
    """The query made of a question's words: its words less `STOP_WORDS`, in order, case and hyphens kept."""
    found = re.findall(r"\w+(?:[-.']\w+)*", text)
    return " ".join(word for word in found if word.lower() not in STOP_WORDS)


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


def assign_splits(questions: list[Question], how: str = "disjoint") -> list[Question]:
    """Questions with the splits of `how`.

    "disjoint": the file's own, or, where it names none and all are "train", `split_by_chunk` by `SHARES`.
    "by_row": the published code's, `train_test_split(test_size=0.1, seed=42)` of datasets: a tenth of the rows is test,
    whatever chunk they share with train, and there is no dev.
    """
    if how == "by_row":
        order = np.random.default_rng(42).permutation(len(questions))
        test = set(order[: math.ceil(0.1 * len(questions))].tolist())
        return [replace(q, split="test" if row in test else "train") for row, q in enumerate(questions)]
    unsplit = all(question.split == "train" for question in questions)
    return split_by_chunk(questions, SHARES) if unsplit else questions


def split_by_chunk(questions: list[Question], shares: dict[str, float], seed: int = 0) -> list[Question]:
    """Assign splits so that no chunk is gold in two of them, for any corpus.

    Questions that share a gold chunk, directly or over others, stay together. Groups are dealt out, the largest
    first, to the split that is furthest below its share; the seed decides among groups of the same size.
    """
    if unknown := [name for name in shares if name not in SPLITS]:
        raise ValueError(f"split {unknown[0]!r} is unknown, allowed: {', '.join(SPLITS)}")
    groups = _components(questions)
    random.Random(seed).shuffle(groups)
    groups.sort(key=len, reverse=True)
    total, filled, split_of = sum(shares.values()) or 1, Counter(), {}
    for group in groups:
        name = max(shares, key=lambda name: shares[name] / total * len(questions) - filled[name])
        filled[name] += len(group)
        split_of.update(dict.fromkeys(group, name))
    return [replace(question, split=split_of[index]) for index, question in enumerate(questions)]


def _components(questions: list[Question]) -> list[list[int]]:
    """Groups of question indices that are connected by gold chunks."""
    from scipy.cluster.hierarchy import DisjointSet

    joined = DisjointSet(range(len(questions)))
    for index, question in enumerate(questions):
        for gold in question.gold_chunk_ids:
            joined.add(gold)
            joined.merge(index, gold)
    groups = defaultdict(list)
    for index in range(len(questions)):
        groups[joined[index]].append(index)
    return list(groups.values())


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


def evidence(question: Question, engine: Engine, k: int) -> list[set[str]]:
    """The chunk ids known after the first query (the question's words) and after each rewrite, evidence adding up."""
    queries = [keywords(question.text), *question.rewrites]
    found = engine.search(queries, k, [Asker(question.id, attempt) for attempt in range(1, len(queries) + 1)])
    return list(accumulate(({hit.chunk_id for hit in hits} for hits in found), set.union))


def to_the_point(question: Question, engine: Engine, k: int) -> Question:
    """`question` with those rewrites alone that bring a gold chunk which was not known before; all, where none does."""
    try:
        steps = pairwise(evidence(question, engine, k))
    except SearchError:  # it fails on purpose, perhaps
        return question
    gold = set(question.gold_chunk_ids)
    kept = [rewrite for rewrite, (old, new) in zip(question.rewrites, steps, strict=True) if gold & (new - old)]
    return replace(question, rewrites=tuple(kept) or question.rewrites)


def room_to_retry(questions: Iterable[Question], engine: Engine, k: int) -> list[dict]:
    """A row per kind and one for all: how often the first query misses, and how often rewrites then find it all.

    `missed`: share of questions of which the first query does not bring every gold chunk within `k`;
    `recovered`: of those, the share for which the rewrites in order bring the rest; `searches`: how many rewrites
    that took on average. None where there was nothing to recover.
    """
    found = defaultdict(list)
    for question in questions:
        gold = set(question.gold_chunk_ids)
        needed = next((n for n, known in enumerate(evidence(question, engine, k)) if gold <= known), None)
        found[question.kind].append(needed)
        found["all"].append(needed)
    return [_room(kind, k, found[kind]) for kind in (*KINDS, "all") if found[kind]]


def _room(kind: str, k: int, needed: list[int | None]) -> dict:
    missed = [n for n in needed if n != 0]
    recovered = [n for n in missed if n is not None]
    return {
        "kind": kind, "k": k, "questions": len(needed), "missed": len(missed) / len(needed),
        "recovered": len(recovered) / len(missed) if missed else None,
        "searches": sum(recovered) / len(recovered) if recovered else None,
    }  # fmt: skip


def hits_by_engine(question: Question, query: str, engines: dict[str, Engine], k: int) -> list[dict]:
    """A row per place in the list of hits: the title of the passage that each engine has there, a gold one with ★."""
    columns = {}
    for name, engine in engines.items():
        (hits,) = engine.search([query], k)
        titles = [f"{'★ ' if hit.chunk_id in question.gold_chunk_ids else ''}{hit.title}" for hit in hits]
        columns[name] = titles + [""] * (k - len(titles))
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def recovered_by(questions: Iterable[Question], engines: dict[str, Engine], k: int) -> list[dict]:
    """A row per engine: how often the first query misses with it, and which other engine then finds the rest.

    `missed`: share of questions of which it does not bring every gold chunk within `k`; under another engine's name: of
    those, the share for which the same query there brings what was missing. None where there was nothing to recover.
    """
    questions = list(questions)
    queries, askers = [keywords(q.text) for q in questions], [Asker(q.id, 1) for q in questions]
    found = {name: [{hit.chunk_id for hit in hits} for hits in engine.search(queries, k, askers)]
             for name, engine in engines.items()}  # fmt: skip
    rows = []
    for first in engines:
        missing = [(i, gold) for i, q in enumerate(questions) if (gold := set(q.gold_chunk_ids) - found[first][i])]
        shares = {name: sum(gold <= found[name][i] for i, gold in missing) / len(missing) if missing else None
                  for name in engines if name != first}  # fmt: skip
        rows.append({"first engine": first, "missed": len(missing) / len(questions), **shares})
    return rows


def unseen_names(question: Question, engine: Engine, k: int) -> list[str]:
    """Capitalised words of the rewrites that stood neither in the question nor in what the queries before brought."""
    seen, unseen = question.text, []
    queries = [keywords(question.text), *question.rewrites]
    for query, hits in zip(queries, engine.search(queries, k), strict=True):
        known = set(re.findall(r"\w+", seen))
        unseen += [word for word in re.findall(r"\w+", query) if word[0].isupper() and word not in known]
        seen += " ".join(f" {hit.title} {hit.text}" for hit in hits)
    return unseen
