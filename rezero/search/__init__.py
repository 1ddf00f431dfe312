"""Search engines: `build_engine(name, chunks, **options).search(queries, k)` returns one `Hits` per query.

An engine is a function `(chunks, option=default, …) -> search`, and `search(queries, k, contexts)` returns the `Hits`
of each query; most leave all but the ranking to `base.ranked`. A new one is named in `ENGINES`, or given as
"module:function".
"""

import inspect
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from rezero.corpus import Chunk
from rezero.files import digest
from rezero.names import load_function
from rezero.search.base import Engine

ENGINES = {  # name -> function; its module is imported when the engine is built
    "bm25": "rezero.search.bm25:bm25",
    "dense": "rezero.search.dense:dense",
    "hybrid": "rezero.search.hybrid:hybrid",
    "faulty": "rezero.search.faulty:faulty",
    "keyword": "rezero.extras.engines:keyword",
    "rerank": "rezero.extras.engines:rerank",
    "trim": "rezero.extras.engines:trim",
    "noisy": "rezero.extras.engines:noisy",
    "mixture": "rezero.extras.engines:mixture",
    "legacy": "rezero.extras.engines:legacy",
    "http": "rezero.extras.remote:http",
    "web": "rezero.extras.remote:web",
    "opensearch": "rezero.extras.remote:opensearch",
    "qdrant": "rezero.extras.remote:qdrant",
}
REMOTE = {"http", "web", "opensearch", "qdrant"}  # may be built without chunks


def build_engine(name: str, chunks: Sequence[Chunk], **options) -> Engine:
    """Index `chunks` with an engine of `ENGINES`, or with any "module:function".

    A ValueError lists the known engines or options; an ImportError says which package to install.
    """
    function = load_function(name, ENGINES, "engine")
    _, *allowed = inspect.signature(function).parameters  # the first is `chunks`
    for option in options.keys() - {*allowed}:
        raise ValueError(f"unknown option {option!r} for engine {name!r}; allowed: {', '.join(allowed)}")
    if not chunks and name in ENGINES and name not in REMOTE:
        raise ValueError(f"engine {name!r} needs at least one chunk, got none")
    ids = Counter(chunk.id for chunk in chunks)
    if len(ids) < len(chunks):
        raise ValueError(f"engine {name!r}: two chunks have the id {ids.most_common(1)[0][0]!r}")
    return Engine(name, function(chunks, **options), partial(_hits_depend_on, name, chunks, options))


def _hits_depend_on(name: str, chunks: Sequence[Chunk], options: dict) -> str:
    """A digest of all that an engine's hits depend on; "" if other things do, too: a service, a file, a user's code."""
    made_of = json.dumps([name, options], default=repr, sort_keys=True)
    if any(word in REMOTE or re.search("[:/]", word) for word in re.findall(r'"([^"]*)"', made_of)):
        return ""
    return digest(made_of, *(text for chunk in chunks for text in (chunk.id, chunk.title, chunk.text)))


def build_inner(spec: str | Mapping, chunks: Sequence[Chunk]) -> Engine:
    """The engine inside another one, described by plain data: a name, or {"engine": name, option: value, ...}.

    Options may also be given under "engine_options", which is needed where the inner engine has an option "engine".
    """
    match {"engine": spec} if isinstance(spec, str) else spec:
        case {"engine": str(name), **options}:
            return build_engine(name, chunks, **options.pop("engine_options", {}), **options)
    raise ValueError(f"an engine is {spec!r}; want its name, or a mapping with the key 'engine'")
