"""Ablations: the same training under several reward sets and seeds, and their paired comparison."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from rezero.config import Config
from rezero.evaluate import SHARES, Report, estimate, evaluate
from rezero.policy import load_policy
from rezero.stats import holm, paired_shares
from rezero.task import Task

Arm = tuple[str, int]  # reward set, seed


def run_arms(
    config: Config, arms: list[str], seeds: list[int], task: Task, folder: Path, difficulty: Path
) -> dict[Arm, Report]:
    """Train every reward set with every seed in `folder`/<arm>-<seed>, and evaluate its last policy on dev.

    The arm "start" of the result is the starting policy, untrained. An arm that finished before is not run again;
    one that was killed goes on. All arms share the `difficulty` file (see `train.train`).
    """
    from rezero.train import train

    dev = task.questions["dev"][: config.eval_questions or None]
    start = load_policy(config.policy)
    reports = {("start", seed): evaluate(start, task.engine, dev, config, "start") for seed in seeds[:1]}
    for arm in arms:
        for seed in seeds:
            print(f"arm {arm}, seed {seed}")
            varied = replace(config, reward_set=arm, seed=seed)
            trained = train(varied, folder / f"{arm}-{seed}", task, difficulty=difficulty)
            reports[arm, seed] = evaluate(trained.last, task.engine, dev, config, f"{arm}, seed {seed}")
    return reports


def arms_table(reports: dict[Arm, Report], metric: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(one row an arm with `metric`, `<metric>_low`, `<metric>_high`; one row an arm and seed) for `plots.arms`.

    The interval of an arm pools the episodes of its seeds: it speaks of the questions, not of further seeds.
    """
    seeds = pd.DataFrame([{"arm": arm, "seed": seed, metric: r[metric].value} for (arm, seed), r in reports.items()])
    rows = []
    for arm in dict.fromkeys(arm for arm, _ in reports):
        pooled = pd.concat([r.frame for (name, _), r in reports.items() if name == arm])
        found = estimate(metric, pooled)
        rows.append({"arm": arm, metric: found.value, f"{metric}_low": found.low, f"{metric}_high": found.high})
    return pd.DataFrame(rows), seeds


def paired_table(reports: dict[Arm, Report], baseline: str, metric: str = "accuracy") -> pd.DataFrame:
    """Difference of every arm to `baseline` in a share of `evaluate.SHARES`, with intervals and corrected p-values.

    Paired over questions, resampled over questions and seeds (`stats.paired_shares`); p corrected by Holm's method.
    """
    counts = {arm: _counts(reports, arm, metric) for arm in dict.fromkeys(arm for arm, _ in reports)}
    arms = [arm for arm in counts if arm != baseline]
    found = [paired_shares(counts[baseline], counts[arm], seed=0) for arm in arms]
    frame = pd.DataFrame(found, columns=["difference", "low", "high", "p"])
    frame["p (Holm)"] = holm(frame.pop("p").tolist())
    frame.insert(0, "arm", arms)
    frame.insert(1, "metric", f"{metric} minus {baseline}")
    shown = frame["p (Holm)"] < 0.05
    frame["in words"] = (frame.difference > 0).map({True: "higher", False: "lower"}).where(shown, "no difference shown")
    return frame.round(3)


def _counts(reports: dict[Arm, Report], arm: str, metric: str):
    """(successes, cases) of an arm, each of shape (seeds, questions), questions in the order of their ids."""
    column, condition = SHARES[metric]
    frames = [r.frame.set_index("question_id").sort_index() for (name, _), r in reports.items() if name == arm]
    cases = [f[condition].astype(float) if condition else f[column].astype(float) * 0 + 1 for f in frames]
    return [(f[column].astype(float) * n).to_list() for f, n in zip(frames, cases, strict=True)], cases
