"""Recognises from a run's metrics that training loses what the policy had learned (notebook 05), or adds nothing."""

from math import nan
from statistics import fmean, median

from rezero.config import Collapse

FIRST = 3  # steps of whose searches at least one must have worked
STOPS = ("collapse", "stalled")  # kinds of the row of metrics.jsonl that ends a training early, with its "why"
LIMITS = {  # metric of a step -> limit, unless `Collapse.limits` has another
    "malformed_ends": 0.5,  # share of episodes that end in malformed text
    "zero_variance_groups": 0.98,  # share of groups whose rewards are all equal: there is no learning signal
    "entropy": 3.0,  # nats per token: the policy writes noise
    "kl": 10.0,  # nats per token, to the starting policy; logged when grpo.beta is above 0
    "searches": 0.95,  # share of the most that an episode can have: it only searches
    "policy_tokens": 0.95,  # share of the most that an episode can have: it does not stop
}


def most_of(max_turns: int, turn_tokens: int) -> dict[str, float]:
    """The most that an episode can have of those metrics that are judged as shares of it."""
    return {"searches": max_turns - 1, "policy_tokens": max_turns * turn_tokens}


def check_limits(changed: dict[str, float]) -> dict[str, float]:
    """`LIMITS` with some of them changed; ValueError for a metric that has none."""
    for metric in changed.keys() - LIMITS.keys():
        raise ValueError(f"collapse.limits names {metric!r}; allowed: {', '.join(LIMITS)}")
    return LIMITS | changed


def collapse(rows: list[dict], settings: Collapse, most: dict[str, float]) -> str | None:
    """Why training should stop now, by the rows of its metrics.jsonl; None while it should go on.

    It should stop if the last `patience` evaluations on dev all lie more than `drop` below the best one before them, or
    if both mean and median of a metric over the last `window` steps exceed its limit. One bad evaluation or step never
    stops it, however extreme (estimates of the KL divergence have such outliers).
    """
    evals = [row for row in rows if row["kind"] == "eval"]
    before, last = evals[: -settings.patience], evals[-settings.patience :]
    best = max(before, key=lambda row: row["accuracy"], default=None)
    if best and all(row["accuracy"] < best["accuracy"] - settings.drop for row in last):
        values = ", ".join(f"{row['accuracy']:.3f}" for row in last)
        below = f"each more than {settings.drop} below {best['accuracy']:.3f} at step {best['step']}"
        return f"dev accuracy was {values}, {below}"
    steps = [row for row in rows if row["kind"] == "train"][-settings.window :]
    for metric, limit in check_limits(settings.limits).items():
        values = [row[metric] / most.get(metric, 1) for row in steps if metric in row]
        if len(values) < settings.window:
            continue
        typical = min(fmean(values), median(values))
        if typical > limit:
            of = f" of at most {most[metric]}" if metric in most else ""
            return f"{metric} was {typical:.3f}{of} on average over {settings.window} steps, the limit is {limit}"
    return None


def hopeless(rows: list[dict], ended: bool) -> str | None:
    """Why nothing can have been learned, in the first steps or, once training has `ended`, in all; None if it may."""
    steps = [row for row in rows if row["kind"] == "train"]
    first = min(len(steps), FIRST)
    if (ended or first == FIRST) and sum(row.get("failed_searches") == 1 for row in steps[:FIRST]) == first > 0:
        return f"every search of the first {first} steps failed:"
    if ended and sum(row.get("cut_ends") == 1 for row in steps) == len(steps) > 0:
        return f"every episode of all {len(steps)} steps was cut by episode_tokens; want more of them"
    return None


def stalled(rows: list[dict], patience: int) -> str | None:
    """Why training should stop because it adds nothing, by the rows of its metrics.jsonl; None while it should go on.

    It should stop if in none of the last `patience` evaluations on dev accuracy or P(retried | missed) was above its
    best before them: as long as one of the two rises, training goes on. With a patience of 0 it always goes on.
    """
    evals = [row for row in rows if row["kind"] == "eval"]
    if not patience or len(evals) <= patience:
        return None
    for metric in ("accuracy", "retried"):  # the share of no miss at all is NaN, which is above nothing
        values = [row.get(metric, nan) for row in evals]
        best = max([value for value in values[:-patience] if value == value], default=-1.0)
        if any(value > best for value in values[-patience:]):
            return None
    return f"neither accuracy nor P(retried | missed) on dev rose in the last {patience} evaluations"
