"""Engines elsewhere: a retrieval server, the web, and services that scale out.

Without chunks they search what the service holds. Silence, a refusal or a reply of another shape is a `SearchError`,
whose text holds no tag, since the policy may read it.
"""

import json
import math
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlsplit

import urllib3
from pydantic import AfterValidator

from rezero.corpus import Chunk, split_contents
from rezero.search import AboveZero, Count, Number
from rezero.search.base import Hit, Hits, Search, SearchError, indexed_text, needs
from rezero.search.dense import CACHE, Embedder, embed, load_embedder, unit
from rezero.text import clean, redact

BUSY = (429, 500, 502, 503, 504)  # statuses after which asking again may help
MALFORMED = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError)
BULK = 500  # chunks per upload
MEMORY = ":memory:"  # instead of the URL of a Qdrant server


def check_url(url: str) -> str:
    if "@" in urlsplit(url).netloc:  # records and messages would repeat it
        raise ValueError(f"url {redact(url)!r:.80} had a user or password in it; want them in an environment variable")
    if not url.startswith(("http://", "https://", MEMORY)):
        raise ValueError(f"url is {redact(url)!r:.80}; want one that starts with http:// or https://")
    return url


Url = Annotated[str, AfterValidator(check_url)]


def http(
    chunks: Sequence[Chunk], url: Url = "http://127.0.0.1:8000/retrieve", timeout: AboveZero = 10, retries: Number = 3
) -> Search:
    """A client of the Search-R1 `/retrieve` protocol, which `python -m rezero serve` speaks.

    A hit whose id is among `chunks` is that chunk; title and text of any other are read from the reply. If a server
    sends no ids or scores, as Search-R1's for web search, the contents are the id and the score is 1 / rank. For a
    server with a password, set RETRIEVE_AUTH to "user:password".
    """
    known = {chunk.id: chunk for chunk in chunks}
    ask = connect(url, timeout, retries, urllib3.make_headers(basic_auth=os.environ.get("RETRIEVE_AUTH")))

    def fields(rank: int, item: dict) -> tuple:
        contents = item["document"]["contents"]
        id = str(item["document"].get("id", contents))
        chunk = known.get(id, Chunk(id, *split_contents(contents)))
        return id, chunk.title, chunk.text, item.get("score", 1 / rank)

    def search(queries: list[str], k: int, contexts) -> list[Hits]:
        request = {"queries": queries, "topk": k, "return_scores": True}
        return ask("", [request], lambda reply: best(fields, queries, reply["result"], k))

    return search


def web(
    chunks: Sequence[Chunk], url: Url = "https://google.serper.dev/search", timeout: AboveZero = 10, retries: Number = 3
) -> Search:
    """Live web search (Google, by serper.dev), with the key in SERPER_API_KEY; `chunks` are not used.

    The id of a hit is its address, the text its snippet, the score 1 / rank. Hits change from day to day.
    """
    key = os.environ.get("SERPER_API_KEY")
    if not key:
        raise ValueError("engine 'web' needs a key of serper.dev: set the environment variable SERPER_API_KEY")
    ask = connect(url, timeout, retries, {"X-API-KEY": key})

    def fields(rank: int, page: dict) -> tuple:
        return page["link"], page.get("title", ""), page.get("snippet", ""), 1 / rank

    def search(queries: list[str], k: int, contexts) -> list[Hits]:
        def one(query: str) -> Hits:
            request = {"q": query, "num": min(k, 100)}
            return ask("", [request], lambda reply: best(fields, [query], [reply.get("organic", [])], k)[0])

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(one, queries))

    return search


def opensearch(
    chunks: Sequence[Chunk],
    url: Url = "http://127.0.0.1:9200",
    index: str = "rezero",
    timeout: AboveZero = 10,
    retries: Number = 3,
) -> Search:
    """BM25 of an OpenSearch (or Elasticsearch) index: English stems, title and text in one field, as in `bm25`.

    `chunks` are uploaded first and replace those with the same id; a ValueError says that the index holds others, too.
    Without chunks it is searched as it is. For a server with a password, set OPENSEARCH_AUTH to "user:password".
    """
    login = urllib3.make_headers(basic_auth=os.environ.get("OPENSEARCH_AUTH"))
    ask = connect(f"{url.rstrip('/')}/{quote(index, safe='')}", timeout, retries, login)
    if chunks:
        mappings = {"dynamic": False, "properties": {"contents": {"type": "text", "analyzer": "english"}}}
        try:
            ask("", [{"mappings": mappings}], lambda reply: reply["acknowledged"], method="PUT")
        except SearchError as error:
            if "resource_already_exists" not in str(error):
                raise
        for start in range(0, len(chunks), BULK):
            lines = []
            for chunk in chunks[start : start + BULK]:
                texts = {"title": clean(chunk.title), "text": clean(chunk.text), "contents": indexed_text(chunk)}
                lines += [{"index": {"_id": clean(chunk.id)}}, texts]
            items = ask("/_bulk", lines, lambda reply: reply["errors"] and reply["items"])
            if items:
                errors = [item["index"]["error"] for item in items if "error" in item["index"]]
                raise SearchError(f"{url} refused chunks for the index {index!r}: {harmless(errors)}")
        ask("/_refresh", [], lambda reply: reply["_shards"])
        check_count(ask("/_count", [], lambda reply: int(reply["count"])), chunks, f"index {index!r}")

    def fields(rank: int, item: dict) -> tuple:
        return item["_id"], item["_source"]["title"], item["_source"]["text"], item["_score"]

    def search(queries: list[str], k: int, contexts) -> list[Hits]:
        lines, size = [], min(k, 10_000)  # an index allows 10,000 by default
        for query in queries:
            lines += [{}, {"size": size, "_source": ["title", "text"], "query": {"match": {"contents": query}}}]

        def read(reply: dict) -> list[Hits]:
            return best(fields, queries, [one["hits"]["hits"] for one in reply["responses"]], k)

        return ask("/_msearch", lines, read)

    return search


