"""The map of notebook 03: which arms it trains, what it shows in which cell, its words, checks and figure."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import answer, search

from rezero.analysis import arms as work
from rezero.analysis import map as maps
from rezero.analysis import plots
from rezero.analysis.map import Arm
from rezero.analysis.paired import holm
from rezero.config import load_config
from rezero.evaluation.evaluate import summarize
from rezero.evaluation.traces import read_traces, write_traces
from rezero.files import append_jsonl, read_jsonl
from rezero.policy.load import load_policy
from rezero.protocol import Episode
from rezero.questions import Question
from rezero.rewards import load_reward
from rezero.rollout import rollout
from rezero.search.base import Hit
from rezero.task import load_task
from rezero.warmstart import shares

PLACES = {"seldom": {"engine": "keyword"}, "often": {"engine": "bm25"}}
ARMS = maps.grid(PLACES, [0.1, 0.6], ["correctness", "recovery", "original"], [0, 1])
TINY = dict(questions_per_step=2, num_generations=4, micro_batch=8, eval_questions=6, curriculum={"samples": 0})


def episodes(retries, rng, n=60):
    """`n` episodes that missed; a share of `retries` searched again, and half of these found the gold."""
    made = []
    for i in range(n):
        question, retried = Question(f"q{i}", f"question {i}", ("yes",), ("c1",)), rng.random() < retries
        searches = [search(), search("c1" if rng.random() < 0.5 else "c2")] if retried else [search()]
        right = searches[-1].hits and searches[-1].hits[0].chunk_id == "c1"
        made.append(Episode(question, (*searches, answer("yes" if right else "no")), "answered"))
    return made


@pytest.fixture(scope="module")
def found():
    """Every arm retries after 0.2 of its misses, but after 0.8 with `recovery` in one cell."""
    rng, made = np.random.default_rng(0), {}
    for arm in ARMS:
        planted = arm[:3] == ("often", 0.1, "recovery")
        made[arm] = {name: summarize(episodes(0.8 if planted else 0.2, rng), "") for name in maps.METRICS}
    return made


@pytest.fixture(scope="module")
def table(found):
    return maps.differences(found, "correctness")


def test_a_planted_difference_is_shown_in_its_cell_only(table):
    assert len(table) == 4 * 2 * sum(map(len, maps.METRICS.values()))  # cells, rewards, metrics
    seen = table[table.shown]
    assert set(map(tuple, seen[["place", "start", "reward"]].to_numpy())) == {("often", 0.1, "recovery")}
    assert {"retried", "rescued", "accuracy", "searches"} <= set(seen.metric) and (seen.difference > 0).all()
    retried = seen[(seen.metric == "retried") & (seen.decoding == "greedy")].iloc[0]
    assert retried.low < retried.difference < retried.high and 0.4 < retried.difference < 0.8
    said = maps.sentences(table, "correctness")
    first, *shown, nowhere, _ = said.splitlines()
    assert first == "Against correctness, in 4 cells:"
    line = next(line for line in shown if line.startswith("recovery raises P(retried | missed) (greedy) by 0."))
    assert line.endswith("in 'often' from a share of 0.1; no difference shown in 3 of 4.")
    assert nowhere.startswith("No difference from correctness shown in any cell for accuracy (exact match) (greedy):")
    assert "; P(retried | missed) (greedy): original; " in nowhere
    assert said.splitlines()[-1].count(" in '") == 4  # the power in each cell


def test_what_each_reward_set_reaches_stands_beside_the_differences(found):
    reached = maps.levels(found)["P(retried | missed)"]
    assert len(reached) == 4 * 3 * 2  # cells, reward sets, decodings
    each = {where: estimate.value for where, estimate in reached["recovery"].items()}
    assert len(each) == 8 and each["often", 0.1, "greedy"] > 0.6 > 0.4 > each["seldom", 0.1, "greedy"]


def test_a_small_difference_in_every_cell_is_shown_for_all_together_only():
    rng, found = np.random.default_rng(3), {}
    for arm in maps.grid(["a", "b"], [0.1, 0.3], ["correctness", "recovery"], [0, 1, 2]):
        more = 0.09 * (arm.reward == "recovery")
        found[arm] = {name: summarize(episodes(0.2 + more, rng), "") for name in maps.METRICS}
    each, one = (maps.differences(found, "correctness", together=together) for together in (False, True))
    each, own = (table[(table.metric == "retried") & (table.decoding == "sampled")] for table in (each, one))
    assert not each.shown.any() and own.shown.all() and 0.01 < own.low.item() < 0.09 < own.high.item() < 0.25
    assert own.difference.item() == pytest.approx(each.difference.mean())
    said = maps.sentences(one, "correctness").splitlines()
    assert said[0] == "Against correctness, in all cells on average:" and "nan" not in " ".join(said)
    assert any(line.startswith("recovery raises P(retried | missed) (sampled) by 0.1") for line in said)


def test_p_is_corrected_for_the_cells_and_rewards_of_a_metric(found, table):
    one = {arm: reports for arm, reports in found.items() if arm[:2] == ("often", 0.1) and arm.reward != "original"}
    alone, all_cells = maps.differences(one, "correctness"), table
    pick = lambda some: some[(some.reward == "recovery") & (some.place == "often") & (some.start == 0.1)]  # noqa: E731
    few, many = (pick(table).set_index(["decoding", "metric"])["p (Holm)"] for table in (alone, all_cells))
    assert many["greedy", "retried"] == pytest.approx(8 * few["greedy", "retried"])  # the smallest of eight
    assert holm(pd.Series([0.04, 0.01, 0.03])).sort_index().to_list() == pytest.approx([0.06, 0.03, 0.06])


def test_the_figure_has_a_panel_per_outcome_and_reward_and_hatches_what_is_not_shown(table):
    panels = plots.difference_map(table[table.decoding == "greedy"], maps.OUTCOMES, maps.LABELS, "A title")
    assert panels.shape == (4, 2) and panels[0, 1].get_title() == "accuracy (exact match): original"
    retried = panels[1, 0]
    bold = [text for text in retried.texts if text.get_fontweight() == "bold"]
    assert len(retried.texts) == 8 and len(bold) == 1 and bold[0].get_text().startswith("+0.")
    assert [bool(patch.get_hatch()) for patch in retried.patches].count(True) == 3
    assert retried.get_title() == "P(retried | missed): recovery"


def test_arms_share_what_makes_them_comparable(tmp_path):
    (tmp_path / "start" / "0.6" / "policy" / "warm").mkdir(parents=True)
    config = {"profile": "laptop", "steps": 4, "seed": 5, "grpo": {"beta": 0.1}}
    jobs = maps.plan([*ARMS, Arm("often", 0.6, maps.BY_ANSWER, 2, 0.5)], PLACES, tmp_path, config)
    assert len(jobs) == 25 and next(iter(jobs)) == "seldom-0.1-correctness-0" and len(set(jobs)) == len(jobs)
    first = load_config(**jobs["seldom-0.1-correctness-0"]["config"])
    assert (first.engine, first.reward_set, first.seed, first.patience) == ("keyword", "correctness", 0, 0)
    assert (first.save_every, first.eval_every, first.grpo["beta"]) == (4, 4, 0.1)
    assert first.grpo["lr_scheduler_type"] == "linear"  # the profile's
    assert first.policy == str(tmp_path / "start" / "0.1" / "policy")
    last = jobs[f"often-0.6-{maps.BY_ANSWER}-2-0.5"]["config"]
    assert last["policy"].endswith("0.6/policy/warm") and last["forked"] == 0.5
    ((reward, weight),) = [pair for pair in last["reward_weights"].items() if pair[0] != "correctness"]
    assert weight == 2 and load_reward(reward) is maps.recovery_by_answer


def test_with_misses_by_answer_string_another_passage_with_the_answer_is_enough():
    question = Question("q", "who?", ("Ada Byron",), ("gold",), ("Ada Byron was it.",))
    turns = [replace(search(name), hits=(Hit(name, "", text, 1.0),)) for name, text in
             (("other", "Nobody."), ("copy", "It was Ada Byron, they say."))]  # fmt: skip
    episode = Episode(question, (*turns, answer("Ada Byron")), "answered")
    assert episode.missed and episode.retried and not episode.recovered
    assert maps.by_answer(episode).recovered and maps.recovery_by_answer(episode) == 1.0
    assert not maps.by_answer(replace(episode, turns=episode.turns[1:])).missed


def test_milestones_are_those_within_the_same_number_of_tokens(tmp_path):
    """The forked arm reaches 0.5 at step 2; the ordinary one at step 6, when it has sampled more than the other."""
    retried = {0.0: [0.0, 0.2, 0.4, 0.9], 1.0: [0.0, 0.6, 0.7, 0.7]}
    arms = maps.grid(["often"], [0.1], ["recovery"], [3], [0.0, 1.0])
    for arm in arms:
        for step in range(7):
            row = {
                "kind": "train",
                "step": step,
                "tokens/sampled": 100 if arm.forked else 140,
                "reward_std/forked": 2.0,
            }
            if step:
                append_jsonl(tmp_path / str(arm) / "metrics.jsonl", row)
            if step % 2 == 0:
                row = {"kind": "eval", "step": step, "accuracy": step / 10, "retried": retried[arm.forked][step // 2]}
                append_jsonl(tmp_path / str(arm) / "metrics.jsonl", row)
    table = maps.milestones(arms, tmp_path).set_index("forked")
    assert table.loc[1.0, ["steps to 0.5", "tokens to 0.5"]].to_list() == [2, 200]
    assert table["steps to 0.5"].isna().to_list() == [True, False] and table["tokens to 0.75"].isna().all()
    assert table[["step", "tokens", "accuracy"]].to_numpy().tolist() == [[4, 560, 0.4], [6, 600, 0.6]]
    assert table["reward_std/forked"].to_list() == [2.0, 2.0]


def test_an_arm_is_the_same_alone_and_after_others_and_keeps_no_weights(tmp_path):
    config = {"profile": "laptop", "steps": 1, "save_every": 1, "eval_every": 1, "patience": 0, **TINY}
    for name, changed in {"first": {}, "other": {"seed": 1, "engine": "keyword"}, "again": {}}.items():
        (tmp_path / name).mkdir()
        work.train_arm(tmp_path / name, config=config | changed)
    assert (tmp_path / "first" / "traces.jsonl").read_bytes() == (tmp_path / "again" / "traces.jsonl").read_bytes()
    steps = [next(row for row in read_jsonl(tmp_path / name / "metrics.jsonl") if row["kind"] == "train")
             for name in ("first", "again")]  # fmt: skip
    for name in ("reward", "grad_norm", "retried", "entropy"):
        assert steps[0].get(name) == steps[1].get(name)
    assert {path.name for path in (tmp_path / "first").iterdir()} == {"config.json", "metrics.jsonl", "traces.jsonl"}
    arm = Arm("often", 0.1, "recovery", 0)
    (tmp_path / "first").rename(tmp_path / str(arm))
    reports = maps.read_arms([arm], tmp_path)[arm]
    assert list(reports) == ["greedy", "sampled"] and [len(one.frame) for one in reports.values()] == [6, 6]
    assert {episode.question.split for episode in reports["greedy"].episodes} == {"dev"}


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_a_starting_policy_retries_after_its_share_of_the_misses(tmp_path, share):
    config = load_config("laptop")
    folder = shares.start_with_share(config, share, tmp_path / "policy")
    task = load_task(config)
    tried = summarize(rollout(load_policy(folder), task.engine, task.questions["dev"], task.sampling), "")
    assert tried["retried"].value == 0.0 if share == 0 else abs(tried["retried"].value - share) < 0.2
    assert tried["accuracy"].value > 0.4
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert shares.start_with_share(config, share, folder) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_a_start_is_tried_in_all_places_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "start_with_share", lambda config, share, folder: config.policy)
    work.make_start(tmp_path, config={"profile": "laptop", **TINY}, share=0.3, places=PLACES)
    rows = read_traces(tmp_path / "traces.jsonl")
    assert {label["place"] for label, _ in rows} == set(PLACES) and len(rows) == 2 * 3 * 6
    write_traces(tmp_path / "traces.jsonl", rows)
    table = maps.axes({0.3: tmp_path}, {name: load_task(load_config(**place)) for name, place in PLACES.items()})
    assert list(table.index) == [(place, start) for place in PLACES for start in ("scripted", 0.3)]
    assert table.loc[("often", "scripted"), "P(retried | missed)"].value == 1.0
    assert 0 < table.loc[("often", "scripted"), "second search pays"] <= 1
