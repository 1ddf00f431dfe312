"""Statistics: known values, agreement between methods, and what is refused."""

import numpy as np
import pytest
from scipy.stats import binom, norm

from rezero.analysis.paired import paired_shares, power, smallest_gain
from rezero.evaluation.stats import bootstrap_mean, paired_bootstrap, wilson


@pytest.mark.parametrize(
    "successes, n, low, high",
    [
        (15, 32, 0.309, 0.636),  # the best published result, 46.9% of 32
        (8, 32, 0.133, 0.421),  # the published run without the retry reward
        (0, 10, 0.0, 0.278),
    ],
)
def test_wilson(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-4)


def test_bootstrap_of_a_mean():
    x = np.random.default_rng(0).normal(3, 2, size=400)
    mean, low, high = bootstrap_mean(x, seed=1)
    half = 1.96 * x.std() / 20  # the normal interval, which is accurate for 400 values
    assert mean == pytest.approx(x.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.02)
    assert bootstrap_mean(x, seed=1) == (mean, low, high) != bootstrap_mean(x, seed=2)
    assert bootstrap_mean([2.0, 2.0], seed=0) == (2.0, 2.0, 2.0)


def test_what_belongs_to_a_question_is_resampled_together():
    hard = np.random.default_rng(0).random(100) < 0.5  # of a question's 4 samples, all are right or none
    _, low, high = bootstrap_mean(4 * hard, seed=0, cases=[4] * 100)
    assert (low, high) == pytest.approx(bootstrap_mean(hard, seed=0)[1:])
    assert bootstrap_mean([1, 3], seed=0, cases=[1, 4])[0] == 4 / 5
    # The questions differ much, the two policies always by 0.1: the paired interval has no width.
    a = np.linspace(0, 1, 50)
    assert paired_bootstrap(a, a + 0.1, seed=0) == pytest.approx((0.1, 0.1, 0.1))
    assert paired_bootstrap([0, 1, 0], [1, 1, 1], seed=0)[0] == pytest.approx(2 / 3)  # mean(b) - mean(a)


def test_shares_of_one_seed_agree_with_the_paired_bootstrap():
    rng = np.random.default_rng(0)
    a, b = rng.random(300) < 0.4, rng.random(300) < 0.55
    *interval, p = paired_shares([(([a], np.ones((1, 300))), ([b], np.ones((1, 300))))], seed=0)
    assert interval == pytest.approx(paired_bootstrap(a, b, seed=1), abs=0.01) and p < 0.01


def test_shares_under_a_condition_and_the_spread_of_seeds():
    cases = np.array([[1, 1, 1, 0] * 25] * 2)
    retried = np.array([[1, 0, 0, 0] * 25, [1, 1, 1, 0] * 25])  # 1/3 with one seed, always with the other
    never = np.zeros_like(cases)
    difference, low, high, _ = paired_shares([((never, cases), (retried, cases))], seed=0)
    assert difference == pytest.approx(2 / 3)
    assert low < 0.4 and high > 0.95  # the seeds differ more than the questions
    assert np.isnan(paired_shares([((never, never), (retried, cases))], seed=0)[:3]).all()


def test_questions_that_tell_the_published_rates_apart():
    assert power(0.25, 0.47, n=73) < 0.8 < power(0.25, 0.47, n=74) == power(0.47, 0.25, n=74)
    assert power(0.25, 0.47, n=100, alpha=0.01) < 0.8
    assert smallest_gain(0.25, n=74) == pytest.approx(0.22, abs=0.001)
    assert all(np.isnan(smallest_gain(*never)) for never in ((0.25, 2, 0.99), (1.0, 30), (1.4, 30), (0.0, 0)))


def test_power_is_how_often_the_test_rejects():
    n, counts = 32, np.arange(33)
    chances = np.outer(binom.pmf(counts, n, 0.25), binom.pmf(counts, n, 0.47))
    difference, pooled = (counts[:, None] - counts) / n, (counts[:, None] + counts) / 2 / n
    rejects = abs(difference) > norm.isf(0.025) * np.sqrt(2 * pooled * (1 - pooled) / n)
    assert power(0.25, 0.47, n=n) == pytest.approx(chances[rejects].sum(), abs=0.02)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: wilson(5, 4), r"k \(5\) must not be greater than n \(4\)"),
        (lambda: bootstrap_mean([], seed=0), "at least one"),
        (lambda: bootstrap_mean([1, 3], seed=0, cases=[1]), r"cases \(1,\); want one value per question"),
        (lambda: paired_bootstrap([0, 1], [0, 1, 1], seed=0), "a has 2 values and b 3; want one pair per question"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
