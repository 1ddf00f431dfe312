"""Queries per second of the server, beside raw bm25s in the same run: `python tests/tools/bench_serve.py`.

The server runs in its own process with bm25 over generated passages; one client on loopback keeps its connection and
reads every reply. No query is asked twice, so no cache helps. Rounds of both alternate, since other work on the machine
slows both; medians are printed.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import bm25s
import Stemmer
import urllib3
from bench_engines import make_passages, make_queries

from rezero.corpus import Chunk, save_chunks
from rezero.files import ROOT
from rezero.search.base import indexed_text

TOPK, QUERIES = 3, 4000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, default=2600)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    chunks = make_passages(args.passages)
    queries = sorted({query for query, _ in make_queries(chunks, QUERIES)})
    single, rates = raw_bm25s(chunks), []
    with tempfile.TemporaryDirectory() as folder:
        corpus = save_chunks(Path(folder) / "chunks.jsonl", chunks)
        command = [sys.executable, "-m", "rezero", "serve", "--corpus", str(corpus), "--port", "0"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
            try:
                url = re.search("http://.*", server.stdout.readline())[0]
                while not server.stdout.readline().endswith("ready\n"):
                    pass
                asked = client(f"{url}/retrieve", args.batch)
                for number in range(args.rounds):
                    mine = queries[number :: args.rounds]
                    rates.append((timed(single, mine[: len(mine) // 4]), timed(asked, mine)))
            finally:
                server.terminate()
                server.communicate()
    raw, served = (median(column) for column in zip(*rates, strict=True))
    print(f"{len(chunks)} passages, top {TOPK}, median of {args.rounds} rounds; queries per second:")
    print(f"  raw bm25s, one query at a time      {raw:8,.0f}")
    print(f"  server, {args.batch} queries per request      {served:8,.0f}   {served / raw:.2f} times raw bm25s")


def raw_bm25s(chunks: list[Chunk]):
    """bm25s as its own documentation uses it."""
    options = {"stopwords": "en", "stemmer": Stemmer.Stemmer("english"), "show_progress": False}
    index = bm25s.BM25()
    index.index(bm25s.tokenize([indexed_text(chunk) for chunk in chunks], **options), show_progress=False)

    def search(queries: list[str]) -> None:
        for query in queries:
            index.retrieve(bm25s.tokenize(query, **options), k=TOPK, show_progress=False)

    return search


def client(url: str, batch: int):
    pool = urllib3.PoolManager(headers={"Content-Type": "application/json"}, retries=False)

    def search(queries: list[str]) -> None:
        for start in range(0, len(queries), batch):
            body = json.dumps({"queries": queries[start : start + batch], "topk": TOPK, "return_scores": True})
            found = pool.request("POST", url, body=body).json()["result"]
            assert len(found) == len(queries[start : start + batch])

    return search


def timed(search, queries: list[str]) -> float:
    started = perf_counter()
    search(queries)
    return len(queries) / (perf_counter() - started)


if __name__ == "__main__":
    main()
