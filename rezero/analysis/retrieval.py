"""How well engines retrieve the gold passages of questions, before any policy searches.

A question *misses* with an engine as `Episode.missed` defines it: after a search for the question's words, some of its
gold passages are unseen. It is *recovered* when further searches retrieve all of them.
"""

from collections import defaultdict
from collections.abc import Iterable
from itertools import compress

from rezero.questions import KINDS, Question
from rezero.search.base import Engine, SearchContext
from rezero.search_env import first_search_misses, seen_after_each_query
from rezero.task import Task
from rezero.text import keywords


def room_to_retry(questions: Iterable[Question], engine: Engine, k: int) -> list[dict]:
    """How often questions miss and how often their rewrites then recover them: a row per kind, and one for "all".

    Columns: `missed`, the share of the questions; `recovered`, the share of the missed ones; `searches`, how many
    rewrites the recovered ones took on average. The last two are None if there is nothing to average.
    """
    needed = defaultdict(list)  # kind -> per question, how many rewrites it takes; None: all of them are not enough
    for question in questions:
        gold = set(question.gold_chunk_ids)
        seen = seen_after_each_query(question, engine, k)
        rewrites = next((n for n, ids in enumerate(seen) if gold <= ids), None)
        needed[question.kind].append(rewrites)
        needed["all"].append(rewrites)
    rows = []
    for kind in filter(needed.get, [*KINDS, "all"]):
        missed = [rewrites for rewrites in needed[kind] if rewrites != 0]
        recovered = [rewrites for rewrites in missed if rewrites is not None]
        row = {"kind": kind, "k": k, "questions": len(needed[kind]), "missed": len(missed) / len(needed[kind])}
        row["recovered"] = len(recovered) / len(missed) if missed else None
        row["searches"] = sum(recovered) / len(recovered) if recovered else None
        rows.append(row)
    return rows


def hits_by_engine(question: Question, query: str, engines: dict[str, Engine], k: int) -> list[dict]:
    """The titles of each engine's hits for `query`: a row per rank, a column per engine, a star at gold passages."""
    rows = [dict.fromkeys(engines, "") for _ in range(k)]
    for name, engine in engines.items():
        for row, hit in zip(rows, engine.search([query], k)[0], strict=False):
            row[name] = f"★ {hit.title}" if hit.chunk_id in question.gold_chunk_ids else hit.title
    return rows


def recovered_by(questions: Iterable[Question], engines: dict[str, Engine], k: int) -> list[dict]:
    """How often questions miss with one engine, and how often the same query to another engine recovers them.

    A row per first engine: `missed`, the share of the questions, and per other engine the share of the missed ones for
    which it retrieves all gold passages that the first one did not; None if none was missed.
    """
    questions = list(questions)
    queries = [keywords(question.text) for question in questions]
    contexts = [SearchContext(question.id, 1) for question in questions]
    unseen = {}  # engine -> per question, the gold chunks that are not among its hits
    for name, engine in engines.items():
        pairs = zip(questions, engine.search(queries, k, contexts), strict=True)
        unseen[name] = [set(q.gold_chunk_ids) - {hit.chunk_id for hit in hits} for q, hits in pairs]
    rows = []
    for first in engines:
        missed = [i for i, gold in enumerate(unseen[first]) if gold]
        row = {"first engine": first, "missed": len(missed) / len(questions)}
        for other in engines:
            if other != first:
                recovered = [i for i in missed if unseen[first][i].isdisjoint(unseen[other][i])]
                row[other] = len(recovered) / len(missed) if missed else None
        rows.append(row)
    return rows


def pick_missed(task: Task, question_id: str = "") -> Question:
    """A dev question to show a retry on: the named one, or the first reworded one that only its last rewrite finds."""
    dev, k = {question.id: question for question in task.questions["dev"]}, task.sampling.k
    if question_id and question_id not in dev:
        raise ValueError(f"question {question_id!r} is not in the dev split; allowed: {', '.join(dev)}")
    if question_id:
        return dev[question_id]
    reworded = [question for question in dev.values() if question.kind == "reworded" and question.rewrites]
    for question in compress(reworded, first_search_misses(reworded, task.engine, k)):
        (hits,) = task.engine.search([question.rewrites[-1]], k, [SearchContext(question.id, 2)])
        if set(question.gold_chunk_ids) <= {hit.chunk_id for hit in hits}:
            return question
    raise ValueError("no reworded dev question is missed by its own words; choose a smaller k or another engine")
