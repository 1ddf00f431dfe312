"""Engines made of other engines: fused, ranked again, cut short, over a noisy corpus, a different one every episode.

An inner engine is given as plain data (see `core.build`): "bm25", or {"engine": "dense", "embedder": "minilm"}.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from heapq import nlargest
from pathlib import Path

from rezero.corpus import Chunk, load_noise
from rezero.search.core import Asker, Hit, Hits, Search, around, both, build, chance, indexed_text, needs
from rezero.search.embedding import load_embedder
from rezero.search.lexical import words


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
    parts = [build(spec, chunks) for spec in engines]
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

    def search(queries: list[str], k: int, askers: list[Asker]) -> list[Hits]:
        lists = zip(*(part.search(queries, max(k, depth), askers) for part in parts), strict=True)
        return [fuse(one, k) for one in lists]

    search.by_asker = any(part.by_asker for part in parts)
    return search


def rerank(
    chunks: Sequence[Chunk],
    engine="bm25",
    depth: int = 20,
    model: str = "",
    embedder: str = "wordllama",
    weight: float = 0.5,
) -> Search:
    """The first `depth` hits of an engine, at least, ranked again.

    With a `model`, the folder or name of a cross-encoder for sentence-transformers, by its scores. Without one, by a
    late step that needs no download: half the engine's score, as a share of the best hit's, and half the cosine of
    the query and the sentence of the passage that is closest to it.

    Args:
        embedder: of the sentences, a name in `EMBEDDERS`; "minilm" is better and slow until it has seen the passages.
        weight: of the engine's score in the late step, the cosine has the rest.
    """
    score = cross_encoder(model) if model else late_step(embedder, weight)

    def again(query: str, hits: Hits) -> list[Hit]:
        scored = [replace(hit, score=float(new)) for hit, new in zip(hits, score(query, hits), strict=True)]
        return sorted(scored, key=lambda hit: -hit.score)  # stable: ties keep the engine's order

    return around(build(engine, chunks), again, depth)


def cross_encoder(model: str) -> Callable[[str, Hits], Sequence[float]]:
    with needs("minilm", "a cross-encoder"):
        from sentence_transformers import CrossEncoder
    encoder = CrossEncoder(model)

    def score(query: str, hits: Hits) -> Sequence[float]:
        pairs = [(query, indexed_text(hit)) for hit in hits]
        # One pair at a time: padding would make a score depend on the other passages.
        return encoder.predict(pairs, batch_size=1, show_progress_bar=False) if pairs else []

    return score


def late_step(embedder: str, weight: float) -> Callable[[str, Hits], Sequence[float]]:
    if not 0 <= weight <= 1:
        raise ValueError(f"the engine's score has weight {weight}; want 0 to 1")
    encode = load_embedder(embedder)
    sentences = lru_cache(100_000)(lambda text: encode(split_sentences(text)))

    def score(query: str, hits: Hits) -> list[float]:
        asked = encode([query])[0]
        closest = [float((sentences(indexed_text(hit)) @ asked).max()) for hit in hits]
        return [weight * hit.score / hits[0].score + (1 - weight) * cos for hit, cos in zip(hits, closest, strict=True)]

    return score


def split_sentences(text: str) -> list[str]:
    """The sentences and lines of at least four words, or the text if there is none."""
    parts = [part.strip() for part in re.split(r"(?<=[.!?;])\s+|\n+", text)]
    return [part for part in parts if len(part.split()) >= 4] or [text]


def trim(chunks: Sequence[Chunk], engine="bm25", sentences: int = 1, whole: int = 1) -> Search:
    """An engine whose passages are cut to the sentences nearest to the query, for a policy that reads little.

    A passage keeps its id, so that it counts as seen although its answer may have been cut off.

    Args:
        sentences: those that share the most words with the query, in their order.
        whole: the first so many passages are not cut.
    """
    if sentences < 1 or whole < 0:
        raise ValueError(f"sentences is {sentences} and whole {whole}; want sentences >= 1 and whole >= 0")

    @lru_cache(100_000)
    def parts_of(text: str) -> list[tuple[str, set[str]]]:
        parts = split_sentences(text)
        return list(zip(parts, map(set, words(parts)), strict=True))

    def cut(hit: Hit, asked: set[str]) -> Hit:
        parts = parts_of(hit.text)
        kept = nlargest(sentences, range(len(parts)), key=lambda i: len(asked & parts[i][1]))
        return replace(hit, text=" ".join(parts[i][0] for i in sorted(kept)))

    def trimmed(query: str, hits: Hits) -> list[Hit]:
        (asked,) = map(set, words([query]))
        return [*hits[:whole], *(cut(hit, asked) for hit in hits[whole:])]

    return around(build(engine, chunks), trimmed)


def noisy(
    chunks: Sequence[Chunk],
    noise: str | Path = "data/larkspur/noise.jsonl",
    kinds: Sequence[str] | None = None,
    rate: float = 1.0,
    engine="bm25",
    seed: int = 0,
) -> Search:
    """An engine over the chunks and, behind them, spoilt passages, which have ids of their own and are nobody's gold.

    Args:
        noise: a file that `corpus.load_noise` reads.
        kinds: the kinds of noise to take; None for all of them.
        rate: the share of them to take. A lower rate takes a part of what a higher one takes.
    """
    rows = load_noise(noise)
    known = sorted({kind for kind, _ in rows})
    if unknown := [kind for kind in kinds or () if kind not in known]:
        raise ValueError(f"{noise} has no noise of kind {unknown[0]!r}; have: {', '.join(known)}")
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is {rate!r}; want 0 to 1")
    wanted = [chunk for kind, chunk in rows if kind in (kinds or known) and chance(seed, chunk.id) < rate]
    return around(build(engine, [*chunks, *wanted]), lambda query, hits: hits)


def mixture(chunks: Sequence[Chunk], engines: Sequence = ("bm25", "dense"), seed: int = 0) -> Search:
    """Every episode searches with one engine of several, drawn by `seed` and the episode's id; `Hits.engine` names it.

    The second of two engines with the same name is called "bm25 2".
    """
    if not engines:
        raise ValueError("a mixture is of no engine; want at least one")
    parts = [build(spec, chunks) for spec in engines]
    names = [part.name for part in parts]
    labels = [f"{name} {n}" if (n := names[: i + 1].count(name)) > 1 else name for i, name in enumerate(names)]

    def search(queries: list[str], k: int, askers: list[Asker]) -> list[Hits]:
        drawn = [int(chance(seed, asker.episode) * len(parts)) for asker in askers]
        found = [Hits()] * len(queries)
        for number, (part, label) in enumerate(zip(parts, labels, strict=True)):
            mine = [i for i, one in enumerate(drawn) if one == number]
            results = part.search([queries[i] for i in mine], k, [askers[i] for i in mine])
            for i, hits in zip(mine, results, strict=True):
                found[i] = Hits(hits, label, hits.fault)
        return found

    search.by_asker = True
    return search
