"""Statistics of ablations: differences of shares over seeds and questions, corrected p-values, and power."""

from collections.abc import Sequence
from math import ceil

import numpy as np
import pandas as pd
import scipy

from rezero.evaluation.stats import percentile_interval

Counts = tuple[Sequence, Sequence]  # (successes, cases), each of shape (seeds, questions)


def paired_shares(a: Counts, b: Counts, seed: int, resamples: int = 10_000) -> tuple[float, float, float, float]:
    """The difference b - a of two shares by a hierarchical bootstrap: (difference, low, high, p).

    A share is the sum of all successes over the sum of all cases. The cases may be some of the episodes only, such as
    the misses in P(retried | missed); without a case the result is NaN with p = 1. Questions are resampled jointly for
    `a` and `b`, seeds separately; three seeds still give too narrow an interval for the results of further seeds. The
    p-value is two-sided and at least 1 / resamples.
    """
    rng = np.random.default_rng(seed)
    _, questions = np.shape(a[0])
    weights = rng.multinomial(questions, np.full(questions, 1 / questions), size=resamples)
    resampled, observed = [], []
    for successes, cases in (a, b):
        seeds = len(successes)
        chosen = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
        with np.errstate(invalid="ignore"):  # without a case there is no share
            resampled.append((chosen @ successes * weights).sum(1) / (chosen @ cases * weights).sum(1))
            observed.append(np.sum(successes) / np.sum(cases))
    differences = resampled[1] - resampled[0]
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        return np.nan, np.nan, np.nan, 1.0
    p = 2 * min((differences <= 0).mean(), (differences >= 0).mean())
    p = float(np.clip(p, 1 / resamples, 1))
    return float(observed[1] - observed[0]), *percentile_interval(differences), p


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for multiple testing by Holm's step-down method (1979), in the order given."""
    p = pd.Series(p_values, dtype=float).sort_values()
    corrected = (p * np.arange(len(p), 0, -1)).cummax().clip(upper=1)
    return corrected.sort_index().to_list()


def solve_power(
    before: float, after: float | None = None, n: int | None = None, power: float | None = None, alpha: float = 0.05
) -> float:
    """The one of `after`, `n` and `power` that is None, for a two-sided test of two rates on different questions.

    `n` counts the questions per arm, `after` is sought above `before`, and `power` is the probability that the p-value
    falls below `alpha`. Normal approximation with the pooled variance (Fleiss 1981): at 30 questions its power is
    within 0.02 of the exact one. Pairs on the same questions need fewer. ValueError if there is no solution.
    """
    given = {"before": before, "after": after, "power": power, "alpha": alpha}
    in_bounds = all(share is None or 0 <= share <= 1 for share in given.values()) and (n is None or n >= 1)
    if [after, n, power].count(None) != 1 or not in_bounds:
        raise ValueError(f"{given}, n={n}; want shares in [0, 1], n >= 1, and one of after, n and power to be None")

    def reached(after: float, n: float) -> float:
        pooled, spread = (before + after) / 2, before * (1 - before) + after * (1 - after)
        critical = scipy.stats.norm.isf(alpha / 2) * (2 * pooled * (1 - pooled)) ** 0.5
        return float(scipy.stats.norm.cdf((abs(after - before) * n**0.5 - critical) / max(spread, 1e-12) ** 0.5))

    try:
        if power is None:
            return reached(after, n)
        if n is None:
            return ceil(scipy.optimize.brentq(lambda n: reached(after, n) - power, 1e-9, 1e9))
        return float(scipy.optimize.brentq(lambda after: reached(after, n) - power, before, 1))
    except ValueError:
        raise ValueError(f"{given}, n={n}: no such {'after' if after is None else 'n'} has this power") from None
