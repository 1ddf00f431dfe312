"""Statistics of ablations: differences of shares over seeds and questions, corrected p-values, and power."""

from collections.abc import Sequence
from math import ceil

import numpy as np
import scipy

from rezero.evaluation.stats import percentile_interval

Counts = tuple[Sequence, Sequence]  # (successes, cases), each of shape (seeds, questions)


def paired_shares(a: Counts, b: Counts, seed: int, resamples: int = 10_000) -> tuple[float, float, float, float]:
    """The difference b - a of two shares by a hierarchical bootstrap: (difference, low, high, p).

    A share is the sum of all successes over the sum of all cases. The cases may be some of the episodes only, such as
    the misses in P(retried | missed). Questions are resampled jointly for `a` and `b`, seeds separately. The p-value
    is two-sided and at least 1 / resamples. With three seeds the interval is still too narrow for the results of
    further seeds, but wider than one over questions alone. If one side has no case, the result is NaN with p = 1.
    """
    rng = np.random.default_rng(seed)
    _, questions = np.shape(a[0])
    weights = rng.multinomial(questions, np.full(questions, 1 / questions), size=resamples)
    resampled, observed = [], []
    for counts in (a, b):
        successes, cases = np.asarray(counts[0], float), np.asarray(counts[1], float)
        seeds = len(successes)
        chosen = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
        with np.errstate(invalid="ignore"):  # a resample without a case has no share
            resampled.append((chosen @ successes * weights).sum(1) / (chosen @ cases * weights).sum(1))
            observed.append(successes.sum() / cases.sum())
    differences = resampled[1] - resampled[0]
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        return float("nan"), float("nan"), float("nan"), 1.0
    p = 2 * min((differences <= 0).mean(), (differences >= 0).mean())
    p = float(min(1.0, max(p, 1 / resamples)))
    return float(observed[1] - observed[0]), *percentile_interval(differences), p


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for multiple testing by Holm's step-down method (1979), in the order given."""
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected


def solve_power(
    before: float, after: float | None = None, n: int | None = None, power: float | None = None, alpha: float = 0.05
) -> float:
    """The one of `after`, `n` and `power` that is None, for a two-sided test of two rates on different questions.

    Normal approximation with the pooled variance (Fleiss 1981). At 30 questions its power is within 0.02 of the exact
    one. Fisher's exact test needs about a tenth more questions; pairs on the same questions need fewer.

    Args:
        before, after: the two rates. When computed, `after` is the lowest rate above `before`.
        n: questions per arm, rounded up when computed.
        power: the probability that the p-value falls below `alpha`.

    Raises:
        ValueError: not exactly one is None, a value is out of bounds, or there is no solution.
    """
    shares = {"before": before, "after": after, "power": power, "alpha": alpha}
    in_bounds = all(share is None or 0 <= share <= 1 for share in shares.values()) and (n is None or n >= 1)
    if [after, n, power].count(None) != 1 or not in_bounds:
        raise ValueError(f"{shares}, n={n}; want shares in [0, 1], n >= 1, and one of after, n and power to be None")

    def reached(after: float, n: float) -> float:
        """The power at a rate and a number of questions."""
        spread = before * (1 - before) + after * (1 - after)
        pooled = (before + after) / 2
        critical = scipy.stats.norm.isf(alpha / 2) * (2 * pooled * (1 - pooled)) ** 0.5
        return float(scipy.stats.norm.cdf((abs(after - before) * n**0.5 - critical) / max(spread, 1e-12) ** 0.5))

    try:
        if power is None:
            return reached(after, n)
        if n is None:
            return ceil(scipy.optimize.brentq(lambda n: reached(after, n) - power, 1e-9, 1e9))
        return float(scipy.optimize.brentq(lambda after: reached(after, n) - power, before, 1))
    except ValueError:
        missing = "after" if after is None else "n"
        raise ValueError(f"{shares}, n={n}: no such {missing} has this power") from None
