"""When does a reward for retrying matter? Arms on a grid of places and starting policies, and what they show.

A *place* says how often a second search pays; a *start* is a policy that retries after a given share of its misses. A
cell is a place with a start, in which each reward set is compared with the first one over the same seeds.
"""

from collections import defaultdict
from dataclasses import replace
from itertools import groupby, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from rezero.analysis.arms import GREEDY, SAMPLED
from rezero.analysis.paired import LABELS, corrected, paired_table
from rezero.evaluation.evaluate import Report, summarize
from rezero.evaluation.traces import read_traces
from rezero.files import shown
from rezero.protocol import Episode
from rezero.rewards.ours import recovery
from rezero.task import Task
from rezero.text import normalized
from rezero.training.checkpoints import read_metrics
from rezero.warmstart.scripted import play, searcher

BY_ANSWER = "recovery_by_answer"  # the reward set `recovery` with misses by answer string
OUTCOMES = ("accuracy", "retried", "rescued", "searches")
COSTS = ("wasted", "missed", "policy_tokens")  # searches after the evidence, deliberate misses, tokens
METRICS = {GREEDY: OUTCOMES + COSTS, SAMPLED: ("accuracy", "retried", "rescued")}
CELL = ["place", "start"]


class Arm(NamedTuple):
    place: str
    start: float  # how often the starting policy retries
    reward: str  # a reward set, or `BY_ANSWER`
    seed: int
    forked: float = 0.0

    def __str__(self) -> str:  # the name of its folder
        return "-".join(map(str, self if self.forked else self[:-1]))


Found = dict[Arm, dict[str, Report]]  # what each arm's last policy did on dev, greedy and sampled


def grid(places, starts, rewards, seeds, forked=(0.0,)) -> list[Arm]:
    """All arms, those of the first seed first."""
    return [Arm(place, start, reward, seed, share) for seed, place, start, reward, share
            in product(seeds, places, starts, rewards, forked)]  # fmt: skip


def plan(arms: list[Arm], places: dict[str, dict], run: Path, config: dict) -> dict[str, dict]:
    """The jobs of `arms.train_arm` by name; `config` has what they pass to `load_config`.

    Training never stops early, so that arms stay comparable.
    """
    jobs = {}
    for arm in arms:
        own = {**config, **places[arm.place], "seed": arm.seed, "warm_start": {"steps": 0}}
        start = run / "start" / str(arm.start) / "policy"
        own["policy"] = shown(start / "warm" if (start / "warm").is_dir() else start)  # an adapter, if it is trained
        own |= {"patience": 0, "save_every": own["steps"], "eval_every": own.get("eval_every", own["steps"])}
        own["grpo"] = {"report_to": "none"} | own.get("grpo", {})
        own |= {"forked": arm.forked} if arm.forked else {}
        if arm.reward == BY_ANSWER:
            own["reward_weights"] = {"correctness": 4, f"{__name__}:{BY_ANSWER}": 2}
        else:
            own |= {"reward_set": arm.reward, "reward_weights": {}}
        jobs[str(arm)] = {"config": own}
    return jobs


def read_arms(arms: list[Arm], folder: Path) -> Found:
    found = {}
    for arm in arms:
        groups = groupby(read_traces(folder / str(arm) / "traces.jsonl"), key=lambda row: row[0]["policy"])
        found[arm] = {name: summarize([one for _, one in rows], name) for name, rows in groups}
    return found


def axes(folders: dict[str, Path], tasks: dict[str, Task]) -> pd.DataFrame:
    """What the map's axes are: per place and start, shares on dev before training, sampled; and a script's.

    `scripted` retries always and never misreads: its P(recovered | retried) says how often further searches pay at all.
    """
    rows = []
    for name, task in tasks.items():
        k, turns = task.sampling.k, task.sampling.max_turns
        episodes = play(searcher(max_searches=turns - 1), task.questions["dev"], task.engine, k=k, max_turns=turns)
        reports = {"scripted": summarize(episodes, "")}
        for start, folder in folders.items():
            own = [one for label, one in read_traces(folder / "traces.jsonl") if label["place"] == name]
            reports[start] = summarize(own, "")
        for start, report in reports.items():
            values = {LABELS[one]: report.metrics[one] for one in ("missed", "retried", "recovered", "accuracy")}
            second = [e.evidence_search == 2 for e in report.episodes if e.retried]
            share = round(sum(second) / len(second), 3) if second else float("nan")
            rows.append({"place": name, "start": start} | values | {"second search pays": share})
    return pd.DataFrame(rows).set_index(CELL)


def levels(found: Found) -> pd.DataFrame:
    """What the arms of each reward set reach in each cell, over all seeds; intervals are over questions only."""
    episodes, rows = defaultdict(list), {}
    for arm, reports in found.items():
        for decoding, report in reports.items():
            episodes[arm.reward, arm.place, arm.start, decoding] += report.episodes
    for key, own in episodes.items():
        metrics = summarize(own, "").metrics
        rows[key] = {LABELS[one]: metrics[one] for one in ("accuracy", "retried", "recovered", "searches")}
    return pd.DataFrame.from_dict(rows, "index").rename_axis(["reward", *CELL, "decoding"])


