"""What the files of a sweep say: curves, shares and paired differences of the arms, and how they do elsewhere.

Nothing here trains: it reads metrics.jsonl, traces.jsonl and last/ of every arm's folder, so that it can be repeated.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from rezero.config import Config, load_config
from rezero.evaluation.evaluate import LABELS, MEANS, SHARES, Estimate, Report, evaluate, report
from rezero.evaluation.stats import holm, paired_shares, solve_power
from rezero.evaluation.traces import read_rows, write_traces
from rezero.files import read_jsonl, resolve
from rezero.runner.sweep import Runs, named

Reports = dict[tuple[str, int], Report]  # (arm, seed) -> its episodes

OVERVIEW = ("accuracy", "f1", "evidence", "searches", "retry_after_miss")


def curves(runs: Runs) -> pd.DataFrame:
    """The evaluations on dev during training, one row an arm, seed and step, for `plots.learning_curves`."""
    rows = []
    for (arm, seed), place in runs.items():
        rows += [r | {"arm": arm, "seed": seed} for r in read_jsonl(place / "metrics.jsonl", appended=True)]
    return pd.DataFrame(row for row in rows if row["kind"] == "eval")


def read_reports(runs: Runs) -> Reports:
    """What every arm did on dev after its last step; as arm "start", what the first one did before GRPO."""
    reports = {}
    for (arm, seed), place in runs.items():
        rows = read_rows(place / "traces.jsonl")
        *_, before, after = dict.fromkeys(labels["policy"] for labels, _ in rows)
        for key, label in ((("start", next(iter(runs))[1]), before), ((arm, seed), after)):
            reports.setdefault(key, report([e for labels, e in rows if labels["policy"] == label], str(key)))
    return reports


def starting_policy(runs: Runs, config: Config) -> str | Path:
    """What GRPO started from, for `load_policy`: the first arm's warm start, as in `read_reports`, or the policy."""
    warm = next(iter(runs.values())) / "warm"
    return warm if warm.is_dir() else config.policy


def generalise(runs: Runs, places: list[dict], config: Config, folder: str | Path) -> dict[str, Reports]:
    """What the starting policy and the last ones of `runs` do on dev in other places: place -> reports.

    A place is a dict of fields of `Config`, as {"engine": "faulty", "engine_options": {"empty": 0.2}}, named like an
    arm. The episodes are kept in `folder`; what is there is not played again.
    """
    from rezero.policy.load import load_policy
    from rezero.task import load_task

    policies = {("start", 0): starting_policy(runs, config)} | {key: place / "last" for key, place in runs.items()}
    found: dict[str, Reports] = {place["name"]: {} for place in named(places)}
    for place in named(places):
        varied = load_config(**config.to_dict() | {name: value for name, value in place.items() if name != "name"})
        task = load_task(varied)
        dev = task.questions["dev"][: varied.eval_questions or None]
        for (arm, seed), policy in policies.items():
            path = resolve(folder) / f"{arm}-{seed}--{place['name']}.jsonl"
            rows = read_rows(path) if path.is_file() else []
            if [labels for labels, _ in rows] != [place] * len(dev):
                played = evaluate(load_policy(policy), task.engine, dev, varied, arm).episodes
                rows = read_rows(write_traces(path, played, **place))
            found[place["name"]][arm, seed] = report([episode for _, episode in rows], arm)
        print(f"{place['name']}: {len(dev)} questions, {len(policies)} policies", flush=True)
    return found


def overview(reports: Reports, baselines: list[Report]) -> pd.DataFrame:
    """The baselines, and below them every arm over all its seeds: "seeds", and three columns a metric of `OVERVIEW`.

    Those are `arms_table`'s. ValueError as `paired_table` where they were asked different questions.
    """
    together = {(one.name, 0): one for one in baselines} | reports
    _check_questions(together)
    tables = [arms_table(together, metric)[0].set_index("arm") for metric in OVERVIEW]
    seeds = pd.Series([arm for arm, _ in together]).value_counts().rename("seeds")
    return pd.concat([seeds.reindex(tables[0].index), *tables], axis=1)


def in_cells(table: pd.DataFrame) -> pd.DataFrame:
    """`overview` to read: "value [low, high]" in the cells."""
    cells = {"seeds": table.seeds}
    for metric in OVERVIEW:
        found = table[[metric, f"{metric}_low", f"{metric}_high"]]
        cells[LABELS[metric]] = [str(Estimate(*row, n=int(row[0] == row[0]))) for row in found.to_numpy()]
    return pd.DataFrame(cells, index=table.index.rename("95% intervals"))


