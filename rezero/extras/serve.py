"""`python -m rezero serve`: an engine behind HTTP, in the protocol that Search-R1's clients speak.

`POST /retrieve {"queries": [...], "topk": int or null, "return_scores": bool}` answers
`{"result": [[{"document": {"id", "contents"}, "score"}, ...], ...]}`: one list per query, best first. Without scores
the lists hold the documents alone. `contents` is the title in quotes, a line end and the text. Search-R1's own server
goes wrong for 2 and 3 queries without scores, and repeats the last passage when topk exceeds the corpus; this one does
not. The protocol has no field for an episode, so every query counts as the first of one.
"""

import asyncio
import gc
import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from time import perf_counter

from rezero.corpus import load_chunks
from rezero.search import build_engine
from rezero.search.base import Engine, Hit, SearchError, needs

with needs("serve", "serving"):
    import uvicorn
    from fastapi import FastAPI, HTTPException, Request, Response

say = partial(print, flush=True)
MAX_BODY = 64 * 2**20  # bytes of a request


@dataclass(frozen=True)
class Limits:
    """What one request may ask for. `topk` is used where a request's topk is null."""

    topk: int = 3
    max_topk: int = 100
    max_queries: int = 4096
    max_length: int = 10_000  # characters of a query


def serve(name: str, corpus: str, options: dict, host: str, port: int, limits: Limits) -> None:
    """Serve the engine `name` over `corpus` until SIGINT or SIGTERM; port 0 is any free one.

    Raises:
        OSError: the address is in use, or the corpus cannot be read.
        ValueError: `build_engine` refuses the engine or its options.
    """
    listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    say(f"listening on http://{host}:{listener.getsockname()[1]}")
    # uvicorn handles both signals itself, and raises them once more when it has closed its connections.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    app = make_app(name, limits)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5))

    def load() -> None:
        start = perf_counter()
        try:
            chunks = load_chunks(corpus) if corpus else []
            app.state.passages = len(chunks)
            say(f"{perf_counter() - start:.1f} s: indexing {len(chunks)} passages for {name}")
            app.state.engine = build_engine(name, chunks, **options)
        except BaseException:
            server.should_exit = True
            raise
        gc.freeze()  # the index stays, so garbage collections between requests need not walk it
        say(f"{perf_counter() - start:.1f} s: ready")

    loading = app.state.worker.submit(load)
    server.run([listener])
    say("stopped")
    if not loading.done():
        os._exit(0)  # nothing else ends a thread that builds an index
    loading.result()


def make_app(name: str, limits: Limits = Limits()) -> FastAPI:
    """The server without its engine: until `app.state.engine` is set, /retrieve answers 503."""
    app = FastAPI(title="rezero")
    app.state.engine, app.state.passages = None, None
    app.state.worker = ThreadPoolExecutor(1)  # one thread loads and searches, so that engines need not be thread-safe

    @app.get("/health")
    async def health() -> dict:
        status = "ready" if app.state.engine else "loading"
        return {"status": status, "engine": name, "passages": app.state.passages}

    @app.post("/retrieve")
    async def retrieve(request: Request) -> Response:
        if app.state.engine is None:
            raise HTTPException(503, "the index is still being loaded; see /health", {"Retry-After": "5"})
        try:
            asked = parse(await read_body(request), limits)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        loop = asyncio.get_running_loop()
        try:
            body = await loop.run_in_executor(app.state.worker, answer, app.state.engine, *asked)
        except SearchError as error:
            raise HTTPException(502, f"the engine {name} failed: {error}") from error
        return Response(body, media_type="application/json")

    return app


async def read_body(request: Request) -> bytearray:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise ValueError(f"the request has more than {MAX_BODY} bytes")
    return body


def parse(body: bytes | bytearray, limits: Limits) -> tuple[list[str], int, bool]:
    """queries, topk and return_scores of a request. A ValueError says in one line what is wrong with it."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the request is not JSON: {error}") from None
    if not isinstance(request, dict):
        raise ValueError(f"the request is a {type(request).__name__}; want an object with queries, topk, return_scores")
    queries, topk, scored = (request.get(field) for field in ("queries", "topk", "return_scores"))
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise ValueError("queries is not a list of strings")
    if len(queries) > limits.max_queries:
        raise ValueError(f"{len(queries)} queries; at most {limits.max_queries} are allowed")
    longest = max(map(len, queries), default=0)
    if longest > limits.max_length:
        raise ValueError(f"a query has {longest} characters; at most {limits.max_length} are allowed")
    topk = limits.topk if topk is None else topk
    if type(topk) is not int or not 1 <= topk <= limits.max_topk:
        raise ValueError(f"topk is {topk!r:.40}; want null or an integer from 1 to {limits.max_topk}")
    if scored not in (None, False, True):
        raise ValueError(f"return_scores is {scored!r:.40}; want true or false")
    return queries, topk, bool(scored)


def answer(engine: Engine, queries: list[str], topk: int, scored: bool) -> bytes:
    """The JSON reply. Non-ASCII characters are escaped, so that a lone surrogate of a passage stays legal."""

    def item(hit: Hit) -> str:
        text = document(hit.chunk_id, hit.title, hit.text)
        return f'{{"document": {text}, "score": {hit.score!r}}}' if scored else text

    lists = ", ".join(f"[{', '.join(map(item, hits))}]" for hits in engine.search(queries, topk))
    return f'{{"result": [{lists}]}}'.encode()


@lru_cache(10_000)  # turning passages into JSON takes a fifth of the time of a request
def document(id: str, title: str, text: str) -> str:
    first = title.replace("\n", " ")  # clients take the first line for the title
    return json.dumps({"id": id, "contents": f'"{first}"\n{text}'})
