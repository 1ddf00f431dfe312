"""Evaluate a policy on questions: its episodes, and shares and means of them with 95% intervals."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from math import isnan, nan

import pandas as pd

from rezero.evaluation.stats import bootstrap_mean, wilson
from rezero.evaluation.traces import Row, to_frame
from rezero.files import cached, parse_record
from rezero.policy.base import Policy, episodes_depend_on
from rezero.protocol import Episode
from rezero.questions import Question
from rezero.rollout import rollout
from rezero.task import Task
from rezero.text import clean

# A judge decides for pairs (question, accepted answers, given answer): "right", "wrong" or "undecided".
Judge = Callable[[list[tuple[str, Iterable[str], str | None]]], list[str]]

METRICS = {  # name -> (label, column of the episodes' frame, column that selects the episodes it is about)
    "accuracy": ("accuracy (exact match)", "correct", None),
    "judged": ("accuracy (judge)", "judged", None),
    "f1": ("F1", "f1", None),
    "evidence": ("all gold passages seen", "evidence_seen", None),
    "missed": ("P(missed)", "missed", None),
    "retried": ("P(retried | missed)", "retried", "missed"),
    "recovered": ("P(recovered | retried)", "recovered", "retried"),
    "malformed": ("episodes with a malformed turn", "malformed", None),
    "answered": ("episodes with an answer", "answered", None),
    "unsupported": ("answers without the evidence", "unsupported", "answered"),
    "searches": ("searches per episode", "searches", None),
    "wasted": ("searches after the evidence", "wasted", None),
    "policy_tokens": ("sampled tokens per episode", "policy_tokens", None),
}
LABELS = {name: label for name, (label, _, _) in METRICS.items()}
MEANS = {"f1", "searches", "wasted", "policy_tokens"}  # all other metrics are shares


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
    """What one policy did on one set of questions."""

    name: str
    metrics: dict[str, Estimate]  # only those that were measured: "judged" needs a judge, "policy_tokens" a rollout
    frame: pd.DataFrame  # one row per episode, see `traces.to_frame`
    episodes: tuple[Episode, ...]
    seconds: float = nan  # per episode, a single timing without an interval

    def __getitem__(self, metric: str) -> Estimate:
        if metric not in self.metrics:
            raise KeyError(f"metric {metric!r} is unknown or was not measured; allowed: {', '.join(self.metrics)}")
        return self.metrics[metric]

    @property
    def rows(self) -> list[Row]:
        """The episodes, labelled with the policy's name, for `traces.write_traces`."""
        return [({"policy": self.name}, episode) for episode in self.episodes]

    def __repr__(self) -> str:
        return table([self]).to_string()


def evaluate(
    policy: Policy, task: Task, questions: list[Question], name: str, judge: Judge | None = None, reuse: bool = False
) -> Report:
    """One greedy episode per question with the engine and the budgets of `task`; `name` is the policy's in tables.

    A `judge` decides in addition to exact match; its "undecided" does not count as right. With `reuse` the episodes are
    kept for, or come from, another run that asks the same of the same policy (see `files.cached`).
    """
    sampling = replace(task.sampling, temperature=0.0)

    def play() -> Iterator[dict]:
        seconds = {"generation": 0.0, "search": 0.0}
        episodes = rollout(policy, task.engine, questions, sampling, seconds=seconds, progress=f"evaluating {name}")
        row = {"episodes": episodes, "seconds": sum(seconds.values()) / len(episodes)}
        yield json.loads(clean(json.dumps(row, default=vars, ensure_ascii=False)))

    key = episodes_depend_on(policy, task.engine, questions, sampling) if reuse else None
    (row,) = cached("evaluations", key, play)
    episodes = [parse_record(one, Episode) for one in row["episodes"]]
    return replace(summarize(episodes, name, judge), seconds=row["seconds"])


def summarize(episodes: list[Episode], name: str, judge: Judge | None = None) -> Report:
    """The report of episodes from any source: a policy, a script, a file of traces."""
    frame = to_frame(episodes)
    frame["evidence_seen"] = frame["evidence"] == 1.0
    frame["malformed"] = frame["malformed_turns"] > 0
    frame["answered"] = frame["outcome"] == "answered"
    if judge:
        verdicts = judge([(e.question.text, e.question.answers, e.answer) for e in episodes])
        frame["judged"] = [verdict == "right" for verdict in verdicts]
    measured = [metric for metric, (_, column, _) in METRICS.items() if column in frame and frame[column].notna().any()]
    return Report(name, {metric: estimate(metric, frame) for metric in measured}, frame, tuple(episodes))


def estimate(metric: str, frame: pd.DataFrame) -> Estimate:
    """A metric with its interval: Wilson's for shares, the bootstrap for means and where questions repeat."""
    _, column, condition = METRICS[metric]
    rows = frame[frame[column].notna() & (condition is None or frame[condition].astype(bool))]
    values, questions = rows[column].astype(float), rows["question_id"]
    if rows.empty:
        return Estimate(nan, nan, nan, 0)
    if questions.notna().all() and questions.duplicated().any():
        sums = values.groupby(questions, sort=False).agg(["sum", "size"])
        return Estimate(*bootstrap_mean(sums["sum"], seed=0, cases=sums["size"]), len(values))
    if metric in MEANS:
        return Estimate(*bootstrap_mean(values, seed=0), len(values))
    return Estimate(values.mean(), *wilson(int(values.sum()), len(values)), len(values))


def table(reports: list[Report]) -> pd.DataFrame:
    """One row per metric that any report has, one column per report, "value [low, high]" in the cells."""
    metrics = [metric for metric in METRICS if any(metric in report.metrics for report in reports)]
    columns = {r.name: [str(r.metrics.get(metric, "not measured")) for metric in metrics] for r in reports}
    cells = pd.DataFrame(columns, index=pd.Index(map(LABELS.get, metrics), name="95% intervals"))
    seconds = {report.name: f"{report.seconds:.3g}" for report in reports if not isnan(report.seconds)}
    if seconds:
        cells.loc["seconds per episode"] = [seconds.get(name, "not measured") for name in cells.columns]
    return cells
