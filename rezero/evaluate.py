"""Evaluate a policy on questions: greedy episodes, shares and means with 95% intervals, paired comparison."""

from dataclasses import dataclass
from math import comb

import pandas as pd

from rezero.config import Config
from rezero.policy import Policy
from rezero.protocol import Episode
from rezero.questions import Question
from rezero.rollout import Budget, rollout
from rezero.search import Engine
from rezero.stats import bootstrap_mean, paired_bootstrap, wilson
from rezero.traces import to_frame

SHARES = {  # metric -> (column of the episodes' frame, column that selects the episodes it is about)
    "accuracy": ("correct", None),
    "evidence": ("evidence_seen", None),
    "first_miss": ("first_miss", None),
    "retry_after_miss": ("retried_after_miss", "first_miss"),
    "found_after_retry": ("recovered", "retried_after_miss"),
    "malformed": ("malformed", None),
    "answered": ("answered", None),
    "unsupported": ("unsupported", "answered"),
}
MEANS = {name: name for name in ("f1", "searches", "wasted", "policy_tokens")}  # metric -> column
LABELS = {
    "accuracy": "accuracy (exact match)",
    "f1": "F1",
    "evidence": "gold evidence seen",
    "first_miss": "first search missed the gold",
    "retry_after_miss": "P(search again | gold not seen)",
    "found_after_retry": "P(gold found | searched again)",
    "malformed": "episodes with a malformed turn",
    "answered": "episodes with an answer",
    "unsupported": "answers without the evidence",
    "searches": "searches per episode",
    "wasted": "searches after the evidence",
    "policy_tokens": "sampled tokens per episode",
}


@dataclass(frozen=True)
class Estimate:
    """A share or mean with its 95% interval over `n` episodes; all NaN when n is 0."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]" if self.n else "no such episode"


@dataclass(frozen=True)
class Report:
    """What one policy did on one set of questions: metric name -> `Estimate`, and the episodes themselves."""

    name: str
    metrics: dict[str, Estimate]
    frame: pd.DataFrame
    episodes: tuple[Episode, ...]

    def __getitem__(self, metric: str) -> Estimate:
        if metric not in self.metrics:
            raise KeyError(f"unknown metric {metric!r}; allowed: {', '.join(self.metrics)}")
        return self.metrics[metric]

    def by_kind(self, metric: str = "accuracy") -> pd.DataFrame:
        """A metric by question kind, one row a kind: kind, n, the metric, low, high."""
        rows = []
        for kind, frame in self.frame.groupby("kind", sort=False):
            found = estimate(metric, frame)
            rows.append((kind, found.n, found.value, found.low, found.high))
        return pd.DataFrame(rows, columns=["kind", "n", metric, "low", "high"])

    def __repr__(self) -> str:
        return table([self]).to_string()

    def _repr_html_(self) -> str:
        return table([self]).to_html()


def evaluate(
    policy: Policy,
    engine: Engine,
    questions: list[Question],
    config: Config,
    name: str,
    progress: bool = False,
) -> Report:
    """Greedy episodes on `questions` with the budgets of `config`."""
    episodes = rollout(
        policy,
        engine,
        questions,
        k=config.k,
        budget=budget(config),
        prompt_style=config.prompt_style,
        progress=f"evaluate {name}" if progress else None,
    )
    return report(episodes, name)


def pass_at(sampled: Report, k: int) -> Estimate:
    """Share of questions that at least one of `k` samples solves, with a bootstrap interval over questions.

    The unbiased estimator of Chen et al. (2021) from n samples a question, n >= k: 1 - C(wrong, k) / C(n, k).
    k = 1 is the mean accuracy of a sample.

    Raises:
        ValueError: a question has fewer than `k` samples.
    """
    right = sampled.frame.groupby("question_id")["correct"].agg(["sum", "size"])
    if (fewest := right["size"].min()) < k:
        raise ValueError(f"pass@{k} of {fewest} samples a question; want at least {k}")
    solved = [1 - comb(int(n - hits), k) / comb(int(n), k) for hits, n in right.itertuples(index=False)]
    return Estimate(*bootstrap_mean(solved, seed=0), len(solved))


def budget(config: Config) -> Budget:
    """The episode's limits as `config` sets them."""
    return Budget(config.max_turns, config.turn_tokens, config.episode_tokens)


def report(episodes: list[Episode], name: str) -> Report:
    """Summarise episodes from any source: a policy, a script, a file of traces."""
    frame = to_frame(episodes)
    frame["evidence_seen"] = frame["evidence"] == 1.0
    frame["malformed"] = frame["malformed_turns"] > 0
    frame["answered"] = frame["outcome"] == "answered"
    metrics = {metric: estimate(metric, frame) for metric in LABELS}
    return Report(name, metrics, frame, tuple(episodes))


def estimate(metric: str, frame: pd.DataFrame) -> Estimate:
    """One metric of a frame of episodes: a share with its Wilson interval or a mean with its bootstrap interval."""
    if metric in MEANS:
        return Estimate(*bootstrap_mean(frame[MEANS[metric]].to_numpy(float), seed=0), len(frame))
    column, condition = SHARES[metric]
    return share(frame[column] if condition is None else frame.loc[frame[condition].astype(bool), column])


def share(column: pd.Series) -> Estimate:
    """Share of true values with its Wilson interval."""
    n, true = len(column), int(column.astype(bool).sum())
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    return Estimate(true / n, *wilson(true, n), n)


def table(reports: list[Report]) -> pd.DataFrame:
    """One row a metric, one column a report, "value [low, high]" in the cells."""
    columns = {report.name: [str(report[metric]) for metric in LABELS] for report in reports}
    return pd.DataFrame(columns, index=pd.Index(LABELS.values(), name="95% intervals"))


def compare(before: Report, after: Report, column: str = "correct") -> Estimate:
    """Paired difference after - before in a column of the frames, over the same questions, with its bootstrap interval.

    Raises:
        ValueError: the two reports are not about the same questions.
    """
    left, right = (r.frame.set_index("question_id")[column].astype(float) for r in (before, after))
    if set(left.index) != set(right.index):
        raise ValueError(f"{before.name!r} and {after.name!r} were not evaluated on the same questions")
    return Estimate(*paired_bootstrap(left, right.loc[left.index], seed=0), len(left))
