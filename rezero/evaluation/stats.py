"""Statistics of small evaluations: 95% intervals of rates, of means and of paired differences."""

from collections.abc import Sequence

import numpy as np
import scipy  # loads scipy.stats only when it is first used

LEVEL = 0.95  # of all intervals
Interval = tuple[float, float, float]  # (estimate, low, high)
BLOCK = 4_000_000  # resampled values held in memory at once


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The Wilson score interval (1927) of a rate: (low, high). It is sound for small `n`, and at rates of 0 and 1."""
    interval = scipy.stats.binomtest(int(successes), int(n)).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_mean(x: Sequence, seed: int, resamples: int = 10_000, cases: Sequence | None = None) -> Interval:
    """The mean of `x`, one value per question, with its percentile bootstrap interval (Efron 1979): (mean, low, high).

    Where a question was sampled several times, `x` has the sum of its values and `cases` how many they are: they are
    resampled together, and the mean is sum(x) / sum(cases). ValueError if `x` is empty or the shapes differ.
    """
    x = np.asarray(x, float)
    cases = np.ones_like(x) if cases is None else np.asarray(cases, float)
    if x.ndim != 1 or not len(x) or x.shape != cases.shape:
        raise ValueError(f"x has shape {x.shape}, cases {cases.shape}; want one value per question, at least one")
    rng = np.random.default_rng(seed)
    rows = max(1, BLOCK // len(x))
    means = []
    for start in range(0, resamples, rows):
        drawn = rng.integers(len(x), size=(min(rows, resamples - start), len(x)))
        means.append(x[drawn].sum(axis=1) / cases[drawn].sum(axis=1))
    return float(x.sum() / cases.sum()), *percentile_interval(np.concatenate(means))


def paired_bootstrap(a: Sequence, b: Sequence, seed: int, resamples: int = 10_000) -> Interval:
    """How much better `b` is than `a` on the same questions: (mean(b) - mean(a), low, high).

    Questions are resampled with both of their scores, so that their difficulty cancels out. The interval does not cover
    the variation between training seeds.
    """
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} values and b {len(b)}; want one pair per question")
    return bootstrap_mean(np.asarray(b, float) - np.asarray(a, float), seed, resamples)


def percentile_interval(resampled: np.ndarray) -> tuple[float, float]:
    """The bounds (low, high) between which the middle 95% of resampled values lie."""
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
