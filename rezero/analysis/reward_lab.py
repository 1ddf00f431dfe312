"""The reward lab: what each reward and weighting pays the honest and the cheating scripts of `cheaters`.

`pay` scores any episodes, played or recorded, without a model; the other functions read its frame.
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from rezero.analysis import figures, plots
from rezero.analysis.cheaters import CHEATERS, HONEST, RETRIER
from rezero.config import load_config
from rezero.evaluation.stats import paired_bootstrap
from rezero.evaluation.traces import Row, read_traces
from rezero.files import resolve, write_text
from rezero.protocol import Episode
from rezero.questions import Question, spread
from rezero.rewards import REWARD_SETS, REWARDS, load_reward, reward_weights
from rezero.search.base import Engine
from rezero.task import load_task
from rezero.warmstart.scripted import play

Weightings = dict[str, dict[str, float]]


def naive_recovery(episode: Episode) -> float:
    """1 if it recovered from a miss and answered, else 0. Pays for missing first."""
    return float(episode.outcome == "answered" and episode.recovered)


def search_cost(episode: Episode) -> float:
    """-1 per search. Where all episodes are correct it is the whole advantage, and teaches never to search again."""
    return float(-len(episode.searches))


TRAPS = {"naive_recovery": naive_recovery, "search_cost": search_cost}  # known to be bad; never in `REWARDS`
SETS: Weightings = REWARD_SETS | {
    "count": {"correctness": 4, "retry": 1},
    "naive recovery": {"correctness": 4, "naive_recovery": 2},
    "search cost": {"correctness": 4, "evidence": 2, "search_cost": 0.1},
}


def play_all(engines: dict[str, Engine], questions: list[Question], k: int, seed: int = 0) -> list[Row]:
    """One episode per engine, policy and question, with the labels engine and policy."""
    rows = []
    for name, engine in engines.items():
        for policy, script in (HONEST | CHEATERS).items():
            episodes = play(script, questions, engine, k=k, seed=seed)
            rows += [({"engine": name, "policy": policy}, episode) for episode in episodes]
    return rows


def pay(rows: Iterable[Row], sets: Weightings = SETS) -> pd.DataFrame:
    """What each of the labelled episodes of `play_all` or `traces.read_traces` earns.

    One row per episode (index: engine, policy, question); the columns have two levels, "reward" or "weighting" and the
    name. A weighting may name any "module:function". ValueError for an unknown reward or an episode without a question.
    """
    known = REWARDS | TRAPS
    for name, weights in sets.items():
        others = {reward: weight for reward, weight in weights.items() if reward not in TRAPS}
        reward_weights(name, others or {"correctness": 0})
        known |= {reward: load_reward(reward) for reward in others}
    keys, values = [], []
    for labels, episode in rows:
        values.append({name: reward(episode) for name, reward in known.items()})
        keys.append((labels.get("engine", ""), labels.get("policy", "recorded"), episode.question.id))
    paid = pd.DataFrame(values, pd.MultiIndex.from_tuples(keys, names=["engine", "policy", "question"]))
    sums = {name: sum(weight * paid[reward] for reward, weight in weights.items()) for name, weights in sets.items()}
    return pd.concat({"reward": paid, "weighting": pd.DataFrame(sums, paid.index)}, axis=1)


def means(paid: pd.DataFrame) -> pd.DataFrame:
    """What a policy earns per episode: index (honest, cheating or recorded; policy), columns as in `pay`."""
    table = paid.groupby("policy", sort=False).mean()
    kinds = dict.fromkeys(HONEST, "honest") | dict.fromkeys(CHEATERS, "cheating")
    table.index = pd.MultiIndex.from_tuples([(kinds.get(name, "recorded"), name) for name in table.index])
    return table


def flags(paid: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Each reward and weighting under which a cheater earns more than the honest retrier.

    One row per pair: pays ("reward" or "weighting"), name, cheater, more (the mean difference), low, high (its 95%
    interval, paired over questions, all engines together). Only rows with low > 0.
    """
    wide = paid.groupby(["question", "policy"]).mean().unstack("policy")
    played = set(paid.index.unique("policy"))  # recorded episodes need not be of these policies
    cheaters = [name for name in CHEATERS if {name, RETRIER} <= played]
    rows = []
    for column in paid:
        for cheater in cheaters:
            honest, other = wide[*column, RETRIER], wide[*column, cheater]
            if other.mean() > honest.mean():
                rows.append((*column, cheater, *paired_bootstrap(honest, other, seed, resamples=2_000)))
    found = pd.DataFrame(rows, columns=["pays", "name", "cheater", "more", "low", "high"])
    return found[found.low > 0].reset_index(drop=True)


