"""Rewards: pure functions `Episode -> float`, named in `REWARDS`; weightings of them are data, `REWARD_SETS`.

The published ones stand in `original.py`. Those here are ours; each docstring says what it pays for, its range and
how it can be gamed. A new reward is one function and one line in `REWARDS`.
"""

from itertools import pairwise

from rezero.judge import exact_match as is_right
from rezero.judge import f1 as overlap
from rezero.original import (
    asked,
    correctness,
    em_chunk,
    em_chunk_last,
    format,
    retry,
    retry_always,
    search_diversity,
    search_strategy,
)
from rezero.protocol import Episode


def retry_paper(episode: Episode) -> float:
    """The paper's wording: .25, at most 1, for each search after the first that follows a miss; only with an answer.

    A miss is a search that brought no gold chunk that was not seen before, while one is still missing. Gamed by
    missing on purpose: the misses themselves are what makes the next search worth something.
    """
    if episode.outcome != "answered":
        return 0.0
    seen = [0.0, *episode.evidence()]
    retries = sum(before == now < 1 for before, now in pairwise(seen[:-1]))
    return min(1.0, 0.25 * retries)


def recovery(episode: Episode, discount: float = 1.0) -> float:
    """Potential-based pay for finding the evidence, however late: [0, 1], only with an answer.

    The potential is the share of gold chunks seen; each search is paid what it adds, times `discount` for every
    search before it. The pay adds up to the share seen at the end (Ng, Harada and Russell 1999): the search that
    recovers is paid in full, a miss adds nothing that was not there to be had at once, and searches after the
    evidence are worth 0. Below 1, `discount` makes finding late pay less; under group scaling that difference is as
    loud as being right wherever everyone is right, and teaches not to retry, hence the default.
    Gamed by nothing a search can do but find the gold chunks; it does not ask whether the answer is right.
    """
    if episode.outcome != "answered":
        return 0.0
    seen = [0.0, *episode.evidence()]
    gains = (now - before for before, now in pairwise(seen))
    return float(sum(gain * discount**searches for searches, gain in enumerate(gains)))


def evidence(episode: Episode) -> float:
    """The share of gold chunks seen, [0, 1]; without an answer, too: an episode that only searches is paid."""
    return max(episode.evidence(), default=0.0)


def exact_match(episode: Episode) -> float:
    """1 if the final answer equals an accepted one after `judge.normalize`, else 0, whatever the turn's format."""
    return float(is_right(episode.answer, asked(episode).answers))


def f1(episode: Episode) -> float:
    """Word overlap of the final answer with the nearest accepted one, [0, 1]. Gamed by answers of many words."""
    return overlap(episode.answer, asked(episode).answers)


def graded(episode: Episode) -> float:
    """Correctness with partial credit: 1 for a right answer in a clean turn, else at most .5, [0, 1].

    A wrong answer earns .25 times its F1 and .25 times the share of gold chunks seen, so that every right answer is
    above every wrong one; no answer earns nothing. Gamed within its .5 by answers made of likely words.
    """
    if episode.outcome != "answered":
        return 0.0
    return correctness(episode) or 0.25 * f1(episode) + 0.25 * evidence(episode)


def efficiency(episode: Episode) -> float:
    """1 / (1 + searches after the evidence) for a right answer that rests on the evidence, else 0: [0, 1].

    Searches before the evidence cost nothing, so that stopping never beats retrying.
    """
    found = episode.evidence_search
    return exact_match(episode) / (1 + len(episode.searches) - found) if found else 0.0


def score(episode: Episode, weights: dict[str, float]) -> tuple[float, dict[str, float]]:
    """The weighted sum and every reward's own value, also of those with weight 0.

    Raises:
        ValueError: `weights` names a reward that is not in `REWARDS`, or a reward needs a question and has none.
    """
    values = {name: REWARDS[name](episode) for name in check_weights(weights)}
    return sum(weights[name] * value for name, value in values.items()), values


def table(episodes: dict[str, Episode]):
    """A DataFrame of what each named episode earns: one row a reward, then one a reward set (weighted sums)."""
    from pandas import DataFrame

    rows = {name: [reward(e) for e in episodes.values()] for name, reward in REWARDS.items()}
    rows |= {f"set {name}": [score(e, w)[0] for e in episodes.values()] for name, w in REWARD_SETS.items()}
    return DataFrame.from_dict(rows, orient="index", columns=list(episodes)).round(3)


def clip_to_solved(values: list[float], episodes: list[Episode]) -> list[float]:
    """`values`, at most 0 where no episode on the same question is right: shaping only tells right ones apart.

    Correctness loses nothing by it. What it costs: where nobody is right, nothing is learned about searching either.
    """
    solved = {e.question.id for e in episodes if correctness(e)}
    return [value if e.question.id in solved else min(0.0, value) for value, e in zip(values, episodes, strict=True)]


def check_weights(weights: dict[str, float]) -> dict[str, float]:
    """`weights` if every name is a reward's and every weight a number; ValueError with what is allowed otherwise."""
    if not isinstance(weights, dict):
        raise ValueError(f"reward weights are {weights!r}; want {{name: weight}}, names of: {', '.join(REWARDS)}")
    for name, weight in weights.items():
        if name not in REWARDS:
            raise ValueError(f"unknown reward {name!r}; allowed: {', '.join(REWARDS)}")
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise ValueError(f"the weight of reward {name!r} is {weight!r}; want a number")
    return weights


def _retry_replaced(reward: str) -> dict[str, int]:
    return {reward if name == "retry" else name: weight for name, weight in ORIGINAL.items()}


REWARDS = {
    "correctness": correctness,
    "format": format,
    "retry": retry,
    "retry_always": retry_always,
    "em_chunk": em_chunk,
    "em_chunk_last": em_chunk_last,
    "search_strategy": search_strategy,
    "search_diversity": search_diversity,
    "retry_paper": retry_paper,
    "recovery": recovery,
    "evidence": evidence,
    "exact_match": exact_match,
    "f1": f1,
    "graded": graded,
    "efficiency": efficiency,
}

ORIGINAL = {"correctness": 4, "format": 2, "retry": 1, "em_chunk": 1, "search_strategy": 1, "search_diversity": 1}

REWARD_SETS = {  # name -> {reward: weight}; a weight of 0 logs the reward without training on it
    "original": ORIGINAL,
    "retry_always": _retry_replaced("retry_always"),
    "retry_paper": _retry_replaced("retry_paper"),
    "no_retry": {name: weight for name, weight in ORIGINAL.items() if name != "retry"},
    "correctness": {"correctness": 4, "recovery": 0},
    "recovery": {"correctness": 4, "recovery": 2},
}