def arms_table(reports: Reports, metric: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(one row an arm with `metric`, `<metric>_low`, `<metric>_high`; one row an arm and seed) for `plots.arms`.

    The interval resamples seeds and questions (`stats.paired_shares`); where all seeds agree it is that of one.
    """
    seeds = pd.DataFrame([{"arm": arm, "seed": seed, metric: r[metric].value} for (arm, seed), r in reports.items()])
    rows = []
    for arm, values in seeds.groupby("arm", sort=False)[metric]:
        one = next(r[metric] for (name, _), r in reports.items() if name == arm)
        found = one.value, one.low, one.high
        if values.nunique(dropna=False) > 1:
            counts = _counts(reports, arm, metric)
            nothing = [[0.0] * len(counts[0][0])], [[1.0] * len(counts[0][0])]
            found = paired_shares(nothing, counts, seed=0)[:3]
        rows.append((arm, *found))
    return pd.DataFrame(rows, columns=["arm", metric, f"{metric}_low", f"{metric}_high"]), seeds


def matrix(found: dict[str, Reports], metric: str = "accuracy") -> pd.DataFrame:
    """`arms_table`'s rows of every place, which is called `tested`, for `plots.matrix`."""
    return pd.concat([arms_table(reports, metric)[0].assign(tested=place) for place, reports in found.items()])


def paired_table(reports: Reports, baseline: str, metrics: tuple[str, ...] = ("accuracy",)) -> pd.DataFrame:
    """Difference of every arm to `baseline` in shares of `evaluate.SHARES`, with intervals and corrected p-values.

    Paired over questions, resampled over questions and seeds (`stats.paired_shares`); p corrected by Holm's method for
    all rows. `n`: episodes a seed that the share is about; "4 in 5": the gain over the baseline's share that so many
    find with a power of 80% on different questions (`stats.solve_power`; on the same ones a smaller gain will do).

    Raises:
        ValueError: no arm is called `baseline`, or the arms were asked different questions.
    """
    others = [arm for arm in dict.fromkeys(arm for arm, _ in reports) if arm != baseline]
    if len(others) == len({arm for arm, _ in reports}):
        raise ValueError(f"baseline {baseline!r} is no arm; have: {', '.join(others)}")
    _check_questions(reports)
    rows = []
    for metric in metrics:
        base = _counts(reports, baseline, metric)
        share, n = np.sum(base[0]) / max(1, np.sum(base[1])), round(np.sum(base[1]) / len(base[1]))
        for arm in others:
            found = paired_shares(base, _counts(reports, arm, metric), seed=0)
            rows.append((arm, baseline, metric, *found, n, _detectable(share, n)))
    frame = pd.DataFrame(rows, columns=["arm", "baseline", "metric", "difference", "low", "high", "p", "n", "4 in 5"])
    frame["p"] = holm(frame["p"].tolist())
    shown = frame["p"] < 0.05
    frame["in words"] = (frame.difference > 0).map({True: "higher", False: "lower"}).where(shown, "no difference shown")
    return frame.rename(columns={"p": "p (Holm)"})


def in_words(table: pd.DataFrame) -> str:
    """A paragraph a metric of `paired_table`: what was shown, what was not, and what could have been."""
    lines = []
    for metric, rows in table.groupby("metric", sort=False):
        shown, baseline = rows[rows["in words"] != "no difference shown"], rows.baseline.iloc[0]
        said = [
            f"{r.arm} is {r['in words']} than {baseline} by {abs(r.difference):.3f} "
            f"(95% interval of the difference {r.low:+.3f} to {r.high:+.3f}, p = {r['p (Holm)']:.4f})."
            for _, r in shown.iterrows()
        ]
        if silent := [arm for arm in rows.arm if arm not in set(shown.arm)]:
            said.append(f"No difference from {baseline} was shown for {', '.join(silent)}.")
        n, gain = rows[["n", "4 in 5"]].iloc[0]
        power = f"a gain of {gain:.3f} is found 4 times in 5" if gain == gain else "no gain is found 4 times in 5"
        lines.append(f"{LABELS[metric]}: {' '.join(said)} With {n:.0f} episodes a seed {power}.")
    return "\n".join(lines)


def _detectable(share: float, n: int) -> float:
    try:
        return solve_power(share, n=n, power=0.8) - share
    except ValueError:  # so few questions, or so high a share, that no gain has this power
        return float("nan")


def _check_questions(reports: Reports) -> None:
    if len({tuple(sorted(r.frame["question_id"])) for r in reports.values()}) > 1:
        raise ValueError("the arms were asked different questions: compare them where they were asked the same ones")


def _counts(reports: Reports, arm: str, metric: str):
    """(successes or sums, cases) of an arm, each of shape (seeds, questions), questions in the order of their ids."""
    column, condition = SHARES.get(metric) or (MEANS[metric], None)
    frames = [r.frame.set_index("question_id").sort_index() for (name, _), r in reports.items() if name == arm]
    cases = [f[condition].astype(float) if condition else f[column].astype(float) * 0 + 1 for f in frames]
    return [(f[column].astype(float) * n).to_list() for f, n in zip(frames, cases, strict=True)], cases
