"""Ablations: plan the arms of a sweep, and read what they left: curves, shares, paired differences.

An arm is a dict of notebook 02's parameters, such as {"reward_set": "recovery", "overrides": {"engine": "dense"}}; its
name is made of its words unless it has a "name". Arms are compared on dev, as their last step left them; test stays
sealed. Nothing here trains, so reading can be repeated.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd

from rezero.analysis.power import holm, paired_shares, solve_power
from rezero.config import MERGED, Config, parse_config
from rezero.evaluation.evaluate import LABELS, MEANS, SHARES, Estimate, Report, evaluate, summarize
from rezero.evaluation.traces import read_traces, write_traces
from rezero.files import read_jsonl, resolve, shown
from rezero.policy.load import load_policy
from rezero.questions import spread
from rezero.task import load_task

Runs = dict[tuple[str, int], Path]  # (arm, seed) -> its run folder
Reports = dict[tuple[str, int], Report]  # (arm, seed) -> what it did on the same questions
OVERVIEW = ("accuracy", "f1", "evidence", "searches", "retried")
# Overrides that decide how difficult the training questions are for the starting policy.
MATTER_FOR_DIFFICULTY = ("corpus", "split", "engine", "engine_options", "k", "prompt_style", "max_turns",
                         "turn_tokens", "episode_tokens", "temperature", "policy", "curriculum")  # fmt: skip


def named(arms: list[dict]) -> list[dict]:
    """The arms with their names: {"reward_set": "recovery", "overrides": {"engine": "dense"}} is "recovery-dense"."""
    made = []
    for arm in arms:
        values = [*arm.values(), *arm.get("overrides", {}).values()]
        words = [value for value in values if isinstance(value, str) and "/" not in value]
        made.append({"name": "-".join(words), **arm})
    return made


def plan(arms: list[dict], seeds: list[int], folder: str | Path, **shared) -> tuple[dict[str, dict], dict[str, str]]:
    """The jobs of a sweep, every arm with every seed: ({job: parameters of notebook 02}, {job: job to wait for}).

    Arms that agree in all that matters for the difficulty of the training questions share one file of it in `folder`,
    which the first of them writes and the others wait for.

    Args:
        shared: parameters of all arms. What an arm sets itself wins, in `overrides` entry by entry.

    Raises:
        ValueError: two different arms have the same name.
    """
    jobs: dict[str, dict] = {}
    first: dict[str, str] = {}  # file of difficulties -> the job that writes it
    wait_for = {}
    for seed in seeds:
        for arm in named(arms):
            parameters = {"test": False, **shared, "seed": seed, **arm}
            job = f"{parameters.pop('name')}-{parameters['seed']}"
            overrides = _merged(shared.get("overrides", {}), arm.get("overrides", {}))
            start = [parameters.get("profile"), *(overrides.get(name) for name in MATTER_FOR_DIFFICULTY)]
            digest = hashlib.sha1(json.dumps(start, sort_keys=True).encode()).hexdigest()[:8]
            file = shown(resolve(folder) / f"difficulty-{digest}.jsonl")
            parameters["overrides"] = _merged({"curriculum": {"file": file}}, overrides)
            if jobs.setdefault(job, parameters) != parameters:
                raise ValueError(f"two arms are called {arm['name']!r}; name one of them: {{'name': 'other', ...}}")
            if first.setdefault(file, job) != job:
                wait_for[job] = first[file]
    return jobs, wait_for


def _merged(base: dict, changes: dict) -> dict:
    both = {name: base[name] | changes[name] for name in MERGED if name in base and name in changes}
    return base | changes | both


def arms_of(folders: dict[str, Path]) -> Runs:
    """The run folders of a sweep by (arm, seed)."""
    runs = {}
    for job, folder in folders.items():
        arm, _, seed = job.rpartition("-")
        runs[arm, int(seed)] = folder
    return runs


def curves(runs: Runs) -> pd.DataFrame:
    """The evaluations on dev during training, one row per arm, seed and step, for `figures.learning_curves`."""
    rows = []
    for (arm, seed), folder in runs.items():
        for row in read_jsonl(folder / "metrics.jsonl", appended=True):
            if row["kind"] == "eval":
                rows.append(row | {"arm": arm, "seed": seed})
    return pd.DataFrame(rows)


def read_reports(runs: Runs) -> Reports:
    """What each arm did on dev after its last step; as arm "start", what the first one did before GRPO."""
    reports: Reports = {}
    for (arm, seed), folder in runs.items():
        episodes: dict[str, list] = {}
        for labels, episode in read_traces(folder / "traces.jsonl"):
            episodes.setdefault(labels["policy"], []).append(episode)
        *_, before, after = episodes.values()
        if not reports:
            reports["start", seed] = summarize(before, "start")
        reports[arm, seed] = summarize(after, arm)
    return reports


def metrics_table(reports: Reports) -> pd.DataFrame:
    """One row per arm and seed, one column per metric."""
    rows = []
    for (arm, seed), report in reports.items():
        values = {metric: estimate.value for metric, estimate in report.metrics.items()}
        rows.append({"arm": arm, "seed": seed, **values})
    return pd.DataFrame(rows)


def starting_policy(runs: Runs, config: Config) -> str | Path:
    """What GRPO started from, for `load_policy`: the first arm's warm start if there is one, else the policy."""
    warm = next(iter(runs.values())) / "warm"
    return warm if warm.is_dir() else config.policy


