"""Engines that match words: BM25, and a keyword search with operators."""

import logging
from collections.abc import Sequence
from importlib.util import find_spec

from rezero.corpus import Chunk

by_tantivy = None
from rezero.search.base import Rank, Search, indexed_text, ranked, top

BM25S_UNTIL = 100_000  # passages; bm25s scores every one for a query, tantivy only what may be among the best


def bm25(chunks: Sequence[Chunk], k1: float = 1.5, b: float = 0.75, backend: str = "auto") -> Search:
    """BM25 as Lucene computes it (Kamphuis et al. 2020), English stop words, Snowball stems.

    Args:
        backend: "bm25s"; "tantivy", whose k1 is always 1.2 and b .75, and which rounds lengths as Lucene does; "auto":
            tantivy above 100,000 passages if it is installed and k1 and b are the defaults, else bm25s.
    """
    if backend not in ("auto", "bm25s", "tantivy"):
        raise ValueError(f"unknown backend {backend!r} of engine 'bm25'; have: auto, bm25s, tantivy")
    defaults = (k1, b) == (1.5, 0.75)
    if backend == "tantivy" and not defaults:
        raise ValueError(f"k1 is {k1} and b {b}: tantivy's cannot be changed; want backend='bm25s'")
    if backend == "auto" and defaults and len(chunks) > BM25S_UNTIL:
        if find_spec("tantivy"):
            backend = "tantivy"
        else:
            message = "bm25s scores all %d passages for every query; pip install 'rezero[scale]' for tantivy"
            logging.getLogger(__name__).warning(message, len(chunks))
    return ranked(chunks, by_tantivy(chunks) if backend == "tantivy" else by_bm25s(chunks, k1, b))


def by_bm25s(chunks: Sequence[Chunk], k1: float, b: float) -> Rank:
    """BM25 of every chunk, exact."""
    import bm25s

    tokens = words([indexed_text(chunk) for chunk in chunks])
    if not any(tokens):  # bm25s cannot index a corpus without a single word
        return lambda queries, k: [((), ()) for _ in queries]
    index = bm25s.BM25(method="lucene", k1=k1, b=b)
    index.index(tokens, show_progress=False)

    def rank(queries: list[str], k: int):
        found = []
        for query in words(queries):
            scores = index.get_scores_from_ids(index.get_tokens_ids(query))
            best = top(scores, k)
            found.append((best, scores[best]))
        return found

    return rank


def words(texts: list[str]) -> list[list[str]]:
    """The stems of every text's words of two or more letters or digits that are no stop words, in order."""
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")
    return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)
