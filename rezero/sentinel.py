"""The collapse sentinel: tells from a run's metrics when training is losing what it had learned."""

from statistics import fmean

LIMITS = {  # metric of a step -> limit; a mean over a whole window above it is a collapse
    "malformed_ends": 0.5,  # share of episodes that end in text that is no turn
    "zero_variance_groups": 0.98,  # share of groups: nothing is left to learn from
    "entropy": 3.0,  # nats a token: the policy writes noise
    "kl": 10.0,  # nats a token to the starting policy; logged when beta is above 0
    "searches": 0.95,  # share of the most that an episode can have: it only searches
    "policy_tokens": 0.95,  # share of the most that an episode can have: it does not stop
}


def collapse(rows: list[dict], drop: float, patience: int, window: int, most: dict[str, float]) -> str | None:
    """Why training should stop now, None while it should go on.

    Either the last `patience` evaluations on dev all lie more than `drop` below the best one before them, or the mean
    of a metric of `LIMITS` over the last `window` steps lies above its limit. A single bad evaluation or step never
    stops anything: both are noisy.

    Args:
        rows: those of metrics.jsonl, kinds "train" and "eval", in order.
        most: the most an episode can have of "searches" and "policy_tokens", which are judged as shares of it.
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
    for metric, limit in LIMITS.items():
        values = [row[metric] / most.get(metric, 1) for row in steps if metric in row]
        if len(values) == window and (mean := fmean(values)) > limit:
            of = f" of at most {most[metric]}" if metric in most else ""
            return f"{metric} was {mean:.3f}{of} on average over {window} steps, the limit is {limit}"
    return None


def replay(rows: list[dict], drop: float, patience: int, window: int, most: dict[str, float]) -> tuple[int, str] | None:
    """At which step of a recorded run `collapse` would have stopped it, and why; None if it never would have."""
    for end, row in enumerate(rows, start=1):
        if row["kind"] != "collapse" and (why := collapse(rows[:end], drop, patience, window, most)):
            return row["step"], why
    return None
