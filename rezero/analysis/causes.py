"""Why an episode failed: every episode has exactly one cause, and "right" is one of them."""

from collections.abc import Iterable

import pandas as pd

from rezero.evaluation.traces import Row
from rezero.judge import exact_match, normalize
from rezero.protocol import Episode

CAUSES = {  # cause -> what it means, in the order in which tables, figures and pages list them
    "right": "the answer equals an accepted one",
    "never searched": "it answered wrongly without a search",
    "wrong query": "it searched again, but its last query brought no gold passage that was still unseen",
    "found but not read": "all gold passages were there, but the answer stands in none of them",
    "read but wrong": "the answer stands in a gold passage, but it is not what was asked for",
    "stopped early": "it answered, gold still unseen, after one search or after one that had brought new gold",
    "malformed": "a malformed turn ended it",
    "budget": "it ended without an answer: no turns, no tokens or no messages left",
    "not judged": "it has no question, or the question names no gold passage, so that nobody can say",
}


def cause(episode: Episode) -> str:
    """The key of `CAUSES` that applies. The first of these that holds decides:

    right; ended by malformed turns; ended without an answer; no search. A wrong answer after a search is then either
    one with all gold passages seen (is it in one of them?) or one without (did the policy stop, or search in vain?).
    """
    question = episode.question
    if question and exact_match(episode.answer, question.answers):
        return "right"
    if episode.outcome != "answered":
        return "malformed" if episode.outcome == "malformed" else "budget"
    if question is None or not (question.gold_chunk_ids or not episode.searches):
        return "not judged"
    seen = [0.0, *episode.evidence()]
    if len(seen) == 1:
        return "never searched"
    if seen[-1] == 1.0:
        return "read but wrong" if _in_gold(episode) else "found but not read"
    return "stopped early" if len(seen) == 2 or seen[-1] > seen[-2] else "wrong query"


def _in_gold(episode: Episode) -> bool:
    golds = episode.question.gold_chunk_ids
    hits = [hit.text for turn in episode.searches for hit in turn.hits if hit.chunk_id in golds]
    said = normalize(episode.answer)
    return any(said and f" {said} " in f" {normalize(text)} " for text in {*hits, *episode.question.gold_texts})


def causes_table(rows: Iterable[Row]) -> pd.DataFrame:
    """How many episodes of each policy (columns) failed by each cause (rows); a column sums to its episodes.

    ValueError without episodes. "not judged" is listed only where it occurs.
    """
    pairs = [(labels.get("policy", "episodes"), cause(episode)) for labels, episode in rows]
    if not pairs:
        raise ValueError("no episodes; want at least one")
    frame = pd.DataFrame(pairs, columns=["policy", "cause"])
    counts = pd.crosstab(frame.cause, frame.policy)
    table = counts.reindex(index=list(CAUSES), columns=frame.policy.unique(), fill_value=0)
    return table if table.loc["not judged"].any() else table.drop("not judged")
