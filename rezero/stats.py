"""Honest statistics of small evaluations: intervals of rates and means, paired differences, exact tests."""

from collections.abc import Sequence
from math import ceil

import numpy as np
import scipy  # which loads scipy.stats and scipy.optimize when they are first asked for

LEVEL = 0.95  # of the intervals
BLOCK = 4_000_000  # resampled values held in memory at once


def wilson(successes: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The Wilson score interval (1927) of a rate: (low, high). Sound for small `n`, and at 0 and `n`."""
    _check_counts(successes, n)
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; want a share between 0 and 1, as 0.95")
    interval = scipy.stats.binomtest(int(successes), int(n)).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_mean(
    x: Sequence[float], seed: int, resamples: int = 10_000, cases: Sequence[float] | None = None
) -> tuple[float, float, float]:
    """The mean of `x` with its 95% percentile bootstrap interval (Efron 1979): (mean, low, high).

    `x`: one value a question; with `cases`, the sum of so many values, as of several samples, which are then resampled
    together (the mean is sum of `x` over sum of `cases`).
    """
    x = np.asarray(x, float)
    cases = np.ones_like(x) if cases is None else np.asarray(cases, float)
    if x.ndim != 1 or not len(x) or x.shape != cases.shape:
        raise ValueError(f"x has shape {x.shape}, cases {cases.shape}; want one value a question, at least one")
    rng = np.random.default_rng(seed)
    rows = max(1, BLOCK // len(x))
    sizes = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    draws = (rng.integers(len(x), size=(size, len(x))) for size in sizes)
    means = np.concatenate([x[drawn].sum(axis=1) / cases[drawn].sum(axis=1) for drawn in draws])
    return float(x.sum() / cases.sum()), *_middle(means)


def paired_bootstrap(
    a: Sequence[float], b: Sequence[float], seed: int, resamples: int = 10_000
) -> tuple[float, float, float]:
    """How much better `b` is than `a` on the same questions: (mean(b) - mean(a), low, high).

    Questions are resampled with both of their scores, so that how hard they are cancels out. The
    interval knows nothing of the training seed: for that, pass one mean a seed, or report every seed.
    """
    return bootstrap_mean(_differences(a, b), seed, resamples)


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


def fisher(successes_a: int, n_a: int, successes_b: int, n_b: int) -> float:
    """Two-sided p of Fisher's exact test for two rates measured on *different* questions."""
    _check_counts(successes_a, n_a)
    _check_counts(successes_b, n_b)
    table = [[successes_a, n_a - successes_a], [successes_b, n_b - successes_b]]
    return float(scipy.stats.fisher_exact(table).pvalue)


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


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> float:
    """Two-sided p of McNemar's exact test (1947) for two policies on the *same* questions.

    Only the questions that exactly one of them got right count; 1.0 when there is none.
    """
    differences = _differences(a, b)
    if not set(differences) <= {-1, 0, 1}:
        raise ValueError("mcnemar wants right or wrong (True, False, 1, 0) for every question")
    better, worse = int((differences > 0).sum()), int((differences < 0).sum())
    return float(scipy.stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0


def _differences(a: Sequence[float], b: Sequence[float]):
    """b - a, float (n,), refusing lists that cannot be pairs."""
    if len(a) != len(b) or not len(a):
        raise ValueError(f"a has {len(a)} values and b {len(b)}; want one pair a question, at least one")
    return np.asarray(b, float) - np.asarray(a, float)


def _middle(resampled) -> tuple[float, float]:
    """The bounds between which `LEVEL` of the values lie."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def _check_counts(successes: int, n: int) -> None:
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} successes of {n}; want 0 <= successes <= n and n >= 1")
