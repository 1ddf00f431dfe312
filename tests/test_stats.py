import numpy as np
import pytest
from rezero.stats import fisher, mcnemar
from scipy.stats import binom, norm

from rezero.evaluation.stats import bootstrap_mean, holm, paired_bootstrap, paired_shares, solve_power, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (15, 32, 0.309, 0.636),  # the published best, 46.9% of 32
        (8, 32, 0.133, 0.421),  # the published run without the retry reward
        (0, 10, 0.0, 0.278),
        (10, 10, 0.722, 1.0),
    ],
)
def test_wilson(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-4)


def test_wilson_narrows_with_n_and_widens_with_the_level():
    assert wilson(150, 320)[0] > wilson(15, 32)[0]
    assert wilson(15, 32, level=0.99)[0] < wilson(15, 32)[0]


def test_fisher_of_the_published_comparison():
    assert fisher(15, 32, 8, 32) == pytest.approx(0.117, abs=5e-4)
    assert fisher(8, 32, 8, 32) == 1.0


def test_mcnemar_counts_only_the_questions_that_differ():
    a = [True] * 50 + [False] * 50 + [False] * 8 + [True] * 2
    b = [True] * 50 + [False] * 50 + [True] * 8 + [False] * 2
    assert mcnemar(a, b) == pytest.approx(0.109375)  # 2 or fewer, or 8 or more, of 10 fair coins: 2 * 56/1024
    assert mcnemar(b, a) == mcnemar(a, b)
    assert mcnemar([True, False], [True, False]) == 1.0


def test_bootstrap_of_a_mean():
    x = np.random.default_rng(0).normal(3, 2, size=400)
    mean, low, high = bootstrap_mean(x, seed=1)
    half = 1.96 * x.std() / 20  # the normal interval, which 400 values agree with
    assert mean == pytest.approx(x.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.02)
    assert bootstrap_mean(x, seed=1) == (mean, low, high)
    assert bootstrap_mean(x, seed=2) != (mean, low, high)
    assert bootstrap_mean([2.0, 2.0], seed=0) == (2.0, 2.0, 2.0)


def test_pairs_are_resampled_together():
    # Questions differ a lot, the two policies always by the same 0.1: the paired interval has no width.
    a = np.linspace(0, 1, 50)
    difference, low, high = paired_bootstrap(a, a + 0.1, seed=0)
    assert (difference, low, high) == pytest.approx((0.1, 0.1, 0.1))
    assert paired_bootstrap([0, 1, 0], [1, 1, 1], seed=0)[0] == pytest.approx(2 / 3)  # mean(b) - mean(a)


def test_shares_of_one_seed_agree_with_the_paired_bootstrap():
    rng = np.random.default_rng(0)
    a, b = rng.random(300) < 0.4, rng.random(300) < 0.55
    everyone = np.ones((1, 300))
    difference, low, high, p = paired_shares(([a], everyone), ([b], everyone), seed=0)
    assert (difference, low, high) == pytest.approx(paired_bootstrap(a, b, seed=1), abs=0.01)
    assert p < 0.01
    assert paired_shares(([a], everyone), ([a], everyone), seed=0)[0] == 0


def test_shares_under_a_condition_and_the_spread_of_seeds():
    cases = np.array([[1, 1, 1, 0] * 25] * 2)
    retried = np.array([[1, 0, 0, 0] * 25, [1, 1, 1, 0] * 25])  # 1/3 with one seed, always with the other
    never = np.zeros_like(cases)
    difference, low, high, _ = paired_shares((never, cases), (retried, cases), seed=0)
    assert difference == pytest.approx(2 / 3)
    assert low < 0.4 and high > 0.95  # the seeds differ more than the questions


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_questions_that_tell_the_published_rates_apart():
    assert solve_power(0.25, 0.47, power=0.8) == solve_power(0.47, 0.25, power=0.8) == 74
    assert solve_power(0.25, 0.47, power=0.8, alpha=0.01) > 100
    assert solve_power(0.25, n=74, power=0.8) == pytest.approx(0.47, abs=0.001)


@pytest.mark.parametrize("n", [32, 74])
def test_power_is_how_often_the_test_rejects(n):
    i, j = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    chances = np.outer(binom.pmf(np.arange(n + 1), n, 0.25), binom.pmf(np.arange(n + 1), n, 0.47))
    pooled = (i + j) / 2 / n
    rejects = abs(i - j) / n > norm.isf(0.025) * np.sqrt(2 * pooled * (1 - pooled) / n)
    assert solve_power(0.25, 0.47, n=n) == pytest.approx(chances[rejects].sum(), abs=0.02)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"after": 0.25, "power": 0.8}, "no such n"),  # no number tells a rate from itself
        ({"n": 2, "power": 0.99}, "no such after"),
        ({"n": 5}, "one of after, n and power"),
        ({"after": 47, "power": 0.8}, "shares in"),
        ({"n": 0, "power": 0.8}, "n >= 1"),
    ],
)
def test_power_that_cannot_be(asked, message):
    with pytest.raises(ValueError, match=message):
        solve_power(0.25, **asked)


def test_samples_of_a_question_are_resampled_together():
    rng = np.random.default_rng(0)
    hard = rng.random(100) < 0.5  # every one of 4 samples of a question is right, or none
    _, low, high = bootstrap_mean(4 * hard, seed=0, cases=[4] * 100)
    assert (low, high) == pytest.approx(bootstrap_mean(hard, seed=0)[1:])
    assert bootstrap_mean([1, 3], seed=0, cases=[1, 4])[0] == 4 / 5
    with pytest.raises(ValueError, match=r"cases \(1,\)"):
        bootstrap_mean([1, 3], seed=0, cases=[1])


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    held = []
    for seed in range(200):
        _, low, high = bootstrap_mean(rng.random(100) < 0.4, seed=seed, resamples=500)
        held.append(low <= 0.4 <= high)
    assert 0.89 <= np.mean(held) <= 0.99


def test_refusals():
    with pytest.raises(ValueError, match="5 successes of 4"):
        wilson(5, 4)
    with pytest.raises(ValueError, match="0 successes of 0"):
        wilson(0, 0)
    with pytest.raises(ValueError, match="level is 95"):
        wilson(1, 2, level=95)
    with pytest.raises(ValueError, match="-1 successes of 4"):
        fisher(1, 4, -1, 4)
    with pytest.raises(ValueError, match="a has 2 values and b 3"):
        paired_bootstrap([0, 1], [0, 1, 1], seed=0)
    with pytest.raises(ValueError, match="a has 0 values"):
        mcnemar([], [])
    with pytest.raises(ValueError, match="right or wrong"):
        mcnemar([0, 1], [0.5, 1])
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mean([], seed=0)
