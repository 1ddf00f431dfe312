"""`python -m rezero serve`: an engine behind HTTP, in the protocol that Search-R1's clients speak.

`POST /retrieve {"queries": [...], "topk": int or null, "return_scores": bool}` answers
`{"result": [[{"document": {"id", "contents"}, "score"}, ...], ...]}`: one list per query, best first. Without scores
the lists hold the documents alone. `contents` is the title in quotes, a line end and the text. The protocol has no
field for an episode, so every query counts as the first of one.
"""

import asyncio
import gc
import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter

from pydantic import BaseModel, Field, ValidationError

from rezero.corpus import find_chunks, load_chunks
from rezero.search import build_engine
from rezero.search.base import Hit, SearchError, needs

with needs("serve", "serving"):
    import uvicorn
    from fastapi import FastAPI, HTTPException, Request, Response

say = partial(print, flush=True)
MAX_BODY = 64 * 2**20  # bytes of a request


def serve(name: str, corpus: str, options: dict, host: str, port: int, **limits: int) -> None:
    """Serve an engine until SIGINT or SIGTERM. Port 0 is any free one; `limits` are those of `make_app`."""
    file = find_chunks(corpus) if corpus else None  # before anything listens
    listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else small replies wait 40 ms for an ACK
    say(f"listening on http://{host}:{listener.getsockname()[1]}")
    # uvicorn handles both signals itself, and raises them once more when it has closed its connections.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    app = make_app(name, **limits)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5))

    def load() -> None:
        start = perf_counter()
        try:
            chunks = load_chunks(file) if file else []
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


def make_app(name: str, topk=3, max_topk=100, max_queries=4096, max_length=10_000) -> FastAPI:
    """The server without its engine: until `app.state.engine` is set, /retrieve answers 503.

    `topk` is used where that of a request is null; `max_length` counts the characters of a query.
    """

    class Asked(BaseModel, strict=True):
        queries: list[str] = Field(max_length=max_queries)
        topk: int | None = Field(None, ge=1, le=max_topk)
        return_scores: bool | None = Field(None, strict=False)  # 1 and 0 are allowed, as by Search-R1

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
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                raise HTTPException(422, f"the request has more than {MAX_BODY} bytes")
        try:
            asked = Asked.model_validate(json.loads(body))
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            place = ".".join(map(str, wrong["loc"])) or "the request"
            raise HTTPException(422, f"{place} is {wrong['input']!r:.40}; {wrong['msg']}") from error
        except (ValueError, RecursionError) as error:
            raise HTTPException(422, f"the request is not JSON: {error}") from error
        longest = max(map(len, asked.queries), default=0)
        if longest > max_length:
            raise HTTPException(422, f"a query has {longest} characters; at most {max_length} are allowed")
        search = partial(app.state.engine.search, asked.queries, asked.topk or topk)
        try:
            found = await asyncio.get_running_loop().run_in_executor(app.state.worker, search)
        except SearchError as error:
            raise HTTPException(502, f"the engine {name} failed: {error}") from error
        result = [[item(hit, asked.return_scores) for hit in hits] for hits in found]
        # json.dumps escapes non-ASCII characters, so that a lone surrogate of a passage stays legal.
        return Response(json.dumps({"result": result}), media_type="application/json")

    return app


def item(hit: Hit, scored: bool | None) -> dict:
    title = hit.title.replace("\n", " ")  # clients take the first line for the title
    document = {"id": hit.chunk_id, "contents": f'"{title}"\n{hit.text}'}
    return {"document": document, "score": hit.score} if scored else document