def differences(found: Found, baseline: str, relabel=None, together=False) -> pd.DataFrame:
    """One row per cell, reward and metric: the paired difference to `baseline`, over questions and seeds.

    p is corrected by Holm's method for all cells and rewards of a metric and decoding. `relabel` changes episodes
    before they are measured. `together`: one row for all cells, with the mean of their differences.
    """
    tables = []
    for decoding, metrics in METRICS.items():
        cells = defaultdict(dict)
        for arm, reports in found.items():
            report = summarize(list(map(relabel, reports[decoding].episodes)), "") if relabel else reports[decoding]
            cells[arm[:2]][arm.reward, arm.seed] = report
        groups = {("all", np.nan): [*cells.values()]} if together else {key: [own] for key, own in cells.items()}
        for (place, start), own in groups.items():
            table = paired_table(own, baseline, metrics)
            tables.append(table.assign(place=place, start=start, decoding=decoding))
    frame = corrected(pd.concat(tables, ignore_index=True), ["decoding", "metric"]).rename(columns={"arm": "reward"})
    numbers = ["difference", "low", "high", "p", "p (Holm)", "shown", "n", "4 in 5"]
    return frame[[*CELL, "reward", "decoding", "metric", *numbers]]


def sentences(table: pd.DataFrame, baseline: str) -> str:
    """What `differences` shows, a line per reward and metric; then what it does not, and what it could have shown."""
    lines, nowhere, cells = [], {}, list(dict.fromkeys(map(cell, table.itertuples())))
    n, one = len(cells), len(cells) == 1
    for (decoding, metric, reward), rows in table.groupby(["decoding", "metric", "reward"], sort=False):
        what, seen = f"{LABELS[metric]} ({decoding})", rows[rows.shown]
        said = []
        for verb, own in (("raises", seen[seen.difference > 0]), ("lowers", seen[seen.difference < 0])):
            each = [f"by {abs(row.difference):.3f} (95% interval {row.low:+.3f} to {row.high:+.3f})"
                    + ("" if one else f" in {cell(row)}") for row in own.itertuples()]  # fmt: skip
            said += [f"{verb} {what} {', '.join(each)}"] if each else []
        if said:
            left = "" if one else f"; no difference shown in {n - len(seen)} of {n}"
            lines.append(f"{reward} {' and '.join(said)}{left}.")
        else:
            nowhere.setdefault(what, []).append(reward)
    each = "; ".join(f"{what}: {', '.join(rewards)}" for what, rewards in nowhere.items())
    lines.append(f"No difference from {baseline} shown{'' if one else ' in any cell'} for {each}." if each else "")
    gains = table[(table.decoding == GREEDY) & (table.metric == "accuracy")].drop_duplicates(CELL).dropna()
    each = ", ".join(f"{row['4 in 5']:.3f} in {cell(row)}" for _, row in gains.iterrows())
    own = f"with {gains.n.min():.0f} questions of its own for each arm (pairs find smaller ones)"
    lines.append(f"Gains in accuracy that are found 4 times in 5 {own}: {each}." if each else "")
    return "\n".join(filter(None, [f"Against {baseline}, in {cells[0] if one else f'{n} cells'}:", *lines]))


def cell(row) -> str:
    return f"{row.place!r} from a share of {row.start:g}" if pd.notna(row.start) else "all cells on average"


def by_answer(episode: Episode) -> Episode:
    """The episode as if any passage that contains an accepted answer were its only gold passage."""
    answers = [f" {normalized(answer)} " for answer in episode.question.answers]

    def relabel(hit):
        has = any(answer in f" {normalized(hit.text)} " for answer in answers)
        return replace(hit, chunk_id="answer" if has else "other")

    turns = tuple(replace(turn, hits=tuple(map(relabel, turn.hits))) for turn in episode.turns)
    question = replace(episode.question, gold_chunk_ids=("answer",), gold_texts=("",))
    return replace(episode, question=question, turns=turns)


def recovery_by_answer(episode: Episode) -> float:
    """`recovery` with the evidence judged by answer string instead of by gold passages."""
    return recovery(by_answer(episode))


def milestones(arms: list[Arm], folder: Path, thresholds=(0.5, 0.75)) -> pd.DataFrame:
    """Per arm: steps and sampled tokens until dev P(retried | missed) reached `thresholds`, and how its groups were.

    Arms of the same reward and seed are compared up to the same number of sampled tokens: "accuracy" and "retried" are
    those of the last evaluation within it. NaN: not reached.
    """
    curves = {arm: pd.DataFrame(read_metrics(folder / str(arm))) for arm in arms}
    rows = []
    for arm, curve in curves.items():
        steps = curve[curve.kind == "train"].set_index("step")
        dev = curve[curve.kind == "eval"].set_index("step")
        dev["tokens"] = steps["tokens/sampled"].cumsum().reindex(dev.index, method="ffill").fillna(0)
        same = [other for other in arms if (other.reward, other.seed) == (arm.reward, arm.seed)]
        within = dev[dev.tokens <= min(curves[other]["tokens/sampled"].sum() for other in same)].reset_index()
        row = {"reward": arm.reward, "seed": arm.seed, "forked": arm.forked}
        for level in thresholds:
            reached = within[within.retried >= level][["step", "tokens"]].to_numpy()
            row[f"steps to {level:g}"], row[f"tokens to {level:g}"] = reached[0] if len(reached) else (None, None)
        row |= within.iloc[-1][["step", "tokens", "accuracy", "retried"]].to_dict()
        kept = [name for name in steps if name.startswith(("reward_std/", "zero_variance_groups", "forked_groups"))]
        rows.append(row | steps[kept].mean().to_dict())
    return pd.DataFrame(rows)
