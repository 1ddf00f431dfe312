"""The environment of a policy: what comes back for each turn. Nothing here needs a model."""

from collections.abc import Sequence
from dataclasses import replace

from rezero.protocol import CORRECTION, ENGINE_FAILED, Episode, Turn, format_hits, neutralize
from rezero.questions import Question
from rezero.search.base import Engine, Hits, SearchContext, SearchError
from rezero.text import keywords


def respond(turns: list[Turn], engine: Engine, k: int, contexts: Sequence[SearchContext] | None = None) -> list[Turn]:
    """Each turn with the environment's reply: `k` hits for a search, a correction for a malformed turn.

    An engine that fails on a batch of queries is asked again query by query, so that one bad query spoils no other.
    Without `contexts`, each turn is the first of an episode.
    """
    searching = [i for i, turn in enumerate(turns) if turn.action == "search"]
    asked = [contexts[i] if contexts else SearchContext(str(i), 1) for i in searching]
    results = _search([turns[i].argument for i in searching], engine, k, asked)
    replies = [replace(turn, information=CORRECTION) if turn.action == "malformed" else turn for turn in turns]
    for i, result in zip(searching, results, strict=True):
        if isinstance(result, SearchError):
            text = ENGINE_FAILED.format(reason=neutralize(str(result)))
            reply = dict(information=text, error=str(result))
        else:
            reply = dict(information=format_hits(result), hits=tuple(result), engine=result.engine)
        replies[i] = replace(turns[i], fault=result.fault, **reply)
    return replies


def _search(queries: list[str], engine: Engine, k: int, contexts: list[SearchContext]) -> list[Hits | SearchError]:
    try:
        return engine.search(queries, k, contexts)
    except SearchError as error:
        if len(queries) == 1:
            return [error]
    alone = zip(queries, contexts, strict=True)
    return [result for query, context in alone for result in _search([query], engine, k, [context])]


def first_search_misses(questions: list[Question], engine: Engine, k: int) -> list[bool]:
    """Per question, whether an episode that first searches for the question's words misses; see `Episode.missed`."""
    turns = [Turn("", "", "search", keywords(question.text)) for question in questions]
    replies = respond(turns, engine, k, [SearchContext(question.id, 1) for question in questions])
    return [Episode(q, (turn,), "unfinished").missed for q, turn in zip(questions, replies, strict=True)]
