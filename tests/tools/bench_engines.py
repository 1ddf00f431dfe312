"""Build time, memory, Recall@k and queries/s of the engines by size of the corpus, beside the libraries they use.

    python tests/tools/bench_engines.py [--sizes 1000 10000 100000] [--only dense] [--k 5] [--threads 1]

Passages are made of sentences of the shipped corpus with invented names. A query consists of some words of one
sentence, and the passage that it was taken from is to be found (known-item search). Each row runs in its own process.

Rows marked * are not ours: rank-bm25, SQLite's FTS5, bm25s, FAISS and numpy, called as their documentation shows. The
build time of a dense row excludes the encoding of passages, which is the row "embeddings". "MB" is the growth of the
process. Queries come in batches of 64, each asked once.
"""

import argparse
import gc
import multiprocessing
import os
import random
import re
import sqlite3
import tempfile
from concurrent.futures import ProcessPoolExecutor
from time import perf_counter

import numpy as np
import pandas as pd
import psutil

from rezero.corpus import Chunk, load_chunks
from rezero.search import build_engine
from rezero.search.base import indexed_text
from rezero.search.bm25 import words
from rezero.search.dense import embed, load_embedder
from rezero.text import keywords

BATCH, QUERIES, SECONDS = 64, 512, 30  # queries per call; at most so many queries, and so long, per row
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "ar", "en", "ol")]


