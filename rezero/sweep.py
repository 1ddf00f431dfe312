"""Ablations: the same training under several reward sets and seeds, and their paired comparison."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from rezero.config import Config
from rezero.evaluate import Report, estimate, evaluate
from rezero.policy import load_policy
from rezero.stats import paired_bootstrap
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


def paired_table(reports: dict[Arm, Report], baseline: str, column: str = "correct") -> pd.DataFrame:
    """Difference of every arm to `baseline` in a column, paired over questions (means over seeds), with intervals."""
    means = {}
    for arm in dict.fromkeys(arm for arm, _ in reports):
        frames = [r.frame.set_index("question_id")[column].astype(float) for key, r in reports.items() if key[0] == arm]
        means[arm] = pd.concat(frames, axis=1).mean(axis=1)
    rows = []
    for arm, values in means.items():
        if arm != baseline:
            difference, low, high = paired_bootstrap(means[baseline], values.loc[means[baseline].index], seed=0)
            said = "no difference shown" if low <= 0 <= high else "higher" if low > 0 else "lower"
            rows.append((arm, difference, low, high, said))
    return pd.DataFrame(rows, columns=["arm", f"{column} minus {baseline}", "low", "high", "in words"]).round(3)
