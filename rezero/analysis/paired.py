"""Paired differences between arms that were asked the same questions, with how large a difference would be found."""

import numpy as np
import pandas as pd
import scipy

from rezero.evaluation.evaluate import MEANS, METRICS, Report
from rezero.evaluation.stats import percentile_interval

# With the share of all misses that were recovered from, which is what retrying is for
COMPARED = METRICS | {"rescued": ("misses recovered from", "recovered", "missed")}
LABELS = {name: label for name, (label, _, _) in COMPARED.items()}
Reports = dict[tuple[str, int], Report]  # (arm, seed) -> what it did on the same questions
Counts = tuple[np.ndarray, np.ndarray]  # (successes or sums, cases), each of shape (seeds, questions)


def paired_table(places: list[Reports], baseline: str, metrics: tuple[str, ...] = ("accuracy",)) -> pd.DataFrame:
    """Differences of all arms to `baseline` by `paired_shares`; p is corrected for all rows by Holm's method.

    `places`: reports of the same arms on the same questions, in one place or in several, of whose differences the mean
    is taken. `n`: episodes per seed and place that the share is about. "4 in 5": the gain over the baseline that so
    many find with a power of 80% on different questions (on the same ones a smaller gain suffices), in one place.
    """
    arms = _by_arm(places)
    if baseline not in arms[0]:
        raise ValueError(f"baseline {baseline!r} is no arm; allowed: {', '.join(arms[0])}")
    rows = []
    for metric in metrics:
        before = [_counts(own[baseline], metric) for own in arms]
        successes, cases = (sum(counts[i].sum() for counts in before) for i in (0, 1))
        n = round(cases / len(arms[0][baseline]) / len(arms))
        gain = np.nan if metric in MEANS or len(arms) > 1 else smallest_gain(successes / max(1, cases), n)
        for arm in arms[0]:
            if arm != baseline:
                pairs = [(one, _counts(own[arm], metric)) for one, own in zip(before, arms, strict=True)]
                rows.append((arm, baseline, metric, *paired_shares(pairs, seed=0), n, gain))
    columns = ["arm", "baseline", "metric", "difference", "low", "high", "p", "n", "4 in 5"]
    return corrected(pd.DataFrame(rows, columns=columns), "baseline")  # of all rows


def corrected(table: pd.DataFrame, family: str | list[str]) -> pd.DataFrame:
    """`table` with p corrected by Holm's method for all rows with the same `family` (columns), and what that shows."""
    p = table.groupby(family)["p"].transform(holm)
    words = np.where(p < 0.05, np.where(table.difference > 0, "higher", "lower"), "no difference shown")
    return table.assign(**{"p (Holm)": p, "shown": p < 0.05, "in words": words})


def holm(p: pd.Series) -> pd.Series:
    """P-values corrected for their number by Holm's step-down method (1979)."""
    p = p.sort_values()
    return (p * np.arange(len(p), 0, -1)).cummax().clip(upper=1)


def in_words(table: pd.DataFrame) -> str:
    """One line per metric of `paired_table`: what was shown, what was not, and what could have been."""
    lines = []
    for metric, rows in table.groupby("metric", sort=False):
        (baseline, n, gain), said = rows[["baseline", "n", "4 in 5"]].iloc[0], [f"{LABELS[metric]}:"]
        for _, row in rows[rows.shown].iterrows():
            interval = f"95% interval of the difference {row.low:+.3f} to {row.high:+.3f}, p = {row['p (Holm)']:.4f}"
            said.append(f"{row.arm} is {row['in words']} than {baseline} by {abs(row.difference):.3f} ({interval}).")
        if not rows.shown.all():
            said.append(f"No difference from {baseline} was shown for {', '.join(rows.arm[~rows.shown])}.")
        found = "no gain" if np.isnan(gain) else f"a gain of {gain:.3f}"
        lines.append(f"{' '.join(said)} With {n:.0f} episodes per seed {found} is found 4 times in 5.")
    return "\n".join(lines)


