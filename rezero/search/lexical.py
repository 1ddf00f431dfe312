"""Engines that match words: BM25, and a keyword search with operators."""

import logging
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import chain

from rezero.corpus import Chunk
from rezero.search.core import Rank, Search, clean, indexed_text, needs, ranked, top

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


TERM = re.compile(r'(-?)(title:(?=\S))?(?:"([^"]*)"|(\S+))')
MATCHING = "SELECT rowid FROM passages WHERE passages MATCH ?"


def keyword(chunks: Sequence[Chunk]) -> Search:
    """Words with operators that are honoured, ranked by BM25 (k1 1.2, b .75, Porter stems) in SQLite's FTS5.

    A passage must have every "phrase", every `title:word`, both sides of AND and one side of OR (which binds closer),
    and no `-word`; plain words only rank, and one of them is enough when nothing else is asked for. What is no operator
    where it stands (an unbalanced quote, a lone AND, brackets) is a word or nothing.
    """
    store = sqlite3.connect(":memory:", check_same_thread=False)
    store.execute("CREATE VIRTUAL TABLE passages USING fts5(title, text, content='', tokenize='porter unicode61')")
    rows = ((position, clean(chunk.title), clean(chunk.text)) for position, chunk in enumerate(chunks))
    store.executemany("INSERT INTO passages(rowid, title, text) VALUES (?, ?, ?)", rows)

    def rank(queries: list[str], k: int):
        return [find(k, *parse(query.replace("\0", " "))) for query in queries]

    def find(k: int, terms: list[str], needed: list[str], banned: list[str]):
        asked = {
            "passages MATCH ?": " OR ".join(terms),
            f"rowid IN ({MATCHING})": " AND ".join(needed),
            f"rowid NOT IN ({MATCHING})": " OR ".join(banned),
        }
        where = " AND ".join(condition for condition, value in asked.items() if value)
        sql = f"SELECT rowid, -rank FROM passages WHERE {where} ORDER BY rank, rowid LIMIT ?"
        rows = store.execute(sql, (*filter(None, asked.values()), k)).fetchall() if terms else ()
        return [position for position, _ in rows], [score for _, score in rows]

    return ranked(chunks, rank)


def parse(query: str) -> tuple[list[str], list[str], list[str]]:
    """What ranks passages, what they must match, and what they must not: FTS5 expressions, every term quoted."""
    clauses, banned, operator = [], [], ""  # a clause: whether it must match, and its alternatives
    for minus, field, phrase, word in TERM.findall(query):
        if word in ("AND", "OR") and clauses and not (minus or field):
            operator = word
            continue
        term = (field, phrase or word)
        if not any(map(str.isalnum, term[1])):
            continue
        if minus:
            banned.append(quoted(*term))
        elif operator == "OR":
            clauses[-1] = (True, [*clauses[-1][1], term])
        else:
            if operator == "AND":
                clauses[-1] = (True, clauses[-1][1])
            clauses.append((bool(field or phrase or operator), [term]))
        operator = ""
    needed = [[quoted(*term) for term in terms] for must, terms in clauses if must]
    plain = [piece for must, terms in clauses if not must for piece in pieces(terms[0][1])]
    terms = dict.fromkeys([*chain(*needed), *plain, *pieces(operator)])
    return list(terms), [f"({' OR '.join(terms)})" for terms in needed], banned


def pieces(text: str) -> Iterator[str]:
    """The quoted words of a plain term; one with punctuation inside is several words."""
    return (quoted("", word) for word in re.findall(r"\w+", text) if any(map(str.isalnum, word)))


def quoted(field: str, text: str) -> str:
    """One FTS5 phrase, of at most 100 words (more take seconds); inside its quotes nothing is an operator."""
    doubled = " ".join(text.split()[:100]).replace('"', '""')
    return f'{field} "{doubled}"'.strip()
