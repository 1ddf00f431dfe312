"""Build time, memory, Recall@k and queries/s of the engines by size of the corpus, beside the libraries they use.

    python tests/tools/bench_engines.py [--sizes 1000 10000 100000] [--only dense] [--k 5] [--threads 1]

Passages are made of sentences of the shipped corpus with invented names. A query consists of some words of one
sentence, and the passage that it was taken from is to be found (known-item search). Each row runs in its own process.

Rows marked * are not ours: rank-bm25, SQLite's FTS5, bm25s, FAISS and numpy, called as their documentation shows. The
build time of a dense row excludes the encoding of passages, which is the row "embeddings". "MB" is the growth of the
process. Queries come in batches of 64, each asked once. The last table compares `Engine.search` with the bare library.
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
from functools import lru_cache
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import pandas as pd

from rezero.corpus import Chunk, load_chunks
from rezero.search import build_engine
from rezero.search.base import Engine, indexed_text
from rezero.search.bm25 import words
from rezero.search.embedders import EMBEDDERS, embed, load_embedder
from rezero.text import keywords

BATCH, QUERIES, SECONDS = 64, 512, 30  # queries per call; at most so many queries, and so long, per row
ROUNDS = 105  # of the comparison with the bare library; the first five warm up
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "ar", "en", "ol")]
ENGINES = {  # row -> engine and options; the sizes up to which it is measured
    "bm25 (bm25s)": ("bm25", {"backend": "bm25s"}, 100_000),
    "bm25 (tantivy)": ("bm25", {"backend": "tantivy"}, 10**7),
    "keyword": ("keyword", {}, 10**7),
    "dense (flat)": ("dense", {"index": "flat"}, 10**7),
    "dense (hnsw)": ("dense", {"index": "hnsw"}, 10**7),
    "dense (sq8)": ("dense", {"index": "sq8"}, 10**7),
    "hybrid": ("hybrid", {}, 10**6),
}


def make_passages(n: int) -> list[Chunk]:
    """`n` passages of three sentences with names of their own; a name stands in about ten passages."""
    rng = random.Random(n)
    texts = [chunk.text for chunk in load_chunks("data/larkspur/chunks.jsonl")]
    sentences = sorted({sentence for text in texts for sentence in re.split(r"(?<=[.!?]) ", text)})
    name = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{3,}")
    names = ["".join(rng.choices(SYLLABLES, k=4)).capitalize() for _ in range(max(100, n // 3))]
    passages = []
    for i in range(n):
        text = name.sub(lambda _: rng.choice(names), " ".join(rng.sample(sentences, 3)))
        passages.append(Chunk(str(i), f"Note {i % 97}", text))
    return passages


def make_queries(passages: list[Chunk]) -> list[tuple[str, str]]:
    """Pairs of a query and the id of the passage it was made from."""
    rng = random.Random(0)
    queries = []
    for passage in rng.choices(passages, k=QUERIES):
        found = keywords(rng.choice(passage.text.split(". "))).split()
        queries.append((" ".join(rng.sample(found, max(1, len(found) * 2 // 3))), passage.id))
    return queries


def top_ids(scores, k: int) -> list[str]:
    return [str(i) for i in np.argpartition(-scores, min(k, len(scores) - 1))[:k]]


def rank_bm25(passages, k, cache):
    from rank_bm25 import BM25Okapi

    index = BM25Okapi(words([indexed_text(passage) for passage in passages]))
    return lambda queries: [top_ids(index.get_scores(query), k) for query in words(queries)]


def fts5(passages, k, cache):
    store = sqlite3.connect(":memory:")
    store.execute("CREATE VIRTUAL TABLE t USING fts5(text, tokenize='porter unicode61')")
    rows = ((int(passage.id), indexed_text(passage)) for passage in passages)
    store.executemany("INSERT INTO t(rowid, text) VALUES (?, ?)", rows)
    sql = "SELECT rowid FROM t WHERE t MATCH ? ORDER BY rank LIMIT ?"

    def search(query: str) -> list[str]:
        any_word = " OR ".join(f'"{word}"' for word in query.split())
        return [str(row[0]) for row in store.execute(sql, (any_word, k))]

    return lambda queries: [search(query) for query in queries]


def bare_bm25s(passages, k, cache):
    import bm25s

    index = bm25s.BM25(method="lucene")
    index.index(words([indexed_text(passage) for passage in passages]), show_progress=False)
    return lambda queries: index.retrieve(words(queries), k=k, show_progress=False).documents.astype(str).tolist()


def vectors_of(passages, cache):
    return embed([indexed_text(passage) for passage in passages], "wordllama", load_embedder("wordllama"), cache)


def numpy_brute_force(passages, k, cache):
    vectors, encode = vectors_of(passages, cache), load_embedder("wordllama")
    return lambda queries: [top_ids(scores, k) for scores in encode(queries) @ vectors.T]


def bare_faiss(passages, k, cache, index=None):
    import faiss

    encode = load_embedder("wordllama")
    if index is None:
        vectors = vectors_of(passages, cache)
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
    return lambda queries: [[passages[i].id for i in row] for row in index.search(encode(queries), k)[1].tolist()]


BARE = {  # row -> function (passages, k, cache) -> search; the sizes up to which it is measured
    "* rank-bm25": (rank_bm25, 100_000),
    "* bm25s": (bare_bm25s, 100_000),
    "* SQLite FTS5": (fts5, 10**7),
    "* FAISS flat": (bare_faiss, 10**7),
    "* numpy brute force": (numpy_brute_force, 10**7),
}


def prepare(row: str, passages: list[Chunk], k: int, cache: str | None):
    """The search of a row: queries -> ids."""
    if row in BARE:
        return BARE[row][0](passages, k, cache)
    made = build_row(row, passages, cache)
    return lambda queries: [[hit.chunk_id for hit in hits] for hits in made.search(queries, k)]


def build_row(row: str, passages: list[Chunk], cache: str | None) -> Engine:
    name, options, _ = ENGINES[row]
    if name == "dense":
        options = options | {"cache": cache}
    if name == "hybrid":
        options = {"engines": ["bm25", {"engine": "dense", "cache": cache}]}
    return build_engine(name, passages, **options)


def resident() -> float:
    """Memory of this process in MB."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(job: tuple) -> dict:
    """One row of the table."""
    row, n, k, cache, threads = job
    set_threads(threads)
    passages = make_passages(n)
    queries = make_queries(passages)
    if row == "embeddings":
        vectors_of(passages[:2], None)
        memory, start = resident(), perf_counter()
        kept = vectors_of(passages, cache)
        return {"passages": n, "row": row, "build s": perf_counter() - start, "MB": resident() - memory + 0 * len(kept)}
    prepare(row, passages[:100], k, None)(["a word"])  # imports and models are not counted as the index's
    memory, start = resident(), perf_counter()
    search = prepare(row, passages, k, cache)
    built, memory = perf_counter() - start, resident() - memory
    found, start = [], perf_counter()
    for first in range(0, len(queries), BATCH):
        found += search([query for query, _ in queries[first : first + BATCH]])
        if perf_counter() - start > SECONDS:
            break
    seconds = perf_counter() - start
    recall = {f"R@{at}": np.mean([gold in ids[:at] for ids, (_, gold) in zip(found, queries, strict=False)])
              for at in (1, k)}  # fmt: skip
    return {"passages": n, "row": row, "build s": built, "MB": memory, **recall, "queries/s": len(found) / seconds}


