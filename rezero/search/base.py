"""What all engines share: hits, what happened to them, who asks, and the checks of `Engine.search`."""

import hashlib
import operator
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rezero.corpus import Chunk
from rezero.text import clean

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


class SearchContext(NamedTuple):
    """Which question and which turn (from 1) a query belongs to.

    Only engines whose results vary by episode use it, such as `faulty` and `mixture`.
    """

    question_id: str
    turn: int


Search = Callable[
    [list[str], int, list[SearchContext]], list[Hits]
]  # queries that are not blank, k, one context a query

Rank = Callable[[list[str], int], list[tuple[Sequence[int], Sequence[float]]]]  # positions and scores, best first

NO_CONTEXT = SearchContext("", 1)


class Engine:
    """A named engine over fixed chunks. Same chunks, options, query and context: same hits, in any batch.

    It remembers the hits of the latest queries. `counts`: how many queries were "asked" and how many "cached". A search
    function whose hits depend on the context says so in an attribute, `by_context`.
    """

    def __init__(self, name: str, search: Search):
        self.name, self._search = name, search
        self.by_context = getattr(search, "by_context", False)
        self.counts = Counter(asked=0, cached=0)
        self._cache: OrderedDict[tuple, Hits] = OrderedDict()  # the latest used last

    def search(self, queries: list[str], k: int, contexts: Sequence[SearchContext] | None = None) -> list[Hits]:
        """The at most `k` best hits of every query, best first, ties in the order of the chunks.

        Hits are distinct; a blank query has none. `contexts`, one a query, matter to engines that fail on purpose and
        to mixtures; without them every query is somebody's first.

        Raises:
            TypeError: `queries` is a string, or holds something that is not one.
            ValueError: `k` is below 1 (above the number of chunks it is clamped), or not one context a query.
            SearchError: the engine failed.
        """
        if isinstance(k, bool) or operator.index(k) < 1:
            raise ValueError(f"k is {k!r}; want an integer of at least 1")
        k, cleaned = operator.index(k), [clean(query) for query in check_queries(queries)]
        contexts = [NO_CONTEXT] * len(queries) if contexts is None else list(contexts)
        if len(contexts) != len(queries):
            raise ValueError(f"{len(contexts)} contexts of {len(queries)} queries; want one a query")
        keys = [
            (query, k, context if self.by_context else NO_CONTEXT)
            for query, context in zip(cleaned, contexts, strict=True)
        ]
        blank = Hits(engine=self.name)
        found = {key: self._cache.get(key) if key[0].strip() else blank for key in keys}
        if new := [key for key, hits in found.items() if hits is None]:
            fresh = self._search([query for query, _, _ in new], k, [context for _, _, context in new])
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

    def search(queries: list[str], k: int, contexts: list[SearchContext]) -> list[Hits]:
        found = rank(queries, min(k, len(rows)))
        return [Hits([Hit(*rows[p], float(s)) for p, s in zip(*one, strict=True) if s > 0]) for one in found]

    return search


def around(inner: Engine, change: Callable[[str, Hits], Sequence[Hit]], depth: int = 1) -> Search:
    """The search of an engine that changes the hits of another one, which is asked for `depth` of them, at least."""

    def search(queries: list[str], k: int, contexts: list[SearchContext]) -> list[Hits]:
        found = inner.search(queries, max(k, depth), contexts)
        return [Hits(change(query, hits)[:k], fault=hits.fault) for query, hits in zip(queries, found, strict=True)]

    search.by_context = inner.by_context
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


def indexed_text(chunk: Chunk | Hit) -> str:
    """What is indexed of a chunk, and ranked of a hit: the title, if it has one, above the text."""
    return clean(f"{chunk.title}\n{chunk.text}" if chunk.title else chunk.text)


def top(scores, k: int):
    """Positions of the `k` highest of `scores`, shape (n,), best first, equal scores by position."""
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = np.flatnonzero(scores >= kth)
    return candidates[np.argsort(-scores[candidates], kind="stable")][:k]
