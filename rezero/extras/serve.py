"""`python -m rezero serve`: an engine behind HTTP, in the protocol that Search-R1's clients speak.

`POST /retrieve {"queries": [...], "topk": int or null, "return_scores": bool}` answers
`{"result": [[{"document": {"id", "contents"}, "score"}, ...], ...]}`, one list a query, best first; without scores the
lists hold the documents alone. `contents` is the title in quotes, a line end and the text. Search-R1's own server goes
wrong for 2 and 3 queries without scores, and repeats the last passage when topk exceeds the corpus; this one does not.
The protocol does not tell who asks, so every query counts as somebody's first.
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

from rezero.corpus import read_corpus
from rezero.search import build_engine
from rezero.search.base import Engine, Hit, SearchError

try:
    import uvicorn
    from fastapi import FastAPI, HTTPException, Request, Response
except ImportError as error:
    raise ImportError(f"serving needs more packages: pip install 'rezero[serve]' ({error})") from error

say = partial(print, flush=True)

MAX_BODY = 64 * 2**20  # bytes of a request


@dataclass(frozen=True)
class Limits:
    """What one request may ask for; `topk` stands in for a topk of null."""

    topk: int = 3
    max_topk: int = 100
    max_queries: int = 4096
    max_length: int = 10_000  # characters of a query


def serve(name: str, corpus: str, options: dict, host: str, port: int, limits: Limits) -> None:
    """Serve the engine `name` over `corpus` until SIGINT or SIGTERM; port 0 is any free one.

    Raises:
        OSError: the address is in use, or the corpus cannot be read.
        ValueError: what `build_engine` refuses.
    """
    listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    say(f"listening on http://{host}:{listener.getsockname()[1]}")
    # uvicorn handles both, and raises them once more when it has closed its connections.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    asyncio.run(_serve(make_app(name, limits), name, corpus, options, listener))


async def _serve(app: FastAPI, name: str, corpus: str, options: dict, listener: socket.socket) -> None:
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5))
    serving = asyncio.create_task(server.serve([listener]))
    loading = asyncio.create_task(load(app, name, corpus, options))
    await asyncio.wait([serving, loading], return_when=asyncio.FIRST_COMPLETED)
    if loading.done() and loading.exception():
        server.should_exit = True
    await serving
    say("stopped")
    if not loading.done():
        os._exit(0)  # nothing else ends a thread that builds an index
    loading.result()


async def load(app: FastAPI, name: str, corpus: str, options: dict) -> None:
    """Build the engine in the app's thread, and tell how far it is."""

    def build() -> Engine:
        chunks = read_corpus(corpus) if corpus else []
        app.state.passages = len(chunks)
        say(f"{elapsed()}: indexing {len(chunks)} passages for {name}")
        return build_engine(name, chunks, **options)

    def elapsed() -> str:
        return f"{perf_counter() - start:.1f} s"

    start = perf_counter()
    building = asyncio.get_running_loop().run_in_executor(app.state.worker, build)
    while not (await asyncio.wait([building], timeout=10))[0]:
        say(f"{elapsed()}: still loading")
    app.state.engine = building.result()
    gc.freeze()  # the index stays, so garbage collections between requests need not walk it
    say(f"{elapsed()}: ready")


def make_app(name: str, limits: Limits = Limits()) -> FastAPI:
    """The server without its engine: `app.state.engine` is None, and /retrieve answers 503, until `load` is done."""
    app = FastAPI(title="rezero")
    app.state.engine, app.state.passages = None, None
    # One thread loads and searches, so that no engine has to be safe for several.
    worker = app.state.worker = ThreadPoolExecutor(1)

    @app.get("/health")
    async def health() -> dict:
        status = "ready" if app.state.engine else "loading"
        return {"status": status, "engine": name, "passages": app.state.passages}

    @app.post("/retrieve")
    async def retrieve(request: Request) -> Response:
        if app.state.engine is None:
            raise HTTPException(503, "the index is still being loaded; see /health", {"Retry-After": "5"})
        try:
            queries, topk, scored = read_request(await read_body(request), limits)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        job = (app.state.engine, queries, topk, scored)
        try:
            body = await asyncio.get_running_loop().run_in_executor(worker, answer, *job)
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


def read_request(body: bytes | bytearray, limits: Limits) -> tuple[list[str], int, bool]:
    """queries, topk and return_scores of a request; a ValueError names what is wrong with it."""
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
    if (longest := max(map(len, queries), default=0)) > limits.max_length:
        raise ValueError(f"a query has {longest} characters; at most {limits.max_length} are allowed")
    topk = limits.topk if topk is None else topk
    if type(topk) is not int or not 1 <= topk <= limits.max_topk:
        raise ValueError(f"topk is {repr(topk)[:40]}; want null or an integer from 1 to {limits.max_topk}")
    if scored not in (None, False, True):
        raise ValueError(f"return_scores is {repr(scored)[:40]}; want true or false")
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
