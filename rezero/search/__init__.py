"""Search engines: `build_engine(name, chunks, **options).search(queries, k)`, one list of `Hit`s a query.

An engine is a function `(chunks, **options) -> search`; `search(queries, k, askers)` gives `Hits` for every query.
Most engines rank their chunks and leave the rest to `core.ranked`. A new engine is one function and one line in
`ENGINES`.
"""

import inspect
from collections import Counter
from collections.abc import Sequence

from rezero.corpus import Chunk
from rezero.search.combine import hybrid, mixture, noisy, rerank, trim
from rezero.search.core import Asker, Engine, Hit, Hits, SearchError, clean
from rezero.search.embedding import EMBEDDERS, dense, legacy
from rezero.search.faults import faulty
from rezero.search.lexical import bm25, keyword
from rezero.search.remote import http, opensearch, qdrant, web

__all__ = ["EMBEDDERS", "ENGINES", "Asker", "Engine", "Hit", "Hits", "SearchError", "build_engine", "clean"]

ENGINES = {
    "bm25": bm25, "keyword": keyword, "dense": dense, "legacy": legacy,
    "hybrid": hybrid, "rerank": rerank, "trim": trim, "noisy": noisy, "faulty": faulty, "mixture": mixture,
    "http": http, "web": web, "qdrant": qdrant, "opensearch": opensearch,
}  # fmt: skip
REMOTE = {"http", "web", "qdrant", "opensearch"}  # may be built without chunks


def build_engine(name: str, chunks: Sequence[Chunk], **options) -> Engine:
    """Index `chunks` with the engine `name` of `ENGINES`.

    Raises:
        ValueError: unknown engine or option (the message lists the known ones), no chunks, or a repeated id.
        ImportError: the engine needs a package that is not installed; the message says what to install.
    """
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; have: {', '.join(sorted(ENGINES))}")
    allowed = [option for option in inspect.signature(ENGINES[name]).parameters if option != "chunks"]
    if unknown := sorted(set(options) - set(allowed)):
        raise ValueError(f"unknown option {unknown[0]!r} for engine {name!r}; have: {', '.join(allowed)}")
    if not chunks and name not in REMOTE:
        raise ValueError(f"engine {name!r} needs at least one chunk, got none")
    ids = Counter(chunk.id for chunk in chunks)
    if len(ids) < len(chunks):
        raise ValueError(f"engine {name!r}: two chunks have the id {ids.most_common(1)[0][0]!r}")
    return Engine(name, ENGINES[name](chunks, **options))