def _by_arm(places: list[Reports]) -> list[dict[str, list[Report]]]:
    """Per place the reports of each arm, one per seed; ValueError if they are about different questions."""
    if len({tuple(sorted(one.frame["question_id"])) for reports in places for one in reports.values()}) > 1:
        raise ValueError("the arms were asked different questions; compare arms that were asked the same ones")
    names = dict.fromkeys(arm for arm, _ in places[0])
    return [{name: [one for (arm, _), one in reports.items() if arm == name] for name in names} for reports in places]


def _counts(reports: list[Report], metric: str) -> Counts:
    """What the shares or means of an arm are made of; questions in the order of their ids."""
    _, column, condition = COMPARED[metric]
    frames = [report.frame.sort_values("question_id") for report in reports]
    cases = np.array([frame[condition] if condition else [True] * len(frame) for frame in frames], float)
    return np.array([frame[column] for frame in frames], float) * cases, cases


def paired_shares(
    pairs: list[tuple[Counts, Counts]], seed: int, resamples: int = 10_000
) -> tuple[float, float, float, float]:
    """The mean over `pairs` (a, b) of the difference b - a of two shares: (difference, low, high, two-sided p).

    A share is the sum of all successes over that of all cases, such as the misses in P(retried | missed); pairs without
    cases are left out, and without any the result is NaN with p = 1. In a hierarchical bootstrap questions are drawn
    jointly for all, seeds separately; three seeds still give too narrow an interval for the results of further seeds. A
    bootstrap of few questions is too sure of itself, so p is at least that of a sign test in which all questions that
    differ within a pair agree.
    """
    rng, questions = np.random.default_rng(seed), np.shape(pairs[0][0][0])[1]
    weights = rng.multinomial(questions, np.full(questions, 1 / questions), size=resamples)
    each, moved = [], np.zeros(questions, bool)
    for pair in pairs:
        shares = []  # the observed one and those of all resamples
        for successes, cases in pair:
            chosen = rng.multinomial(len(cases), np.full(len(cases), 1 / len(cases)), size=resamples)
            with np.errstate(invalid="ignore"):  # without a case there is no share
                drawn = (chosen @ successes * weights).sum(1) / (chosen @ cases * weights).sum(1)
                shares.append(np.append(np.sum(successes) / np.sum(cases), drawn))
        each.append(shares[1] - shares[0])
        apart = np.any([np.mean(x, axis=0) != np.mean(y, axis=0) for x, y in zip(*pair, strict=True)], axis=0)
        moved |= apart & np.isfinite(each[-1][0])
    difference, *differences = pd.DataFrame(each).mean()
    differences = np.array(differences)[~np.isnan(differences)]
    if not len(differences):
        return np.nan, np.nan, np.nan, 1.0
    p = 2 * min((differences <= 0).mean(), (differences >= 0).mean())
    p = float(np.clip(p, max(1 / resamples, 0.5 ** (moved.sum() - 1.0)), 1))
    return float(difference), *percentile_interval(differences), p


def power(before: float, after: float, n: float, alpha: float = 0.05) -> float:
    """How often a two-sided test tells two rates apart, each of `n` questions of its own; on the same, fewer suffice.

    Normal approximation with the pooled variance (Fleiss 1981): at 30 questions it is within 0.02 of the exact power.
    """
    pooled, spread = (before + after) / 2, before * (1 - before) + after * (1 - after)
    critical = scipy.stats.norm.isf(alpha / 2) * (2 * pooled * (1 - pooled)) ** 0.5
    return float(scipy.stats.norm.cdf((abs(after - before) * n**0.5 - critical) / max(spread, 1e-12) ** 0.5))


def smallest_gain(before: float, n: float, wanted: float = 0.8) -> float:
    """The gain over the rate `before` that is found with the power `wanted`; NaN if even a rise to 1 is not."""
    if not 0 <= before <= 1 or power(before, 1, n) < wanted:
        return np.nan
    return float(scipy.optimize.brentq(lambda after: power(before, after, n) - wanted, before, 1)) - before
