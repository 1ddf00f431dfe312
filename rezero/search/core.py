"""What all engines share: hits, what happened to them, who asks, and the checks of `Engine.search`."""

import hashlib
import operator
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rezero.corpus import Chunk

CACHE_SIZE = 10_000  # queries whose hits an engine remembers


class SearchError(RuntimeError):
    """A search engine failed (not: found nothing); `fault` is "outage" when it did so on purpose, else ""."""

    def __init__(self, message: str, fault: str = ""):
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True)
class Hit:
    """One retrieved passage. Scores are comparable within the hits of one query, not between engines."""

    chunk_id: str
    title: str
    text: str
    score: float


class Hits(list):
    """The hits of one query, best first, and where they come from.

    `engine`: the name of the engine that answered, of a mixture the chosen one; `fault`: what an engine that fails on
    purpose did to the hits, "" when nothing.
    """

    __slots__ = ("engine", "fault")

    def __init__(self, hits: Sequence[Hit] = (), engine: str = "", fault: str = ""):
        list.__init__(self, hits)
        self.engine, self.fault = engine, fault

    def copy(self) -> "Hits":
        return Hits(self, self.engine, self.fault)


class Asker(NamedTuple):
    """Who asks: the id of the question of the episode, and the number (from 1) of the turn in it."""

    episode: str
    attempt: int


Search = Callable[[list[str], int, list[Asker]], list[Hits]]  # queries that are not blank, k, one asker a query
Rank = Callable[[list[str], int], list[tuple[Sequence[int], Sequence[float]]]]  # positions and scores, best first
NOBODY = Asker("", 1)


class Engine:
    """A named engine over fixed chunks. Same chunks, options, query and asker: same hits, in any batch.

    It remembers the hits of the latest queries. `counts`: how many queries were "asked" and how many "cached". A search
    function whose hits depend on the asker says so in an attribute, `by_asker`.
    """

    def __init__(self, name: str, search: Search):
        self.name, self._search = name, search
        self.by_asker = getattr(search, "by_asker", False)
        self.counts = Counter(asked=0, cached=0)
        self._cache: OrderedDict[tuple, Hits] = OrderedDict()  # the latest used last

    def search(self, queries: list[str], k: int, askers: Sequence[Asker] | None = None) -> list[Hits]:
        """The at most `k` best hits of every query, best first, ties in the order of the chunks.

        Hits are distinct; a blank query has none. `askers`, one a query, matter to engines that fail on purpose and
        to mixtures; without them every query is somebody's first.

        Raises:
            TypeError: `queries` is a string, or holds something that is not one.
            ValueError: `k` is below 1 (above the number of chunks it is clamped), or not one asker a query.
            SearchError: the engine failed.
        """
        if isinstance(k, bool) or operator.index(k) < 1:
            raise ValueError(f"k is {k!r}; want an integer of at least 1")
        k, cleaned = operator.index(k), [clean(query) for query in check_queries(queries)]
        askers = [NOBODY] * len(queries) if askers is None else list(askers)
        if len(askers) != len(queries):
            raise ValueError(f"{len(askers)} askers of {len(queries)} queries; want one a query")
        keys = [(query, k, asker if self.by_asker else NOBODY) for query, asker in zip(cleaned, askers, strict=True)]
        blank = Hits(engine=self.name)
        found = {key: self._cache.get(key) if key[0].strip() else blank for key in keys}
        if new := [key for key, hits in found.items() if hits is None]:
            fresh = self._search([query for query, _, _ in new], k, [asker for _, _, asker in new])
            found |= zip(new, fresh, strict=True)
        answered = sum(found[key] is not blank for key in keys)
        self.counts.update(asked=len(new), cached=answered - len(new))
        self._remember(found)
        return [found[key].copy() for key in keys]

    def _remember(self, found: dict[tuple, Hits]) -> None:
        for key, hits in found.items():
            hits.engine = hits.engine or self.name
            self._cache[key] = hits
            self._cache.move_to_end(key)
        while len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)


def build(spec: str | Mapping, chunks: Sequence[Chunk]) -> Engine:
    """The engine that plain data describes: a name, or a mapping {"engine": name, option: value, ...}.

    Options may stand in a mapping of their own, "engine_options", as in a configuration: an engine around an engine
    has an option "engine", too.
    """
    from rezero.search import build_engine  # which imports this file

    options = {"engine": spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, Mapping) else {}
    name, more = options.pop("engine", None), options.pop("engine_options", {})
    if not isinstance(name, str):
        raise ValueError(f"an engine is {spec!r}; want its name, or a mapping with the key 'engine'")
    return build_engine(name, chunks, **options, **more)


def both(*faults: str) -> str:
    """What happened, in a word, to hits that several engines had a part in: "stale+shuffled"."""
    return "+".join(dict.fromkeys(filter(None, faults)))


def chance(*parts) -> float:
    """A number in [0, 1) that depends on `parts` alone: the same draw in every process and batch."""
    digest = hashlib.blake2b(clean("\0".join(map(str, parts))).encode(), digest_size=6).digest()
    return int.from_bytes(digest) / 2**48


def ranked(chunks: Sequence[Chunk], rank: Rank) -> Search:
    """The search of an engine that ranks all of `chunks`; hits score above 0, so that unknown words find nothing."""
    rows = [(chunk.id, chunk.title, chunk.text) for chunk in chunks]

    def search(queries: list[str], k: int, askers: list[Asker]) -> list[Hits]:
        found = rank(queries, min(k, len(rows)))
        return [Hits([Hit(*rows[p], float(s)) for p, s in zip(*one, strict=True) if s > 0]) for one in found]

    return search


def around(inner: Engine, change: Callable[[str, Hits], Sequence[Hit]], depth: int = 1) -> Search:
    """The search of an engine that changes the hits of another one, which is asked for `depth` of them, at least."""

    def search(queries: list[str], k: int, askers: list[Asker]) -> list[Hits]:
        found = inner.search(queries, max(k, depth), askers)
        return [Hits(change(query, hits)[:k], fault=hits.fault) for query, hits in zip(queries, found, strict=True)]

    search.by_asker = inner.by_asker
    return search


def check_queries(queries: list[str]) -> list[str]:
    """`queries` if it is a list of strings; a lone string would be searched letter by letter."""
    if isinstance(queries, str):
        raise TypeError(f"queries is a string, {queries[:40]!r}; want a list of strings")
    for query in queries:
        if not isinstance(query, str):
            raise TypeError(f"a query is {query!r}, a {type(query).__name__}; want a string")
    return queries


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """For imports: without the packages that `what` needs, an ImportError says how to install them."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{what} needs more packages: pip install 'rezero[{extra}]' ({error})") from error


def normalized(text: str) -> str:
    """Lower case, without punctuation, single spaces: what makes two queries or questions the same."""
    return " ".join(re.findall(r"\w+", text.lower()))


def clean(text: str) -> str:
    """`text` without lone surrogates, which neither UTF-8 nor a Rust tokenizer can hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def indexed_text(chunk: Chunk | Hit) -> str:
    """What is indexed of a chunk, and ranked of a hit: the title, if it has one, above the text."""
    return clean(f"{chunk.title}\n{chunk.text}" if chunk.title else chunk.text)


def top(scores, k: int):
    """Positions of the `k` highest of `scores`, shape (n,), best first, equal scores by position."""
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = np.flatnonzero(scores >= kth)
    return candidates[np.argsort(-scores[candidates], kind="stable")][:k]
