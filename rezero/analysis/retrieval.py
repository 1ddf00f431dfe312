"""How well engines retrieve the gold passages of questions, before any policy searches.

A question *misses* when a search for its words leaves gold passages unseen, as `Episode.missed` has it, and is
*recovered* when further searches retrieve all of them.
"""

from dataclasses import replace

from pandas import Series

from rezero.questions import KINDS, Question
from rezero.search.base import Engine
from rezero.task import Task
from rezero.text import keywords
from rezero.warmstart.demonstrations import seen_after_each_query


def room_to_retry(questions: list[Question], engine: Engine, k: int) -> list[dict]:
    """How often questions miss and how often their rewrites then recover them: a row per kind, and one for "all".

    `missed` is a share of the questions, `recovered` one of the missed ones, and `searches` how many rewrites the
    recovered ones took on average; NaN if there is nothing to average.
    """
    kinds = Series([question.kind for question in questions])
    needed = Series([rewrites_needed(question, engine, k) for question in questions], dtype=float)  # None becomes NaN
    rows = []
    for kind in [*KINDS, "all"]:
        rewrites = needed if kind == "all" else needed[kinds == kind]
        missed = rewrites[rewrites != 0]
        if len(rewrites):
            row = {"kind": kind, "k": k, "questions": len(rewrites), "missed": len(missed) / len(rewrites)}
            rows.append(row | {"recovered": missed.notna().mean(), "searches": missed.mean()})
    return rows


def rewrites_needed(question: Question, engine: Engine, k: int) -> int | None:
    """After how many of its rewrites all gold passages are seen: 0 without a miss, None if all are not enough."""
    seen = seen_after_each_query(question, engine, k)
    return next((n for n, ids in enumerate(seen) if ids.issuperset(question.gold_chunk_ids)), None)


def hits_by_engine(question: Question, query: str, engines: dict[str, Engine], k: int) -> list[dict]:
    """The titles of each engine's hits for `query`: a row per rank, a column per engine, a star at gold passages."""
    rows = [dict.fromkeys(engines, "") for _ in range(k)]
    for name, engine in engines.items():
        for row, hit in zip(rows, engine.search([query], k)[0], strict=False):
            row[name] = f"★ {hit.title}" if hit.chunk_id in question.gold_chunk_ids else hit.title
    return rows


def recovered_by(questions: list[Question], engines: dict[str, Engine], k: int) -> list[dict]:
    """How often questions miss with one engine, a row each, and how often the same query to another recovers them.

    `missed` is a share of the questions. The other engines' columns are shares of the missed ones: for how many of them
    does it retrieve all gold passages that the first engine did not? NaN if none was missed.
    """
    queries = [keywords(question.text) for question in questions]
    unseen = {}  # engine -> per question, the gold chunks that are not among its hits
    for name, engine in engines.items():
        pairs = zip(questions, engine.search(queries, k), strict=True)
        unseen[name] = [set(q.gold_chunk_ids) - {hit.chunk_id for hit in hits} for q, hits in pairs]
    rows = []
    for first, lacking in unseen.items():
        row = {"first engine": first, "missed": sum(map(bool, lacking)) / len(questions)}
        for other in engines:
            if other != first:
                found = [gold.isdisjoint(rest) for gold, rest in zip(lacking, unseen[other], strict=True) if gold]
                row[other] = Series(found, dtype=float).mean()
        rows.append(row)
    return rows


def pick_missed(task: Task, question_id: str = "") -> Question:
    """A dev question to show a retry on: the named one, or the first reworded one that only its last rewrite finds."""
    for question in task.questions["dev"]:
        if question.id == question_id:
            return question
        last = replace(question, rewrites=question.rewrites[-1:])
        wanted = question.kind == "reworded" and not question_id
        if wanted and rewrites_needed(last, task.engine, task.sampling.k) == 1:
            return question
    if question_id:
        raise ValueError(f"question {question_id!r} is not in the dev split")
    raise ValueError("no reworded dev question is missed by its own words; choose a smaller k or another engine")
