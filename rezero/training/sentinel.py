"""The collapse sentinel: tells from a run's metrics when training is losing what it had learned.

Notebook 04 shows what it says of runs that collapse, and of those that do not, under these and other thresholds.
"""

from statistics import fmean, median

LIMITS = {  # metric of a step -> limit, unless `Config.collapse_limits` has another
    "malformed_ends": 0.5,  # share of episodes that end in text that is no turn
    "zero_variance_groups": 0.98,  # share of groups: nothing is left to learn from
    "entropy": 3.0,  # nats a token: the policy writes noise
    "kl": 10.0,  # nats a token to the starting policy; logged when beta is above 0
    "searches": 0.95,  # share of the most that an episode can have: it only searches
    "policy_tokens": 0.95,  # share of the most that an episode can have: it does not stop
}

Run = tuple[list[dict], dict[str, float]]  # rows of metrics.jsonl in order; the most of an episode, see `most_of`


def most_of(config: dict) -> dict[str, float]:
    """The most an episode can have of those metrics that are judged as shares of it."""
    return {"searches": config["max_turns"] - 1, "policy_tokens": config["max_turns"] * config["turn_tokens"]}


def check_limits(changed: dict[str, float]) -> dict[str, float]:
    """`LIMITS` with some changed; ValueError for a metric that has none, or a limit that is no number."""
    for metric, limit in changed.items():
        if metric not in LIMITS:
            raise ValueError(f"collapse_limits names {metric!r}; allowed: {', '.join(LIMITS)}")
        if isinstance(limit, bool) or not isinstance(limit, int | float):
            raise ValueError(f"collapse_limits: the limit of {metric!r} is {limit!r}; want a number")
    return LIMITS | changed


def collapse(
    rows: list[dict], drop: float, patience: int, window: int, most: dict[str, float], limits: dict[str, float] = LIMITS
) -> str | None:
    """Why training should stop now, None while it should go on.

    Either the last `patience` evaluations on dev all lie more than `drop` below the best one before them, or mean and
    median of a metric of `limits` over the last `window` steps lie above its limit. A single bad evaluation or step,
    however far out (estimates of KL have such), never stops anything: both are noisy.

    Args:
        rows: those of metrics.jsonl, kinds "train" and "eval", in order.
        most: as `most_of` gives it.
    """
    curve = [(row["step"], row["accuracy"]) for row in rows if row["kind"] == "eval"]
    if len(curve) > patience:
        step, best = max(curve[:-patience], key=lambda point: point[1])
        if all(accuracy < best - drop for _, accuracy in curve[-patience:]):
            last = ", ".join(f"{accuracy:.3f}" for _, accuracy in curve[-patience:])
            return f"dev accuracy was {last}, each more than {drop} below {best:.3f} at step {step}"
    steps = [row for row in rows if row["kind"] == "train"][-window:]
    if len(steps) < window:
        return None
    for metric, limit in limits.items():
        values = [row[metric] / most.get(metric, 1) for row in steps if metric in row]
        if len(values) == window and (typical := min(fmean(values), median(values))) > limit:
            of = f" of at most {most[metric]}" if metric in most else ""
            return f"{metric} was {typical:.3f}{of} on average over {window} steps, the limit is {limit}"
    return None
