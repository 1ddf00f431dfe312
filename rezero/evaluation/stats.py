"""Statistics of small evaluations: intervals of rates and of means, and paired differences."""

from collections.abc import Sequence

import numpy as np
import scipy  # which loads scipy.stats when it is first asked for

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
