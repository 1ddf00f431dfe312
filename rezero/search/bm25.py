"""BM25: a passage matches by the words that it shares with the query."""

import warnings
from collections.abc import Sequence
from pkgutil import resolve_name
from typing import Literal

import bm25s
import Stemmer

from rezero.corpus import Chunk
from rezero.search import NotNegative, Share
from rezero.search.base import Search, indexed_text, ranked, top
from rezero.text import LETTER, pieces

Backend = Literal["auto", "bm25s", "tantivy"]
Language = Literal["none", *Stemmer.algorithms()]
# Words of at least two characters, and letters that stand alone ("Vitamin C"), not those of "it's" or "l'eau"
TOKEN = rf"\w(?:{LETTER}+|(?<![\d_])(?<!\w['’].)(?!['’]\w))"
BM25S_UNTIL = 100_000  # passages; bm25s scores each of them for every query, tantivy only those that may rank high


def bm25(
    chunks: Sequence[Chunk],
    k1: NotNegative = 1.5,
    b: Share = 0.75,
    backend: Backend = "auto",
    language: Language = "english",
) -> Search:
    """BM25 as Lucene computes it (Kamphuis et al. 2020), over the `words` of a `language` ("none": unstemmed).

    `backend` is "bm25s"; "tantivy" (see `extras.large`), with k1 1.2 and b 0.75; or "auto": tantivy above 100,000
    passages if it is installed and k1 and b are the defaults, else bm25s.
    """
    defaults = (k1, b) == (1.5, 0.75)
    if backend == "tantivy" and not defaults:
        raise ValueError(f"k1 is {k1} and b {b}, but tantivy's cannot be changed; want backend='bm25s'")
    if backend == "tantivy" or (backend == "auto" and defaults and len(chunks) > BM25S_UNTIL):
        try:
            return ranked(chunks, resolve_name("rezero.extras.large:by_tantivy")(chunks, language))
        except ImportError as error:
            if backend == "tantivy":
                raise
            warnings.warn(f"bm25s scores all {len(chunks)} passages for every query: {error}", stacklevel=2)
    tokens = words([indexed_text(chunk) for chunk in chunks], language)
    if not any(tokens):  # bm25s cannot index a corpus without a single word
        return ranked(chunks, lambda queries, k: [[] for _ in queries])
    index = bm25s.BM25(method="lucene", k1=k1, b=b)
    index.index(tokens, show_progress=False)

    def rank(queries: list[str], k: int) -> list[list[tuple]]:
        return [top(index.get_scores_from_ids(index.get_tokens_ids(query)), k) for query in words(queries, language)]

    return ranked(chunks, rank)


def words(texts: list[str], language: Language = "english") -> list[list[str]]:
    """The Snowball stems of each text's words, in order, without stop words of `language`, "I" and single digits.

    Scripts that are written without spaces, and Korean, are cut into overlapping pairs of characters.
    """
    stemmer = None if language == "none" else Stemmer.Stemmer(language)
    known = getattr(bm25s.stopwords, f"STOPWORDS_{'EN' if language == 'english' else language.upper()}", ())
    texts = [pieces(text, 2) for text in texts]
    return bm25s.tokenize(texts, True, TOKEN, ["i", *known], stemmer, return_ids=False, show_progress=False)
