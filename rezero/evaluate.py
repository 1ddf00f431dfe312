"""Evaluate a policy on questions: episodes, shares and means with 95% intervals, paired comparison."""

from dataclasses import dataclass, replace
from math import comb

import pandas as pd
import torch

from rezero.config import Config
from rezero.model_judge import Judge
from rezero.policy import Policy
from rezero.protocol import Episode
from rezero.questions import Question
from rezero.rollout import Budget, rollout
from rezero.search import Engine
from rezero.stats import bootstrap_mean, paired_bootstrap, wilson
from rezero.traces import to_frame

SHARES = {  # metric -> (column of the episodes' frame, column that selects the episodes it is about)
    "accuracy": ("correct", None),
    "judged": ("judged", None),
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
    "judged": "accuracy (judge)",
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
NOT_MEASURED = "not measured"


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
    """What one policy did on one set of questions: metric name -> `Estimate`, and the episodes themselves.

    `metrics` holds what was measured: "judged" needs a judge, "policy_tokens" episodes of a rollout. `seconds`: time an
    episode took, on average over the batches that it ran in, or NaN; one number, whose spread nobody measured.
    """

    name: str
    metrics: dict[str, Estimate]
    frame: pd.DataFrame
    episodes: tuple[Episode, ...]
    seconds: float = float("nan")

    def __getitem__(self, metric: str) -> Estimate:
        if metric not in self.metrics:
            raise KeyError(f"metric {metric!r} is unknown or was not measured; allowed: {', '.join(self.metrics)}")
        return self.metrics[metric]

    def by_kind(self, metric: str = "accuracy") -> pd.DataFrame:
        """A metric by question kind, one row a kind: kind, n, the metric, low, high."""
        found = {kind: estimate(metric, frame) for kind, frame in self.frame.groupby("kind", sort=False)}
        rows = [(kind, e.n, e.value, e.low, e.high) for kind, e in found.items()]
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
    *,
    samples: int = 1,
    temperature: float = 0.0,
    judge: Judge | None = None,
) -> Report:
    """`samples` episodes a question with the budgets of `config`; temperature 0 is greedy.

    Raises:
        ValueError: several samples at temperature 0, which would all be the same.
    """
    if samples > 1 and not temperature:
        raise ValueError(f"samples={samples} at temperature=0 are all the same; want a temperature above 0")
    seconds: dict[str, float] = {}
    episodes = rollout(
        policy,
        engine,
        [question for question in questions for _ in range(samples)],
        k=config.k,
        budget=budget(config),
        prompt_style=config.prompt_style,
        temperature=temperature,
        generator=torch.Generator(policy.model.device).manual_seed(config.seed) if temperature else None,
        seconds=seconds,
    )
    return replace(report(episodes, name, judge), seconds=sum(seconds.values()) / len(episodes))


def pass_at(sampled: Report, k: int) -> Estimate:
    """Share of questions that at least one of `k` samples solves, with a bootstrap interval over questions.

    The unbiased estimator of Chen et al. (2021) from n samples a question, n >= k: 1 - C(wrong, k) / C(n, k).
    k = 1 is the mean accuracy of a sample, avg@n.

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


def report(episodes: list[Episode], name: str, judge: Judge | None = None) -> Report:
    """Summarise episodes from any source: a policy, a script, a file of traces.

    A `judge` (`rezero.model_judge`) decides beside exact match; "undecided" is not right. Of n samples of every
    question, it also tells avg@n and pass@n.
    """
    frame = to_frame(episodes)
    frame["evidence_seen"] = frame["evidence"] == 1.0
    frame["malformed"] = frame["malformed_turns"] > 0
    frame["answered"] = frame["outcome"] == "answered"
    if judge:
        verdicts = judge([(e.question.text, e.question.answers, e.answer) for e in episodes])
        frame["judged"] = [verdict == "right" for verdict in verdicts]
    columns = MEANS | {metric: column for metric, (column, _) in SHARES.items()}
    measured = [metric for metric in LABELS if columns[metric] in frame and frame[columns[metric]].notna().any()]
    made = Report(name, {metric: estimate(metric, frame) for metric in measured}, frame, tuple(episodes))
    samples = frame["question_id"].value_counts().min()
    if samples > 1:
        made.metrics.update({f"avg@{samples}": pass_at(made, 1), f"pass@{samples}": pass_at(made, samples)})
    return made


def estimate(metric: str, frame: pd.DataFrame) -> Estimate:
    """One metric of a frame of episodes: a share with its Wilson interval or a mean with its bootstrap interval.

    Where a question has several episodes, they are resampled together, for shares, too.
    """
    column, condition = SHARES.get(metric) or (MEANS[metric], None)
    rows = frame[frame[column].notna() & (condition is None or frame[condition].astype(bool))]
    values, questions = rows[column].astype(float), rows["question_id"]
    if rows.empty:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    if questions.notna().all() and questions.duplicated().any():
        sums = values.groupby(questions, sort=False).agg(["sum", "size"])
        return Estimate(*bootstrap_mean(sums["sum"], seed=0, cases=sums["size"]), len(values))
    if metric in MEANS:
        return Estimate(*bootstrap_mean(values, seed=0), len(values))
    return Estimate(values.mean(), *wilson(int(values.sum()), len(values)), len(values))


def table(reports: list[Report]) -> pd.DataFrame:
    """One row a metric that any report has, one column a report, "value [low, high]" in the cells."""
    names = dict.fromkeys([*LABELS, *(metric for r in reports for metric in r.metrics)])
    rows = [metric for metric in names if any(metric in r.metrics for r in reports)]
    columns = {r.name: [str(r.metrics.get(metric, NOT_MEASURED)) for metric in rows] for r in reports}
    made = pd.DataFrame(columns, index=pd.Index([LABELS.get(metric, metric) for metric in rows], name="95% intervals"))
    if timed := {r.name: f"{r.seconds:.3g}" for r in reports if r.seconds == r.seconds}:
        made.loc["seconds per episode"] = [timed.get(name, NOT_MEASURED) for name in made.columns]
    return made


def compare(before: Report, after: Report, column: str = "correct") -> Estimate:
    """Paired difference after - before in a column of the frames, over the same questions, with its bootstrap interval.

    Of several samples of a question their mean counts.

    Raises:
        ValueError: the two reports are not about the same questions.
    """
    left, right = (
        r.frame[column].astype(float).groupby(r.frame["question_id"], sort=False).mean() for r in (before, after)
    )
    if set(left.index) != set(right.index):
        raise ValueError(f"{before.name!r} and {after.name!r} were not evaluated on the same questions")
    return Estimate(*paired_bootstrap(left, right.loc[left.index], seed=0), len(left))
