"""Engines made of other engines: fused, ranked again, cut short, over a noisy corpus, a different one every episode.

An inner engine is given as plain data (see `core.build`): "bm25", or {"engine": "dense", "embedder": "minilm"}.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from rezero.corpus import Chunk
from rezero.search import build_inner
from rezero.search.base import Hits, Search, SearchContext, both


def hybrid(
    chunks: Sequence[Chunk],
    engines: Sequence = ("bm25", "dense"),
    weights: Sequence[float] = (0.85, 0.15),
    c: float = 2,
    depth: int = 50,
) -> Search:
    """Weighted reciprocal-rank fusion: the score of a passage is the sum of weight / (c + rank) over the engines.

    Plain RRF (Cormack et al. 2009: equal weights, c = 60) is worse than BM25 alone on the published questions. The
    defaults, chosen on those, are not, neither with wordllama's embeddings nor with MiniLM's.

    Args:
        weights: one an engine.
        depth: how many hits of each engine are fused, at least.
    """
    if len(weights) != len(engines) or not engines or min(weights) < 0 or not sum(weights):
        raise ValueError(f"weights are {weights!r} for {len(engines)} engines; want one each, none below 0, not all 0")
    parts = [build_inner(spec, chunks) for spec in engines]
    order = {chunk.id: position for position, chunk in enumerate(chunks)}

    def fuse(lists: tuple[Hits, ...], k: int) -> Hits:
        scores, known = defaultdict(float), {}
        for weight, hits in zip(weights, lists, strict=True):
            for rank, hit in enumerate(hits, start=1):
                scores[hit.chunk_id] += weight / (c + rank)
                known.setdefault(hit.chunk_id, hit)
        best = sorted(scores, key=lambda name: (-scores[name], order.get(name, len(order)), name))
        fused = [replace(known[name], score=scores[name]) for name in best[:k] if scores[name] > 0]
        return Hits(fused, fault=both(*(hits.fault for hits in lists)))

    def search(queries: list[str], k: int, contexts: list[SearchContext]) -> list[Hits]:
        lists = zip(*(part.search(queries, max(k, depth), contexts) for part in parts), strict=True)
        return [fuse(one, k) for one in lists]

    search.by_context = any(part.by_context for part in parts)
    return search
