"""Dense retrieval: a passage matches by the cosine similarity of its embedding and the query's, computed by FAISS."""

from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name

import numpy as np

from rezero.corpus import Chunk
from rezero.search.base import Search, indexed_text, needs, ranked
from rezero.search.embedders import CACHE, embed, load_embedder

with needs("cpu", "engine 'dense'"):
    import faiss

FLAT_UNTIL, SQ8_UNTIL = 100_000, 1_000_000  # passages, for index="auto"
GPU_WIDTH = 2048  # FAISS on a GPU returns at most so many candidates
SLACK = 1e-4  # far more than two ways of computing the cosine of unit vectors differ by


def dense(
    chunks: Sequence[Chunk], embedder: str = "wordllama", cache: str | Path | None = CACHE, index: str = "auto"
) -> Search:
    """Cosine similarity of embeddings.

    Args:
        embedder: a name in `EMBEDDERS`.
        cache: the folder that keeps embeddings of chunks, relative to the project's root; None keeps none.
        index: "flat", exact, on a GPU where FAISS can use one; "sq8" or "hnsw", for many passages, see `extras.large`;
            or "auto": flat up to 100,000 passages, sq8 up to 1,000,000, else hnsw.
    """
    if index not in ("auto", "flat", "sq8", "hnsw"):
        raise ValueError(f"unknown index {index!r}; allowed: auto, flat, sq8, hnsw")
    if index == "auto":
        index = "flat" if len(chunks) <= FLAT_UNTIL else "sq8" if len(chunks) <= SQ8_UNTIL else "hnsw"
    encode = load_embedder(embedder)
    vectors = embed([indexed_text(chunk) for chunk in chunks], embedder, encode, cache)
    if index == "flat":
        store = faiss.IndexFlatIP(vectors.shape[1])
        store.add(vectors)
    else:
        store = resolve_name("rezero.extras.large:build_index")(index, vectors)
    # FAISS multiplies matrices once a batch has 128,000 numbers. This threshold makes a query two to six times faster.
    faiss.cvar.distance_compute_blas_threshold = 2048 * faiss.omp_get_max_threads()
    fast = resolve_name("rezero.extras.large:on_gpu")(store) if index == "flat" else store
    return ranked(chunks, lambda queries, k: nearest(fast, store, encode(queries), k))


def nearest(fast, store, queries, k: int) -> list[tuple[list[int], list[float]]]:
    """Positions and scores of the `k` rows nearest to each query, best first, ties by position.

    FAISS alone would let the results of a query depend on the others in its batch, in two ways. The last digits of a
    product of matrices depend on its shape, so the candidates' scores are computed again, each by itself. And of rows
    that tie for the last place FAISS returns arbitrary ones, so a query whose candidates end in a tie is searched
    again, for more candidates, until the tie ends.

    `fast` is searched, perhaps on a GPU; `store` holds the same rows on the CPU. `queries` is a float32 array (n, d)
    of unit vectors or zeros, and `k` at most the number of rows.
    """
    found: list = [None] * len(queries)
    left = np.arange(len(queries))  # the queries that have no result yet
    spare = 2
    while len(left):
        width = min(k + spare, store.ntotal)
        index = fast if width <= GPU_WIDTH else store
        scores, positions = index.search(queries[left], width)
        exact = score_again(store, queries[left], positions)
        best = np.lexsort((positions, -exact), axis=1)[:, :k]  # highest score first, then lowest position
        best_positions = np.take_along_axis(positions, best, axis=1).tolist()
        best_scores = np.take_along_axis(exact, best, axis=1).tolist()
        results = zip(best_positions, best_scores, strict=True)
        for query, result in zip(left, results, strict=True):
            found[query] = result
        # For a query without an embedding all rows tie at 0; it finds nothing anyway.
        tied = (scores[:, -1] > scores[:, k - 1] - SLACK) & (scores[:, 0] != 0)
        left = left[tied] if width < store.ntotal else []
        spare *= 8
    return found


def score_again(store, queries, positions):
    """The scores of the rows at `positions` (n, width) for each query, computed pair by pair; -1 where there is no row.

    Approximate indexes return the position -1 where they found too little.
    """
    exact = np.empty(positions.shape, np.float32)
    if isinstance(store, faiss.IndexFlat):  # it can compute the scores without a copy of the rows
        where = [faiss.swig_ptr(array) for array in (queries, exact, positions)]
        store.compute_distance_subset(len(queries), where[0], positions.shape[1], where[1], where[2])
        return exact
    rows = store.reconstruct_batch(np.maximum(positions, 0).ravel()).reshape(*positions.shape, -1)
    return np.where(positions < 0, -1, np.vecdot(rows, queries[:, None]))
