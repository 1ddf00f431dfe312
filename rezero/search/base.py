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
from rezero.text import clean, redact

CACHE_SIZE = 10_000  # queries whose hits an engine remembers


class SearchError(RuntimeError):
    """The engine failed, which is not finding nothing; `fault` is "outage" if on purpose. It repeats no secret."""

    def __init__(self, message: str, fault: str = ""):
        super().__init__(redact(clean(message)))
        self.fault = fault


@dataclass(frozen=True)
class Hit:
    """One retrieved passage. Scores compare the hits of one query, never those of two queries or two engines."""

    chunk_id: str
    title: str
    text: str
    score: float


class Hits(list):
    """The hits of one query, best first; which engine answered; which faults it made on purpose ("stale+shuffled")."""

    def __init__(self, hits: Sequence[Hit] = (), engine: str = "", *faults: str):
        super().__init__(hits)
        self.engine, self.fault = engine, "+".join(dict.fromkeys(filter(None, faults)))


class SearchContext(NamedTuple):
    """The question and the turn (from 1) that a query belongs to, for engines whose hits vary by episode (`faulty`)."""

    question_id: str
    turn: int


NO_CONTEXT = SearchContext("", 1)
# (queries, none of them blank; k; one context per query) -> the hits of each query
Search = Callable[[list[str], int, list[SearchContext]], list[Hits]]
# (queries, k) -> per query, pairs (position, score) of at most k chunks, best first
Rank = Callable[[list[str], int], list[list[tuple[int, float]]]]


class Engine:
    """A named engine over fixed chunks: the same query and context give the same hits, in any batch and process.

    A `search` whose hits depend on the context has the attribute `by_context`. `key()` is a digest of all that the hits
    depend on, or "" if that is not known.
    """

    def __init__(self, name: str, search: Search, key: Callable[[], str] = str):
        self.name, self._search, self.key = name, search, key
        self.by_context = getattr(search, "by_context", False)
        self._cache: OrderedDict[tuple, Hits] = OrderedDict()  # the latest used last

    def search(self, queries: list[str], k: int, contexts: Sequence[SearchContext] | None = None) -> list[Hits]:
        """The at most `k` best hits of each query, ties in the order of the chunks; none for a blank one.

        Without `contexts`, each counts as the first of an episode. A SearchError: the engine failed.
        """
        if isinstance(queries, str) or not all(isinstance(query, str) for query in queries):
            raise TypeError(f"queries is {queries!r:.80}; want a list of strings")
        if isinstance(k, bool) or operator.index(k) < 1:
            raise ValueError(f"k is {k!r}; want an integer of at least 1")
        if contexts is not None and len(contexts) != len(queries):
            raise ValueError(f"{len(contexts)} contexts for {len(queries)} queries; want one per query")
        if contexts is None or not self.by_context:
            contexts = [NO_CONTEXT] * len(queries)
        keys = [(clean(query), int(k), context) for query, context in zip(queries, contexts, strict=True)]
        asked = [key for key in keys if key[0].strip()]
        new = [key for key in dict.fromkeys(asked) if key not in self._cache]
        if new:
            fresh = self._search([query for query, _, _ in new], int(k), [context for _, _, context in new])
            self._cache |= dict(zip(new, fresh, strict=True))
        for key in asked:
            self._cache.move_to_end(key)
        found = [self._cache.get(key, Hits()) for key in keys]
        while len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)
        return [Hits(hits, hits.engine or self.name, hits.fault) for hits in found]  # copies, which callers may change


def ranked(chunks: Sequence[Chunk], rank: Rank) -> Search:
    """The search of an engine that only ranks its chunks. Hits score above 0, so that unknown words find nothing."""
    rows = [(chunk.id, chunk.title, chunk.text) for chunk in chunks]

    def search(queries: list[str], k: int, contexts: list[SearchContext]) -> list[Hits]:
        found = rank(queries, min(k, len(rows)))
        return [Hits([Hit(*rows[i], float(score)) for i, score in pairs if score > 0]) for pairs in found]

    return search


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
        raise ImportError(f"{what} needs more packages: pip install -e '.[{extra}]' ({error})") from error


def indexed_text(chunk: Chunk | Hit) -> str:
    """The text that is indexed: the title, if there is one, above the passage."""
    return clean(f"{chunk.title}\n{chunk.text}" if chunk.title else chunk.text)


def top(scores, k: int) -> list[tuple[int, float]]:
    """Pairs (position, score) of the `k` highest of `scores`, shape (n,), above 0, best first, ties by position."""
    found = np.flatnonzero(scores > 0)
    if len(found) > k:  # of those, the ones that may rank high; a partition of many zeros would be slow
        found = found[scores[found] >= np.partition(scores[found], -k)[-k]]
    best = found[np.argsort(-scores[found], kind="stable")][:k]
    return list(zip(best.tolist(), scores[best].tolist(), strict=True))
