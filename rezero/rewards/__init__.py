"""Rewards: pure functions `Episode -> float`. What they are called is in `REWARDS`, how they are weighed is data.

`published` has those of the original, to the letter, and `ours` the others; each docstring says what is paid, its range
and how it can be gamed. To add one, write a function and name it in `REWARDS`, or give its name as "module:function".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from rezero.names import load_function
from rezero.protocol import Episode
from rezero.rewards import ours, published

if TYPE_CHECKING:  # imported late, because names of rewards are checked before anything else
    from pandas import DataFrame

REWARDS: dict[str, Callable[[Episode], float]] = {
    "correctness": published.correctness,
    "format": published.keeps_format,
    "retry": published.retry,
    "retry_always": published.retry_always,
    "em_chunk": published.em_chunk,
    "em_chunk_last": published.em_chunk_last,
    "search_strategy": published.search_strategy,
    "search_diversity": published.search_diversity,
    "retry_paper": ours.retry_paper,
    "recovery": ours.recovery,
    "evidence": ours.evidence,
    "exact_match": ours.exact_match,
    "f1": ours.f1,
    "graded": ours.graded,
    "efficiency": ours.efficiency,
}

_ANSWER, _SEARCHES = {"correctness": 4, "format": 2}, {"em_chunk": 1, "search_strategy": 1, "search_diversity": 1}
REWARD_SETS = {  # name -> {reward: weight}; a weight of 0 logs the reward without training on it
    "original": _ANSWER | {"retry": 1} | _SEARCHES,
    "retry_always": _ANSWER | {"retry_always": 1} | _SEARCHES,
    "retry_paper": _ANSWER | {"retry_paper": 1} | _SEARCHES,
    "no_retry": _ANSWER | _SEARCHES,
    "correctness": {"correctness": 4, "recovery": 0},
    "recovery": {"correctness": 4, "recovery": 2},
}


def load_reward(name: str) -> Callable[[Episode], float]:
    """The reward function of a key of `REWARDS`, or of any "module:function"; ValueError if there is none."""
    return load_function(name, REWARDS, "reward")


def reward_weights(reward_set: str, weights: dict[str, float] | None = None) -> dict[str, float]:
    """`weights` if there are any, else those of `reward_set`; ValueError for an unknown set or reward."""
    if not weights and reward_set not in REWARD_SETS:
        raise ValueError(f"unknown reward set {reward_set!r}; allowed: {', '.join(REWARD_SETS)}")
    weights = weights or REWARD_SETS[reward_set]
    for name, weight in weights.items():
        load_reward(name)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise ValueError(f"the weight of reward {name!r} is {weight!r}; want a number")
    return weights


def score(episode: Episode, weights: dict[str, float]) -> tuple[float, dict[str, float]]:
    """The weighted sum, and each reward's own value, also of those with weight 0.

    As in TRL, a reward that cannot score the episode (None, NaN) adds nothing to the sum; its value is None.
    """
    values = {name: load_reward(name)(episode) for name in weights}
    values = {name: None if value != value else value for name, value in values.items()}
    return sum(weights[name] * value for name, value in values.items() if value is not None), values


def table(episodes: dict[str, Episode]) -> DataFrame:
    """What each named episode earns: one row per reward, then one per reward set (weighted sums)."""
    from pandas import DataFrame

    rows = {name: [reward(episode) for episode in episodes.values()] for name, reward in REWARDS.items()}
    for name, weights in REWARD_SETS.items():
        rows[f"set {name}"] = [score(episode, weights)[0] for episode in episodes.values()]
    return DataFrame.from_dict(rows, orient="index", columns=list(episodes)).round(3)