def generalise(runs: Runs, places: list[dict], config: Config, folder: str | Path) -> dict[str, Reports]:
    """What the starting policy and the last ones of `runs` do on dev in other places: place -> reports.

    A place is a dict of fields of `Config`, such as {"engine": "faulty", "engine_options": {"empty": 0.2}}, named like
    an arm. The episodes are kept in `folder`; what is there is not played again.
    """
    policies = {("start", 0): starting_policy(runs, config)}
    policies |= {key: run / "last" for key, run in runs.items()}
    found: dict[str, Reports] = {}
    for place in named(places):
        name = place["name"]
        changes = {field: value for field, value in place.items() if field != "name"}
        varied = parse_config(config.to_dict() | changes, f"place {name!r}")
        task = load_task(varied)
        dev = spread(task.questions["dev"], varied.eval_questions)
        found[name] = {}
        for (arm, seed), policy in policies.items():
            path = resolve(folder) / f"{arm}-{seed}--{name}.jsonl"
            rows = read_traces(path) if path.is_file() else []
            if [labels for labels, _ in rows] != [place] * len(dev):
                played = evaluate(load_policy(policy), task, dev, arm)
                rows = [(place, episode) for episode in played.episodes]
                write_traces(path, rows)
            found[name][arm, seed] = summarize([episode for _, episode in rows], arm)
        print(f"{name}: {len(dev)} questions, {len(policies)} policies", flush=True)
    return found


def overview(reports: Reports, baselines: list[Report]) -> pd.DataFrame:
    """The baselines, and below them every arm over all its seeds: "seeds", and three columns per metric of `OVERVIEW`.

    Raises:
        ValueError: they were asked different questions.
    """
    together = {(report.name, 0): report for report in baselines} | reports
    _check_questions(together)
    tables = [arms_table(together, metric)[0].set_index("arm") for metric in OVERVIEW]
    seeds = pd.Series([arm for arm, _ in together]).value_counts().rename("seeds")
    return pd.concat([seeds.reindex(tables[0].index), *tables], axis=1)


def in_cells(table: pd.DataFrame) -> pd.DataFrame:
    """`overview` to read: "value [low, high]" in the cells."""
    cells = {"seeds": table.seeds}
    for metric in OVERVIEW:
        found = table[[metric, f"{metric}_low", f"{metric}_high"]].to_numpy()
        cells[LABELS[metric]] = [str(Estimate(*row, n=int(row[0] == row[0]))) for row in found]
    return pd.DataFrame(cells, index=table.index.rename("95% intervals"))