def make_passages(n: int) -> list[Chunk]:
    """`n` passages of three sentences with names of their own; a name stands in about ten passages."""
    rng = random.Random(n)
    texts = [chunk.text for chunk in load_chunks("data/larkspur/chunks.jsonl")]
    sentences = sorted({sentence for text in texts for sentence in re.split(r"(?<=[.!?]) ", text)})
    names = ["".join(rng.choices(SYLLABLES, k=4)).capitalize() for _ in range(max(100, n // 3))]
    passages = []
    for i in range(n):
        text = re.sub(r"(?<=[a-z,] )[A-Z][a-z]{3,}", lambda _: rng.choice(names), " ".join(rng.sample(sentences, 3)))
        passages.append(Chunk(str(i), f"Note {i % 97}", text))
    return passages


def make_queries(passages: list[Chunk], n: int) -> list[tuple[str, str]]:
    """`n` pairs of a query and the id of the passage it was made from."""
    rng = random.Random(0)
    queries = []
    for passage in rng.choices(passages, k=n):
        found = keywords(rng.choice(passage.text.split(". "))).split()
        queries.append((" ".join(rng.sample(found, max(1, len(found) * 2 // 3))), passage.id))
    return queries


def top_ids(scores, k: int) -> list[str]:
    return [str(i) for i in np.argpartition(-scores, min(k, len(scores) - 1))[:k]]


def rank_bm25(texts, k, cache):
    from rank_bm25 import BM25Okapi

    index = BM25Okapi(words(texts))
    return lambda queries: [top_ids(index.get_scores(query), k) for query in words(queries)]


def fts5(texts, k, cache):
    store = sqlite3.connect(":memory:")
    store.execute("CREATE VIRTUAL TABLE t USING fts5(text, tokenize='porter unicode61')")
    store.executemany("INSERT INTO t(rowid, text) VALUES (?, ?)", enumerate(texts))
    sql = "SELECT rowid FROM t WHERE t MATCH ? ORDER BY rank LIMIT ?"

    def search(query: str) -> list[str]:
        any_word = " OR ".join(f'"{word}"' for word in query.split())
        return [str(row[0]) for row in store.execute(sql, (any_word, k))]

    return lambda queries: [search(query) for query in queries]


def bare_bm25s(texts, k, cache):
    import bm25s

    index = bm25s.BM25(method="lucene")
    index.index(words(texts), show_progress=False)
    return lambda queries: index.retrieve(words(queries), k=k, show_progress=False).documents.astype(str).tolist()


def vectors_of(texts, cache):
    return embed(texts, "wordllama", load_embedder("wordllama"), cache)


def numpy_brute_force(texts, k, cache):
    vectors, encode = vectors_of(texts, cache), load_embedder("wordllama")
    return lambda queries: [top_ids(scores, k) for scores in encode(queries) @ vectors.T]


def bare_faiss(texts, k, cache):
    import faiss

    vectors, encode = vectors_of(texts, cache), load_embedder("wordllama")
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return lambda queries: index.search(encode(queries), k)[1].astype(str).tolist()


ROWS = {  # row -> engine and options, or function (texts, k, cache) -> search; the size up to which it is measured
    "bm25 (bm25s)": ("bm25", {"backend": "bm25s"}, 100_000),
    "bm25 (tantivy)": ("bm25", {"backend": "tantivy"}, 10**7),
    "keyword": ("keyword", {}, 10**7),
    "dense (flat)": ("dense", {"index": "flat"}, 10**7),
    "dense (hnsw)": ("dense", {"index": "hnsw"}, 10**7),
    "dense (sq8)": ("dense", {"index": "sq8"}, 10**7),
    "hybrid": ("hybrid", {}, 10**6),
    "* rank-bm25": (rank_bm25, None, 100_000),
    "* bm25s": (bare_bm25s, None, 100_000),
    "* SQLite FTS5": (fts5, None, 10**7),
    "* FAISS flat": (bare_faiss, None, 10**7),
    "* numpy brute force": (numpy_brute_force, None, 10**7),
}


def prepare(row: str, passages: list[Chunk], k: int, cache: str | None):
    """The search of a row: queries -> ids."""
    name, options, _ = ROWS[row]
    if callable(name):
        return name([indexed_text(passage) for passage in passages], k, cache)
    if name == "dense":
        options = options | {"cache": cache}
    if name == "hybrid":
        options = {"engines": ["bm25", {"engine": "dense", "cache": cache}]}
    made = build_engine(name, passages, **options)
    return lambda queries: [[hit.chunk_id for hit in hits] for hits in made.search(queries, k)]


def resident() -> float:
    """Memory of this process in MB."""
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


def measure(job: tuple) -> dict:
    """One row of the table."""
    row, n, k, cache, threads = job
    import faiss

    faiss.omp_set_num_threads(threads)
    passages = make_passages(n)
    if row == "embeddings":
        texts = [indexed_text(passage) for passage in passages]
        vectors_of(texts[:2], None)  # here and below, imports and models are not counted
        memory, start = resident(), perf_counter()
        kept = vectors_of(texts, cache)
        return {"passages": n, "row": row, "build s": perf_counter() - start, "MB": resident() - memory + 0 * len(kept)}
    prepare(row, passages[:100], k, None)(["a word"])
    memory, start = resident(), perf_counter()
    search = prepare(row, passages, k, cache)
    result = {"passages": n, "row": row, "build s": perf_counter() - start, "MB": resident() - memory}
    queries, found, start = make_queries(passages, QUERIES), [], perf_counter()
    while len(found) < len(queries) and perf_counter() - start < SECONDS:
        found += search([query for query, _ in queries[len(found) : len(found) + BATCH]])
    result["queries/s"] = len(found) / (perf_counter() - start)
    for at in (1, k):
        result[f"R@{at}"] = np.mean([gold in ids[:at] for ids, (_, gold) in zip(found, queries, strict=False)])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    rows, wanted = [], ["embeddings", *(row for row in ROWS if args.only in row)]
    with tempfile.TemporaryDirectory() as cache:
        for n in args.sizes:
            for row in wanted:
                if row in ROWS and n > ROWS[row][-1]:
                    continue
                # a process of its own, for its own memory
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    rows.append(pool.submit(measure, (row, n, args.k, cache, args.threads)).result())
                print(rows[-1], flush=True)
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3g}".format, na_rep=""))


if __name__ == "__main__":
    main()
