"""Engines that match words: BM25, and a keyword search with operators."""

from collections import Counter
from collections.abc import Sequence

from rezero.corpus import Chunk
from rezero.search.base import Rank, indexed_text, needs
from rezero.search.bm25 import words


def by_tantivy(chunks: Sequence[Chunk]) -> Rank:
    """BM25 by tantivy, an inverted index that skips what cannot be among the best, over the stems of `words`."""
    with needs("scale", "backend 'tantivy'"):
        import tantivy
    schema = tantivy.SchemaBuilder().add_text_field("words", tokenizer_name="whitespace", index_option="freq")
    index = tantivy.Index(schema.add_integer_field("position", stored=True).build())
    writer = index.writer(heap_size=256 << 20, num_threads=1)
    for start in range(0, len(chunks), 10_000):
        stems = words([indexed_text(chunk) for chunk in chunks[start : start + 10_000]])
        for position, text in enumerate(stems, start):
            writer.add_document(tantivy.Document(words=" ".join(text), position=position))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    searcher, schema = index.searcher(), index.schema

    def clause(word: str, count: int):
        query = tantivy.Query.term_query(schema, "words", word, index_option="freq")
        return tantivy.Occur.Should, tantivy.Query.boost_query(query, float(count))

    def best(query, k: int) -> list[tuple[float, int]]:
        width = k
        while True:  # of documents that tie for the last place tantivy keeps those of the first segment: see them all
            width = min(2 * width, len(chunks))
            hits = searcher.search(query, width, count=False).hits
            if len(hits) < width or width == len(chunks) or hits[-1][0] < hits[k - 1][0]:
                return sorted((-score, searcher.doc(address)["position"][0]) for score, address in hits)[:k]

    def rank(queries: list[str], k: int):
        found = []
        for stems in words(queries):
            clauses = [clause(word, count) for word, count in Counter(stems).items()]
            hits = best(tantivy.Query.boolean_query(clauses), k) if clauses else []
            found.append(([position for _, position in hits], [-score for score, _ in hits]))
        return found

    return rank
