"""Search engines: `build_engine(name, chunks, **options).search(queries, k)` returns one `Hits` per query.

An engine is a function `(chunks, option=default, …) -> search`, whose `search(queries, k, contexts)` returns the `Hits`
of each query; `base.ranked` makes one of a ranking. A new one is named in `ENGINES`, or given as "module:function".
"""

import inspect
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from rezero.corpus import Chunk
from rezero.files import digest, refusal
from rezero.names import AboveZero, Count, NotNegative, Number, Share, load_function  # noqa: F401 (types of options)
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
STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)


def build_engine(name: str, chunks: Sequence[Chunk], /, **options) -> Engine:
    """Index `chunks` with an engine of `ENGINES`, or with any "module:function"; see `check_options`."""
    function = check_options(name, options)
    if not chunks and name in ENGINES and name not in REMOTE:
        raise ValueError(f"engine {name!r} needs at least one chunk, got none")
    ids = Counter(chunk.id for chunk in chunks)
    if len(ids) < len(chunks):
        raise ValueError(f"engine {name!r}: two chunks have the id {ids.most_common(1)[0][0]!r}")
    return Engine(name, function(chunks, **options), partial(_hits_depend_on, name, chunks, options))


def _hits_depend_on(name: str, chunks: Sequence[Chunk], options: dict) -> str:
    """A digest of all that hits depend on; "" if other things do, too: a service, a file, a user's code."""
    made_of = json.dumps([name, options], default=repr, sort_keys=True)
    if any(word in REMOTE or re.search("[:/]", word) for word in re.findall(r'"([^"]*)"', made_of)):
        return ""
    return digest(made_of, *(text for chunk in chunks for text in (chunk.id, chunk.title, chunk.text)))


def check_options(name: str, options: Mapping) -> Callable:
    """The function of an engine; ValueError for `options`, also of engines inside it, that its annotations forbid."""
    function = load_function(name, ENGINES, "engine")
    _, *allowed = inspect.signature(function).parameters.values()  # the first is `chunks`
    kinds = {one.name: one.annotation for one in allowed}
    for option, value in options.items():
        if option not in kinds:
            raise ValueError(f"unknown option {option!r:.80} for engine {name!r}; allowed: {', '.join(kinds)}")
        kind = Any if kinds[option] is inspect.Parameter.empty or isinstance(kinds[option], str) else kinds[option]
        try:
            TypeAdapter(kind, config=STRICT).validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, (option, *first["loc"])))
            raise ValueError(f"engine {name!r}: {refusal(place, first)}") from None
    return function


def build_inner(spec: str | Mapping, chunks: Sequence[Chunk]) -> Engine:
    """The engine inside another one: a name, or {"engine": name, option: value, …, "engine_options": {…}}."""
    name, options = _read_spec(spec)
    return build_engine(name, chunks, **options)


def _read_spec(spec: str | Mapping) -> tuple[str, dict]:
    match {"engine": spec} if isinstance(spec, str) else spec:
        case {"engine": str(name), **options}:
            inner = options.pop("engine_options", {})
            if isinstance(inner, Mapping) and all(isinstance(key, str) for key in options | inner):
                return name, options | inner
    raise ValueError(f"an engine is {spec!r:.80}; want its name, or a mapping with 'engine' and perhaps options")


def _check_spec(spec: str | Mapping) -> str | Mapping:
    check_options(*_read_spec(spec))
    return spec


Inner = Annotated[Any, AfterValidator(_check_spec)]  # the type of an option that describes an engine
