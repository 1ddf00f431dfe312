"""Engines that match words: BM25."""

from collections.abc import Sequence

from rezero.corpus import Chunk
from rezero.search.core import Search, indexed_text, ranked, top


def bm25(chunks: Sequence[Chunk], k1: float = 1.5, b: float = 0.75) -> Search:
    """BM25 as Lucene computes it (Kamphuis et al. 2020), English stop words, Snowball stems; by bm25s."""
    import bm25s

    tokens = words([indexed_text(chunk) for chunk in chunks])
    if not any(tokens):  # bm25s cannot index a corpus without a single word
        return ranked(chunks, lambda queries, k: [((), ()) for _ in queries])
    index = bm25s.BM25(method="lucene", k1=k1, b=b)
    index.index(tokens, show_progress=False)

    def rank(queries: list[str], k: int):
        ranked = []
        for query in words(queries):
            scores = index.get_scores_from_ids(index.get_tokens_ids(query))
            best = top(scores, k)
            ranked.append((best, scores[best]))
        return ranked

    return ranked(chunks, rank)


def words(texts: list[str]) -> list[list[str]]:
    """The stems of every text's words of two or more letters or digits that are no stop words, in order."""
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")
    return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)