def overhead(job: tuple) -> dict:
    """The cost of `Engine.search` over the bare library, for the same queries and k, with nothing remembered.

    Texts are embedded beforehand, for both. Both search the same FAISS index, because of two copies the one whose rows
    begin with a line of the processor's cache is a fifth faster. "plain" is FAISS with its own threshold for products
    of matrices, "set" with that of `dense`; for BM25 they are the same. "gain" is that of ours, set, over bare, plain.
    Shares are medians over rounds of CPU time, since other work on the machine slows all calls of a round; "spread" is
    half the distance of their quartiles.
    """
    import faiss

    ours, bare, n, k, cache, threads = job
    set_threads(threads)
    encode, make, indexes, settings = load_embedder("wordllama"), faiss.IndexFlatIP, [], faiss.cvar
    known = lru_cache(lambda *texts: encode(list(texts)))
    EMBEDDERS["wordllama"] = lambda: lambda texts: known(*texts)
    faiss.IndexFlatIP = lambda width: indexes.append(make(width)) or indexes[-1]
    passages = make_passages(n)
    queries = [query for query, _ in make_queries(passages)][:BATCH]
    plain = settings.distance_compute_blas_threshold
    made = build_row(ours, passages, cache)
    chosen = settings.distance_compute_blas_threshold
    search = BARE[bare][0](passages, k, cache, *indexes)

    def cost(call, threshold: int) -> float:
        settings.distance_compute_blas_threshold = threshold
        start = process_time()
        call(queries)
        return (process_time() - start) / BATCH * 1e6

    def mine(queries):
        return Engine(ours, made._search).search(queries, k)

    calls = [(call, threshold) for threshold in (plain, chosen) for call in (search, mine)]
    costs = np.array([[cost(*call) for call in calls] for _ in range(ROUNDS)])[5:].T
    row = {"passages": n, "ours": ours, "bare": bare, "gain": np.median(costs[0] / costs[3]) - 1}
    for name, (theirs, own) in (("plain", costs[:2]), ("set", costs[2:])):
        low, share, high = np.quantile(own / theirs - 1, (0.25, 0.5, 0.75))
        row |= {f"{name}: bare, us/query": np.median(theirs), f"{name}: ours, us/query": np.median(own)}
        row |= {f"{name}: overhead": share, f"{name}: spread": (high - low) / 2}
    return row


def apart(function, job: tuple) -> dict:
    """`function(job)` in a new process: its memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, job).result()


def set_threads(threads: int) -> None:
    import faiss

    faiss.omp_set_num_threads(threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    limits = {"embeddings": 10**7} | {row: one[-1] for row, one in {**ENGINES, **BARE}.items()}
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for n in args.sizes:
            for row, limit in limits.items():
                if n <= limit and (args.only in row or row == "embeddings"):
                    rows.append(apart(measure, (row, n, args.k, cache, args.threads)))
                    print(rows[-1], flush=True)
        pairs = [("bm25 (bm25s)", "* bm25s"), ("dense (flat)", "* FAISS flat")]
        jobs = [(*pair, 10_000, args.k, cache, args.threads) for pair in pairs if args.only in pair[0]]
        costs = [apart(overhead, job) for job in jobs]
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3g}".format, na_rep=""))
    print(pd.DataFrame(costs).to_string(index=False, float_format="{:.3g}".format))


if __name__ == "__main__":
    main()