def arms_table(reports: Reports, metric: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(one row per arm with `metric`, `<metric>_low`, `<metric>_high`; one row per arm and seed) for `figures.arms`.

    The interval resamples seeds and questions (`power.paired_shares`); where all seeds agree it is that of one of them.
    """
    seeds = metrics_table(reports)[["arm", "seed", metric]]
    rows = []
    for arm, values in seeds.groupby("arm", sort=False)[metric]:
        one = next(report[metric] for (name, _), report in reports.items() if name == arm)
        found = one.value, one.low, one.high
        if values.nunique(dropna=False) > 1:
            counts = _counts(reports, arm, metric)
            questions = len(counts[0][0])
            nothing = [[0.0] * questions], [[1.0] * questions]
            found = paired_shares(nothing, counts, seed=0)[:3]
        rows.append((arm, *found))
    return pd.DataFrame(rows, columns=["arm", metric, f"{metric}_low", f"{metric}_high"]), seeds


def matrix(found: dict[str, Reports], metric: str = "accuracy") -> pd.DataFrame:
    """The rows of `arms_table` for each place, with the column `tested`, for `figures.matrix`."""
    return pd.concat([arms_table(reports, metric)[0].assign(tested=place) for place, reports in found.items()])


def paired_table(reports: Reports, baseline: str, metrics: tuple[str, ...] = ("accuracy",)) -> pd.DataFrame:
    """Differences of all arms to `baseline` in shares of `evaluate.SHARES`, with intervals and corrected p-values.

    Paired over questions, resampled over questions and seeds (`power.paired_shares`); p is corrected by Holm's method
    for all rows. `n`: episodes per seed that the share is about. "4 in 5": the gain over the baseline's share that so
    many episodes find with a power of 80% on different questions (`power.solve_power`; on the same questions a smaller
    gain suffices).

    Raises:
        ValueError: no arm is called `baseline`, or the arms were asked different questions.
    """
    arms = list(dict.fromkeys(arm for arm, _ in reports))
    if baseline not in arms:
        raise ValueError(f"baseline {baseline!r} is no arm; allowed: {', '.join(arms)}")
    _check_questions(reports)
    rows = []
    for metric in metrics:
        base = _counts(reports, baseline, metric)
        share, n = np.sum(base[0]) / max(1, np.sum(base[1])), round(np.sum(base[1]) / len(base[1]))
        for arm in arms:
            if arm != baseline:
                found = paired_shares(base, _counts(reports, arm, metric), seed=0)
                rows.append((arm, baseline, metric, *found, n, _detectable(share, n)))
    frame = pd.DataFrame(rows, columns=["arm", "baseline", "metric", "difference", "low", "high", "p", "n", "4 in 5"])
    frame["p"] = holm(frame["p"].tolist())
    direction = (frame.difference > 0).map({True: "higher", False: "lower"})
    frame["in words"] = direction.where(frame["p"] < 0.05, "no difference shown")
    return frame.rename(columns={"p": "p (Holm)"})


def in_words(table: pd.DataFrame) -> str:
    """One line per metric of `paired_table`: what was shown, what was not, and what could have been."""
    lines = []
    for metric, rows in table.groupby("metric", sort=False):
        baseline, said, silent = rows.baseline.iloc[0], [], []
        for _, row in rows.iterrows():
            if row["in words"] == "no difference shown":
                silent.append(row.arm)
            else:
                said.append(
                    f"{row.arm} is {row['in words']} than {baseline} by {abs(row.difference):.3f} "
                    f"(95% interval of the difference {row.low:+.3f} to {row.high:+.3f}, p = {row['p (Holm)']:.4f})."
                )
        if silent:
            said.append(f"No difference from {baseline} was shown for {', '.join(silent)}.")
        n, gain = rows[["n", "4 in 5"]].iloc[0]
        power = "no gain is found 4 times in 5" if np.isnan(gain) else f"a gain of {gain:.3f} is found 4 times in 5"
        lines.append(f"{LABELS[metric]}: {' '.join(said)} With {n:.0f} episodes per seed {power}.")
    return "\n".join(lines)


def _detectable(share: float, n: int) -> float:
    try:
        return solve_power(share, n=n, power=0.8) - share
    except ValueError:  # with so few questions, or so high a share, no gain has this power
        return float("nan")


def _check_questions(reports: Reports) -> None:
    if len({tuple(sorted(report.frame["question_id"])) for report in reports.values()}) > 1:
        raise ValueError("the arms were asked different questions; compare arms that were asked the same ones")


def _counts(reports: Reports, arm: str, metric: str) -> tuple[list[list[float]], list[list[float]]]:
    """(successes or sums, cases) of an arm, each of shape (seeds, questions), questions in the order of their ids."""
    column, condition = SHARES.get(metric) or (MEANS[metric], None)
    sums, cases = [], []
    for (name, _), report in reports.items():
        if name == arm:
            frame = report.frame.set_index("question_id").sort_index()
            values = frame[column].astype(float)
            counted = frame[condition].astype(float) if condition else values * 0 + 1
            sums.append((values * counted).to_list())
            cases.append(counted.to_list())
    return sums, cases
