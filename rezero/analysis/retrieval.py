"""Questions over a corpus: the record, its validation, and splits that do not leak."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import accumulate

from rezero.questions import KINDS, Question
from rezero.search.base import Engine, SearchContext
from rezero.text import keywords


def evidence(question: Question, engine: Engine, k: int) -> list[set[str]]:
    """The chunk ids known after the first query (the question's words) and after each rewrite, evidence adding up."""
    queries = [keywords(question.text), *question.rewrites]
    found = engine.search(queries, k, [SearchContext(question.id, attempt) for attempt in range(1, len(queries) + 1)])
    return list(accumulate(({hit.chunk_id for hit in hits} for hits in found), set.union))


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
    queries, contexts = [keywords(q.text) for q in questions], [SearchContext(q.id, 1) for q in questions]
    found = {name: [{hit.chunk_id for hit in hits} for hits in engine.search(queries, k, contexts)]
             for name, engine in engines.items()}  # fmt: skip
    rows = []
    for first in engines:
        missing = [(i, gold) for i, q in enumerate(questions) if (gold := set(q.gold_chunk_ids) - found[first][i])]
        shares = {name: sum(gold <= found[name][i] for i, gold in missing) / len(missing) if missing else None
                  for name in engines if name != first}  # fmt: skip
        rows.append({"first engine": first, "missed": len(missing) / len(questions), **shares})
    return rows
