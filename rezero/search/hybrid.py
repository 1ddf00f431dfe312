"""Several engines fused into one ranking."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from rezero.corpus import Chunk
from rezero.search import Count, Inner, NotNegative, build_inner
from rezero.search.base import Hits, Search, SearchContext


def hybrid(
    chunks: Sequence[Chunk],
    engines: Sequence[Inner] = ("bm25", "dense"),
    weights: Sequence[NotNegative] = (0.85, 0.15),
    c: NotNegative = 2.0,
    depth: Count = 50,
) -> Search:
    """Weighted reciprocal-rank fusion: a passage scores the sum of weight / (c + rank) over the engines.

    At least `depth` hits of each are fused. The defaults were chosen on the published questions; equal weights and
    c = 60 (Cormack et al. 2009) are worse there than BM25 alone.
    """
    if len(weights) != len(engines) or not engines or not sum(weights):
        raise ValueError(f"weights are {weights!r} for {len(engines)} engines; want one each, not all 0")
    parts = [build_inner(spec, chunks) for spec in engines]
    order = {chunk.id: position for position, chunk in enumerate(chunks)}

    def fuse(lists: Sequence[Hits], k: int) -> Hits:
        scores, known = defaultdict(float), {}
        for weight, hits in zip(weights, lists, strict=True):
            for rank, hit in enumerate(hits, start=1):
                scores[hit.chunk_id] += weight / (c + rank)
                known.setdefault(hit.chunk_id, hit)
        best = sorted(scores, key=lambda id: (-scores[id], order.get(id, len(order)), id))
        fused = [replace(known[id], score=scores[id]) for id in best[:k] if scores[id] > 0]
        return Hits(fused, "", *(hits.fault for hits in lists))

    def search(queries: list[str], k: int, contexts: list[SearchContext]) -> list[Hits]:
        by_part = [part.search(queries, max(k, depth), contexts) for part in parts]
        return [fuse(lists, k) for lists in zip(*by_part, strict=True)]

    search.by_context = any(part.by_context for part in parts)
    return search
