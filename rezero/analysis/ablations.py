"""Ablations: plan the arms of a sweep, and read what they left: curves, shares, paired differences.

An arm is a dict of notebook 02's parameters, such as {"reward_set": "recovery", "overrides": {"engine": "dense"}}. Arms
are compared on dev, as their last step left them; test stays sealed. Nothing here trains, so reading can be repeated.
"""

import hashlib
import json
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd

from rezero.analysis.power import Counts, holm, paired_shares, solve_power
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
MATTER_FOR_DIFFICULTY = """corpus split engine engine_options k prompt_style max_turns turn_tokens episode_tokens
temperature policy curriculum""".split()


def named(arms: list[dict]) -> list[dict]:
    """The arms, those without a "name" called by their words: the one above is "recovery-dense"."""
    made = []
    for arm in arms:
        values = [*arm.values(), *arm.get("overrides", {}).values()]
        words = [value for value in values if isinstance(value, str) and "/" not in value]
        made.append({"name": "-".join(words), **arm})
    return made


def plan(arms: list[dict], seeds: list[int], folder: str | Path, **shared) -> tuple[dict[str, dict], dict[str, str]]:
    """The jobs of a sweep, every arm with every seed: ({job: parameters of notebook 02}, {job: job to wait for}).

    `shared` are parameters of all arms; what an arm sets itself wins, in `overrides` entry by entry. Arms that agree in
    all that matters for the difficulty of the training questions share one file of it in `folder`, which the first of
    them writes and the others wait for. Two different arms with the same name are a ValueError.
    """
    jobs: dict[str, dict] = {}
    first: dict[str, str] = {}  # file of difficulties -> the job that writes it
    wait_for = {}
    for seed in seeds:
        for arm in named(arms):
            parameters = {"test": False, **shared, "seed": seed, **arm}
            job = f"{parameters.pop('name')}-{parameters['seed']}"
            base, own = shared.get("overrides", {}), arm.get("overrides", {})
            both = {name: base[name] | own[name] for name in MERGED if name in base and name in own}
            overrides = base | own | both
            start = [parameters.get("profile"), *map(overrides.get, MATTER_FOR_DIFFICULTY)]
            digest = hashlib.sha1(json.dumps(start, sort_keys=True).encode()).hexdigest()[:8]
            file = shown(resolve(folder) / f"difficulty-{digest}.jsonl")
            curriculum = {"file": file} | overrides.get("curriculum", {})
            parameters["overrides"] = overrides | {"curriculum": curriculum}
            if jobs.setdefault(job, parameters) != parameters:
                raise ValueError(f"two arms are called {arm['name']!r}; name one of them: {{'name': 'other', ...}}")
            if first.setdefault(file, job) != job:
                wait_for[job] = first[file]
    return jobs, wait_for


def arms_of(folders: dict[str, Path]) -> Runs:
    """The run folders of a sweep by (arm, seed)."""
    pairs = [(job.rsplit("-", 1), folder) for job, folder in folders.items()]
    return {(arm, int(seed)): folder for (arm, seed), folder in pairs}


def curves(runs: Runs) -> pd.DataFrame:
    """The evaluations on dev during training, one row per arm, seed and step, for `figures.learning_curves`."""
    rows = []
    for (arm, seed), folder in runs.items():
        metrics = read_jsonl(folder / "metrics.jsonl", appended=True)
        rows += [row | {"arm": arm, "seed": seed} for row in metrics if row["kind"] == "eval"]
    return pd.DataFrame(rows)


def read_reports(runs: Runs) -> Reports:
    """What each arm did on dev after its last step; as arm "start", what the first one did before GRPO."""
    reports: Reports = {}
    for (arm, seed), folder in runs.items():
        groups = groupby(read_traces(folder / "traces.jsonl"), key=lambda row: row[0]["policy"])
        *_, before, after = [[episode for _, episode in rows] for _, rows in groups]
        if not reports:
            reports["start", seed] = summarize(before, "start")
        reports[arm, seed] = summarize(after, arm)
    return reports


