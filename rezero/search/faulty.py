"""An engine that fails on purpose, at known rates, so that a policy has something to recover from."""

import random
import re
from bisect import bisect
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from rezero.corpus import Chunk
from rezero.search import Inner, Share, build_inner
from rezero.search.base import Hit, Hits, Search, SearchContext, SearchError, chance
from rezero.text import normalized


def faulty(
    chunks: Sequence[Chunk],
    engine: Inner = "bm25",
    empty: Share = 0,  # no hits
    irrelevant: Share = 0,  # random passages that are not among the engine's best 50
    stale: Share = 0,  # old issues of the passages, with another last digit in every figure, and another id
    shuffled: Share = 0,  # the same hits in another order
    truncated: Share = 0,  # the first third of each passage's words, with another id
    outage: Share = 0,  # a SearchError with the fault "outage", for the whole batch
    seed: int = 0,
    sticky: bool = False,  # the turn is left out of the draw, so that only other words escape
) -> Search:
    """An engine whose queries meet faults at the given rates, each at most one; `Hits.fault` names it if it did harm.

    A fault is drawn by the seed, the query's words and the turn, so that asking again may escape it.
    """
    rates = dict(empty=empty, irrelevant=irrelevant, stale=stale, shuffled=shuffled, truncated=truncated, outage=outage)
    names, bounds = [*rates, ""], list(accumulate(rates.values()))
    if bounds[-1] > 1 + 1e-9:
        raise ValueError(f"the rates {rates} sum to {bounds[-1]}; want at most 1")
    inner = build_inner(engine, chunks)

    def spoil(fault: str, hits: Hits, query: str, context: SearchContext, rng: random.Random) -> list[Hit]:
        if fault == "empty":
            return []
        if fault == "irrelevant":
            near = {hit.chunk_id for hit in [*hits, *inner.search([query], 50, [context])[0]]}
            drawn = rng.sample(chunks, min(len(chunks), len(near) + len(hits)))
            return [Hit(chunk.id, chunk.title, chunk.text, 0.0) for chunk in drawn if chunk.id not in near]
        if fault == "shuffled":
            order = rng.sample(hits, len(hits))
            return order if order != hits else order[::-1]
        return [rewritten(hit, fault) for hit in hits]

    def search(queries: list[str], k: int, contexts: list[SearchContext]) -> list[Hits]:
        draws = []  # the fault that each query meets ("": none), and the random numbers that shape it
        for query, context in zip(queries, contexts, strict=True):
            key = (seed, normalized(query), "" if sticky else context.turn)
            draws.append((names[bisect(bounds, chance(*key))], random.Random(repr(key))))
        if any(fault == "outage" for fault, _ in draws):
            raise SearchError("the search service is down", fault="outage")
        results = inner.search(queries, k, contexts)
        for i, (fault, rng) in enumerate(draws):
            if fault:  # the scores stay in their places, because the engine does not know that it fails
                hits, spoilt = results[i], spoil(fault, results[i], queries[i], contexts[i], rng)
                placed = [replace(other, score=hit.score) for hit, other in zip(hits, spoilt, strict=False)]
                results[i] = Hits(placed, hits.engine, hits.fault, fault if placed != hits else "")
        return results

    search.by_context = not sticky or inner.by_context
    return search


def rewritten(hit: Hit, fault: str) -> Hit:
    """The passage as an old issue, which is the same one for every query, or its first third, with another id."""
    if fault == "stale":
        own = random.Random(hit.chunk_id)
        text = re.sub(r"\d(?!\d)", lambda digit: str((int(digit[0]) + own.randint(1, 9)) % 10), hit.text)
    else:
        words = hit.text.split()
        text = " ".join(words[: max(1, len(words) // 3)]) if len(words) > 1 else hit.text
    return replace(hit, chunk_id=f"{hit.chunk_id}~{fault}", text=text) if text != hit.text else hit
