"""Indexes for many passages, which the core reaches by name: tantivy for `bm25`; SQ8, HNSW and GPUs for `dense`."""

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rezero.corpus import Chunk
from rezero.search.base import Rank, indexed_text, needs
from rezero.search.bm25 import words


def by_tantivy(chunks: Sequence[Chunk]) -> Rank:
    """BM25 over the stems of `words` by tantivy, an inverted index that skips passages which cannot rank high.

    It rounds the lengths of passages, as Lucene does, so its scores differ a little from those of bm25s.
    """
    with needs("scale", "backend 'tantivy'"):
        import tantivy
    builder = tantivy.SchemaBuilder().add_text_field("words", tokenizer_name="whitespace", index_option="freq")
    schema = builder.add_integer_field("position", stored=True).build()
    index = tantivy.Index(schema)
    writer = index.writer(heap_size=256 << 20, num_threads=1)
    for start in range(0, len(chunks), 10_000):
        stems = words([indexed_text(chunk) for chunk in chunks[start : start + 10_000]])
        for position, text in enumerate(stems, start):
            writer.add_document(tantivy.Document(words=" ".join(text), position=position))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    searcher = index.searcher()

    def find(query, k: int) -> list[tuple[float, int]]:
        """Pairs (-score, position) of the k best. Ties for the last place are cut off arbitrarily, so look further."""
        width = k
        while True:
            width = min(2 * width, len(chunks))
            hits = searcher.search(query, width, count=False).hits
            if len(hits) < width or width == len(chunks) or hits[-1][0] < hits[k - 1][0]:
                return sorted((-score, searcher.doc(address)["position"][0]) for score, address in hits)[:k]

    def rank(queries: list[str], k: int):
        found = []
        for stems in words(queries):
            clauses = []
            for word, count in Counter(stems).items():
                term = tantivy.Query.term_query(schema, "words", word, index_option="freq")
                clauses.append((tantivy.Occur.Should, tantivy.Query.boost_query(term, float(count))))
            hits = find(tantivy.Query.boolean_query(clauses), k) if clauses else []
            found.append(([position for _, position in hits], [-score for score, _ in hits]))
        return found

    return rank


def build_index(kind: str, vectors):
    """A FAISS index of `vectors`, float32 (n, d), that compares by inner product.

    "sq8" keeps all vectors in a quarter of the memory and is nearly exact. "hnsw" is a graph whose queries hardly slow
    down as it grows, but it takes minutes to build and misses some of the nearest.
    """
    import faiss

    names = {"sq8": "SQ8", "hnsw": "HNSW32"}
    store = faiss.index_factory(vectors.shape[1], names[kind], faiss.METRIC_INNER_PRODUCT)
    threads = faiss.omp_get_max_threads()
    if kind == "hnsw":
        store.hnsw.efSearch = 256  # finds 98% of the nearest five among 100,000; FAISS's default of 16 finds 86%
        faiss.omp_set_num_threads(1)  # threads would race for the edges of the graph: no two builds would be the same
    store.train(vectors)
    store.add(vectors)
    faiss.omp_set_num_threads(threads)
    return store


def on_gpu(store):
    """A copy of a flat FAISS index on a GPU, or `store` itself where FAISS cannot use one."""
    import faiss

    if faiss.get_num_gpus():
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, store)
    if Path("/dev/nvidia0").exists():
        warnings.warn("FAISS cannot use this machine's GPU, only the CPU; pip install 'rezero[gpu]'", stacklevel=2)
    return store
