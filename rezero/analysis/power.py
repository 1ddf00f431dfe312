"""Statistics of ablations: differences of shares over seeds and questions, corrected p-values, and power."""

from collections.abc import Sequence
from math import ceil

import numpy as np
import scipy

from rezero.evaluation.stats import _middle


def paired_shares(a, b, seed: int, resamples: int = 10_000) -> tuple[float, float, float, float]:
    """Difference b - a of two shares over seeds and questions, by a hierarchical bootstrap: (difference, low, high, p).

    `a`, `b`: (successes, cases), each of shape (seeds, questions); a share is all successes over all cases, so that a
    share under a condition (retries of the misses) is covered. Questions are resampled for both at once, the seeds
    of each for themselves; p is two-sided, at least 1 / resamples. With three seeds the interval is still too narrow
    for what other seeds would do, but less so than one over questions alone. Without a case on one side: NaN, p = 1.
    """
    rng = np.random.default_rng(seed)
    _, questions = np.shape(a[0])
    weights = rng.multinomial(questions, np.full(questions, 1 / questions), size=resamples)
    resampled, observed = [], []
    for successes, cases in ((np.asarray(x, float), np.asarray(n, float)) for x, n in (a, b)):
        seeds = len(successes)
        chosen = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
        with np.errstate(invalid="ignore"):  # a resample without a case has no share
            resampled.append((chosen @ successes * weights).sum(1) / (chosen @ cases * weights).sum(1))
            observed.append(successes.sum() / cases.sum())
    difference = resampled[1] - resampled[0]
    difference = difference[~np.isnan(difference)]
    if not len(difference):
        return float("nan"), float("nan"), float("nan"), 1.0
    p = 2 * min((difference <= 0).mean(), (difference >= 0).mean())
    return float(observed[1] - observed[0]), *_middle(difference), float(min(1.0, max(p, 1 / resamples)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's step-down method (1979), in the order given."""
    order, corrected, running = sorted(range(len(p_values)), key=p_values.__getitem__), {}, 0.0
    for rank, i in enumerate(order):
        running = corrected[i] = max(running, min(1.0, (len(order) - rank) * p_values[i]))
    return [corrected[i] for i in range(len(p_values))]


def solve_power(
    before: float, after: float | None = None, n: int | None = None, power: float | None = None, alpha: float = 0.05
) -> float:
    """The one of `after`, `n` and `power` that is None, for the two-sided test of two rates on different questions.

    `before`, `after`: the rates; `n`: questions an arm (rounded up); `power`: the chance that p falls below `alpha`.
    Solved for, `after` is the smallest better rate. Normal approximation with the pooled variance (Fleiss 1981), at 30
    questions good to 2 points; Fisher's exact test wants a tenth more questions, pairs on the same questions fewer.

    Raises:
        ValueError: not exactly one is None, a value is out of bounds, or nothing solves it.
    """
    brentq, norm = scipy.optimize.brentq, scipy.stats.norm
    shares = {"before": before, "after": after, "power": power, "alpha": alpha}
    in_bounds = all(v is None or 0 <= v <= 1 for v in shares.values()) and (n is None or n >= 1)
    if [after, n, power].count(None) != 1 or not in_bounds:
        raise ValueError(f"{shares}, n={n}; want shares in [0, 1], n >= 1, and one of after, n and power to be None")

    def reached(after: float, n: float) -> float:
        spread, pooled = before * (1 - before) + after * (1 - after), (before + after) / 2
        critical = norm.isf(alpha / 2) * (2 * pooled * (1 - pooled)) ** 0.5
        return float(norm.cdf((abs(after - before) * n**0.5 - critical) / max(spread, 1e-12) ** 0.5))

    try:
        if power is None:
            return reached(after, n)
        if n is None:
            return ceil(brentq(lambda n: reached(after, n) - power, 1e-9, 1e9))
        return float(brentq(lambda after: reached(after, n) - power, before, 1))
    except ValueError:
        raise ValueError(f"{shares}, n={n}: no such {'after' if after is None else 'n'} has this power") from None