def best_paid(found: pd.DataFrame) -> pd.DataFrame:
    """Of `flags` only the best-paid cheater of each reward and weighting, and how many cheaters are flagged there."""
    groups = found.groupby(["pays", "name"], sort=False)["more"]
    return found.loc[groups.idxmax()].assign(flagged=groups.count().to_numpy()).reset_index(drop=True)


def marks(table: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Which cells of `means` are flagged: True or False in the same rows and columns."""
    marked = pd.DataFrame(False, table.index, table.columns)
    for flag in found.itertuples():
        marked.loc[("cheating", flag.cheater), (flag.pays, flag.name)] = True
    return marked


def contenders(paid: pd.DataFrame) -> pd.DataFrame:
    """The rows of policies that are ever correct by the evidence: what a trained policy might turn into."""
    return paid[paid["reward", "efficiency"].groupby("policy").transform("max") > 0]


def advantage_shares(paid: pd.DataFrame, sets: Weightings = SETS) -> pd.DataFrame:
    """How much of the group advantage each reward of each weighting makes up: index (weighting, reward).

    The episodes of one question with one engine are a group. With c = weight x (reward - the group's mean) and A the
    sum of c over the rewards, the share of a reward is sum(c A) / sum(A^2): its part in the squared advantage, whatever
    a group is divided by. Shares add up to 1; a reward with a negative one pulls against the others. Columns:

    - "group scaling": the mean share over groups with any advantage, which TRL's scale_rewards="group" makes alike
    - "no scaling": the share over all groups together, each with the size that it has ("none", "batch")
    - "all right": as the first, over the groups in which every episode is correct
    - "over correctness": whether the reward makes up more than correctness does, under group scaling
    """
    rewards, group = paid["reward"], ["engine", "question"]
    centred = rewards - rewards.groupby(level=group).transform("mean")
    right = rewards["correctness"].groupby(level=group).min() == 1
    tables = {}
    for name, weights in sets.items():
        parts = centred[list(weights)] * pd.Series(weights, dtype=float)
        total = parts.sum(axis=1)
        common = parts.mul(total, axis=0).groupby(level=group).sum()
        square = (total**2).groupby(level=group).sum()
        share = common.div(square, axis=0)[square > 1e-9]
        columns = {"group scaling": share.mean(), "no scaling": common.sum() / square.sum()}
        table = tables[name] = pd.DataFrame(columns | {"all right": share[right[share.index]].mean()})
        scaled = table["group scaling"]
        table["over correctness"] = scaled > scaled.get("correctness", 0.0)
    return pd.concat(tables, names=["weighting", "reward"])


def run_lab(engines: list[str], questions: int, traces: str | None, weights: dict | None, out: str | Path) -> None:
    """Print what the lab finds on `questions` dev questions (0: all) or in a trace file; write pay.csv and pay.png.

    `weights` are one more weighting, "yours"; `out` is the folder to write to.
    """
    sets, out = SETS | ({"yours": weights} if weights else {}), resolve(out)
    if traces:
        paid = pay(read_traces(traces), sets)
    else:
        tasks = {name: load_task(load_config(engine=name)) for name in engines}
        task = tasks[engines[0]]
        dev = spread(task.questions["dev"], questions)
        paid = pay(play_all({name: task.engine for name, task in tasks.items()}, dev, task.sampling.k), sets)
    table, found = means(paid), flags(paid)
    shares = advantage_shares(paid if traces else contenders(paid), sets)
    print(table["weighting"].round(2).to_string(), end="\n\n")
    print(table["reward"].round(2).to_string(line_width=120), end="\n\n")
    if not traces:
        print(f"more than the {RETRIER} earns:", best_paid(found).round(2).to_string(index=False), sep="\n", end="\n\n")
    print("shares of the group advantage:", shares.round(2).to_string(), sep="\n")
    plots.style()
    write_text(out / "pay.csv", table.to_csv())
    figures.heat_map(table, marks(table, found)).figure.savefig(out / "pay.png", dpi=150)
    print(f"written: {out / 'pay.csv'}, {out / 'pay.png'}")
