"""`python -m rezero serve`: an engine behind HTTP, in the protocol that Search-R1's clients speak.

`POST /retrieve {"queries": [...], "topk": int or null, "return_scores": bool}` answers
`{"result": [[{"document": {"id", "contents"}, "score"}, ...], ...]}`: one list per query, best first. Without scores
the lists hold the documents alone. `contents` is the title in quotes, a line end and the text. The protocol has no
field for an episode, so every query counts as the first of one.
"""

import asyncio
import gc
import json
import logging
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
    from starlette.requests import ClientDisconnect
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

say = partial(print, flush=True)
MAX_BODY = 16 * 2**20  # bytes of a request
PATIENCE = 10.0  # seconds in which a request must come
SLICE = 32  # queries searched at once; between slices, other requests have their turn


class Connection(AutoHTTPProtocol):
    """A connection that ends when a request does not come in time, however slowly it trickles in."""

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self.timer = self.loop.call_later(PATIENCE, transport.abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle and not (self.cycle.more_body or self.cycle.response_complete):  # all of it is there
            self.timer.cancel()
        elif self.timer.cancelled():
            self.timer = self.loop.call_later(PATIENCE, self.transport.abort)


def serve(engine: str, corpus: str, options: dict, host: str, port: int, **limits: int) -> None:
    """Serve an engine until SIGINT or SIGTERM. Port 0 is any free one; `limits` are those of `make_app`."""
    for limit, value, low, most in [("port", port, 0, 2**16), *((*pair, 1, 2**31) for pair in limits.items())]:
        if not low <= value < most:
            raise ValueError(f"--{limit.replace('_', '-')} {value}; want {low} to {most - 1}")
    file = find_chunks(corpus) if corpus else None  # before anything listens
    listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else small replies wait 40 ms for an ACK
    say(f"listening on http://{host}:{listener.getsockname()[1]}")
    # uvicorn handles both signals itself, and raises them once more when it has closed its connections.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    app = make_app(engine, **limits)
    settings = dict(log_level="warning", access_log=False, timeout_graceful_shutdown=2, http=Connection, ws="none")
    logging.getLogger("uvicorn.error").addFilter(lambda record: "timeout graceful shutdown" not in record.msg)
    server = app.state.server = uvicorn.Server(uvicorn.Config(app, **settings))

    def load() -> None:
        start = perf_counter()
        try:
            chunks = load_chunks(file) if file else []
            app.state.passages = len(chunks)
            say(f"{perf_counter() - start:.1f} s: indexing {len(chunks)} passages for {engine}")
            app.state.engine = build_engine(engine, chunks, **options)
        except BaseException:
            server.should_exit = True
            raise
        gc.freeze()  # the index stays, so garbage collections between requests need not walk it
        say(f"{perf_counter() - start:.1f} s: ready")

    loading = app.state.worker.submit(load)
    server.run([listener])
    if loading.done():
        loading.result()
    say("stopped")
    os._exit(0)  # nothing else ends a thread that works


def make_app(name: str, topk=3, max_topk=100, max_queries=4096, max_length=10_000, max_characters=1_000_000) -> FastAPI:
    """The server without its engine: until `app.state.engine` is set, /retrieve answers 503.

    `topk` is used where that of a request is null; `max_length` counts the characters of a query, `max_characters`
    those of a request. Nothing more is searched for a client that is gone.
    """

    class Asked(BaseModel, strict=True):
        queries: list[str] = Field(max_length=max_queries)
        topk: int | None = Field(None, ge=1, le=max_topk)
        return_scores: bool | None = Field(None, strict=False)  # 1 and 0 are allowed, as by Search-R1

    app = FastAPI(title="rezero")
    app.state.engine, app.state.passages, app.state.server = None, None, None
    app.state.worker = ThreadPoolExecutor(1)  # one thread loads and searches, so that engines need not be thread-safe

    @app.get("/health")
    async def health() -> dict:
        status = "ready" if app.state.engine else "loading"
        return {"status": status, "engine": name, "passages": app.state.passages}

    @app.post("/retrieve")
    async def retrieve(request: Request) -> Response:
        if app.state.engine is None:
            raise HTTPException(503, "the index is still being loaded; see /health", {"Retry-After": "5"})
        body, found = await body_of(request), []
        try:
            asked = Asked.model_validate(json.loads(body))
        except ValidationError as error:
            wrong = error.errors(include_url=False)[0]
            place = ".".join(map(str, wrong["loc"])) or "the request"
            raise HTTPException(422, f"{place} is {wrong['input']!r:.40}; {wrong['msg']}") from error
        except (ValueError, RecursionError) as error:
            raise HTTPException(422, f"the request is not JSON: {error}") from error
        lengths = [len(query) for query in asked.queries] or [0]
        if max(lengths) > max_length or sum(lengths) > max_characters:
            has = f"the queries have up to {max(lengths)} characters, {sum(lengths)} in all"
            raise HTTPException(422, f"{has}; allowed: {max_length} and {max_characters}")
        try:
            for start in range(0, len(lengths), SLICE):
                if await request.is_disconnected() or app.state.server.should_exit:
                    raise asyncio.CancelledError
                some = partial(search, asked, asked.queries[start : start + SLICE])
                found.append(await asyncio.get_running_loop().run_in_executor(app.state.worker, some))
        except SearchError as error:
            raise HTTPException(502, f"the engine {name} failed: {error}") from error
        except asyncio.CancelledError:  # uvicorn cancels what has not ended soon after a signal
            raise HTTPException(503, "the server stops") from None
        return Response(f'{{"result": [{", ".join(filter(None, found))}]}}', media_type="application/json")

    def search(asked: Asked, queries: list[str]) -> str:
        hits = app.state.engine.search(queries, asked.topk or topk)
        # json.dumps escapes non-ASCII characters, so that a lone surrogate of a passage stays legal.
        return json.dumps([[item(hit, asked.return_scores) for hit in one] for one in hits])[1:-1]

    return app


async def body_of(request: Request) -> bytearray:
    """The bytes of a request; HTTPException if they do not come in time or are too many."""
    body = bytearray()
    try:
        async for part in request.stream():  # to its end: who is still sending does not see an answer
            body += part if len(body) <= MAX_BODY else b""
    except (ClientDisconnect, asyncio.CancelledError):
        raise HTTPException(408, "the request did not come in time") from None
    if len(body) > MAX_BODY:
        raise HTTPException(422, f"the request has more than {MAX_BODY} bytes")
    return body


def item(hit: Hit, scored: bool | None) -> dict:
    title = hit.title.replace("\n", " ")  # clients take the first line for the title
    document = {"id": hit.chunk_id, "contents": f'"{title}"\n{hit.text}'}
    return {"document": document, "score": hit.score} if scored else document