def qdrant(
    chunks: Sequence[Chunk],
    url: Url = MEMORY,
    collection: str = "rezero",
    embedder: Embedder = "wordllama",
    cache: str | Path | None = CACHE,
    timeout: Count = 10,
) -> Search:
    """Cosine similarity of embeddings in a Qdrant server, or in this process (":memory:", exact, for tests).

    `chunks` are uploaded as by `opensearch`, into a collection per embedder, `<collection>-<embedder>`. A key is read
    from QDRANT_API_KEY.
    """
    with needs("qdrant", "engine 'qdrant'"):
        from qdrant_client import QdrantClient, models
        from qdrant_client.http.exceptions import ApiException
    encode, name, key = load_embedder(embedder), f"{collection}-{embedder}", os.environ.get("QDRANT_API_KEY")
    try:
        client = QdrantClient(url, timeout=timeout, api_key=key, check_compatibility=False)
        if chunks:
            vectors = embed([indexed_text(chunk) for chunk in chunks], embedder, encode, cache)
            if not client.collection_exists(name):
                # The vectors have length 1, for which the dot product is the cosine. It also allows zero vectors.
                client.create_collection(name, models.VectorParams(size=vectors.shape[1], distance=models.Distance.DOT))
            payloads = [{"id": clean(c.id), "title": clean(c.title), "text": clean(c.text)} for c in chunks]
            ids = [str(uuid.uuid5(uuid.NAMESPACE_URL, payload["id"])) for payload in payloads]
            client.upload_collection(name, vectors, payloads, ids, batch_size=BULK, wait=True)
            check_count(client.count(name).count, chunks, f"collection {name!r}")
        elif not client.collection_exists(name):
            raise ValueError(f"{url} has no collection {name!r}, and there are no chunks to make one of")
    except ApiException as error:
        raise SearchError(f"Qdrant at {url}: {harmless(error)}") from None  # the error repeats the server's words

    def fields(rank: int, point) -> tuple:
        return point.payload["id"], point.payload["title"], point.payload["text"], point.score

    def search(queries: list[str], k: int, contexts) -> list[Hits]:
        limit = {"limit": k, "score_threshold": 1e-9, "with_payload": True}  # above 0: unknown words find nothing
        requests = [models.QueryRequest(query=vector, **limit) for vector in unit(encode(queries)).tolist()]
        try:
            found = client.query_batch_points(name, requests)
            return best(fields, queries, [one.points for one in found], k)
        except (ApiException, *MALFORMED) as error:
            raise SearchError(f"Qdrant at {url}: {harmless(error)}") from None

    return search


def connect(url: str, timeout: float, retries: int, headers: dict | None = None, backoff: float = 0.5) -> Callable:
    """`ask(path, lines, read, method="POST")`: send JSON objects, one per line, to `url + path`, and `read` the reply.

    A failed connection, `timeout` seconds of silence and the statuses in `BUSY` are tried again `retries` times: at
    once, then after `backoff` seconds, doubled each time, with jitter, or when the server says (at most `timeout`).
    """
    check_url(url)
    again = urllib3.Retry(
        retries,
        **dict(status_forcelist=BUSY, allowed_methods=None, raise_on_status=False, redirect=False),
        **dict(backoff_factor=backoff, backoff_jitter=backoff, retry_after_max=math.ceil(timeout)),
    )
    headers = {"Content-Type": "application/json"} | (headers or {})
    pool = urllib3.PoolManager(headers=headers, retries=again, timeout=timeout, maxsize=8)

    def ask(path: str, lines: Sequence[dict], read: Callable, method: str = "POST"):
        body = "".join(json.dumps(line) + "\n" for line in lines)
        try:
            response = pool.request(method, url + path, body=body)
        except urllib3.exceptions.HTTPError as error:
            said = harmless(getattr(error, "reason", error))
            raise SearchError(f"{url}{path} did not answer in {retries + 1} tries: {said}") from None
        said = harmless(response.data.decode("utf-8", "replace"))
        if response.status != 200:
            tries = len(response.retries.history) + 1
            raise SearchError(f"{url}{path} answered {response.status} after {tries} tries: {said}")
        try:
            return read(json.loads(response.data))
        except MALFORMED as error:
            raise SearchError(f"{url}{path} sent what cannot be read ({harmless(repr(error))}): {said}") from None

    return ask


def harmless(text: object) -> str:
    """The beginning of a stranger's text, without known secrets and, because the policy may read it, without tags."""
    return redact(clean(str(text)))[:200].replace("<", "‹")


def best(fields: Callable, queries: list[str], results: Sequence[Iterable], k: int) -> list[Hits]:
    """Per query the `k` best distinct hits of its result; `fields(rank, item)` returns id, title, text and score."""
    if len(results) != len(queries):
        raise ValueError(f"{len(results)} results of {len(queries)} queries")
    found = []
    for items in results:
        hits = {}
        for rank, item in enumerate(items, start=1):
            id, title, text, score = fields(rank, item)
            if not math.isfinite(score):
                raise ValueError(f"a score is {score}")
            hits.setdefault(clean(id), Hit(clean(id), clean(title), clean(text), float(score)))
        found.append(Hits(sorted(hits.values(), key=lambda hit: -hit.score)[:k]))
    return found


def check_count(count: int, chunks: Sequence[Chunk], place: str) -> None:
    if count != len(chunks):
        raise ValueError(f"{place} holds {count} chunks, not just the {len(chunks)} given; name another or delete it")
