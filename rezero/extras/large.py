"""Indexes for many passages, which the core reaches by name: tantivy for `bm25`; FAISS and GPUs for `dense`."""

from collections import Counter
from collections.abc import Sequence

from rezero.corpus import Chunk
from rezero.search.base import Rank, indexed_text, needs
from rezero.search.bm25 import Language, words


def by_tantivy(chunks: Sequence[Chunk], language: Language = "english") -> Rank:
    """BM25 by an inverted index that skips passages which cannot rank high.

    It rounds the lengths of passages, as Lucene does, so its scores differ a little from those of bm25s.
    """
    with needs("scale", "backend 'tantivy'"):
        import tantivy
    builder = tantivy.SchemaBuilder().add_text_field("words", tokenizer_name="whitespace", index_option="freq")
    schema = builder.add_integer_field("position", stored=True).build()
    index = tantivy.Index(schema)
    writer = index.writer(heap_size=256 << 20, num_threads=1)
    for start in range(0, len(chunks), 10_000):
        stems = words([indexed_text(chunk) for chunk in chunks[start : start + 10_000]], language)
        for position, text in enumerate(stems, start):
            writer.add_document(tantivy.Document(words=" ".join(text), position=position))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    searcher = index.searcher()

    def find(stems: list[str], k: int) -> list[tuple[int, float]]:
        clauses = []
        for word, count in Counter(stems).items():
            term = tantivy.Query.term_query(schema, "words", word, index_option="freq")
            clauses.append((tantivy.Occur.Should, tantivy.Query.boost_query(term, float(count))))
        query, width = tantivy.Query.boolean_query(clauses), k
        while True:  # ties for the last place are cut off arbitrarily, so look further
            width = min(2 * width, len(chunks))
            hits = searcher.search(query, width, count=False).hits
            if len(hits) < width or width == len(chunks) or hits[-1][0] < hits[k - 1][0]:
                break
        best = sorted((-score, searcher.doc(address)["position"][0]) for score, address in hits)
        return [(position, -score) for score, position in best[:k]]

    return lambda queries, k: [find(stems, k) for stems in words(queries, language)]


def build_index(kind: str, vectors) -> tuple:
    """A FAISS index of `vectors`, float32 (n, d), by inner product, and the same on a GPU where "flat" can use one.

    "flat" is exact. "sq8" keeps all vectors in a quarter of the memory and is nearly exact. "hnsw" is a graph whose
    queries hardly slow down as it grows, but it takes minutes to build and misses some of the nearest.
    """
    import faiss

    name = {"flat": "Flat", "sq8": "SQ8", "hnsw": "HNSW32"}[kind]
    store = faiss.index_factory(vectors.shape[1], name, faiss.METRIC_INNER_PRODUCT)
    threads = faiss.omp_get_max_threads()
    if kind == "hnsw":
        store.hnsw.efSearch = 256  # finds 98% of the nearest five among 100,000; FAISS's default of 16 finds 86%
        faiss.omp_set_num_threads(1)  # threads would race for the edges of the graph: no two builds would be the same
    store.train(vectors)
    store.add(vectors)
    faiss.omp_set_num_threads(threads)
    if kind == "flat" and faiss.get_num_gpus():
        return store, faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, store)
    return store, store
