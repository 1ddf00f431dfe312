"""Engines that match words: BM25, and a keyword search with operators."""

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from heapq import nlargest
from itertools import chain
from pathlib import Path

from rezero.corpus import Chunk, load_noise
from rezero.search import build_inner
from rezero.search.base import Hit, Hits, Search, SearchContext, around, chance, indexed_text, needs, ranked, top
from rezero.search.bm25 import words
from rezero.search.embedders import CACHE, embed, load_embedder, minilm_tokens
from rezero.text import clean

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

    return around(build_inner(engine, chunks), again, depth)


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

    return around(build_inner(engine, chunks), trimmed)


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
    return around(build_inner(engine, [*chunks, *wanted]), lambda query, hits: hits)


def mixture(chunks: Sequence[Chunk], engines: Sequence = ("bm25", "dense"), seed: int = 0) -> Search:
    """Every episode searches with one engine of several, drawn by `seed` and the episode's id; `Hits.engine` names it.

    The second of two engines with the same name is called "bm25 2".
    """
    if not engines:
        raise ValueError("a mixture is of no engine; want at least one")
    parts = [build_inner(spec, chunks) for spec in engines]
    names = [part.name for part in parts]
    labels = [f"{name} {n}" if (n := names[: i + 1].count(name)) > 1 else name for i, name in enumerate(names)]

    def search(queries: list[str], k: int, contexts: list[SearchContext]) -> list[Hits]:
        drawn = [int(chance(seed, context.question_id) * len(parts)) for context in contexts]
        found = [Hits()] * len(queries)
        for number, (part, label) in enumerate(zip(parts, labels, strict=True)):
            mine = [i for i, one in enumerate(drawn) if one == number]
            results = part.search([queries[i] for i in mine], k, [contexts[i] for i in mine])
            for i, hits in zip(mine, results, strict=True):
                found[i] = Hits(hits, label, hits.fault)
        return found

    search.by_context = True
    return search


def legacy(chunks: Sequence[Chunk], cache: str | Path | None = CACHE) -> Search:
    """ReZero's first engine with its mistake, only to reproduce it: passages pooled by their first token, queries by
    the mean of theirs, compared by distance. It ran e5-base-v2 without e5's prefixes; here MiniLM stands in, whose
    Recall@1 on the published questions falls from .49 to .28.
    """

    def first_tokens(texts: list[str]):
        return [tokens[0] for tokens in minilm_tokens(texts)]

    first = embed([indexed_text(chunk) for chunk in chunks], "minilm-first-token", first_tokens, cache)

    def rank(queries: list[str], k: int):
        means = [tokens.mean(axis=0) for tokens in minilm_tokens(queries)]
        closeness = [1 / (1 + ((first - mean) ** 2).sum(axis=1)) for mean in means]
        return [(best := top(scores, k), scores[best]) for scores in closeness]

    return ranked(chunks, rank)
