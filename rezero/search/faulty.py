"""An engine that fails on purpose, at known rates."""

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from rezero.corpus import Chunk
from rezero.search import build_inner
from rezero.search.base import Hit, Hits, Search, SearchContext, SearchError, both, chance
from rezero.text import normalized

NEAR = 50  # the best hits, none of which passes for irrelevant


def faulty(
    chunks: Sequence[Chunk],
    engine="bm25",
    empty: float = 0,
    irrelevant: float = 0,
    stale: float = 0,
    shuffled: float = 0,
    truncated: float = 0,
    outage: float = 0,
    seed: int = 0,
    sticky: bool = False,
) -> Search:
    """An engine that fails at the given rates, of which a query meets at most one.

    empty: no hits. irrelevant: passages drawn from those that are not among the engine's best 50. stale: an old issue
    of every passage, in which the last digit of every figure is another. shuffled: the same hits in another order.
    truncated: the first third of every passage. outage: a `SearchError`, for the whole batch.

    What happened stands in `Hits.fault` or `SearchError.fault`; a fault that changed nothing is none. Scores fall from
    place to place as ever: the engine does not know that it fails. A passage with another text has another id.

    A fault is drawn by the seed, the words of the query and the attempt, so that a repetition may escape it; `sticky`
    leaves the attempt out, so that only other words do.
    """
    rates = {"empty": empty, "irrelevant": irrelevant, "stale": stale, "shuffled": shuffled, "truncated": truncated,
             "outage": outage}  # fmt: skip
    for name, rate in rates.items():
        if not isinstance(rate, int | float) or not 0 <= rate <= 1:
            raise ValueError(f"the rate of {name} faults is {rate!r}; want a number from 0 to 1")
    if sum(rates.values()) > 1 + 1e-9:
        raise ValueError(f"the rates {rates} sum to {sum(rates.values())}; want at most 1")
    inner = build_inner(engine, chunks)

    def draw(query: str, context: SearchContext) -> tuple[str, random.Random]:
        key = (seed, normalized(query), "" if sticky else context.turn)
        drawn, rng = chance(*key), random.Random(repr(key))
        for name, rate in rates.items():
            drawn -= rate
            if drawn < 0:
                return name, rng
        return "", rng

    def spoil(fault: str, hits: Hits, query: str, context: SearchContext, rng: random.Random) -> Hits:
        if fault == "irrelevant":
            near = {hit.chunk_id for hit in [*hits, *inner.search([query], NEAR, [context])[0]]}
            drawn = rng.sample(chunks, min(len(chunks), len(near) + len(hits)))
            others = [Hit(chunk.id, chunk.title, chunk.text, 0.0) for chunk in drawn if chunk.id not in near]
        else:
            others = SPOILERS[fault](hits, rng) if fault else hits
        placed = [replace(other, score=hit.score) for hit, other in zip(hits, others, strict=False)]
        return Hits(placed, hits.engine, both(hits.fault, fault if placed != hits else ""))

    def search(queries: list[str], k: int, contexts: list[SearchContext]) -> list[Hits]:
        draws = [draw(query, context) for query, context in zip(queries, contexts, strict=True)]
        if any(fault == "outage" for fault, _ in draws):
            raise SearchError("the search service is down", fault="outage")
        found = zip(draws, inner.search(queries, k, contexts), queries, contexts, strict=True)
        return [spoil(fault, hits, query, context, rng) for (fault, rng), hits, query, context in found]

    search.by_context = not sticky or inner.by_context
    return search


def shuffle(hits: list[Hit], rng: random.Random) -> list[Hit]:
    """Another order, where there is one."""
    order = rng.sample(hits, len(hits))
    return order if order != hits else order[::-1]


def age(hit: Hit) -> Hit:
    """An old issue of a passage with a figure, the same one whatever was asked."""
    own = random.Random(hit.chunk_id)
    text = re.sub(r"\d(?!\d)", lambda digit: str((int(digit[0]) + own.randint(1, 9)) % 10), hit.text)
    return replace(hit, chunk_id=f"{hit.chunk_id}~stale", text=text) if text != hit.text else hit


def cut(hit: Hit) -> Hit:
    """The first third of the words of a passage that has two or more."""
    words = hit.text.split()
    text = " ".join(words[: max(1, len(words) // 3)])
    return replace(hit, chunk_id=f"{hit.chunk_id}~truncated", text=text) if len(words) > 1 else hit


SPOILERS = {
    "empty": lambda hits, rng: [],
    "stale": lambda hits, rng: map(age, hits),
    "shuffled": shuffle,
    "truncated": lambda hits, rng: map(cut, hits),
}