def metrics_table(reports: Reports) -> pd.DataFrame:
    """One row per arm and seed, one column per metric."""
    columns = {}
    for key, report in reports.items():
        columns[key] = {metric: estimate.value for metric, estimate in report.metrics.items()}
    return pd.DataFrame(columns).T.rename_axis(["arm", "seed"]).reset_index()


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
    """The baselines, and below them every arm over all its seeds: "seeds", and three columns per `OVERVIEW` metric."""
    together = {(report.name, 0): report for report in baselines} | reports
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

    The interval resamples seeds and questions; where all seeds agree it is that of one of them.
    """
    seeds = metrics_table(reports)[["arm", "seed", metric]]
    rows = []
    for arm in _arms(reports):
        one = next(report[metric] for (name, _), report in reports.items() if name == arm)
        found = one.value, one.low, one.high
        if seeds[metric][seeds.arm == arm].nunique(dropna=False) > 1:
            sums, cases = _counts(reports, arm, metric)
            nothing = np.zeros_like(sums[:1]), np.ones_like(cases[:1])
            found = paired_shares(nothing, (sums, cases), seed=0)[:3]
        rows.append((arm, *found))
    return pd.DataFrame(rows, columns=["arm", metric, f"{metric}_low", f"{metric}_high"]), seeds


def matrix(found: dict[str, Reports], metric: str = "accuracy") -> pd.DataFrame:
    """The rows of `arms_table` for each place, with the column `tested`, for `figures.matrix`."""
    return pd.concat([arms_table(reports, metric)[0].assign(tested=place) for place, reports in found.items()])


def paired_table(reports: Reports, baseline: str, metrics: tuple[str, ...] = ("accuracy",)) -> pd.DataFrame:
    """Differences of all arms to `baseline` in shares of `evaluate.SHARES`, with intervals and corrected p-values.

    Paired over questions, resampled over questions and seeds (`power.paired_shares`); p is corrected by Holm's method
    for all rows. `n`: episodes per seed that the share is about. "4 in 5": the gain over the baseline's share that so
    many episodes find with a power of 80% on different questions (on the same questions a smaller gain suffices).
    """
    arms = _arms(reports)
    if baseline not in arms:
        raise ValueError(f"baseline {baseline!r} is no arm; allowed: {', '.join(arms)}")
    rows = []
    for metric in metrics:
        sums, cases = _counts(reports, baseline, metric)
        share, n = sums.sum() / max(1, cases.sum()), round(cases.sum() / len(cases))
        try:
            gain = solve_power(share, n=n, power=0.8) - share
        except ValueError:  # with so few questions, or so high a share, no gain has this power
            gain = np.nan
        for arm in arms:
            if arm != baseline:
                found = paired_shares((sums, cases), _counts(reports, arm, metric), seed=0)
                rows.append((arm, baseline, metric, *found, n, gain))
    frame = pd.DataFrame(rows, columns="arm baseline metric difference low high p n gain".split())
    frame["p"] = holm(frame["p"])
    direction = (frame.difference > 0).map({True: "higher", False: "lower"})
    frame["in words"] = direction.where(frame["p"] < 0.05, "no difference shown")
    return frame.rename(columns={"p": "p (Holm)", "gain": "4 in 5"})


def in_words(table: pd.DataFrame) -> str:
    """One line per metric of `paired_table`: what was shown, what was not, and what could have been."""
    lines = []
    for metric, rows in table.groupby("metric", sort=False):
        baseline, n, gain = rows[["baseline", "n", "4 in 5"]].iloc[0]
        shown = rows["in words"] != "no difference shown"
        said = [
            f"{row.arm} is {row['in words']} than {baseline} by {abs(row.difference):.3f} "
            f"(95% interval of the difference {row.low:+.3f} to {row.high:+.3f}, p = {row['p (Holm)']:.4f})."
            for _, row in rows[shown].iterrows()
        ]
        if not shown.all():
            said.append(f"No difference from {baseline} was shown for {', '.join(rows.arm[~shown])}.")
        power = "no gain is found 4 times in 5" if np.isnan(gain) else f"a gain of {gain:.3f} is found 4 times in 5"
        lines.append(f"{LABELS[metric]}: {' '.join(said)} With {n:.0f} episodes per seed {power}.")
    return "\n".join(lines)


def _arms(reports: Reports) -> list[str]:
    """The names of the arms, which must have been asked the same questions."""
    if len({tuple(sorted(report.frame["question_id"])) for report in reports.values()}) > 1:
        raise ValueError("the arms were asked different questions; compare arms that were asked the same ones")
    return list(dict.fromkeys(arm for arm, _ in reports))


def _counts(reports: Reports, arm: str, metric: str) -> Counts:
    """(successes or sums, cases) of an arm, each of shape (seeds, questions), questions in the order of their ids."""
    column, condition = SHARES.get(metric) or (MEANS[metric], None)
    frames = [report.frame.sort_values("question_id") for (name, _), report in reports.items() if name == arm]
    cases = np.array([frame[condition] if condition else [True] * len(frame) for frame in frames], float)
    return np.array([frame[column] for frame in frames], float) * cases, cases
