"""Engines that match embeddings: cosine similarity by FAISS, with a cache of embeddings on disk."""

import logging
from collections.abc import Sequence
from functools import cache as once
from pathlib import Path

import numpy as np

from rezero.corpus import Chunk
from rezero.search.base import Search, indexed_text, ranked
from rezero.search.embedders import CACHE, embed, load_embedder

FLAT_UNTIL, SQ8_UNTIL = 100_000, 1_000_000  # passages

SLACK = 1e-4  # more than two ways to compute the cosine of unit vectors differ by

INDEXES = {"flat": "Flat", "hnsw": "HNSW32", "sq8": "SQ8"}  # as FAISS's index_factory calls them


def dense(
    chunks: Sequence[Chunk], embedder: str = "wordllama", cache: str | Path | None = CACHE, index: str = "auto"
) -> Search:
    """Cosine similarity of embeddings, by FAISS.

    Args:
        embedder: a name in `EMBEDDERS`.
        cache: the folder that keeps embeddings of chunks, relative to the project's root; None keeps none.
        index: "flat", exact, on a GPU where FAISS finds one; "sq8", all vectors in a quarter of the memory, nearly
            exact; "hnsw", a graph whose queries hardly slow down with size, but which takes minutes to build and
            misses some of the nearest; "auto": flat up to 100,000 passages, sq8 up to 1,000,000, else hnsw.
    """
    import faiss

    if index not in (*INDEXES, "auto"):
        raise ValueError(f"unknown index {index!r}; have: auto, {', '.join(INDEXES)}")
    if index == "auto":
        index = "flat" if len(chunks) <= FLAT_UNTIL else "sq8" if len(chunks) <= SQ8_UNTIL else "hnsw"
    encode = load_embedder(embedder)
    vectors = embed([indexed_text(chunk) for chunk in chunks], embedder, encode, cache)
    store = faiss.index_factory(vectors.shape[1], INDEXES[index], faiss.METRIC_INNER_PRODUCT)
    if index == "hnsw":
        store.hnsw.efSearch = 256  # brings 98% of the nearest five among 100,000; FAISS's own 16 brings 86%
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1 if index == "hnsw" else threads)  # threads would race for the edges of the graph
    store.train(vectors)
    store.add(vectors)
    faiss.omp_set_num_threads(threads)
    # FAISS 1.15 multiplies matrices from 128,000 numbers a batch on; from here on that is two to six times faster.
    faiss.cvar.distance_compute_blas_threshold = 2048 * threads
    fast = store
    if index == "flat" and faiss_has_gpu():
        fast = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, store)
    return ranked(chunks, lambda queries, k: nearest(fast, store, encode(queries), k))


@once
def faiss_has_gpu() -> bool:
    """Whether FAISS can use a GPU; if not, one line a process says so, a warning where it could be otherwise."""
    import faiss

    if faiss.get_num_gpus():
        return True
    there, expected = Path("/dev/nvidia0").exists(), hasattr(faiss, "StandardGpuResources")
    reason = "FAISS cannot use this machine's GPU; pip install 'rezero[gpu]'" if there else "this machine has no GPU"
    level = logging.WARNING if there or expected else logging.INFO
    logging.getLogger(__name__).log(level, "dense search runs on the CPU: %s", reason)
    return False


def nearest(fast, store, queries, k: int, spare: int = 2) -> list[tuple[list[int], list[float]]]:
    """Positions and scores of the `k` rows nearest to each of `queries` (n, d), ties by position.

    `fast` finds k + `spare` candidates for all queries together; their scores are taken again from the rows in `store`
    one by one, because the last digits of a batched matrix product depend on the batch.
    """
    import faiss

    width = min(k + spare, store.ntotal)
    scores, positions = (fast if width <= 2048 else store).search(queries, width)  # FAISS on a GPU finds no more
    exact = np.empty_like(scores)
    if isinstance(store, faiss.IndexFlat):  # which can do it without a copy of the rows
        where = [faiss.swig_ptr(array) for array in (queries, exact, positions)]
        store.compute_distance_subset(len(queries), where[0], width, *where[1:])
    else:
        rows = store.reconstruct_batch(np.maximum(positions, 0).ravel()).reshape(*positions.shape, -1)
        exact = np.where(positions < 0, -1, np.vecdot(rows, queries[:, None]))  # a graph may find less
    best = np.arange(len(queries))[:, None], np.lexsort((positions, -exact))[:, :k]
    found = list(zip(positions[best].tolist(), exact[best].tolist(), strict=True))
    # Of rows that tie for the last place FAISS keeps an arbitrary few: look further until the tie ends. All rows tie
    # at 0 for a query without an embedding, which finds nothing anyway.
    tied = (scores[:, -1] > scores[:, k - 1] - SLACK) & (scores[:, 0] != 0)
    if width < store.ntotal and tied.any():
        for i, further in zip(np.flatnonzero(tied), nearest(fast, store, queries[tied], k, 8 * spare), strict=True):
            found[i] = further
    return found
