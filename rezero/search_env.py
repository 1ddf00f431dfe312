"""The environment of a policy: what comes back for each turn. Nothing here needs a model."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from rezero.protocol import CORRECTION, ENGINE_FAILED, Episode, Turn, format_hits, neutralize
from rezero.questions import Question
from rezero.search.base import Engine, Hits, SearchContext, SearchError
from rezero.text import keywords


def respond(turns: list[Turn], engine: Engine, k: int, contexts: Sequence[SearchContext] | None = None) -> list[Turn]:
    """Each turn with the environment's reply: hits for a search, a correction for a malformed turn.

    If the engine fails on a batch of queries, it is asked again query by query, so that one bad query spoils no other.
    A turn whose own query fails says so in `information` and `error`; nothing is raised.

    Args:
        k: passages per search.
        contexts: one per turn; without them each turn counts as the first turn of an episode of its own.
    """
    searching = [i for i, turn in enumerate(turns) if turn.action == "search"]
    asked = [contexts[i] if contexts else SearchContext(str(i), 1) for i in searching]
    results = _search([turns[i].argument for i in searching], engine, k, asked)
    replies = [replace(turn, information=CORRECTION) if turn.action == "malformed" else turn for turn in turns]
    for i, result in zip(searching, results, strict=True):
        if isinstance(result, SearchError):
            text = ENGINE_FAILED.format(reason=neutralize(str(result)))
            replies[i] = replace(turns[i], information=text, error=str(result), fault=result.fault)
        else:
            replies[i] = replace(
                turns[i], information=format_hits(result), hits=tuple(result), engine=result.engine, fault=result.fault
            )
    return replies


def _search(
    queries: list[str], engine: Engine, k: int, contexts: list[SearchContext]
) -> list[Hits] | list[Hits | SearchError]:
    if not queries:
        return []
    try:
        return engine.search(queries, k, contexts)
    except SearchError as error:
        if len(queries) == 1:
            return [error]
    results = []
    for query, context in zip(queries, contexts, strict=True):
        results += _search([query], engine, k, [context])
    return results


def first_search_misses(questions: list[Question], engine: Engine, k: int) -> list[bool]:
    """Per question, whether an episode that first searches for the question's words misses; see `Episode.missed`."""
    turns = [Turn("", "", "search", keywords(question.text)) for question in questions]
    replies = respond(turns, engine, k, [SearchContext(question.id, 1) for question in questions])
    return [Episode(q, (turn,), "unfinished").missed for q, turn in zip(questions, replies, strict=True)]


def seen_after_each_query(question: Question, engine: Engine, k: int) -> list[set[str]]:
    """Ids of all chunks seen after a search for the question's words, and after each further search for a rewrite.

    One set per query, each of which contains the one before.

    Raises:
        SearchError: the engine failed.
    """
    queries = [keywords(question.text), *question.rewrites]
    contexts = [SearchContext(question.id, turn) for turn in range(1, len(queries) + 1)]
    found = [{hit.chunk_id for hit in hits} for hits in engine.search(queries, k, contexts)]
    return list(accumulate(found, set.union))
