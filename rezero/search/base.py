"""What all engines share: hits, the context of a query, `Engine` with its checks and its memory, and small helpers."""

import hashlib
import operator
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rezero.corpus import Chunk
from rezero.text import clean

CACHE_SIZE = 10_000  # queries whose hits an engine remembers


class SearchError(RuntimeError):
    """The engine failed, which is not the same as finding nothing. `fault` is "outage" if it failed on purpose."""

    def __init__(self, message: str, fault: str = ""):
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True)
class Hit:
    """One retrieved passage. Scores compare the hits of one query, never those of two queries or two engines."""

    chunk_id: str
    title: str
    text: str
    score: float


class Hits(list):
    """The hits of one query, best first, with the name of the `engine` that answered (of a mixture, the chosen one).

    `fault` says what an engine that fails on purpose did to them, "" if nothing.
    """

    def __init__(self, hits: Sequence[Hit] = (), engine: str = "", fault: str = ""):
        super().__init__(hits)
        self.engine, self.fault = engine, fault


class SearchContext(NamedTuple):
    """The question and the turn (from 1) that a query belongs to, for engines whose hits vary by episode (`faulty`)."""

    question_id: str
    turn: int


NO_CONTEXT = SearchContext("", 1)
# (queries, none of them blank; k; one context per query) -> the hits of each query
Search = Callable[[list[str], int, list[SearchContext]], list[Hits]]
# (queries, k) -> per query, the positions of at most k chunks, best first, and their scores
Rank = Callable[[list[str], int], list[tuple[Sequence[int], Sequence[float]]]]


class Engine:
    """A named engine over fixed chunks. The same chunks, options, query and context give the same hits, in any batch.

    It remembers the hits of the latest queries. A search function whose hits depend on the context has the attribute
    `by_context = True`.
    """

    def __init__(self, name: str, search: Search):
        self.name, self._search = name, search
        self.by_context = getattr(search, "by_context", False)
        self._cache: OrderedDict[tuple, Hits] = OrderedDict()  # the latest used last

    def search(self, queries: list[str], k: int, contexts: Sequence[SearchContext] | None = None) -> list[Hits]:
        """The at most `k` best hits of each query, all distinct, ties in the order of the chunks; none for a blank one.

        Without `contexts`, one per query, each query counts as the first of an episode of its own.

        Raises:
            TypeError: `queries` is not a list of strings, or `k` not an integer.
            ValueError: `k` is below 1, or there is not one context per query.
            SearchError: the engine failed.
        """
        if isinstance(queries, str) or not all(isinstance(query, str) for query in queries):
            raise TypeError(f"queries is {queries!r:.80}; want a list of strings")
        if isinstance(k, bool) or operator.index(k) < 1:
            raise ValueError(f"k is {k!r}; want an integer of at least 1")
        contexts = [NO_CONTEXT] * len(queries) if contexts is None else contexts
        if len(contexts) != len(queries):
            raise ValueError(f"{len(contexts)} contexts for {len(queries)} queries; want one per query")
        keys = []
        for query, context in zip(queries, contexts, strict=True):
            keys.append((clean(query), int(k), context if self.by_context else NO_CONTEXT))
        asked = [key for key in keys if key[0].strip()]
        found = {key: self._cache[key] for key in asked if key in self._cache}
        new = [key for key in dict.fromkeys(asked) if key not in found]
        if new:
            fresh = self._search([query for query, _, _ in new], int(k), [context for _, _, context in new])
            found |= zip(new, fresh, strict=True)
        for key, hits in found.items():
            hits.engine = hits.engine or self.name
            self._cache[key] = hits
            self._cache.move_to_end(key)
        while len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)
        results = [found.get(key, Hits(engine=self.name)) for key in keys]
        return [Hits(hits, hits.engine, hits.fault) for hits in results]  # copies, which callers may change


def ranked(chunks: Sequence[Chunk], rank: Rank) -> Search:
    """The search of an engine that only ranks its chunks. Hits score above 0, so that unknown words find nothing."""
    rows = [(chunk.id, chunk.title, chunk.text) for chunk in chunks]

    def search(queries: list[str], k: int, contexts: list[SearchContext]) -> list[Hits]:
        found = [zip(*one, strict=True) for one in rank(queries, min(k, len(rows)))]
        return [Hits([Hit(*rows[i], float(score)) for i, score in pairs if score > 0]) for pairs in found]

    return search


def both(*faults: str) -> str:
    """One word for the faults of all engines that had a part in some hits: "stale+shuffled"."""
    return "+".join(dict.fromkeys(filter(None, faults)))


def chance(*parts) -> float:
    """A number in [0, 1) that depends on `parts` alone: the same draw in every process and batch."""
    digest = hashlib.blake2b(clean("\0".join(map(str, parts))).encode(), digest_size=6).digest()
    return int.from_bytes(digest) / 2**48


@contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Around imports: an ImportError then says how to install the packages that `what` needs."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{what} needs more packages: pip install 'rezero[{extra}]' ({error})") from error


def indexed_text(chunk: Chunk | Hit) -> str:
    """The text that is indexed: the title, if there is one, above the passage."""
    return clean(f"{chunk.title}\n{chunk.text}" if chunk.title else chunk.text)


def top(scores, k: int):
    """Positions of the `k` highest of `scores`, shape (n,), best first, equal scores by position."""
    kth = np.partition(scores, len(scores) - k)[len(scores) - k]
    candidates = np.flatnonzero(scores >= kth)
    return candidates[np.argsort(-scores[candidates], kind="stable")][:k]
