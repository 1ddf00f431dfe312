"""Ablations: how arms are named and spread over seeds, and what the files of their runs are made to say."""

from dataclasses import replace

import pytest
from conftest import answer, search

from rezero.analysis import ablations
from rezero.analysis.arms import named, plan
from rezero.corpus import save_chunks
from rezero.evaluation.evaluate import summarize
from rezero.evaluation.traces import write_traces
from rezero.files import append_jsonl
from rezero.policy.base import save_policy
from rezero.protocol import Episode
from rezero.questions import Question, save_questions


def test_every_arm_meets_every_seed_under_a_name(tmp_path):
    arms = [
        {"reward_set": "recovery"},
        {"name": "mine", "steps": 9, "overrides": {"k": 3, "grpo": {"beta": 0.1}}},
        {"reward_set": "x", "seed": 7},
    ]
    shared = {"steps": 2, "overrides": {"eval_every": 1, "grpo": {"optim": "adamw_torch"}}}
    jobs = plan(arms, [0, 1], **shared)
    assert list(jobs) == ["recovery-0", "mine-0", "x-7", "recovery-1", "mine-1"]
    assert [job["steps"] for job in jobs.values()] == [2, 9, 2, 2, 9] and not any(job["test"] for job in jobs.values())
    assert jobs["mine-1"]["overrides"]["grpo"] == {"optim": "adamw_torch", "beta": 0.1}
    assert jobs["mine-1"]["overrides"]["eval_every"] == 1 and "name" not in jobs["mine-1"]
    (dense,) = named([{"reward_set": "recovery", "overrides": {"engine": "dense", "corpus": "a/b"}}])
    assert dense["name"] == "recovery-dense" and "name" not in arms[0]
    folders = {job: tmp_path / job for job in ("recovery-0", "no-retry-12")}
    assert list(ablations.arms_of(folders)) == [("recovery", 0), ("no-retry", 12)]
    with pytest.raises(ValueError, match="two arms are called 'a'"):
        plan([{"name": "a", "steps": 1}, {"name": "a", "steps": 2}], [0])


def test_arms_share_a_measurement_of_difficulty_and_never_stop_early(tmp_path):
    """All are measured with the first seed, unless an arm has its own; the rest is `files.cached`'s to compare."""
    own = {"name": "own", "overrides": {"curriculum": {"seed": 7, "samples": 1}, "patience": 2}}
    jobs = plan([{"reward_set": "a"}, own], [3, 4], overrides={"curriculum": {"solved_weight": 0.5}})
    found = {job: one["overrides"] for job, one in jobs.items()}
    assert [one["curriculum"]["seed"] for one in found.values()] == [3, 7, 3, 7]
    assert found["a-4"] == {"curriculum": {"seed": 3, "solved_weight": 0.5}, "patience": 0}
    assert found["own-3"] == {"curriculum": {"seed": 7, "solved_weight": 0.5, "samples": 1}, "patience": 2}


def episodes(right, n=40, missed=0):
    """`n` episodes: the first `right` are right; the first search of the last `missed` misses, and half try again."""
    made = []
    for i in range(n):
        question = Question(f"q{i}", f"question {i}", ("yes",), ("c1",))
        searches = [search("c1")] if i < n - missed else [search(), search()] if i % 2 else [search()]
        made.append(Episode(question, (*searches, answer("yes" if i < right else "no")), "answered"))
    return made


@pytest.fixture
def reports():
    counts = {("start", 0): 10, ("good", 0): 30, ("good", 1): 34, ("same", 0): 11, ("same", 1): 9, ("bad", 0): 0}
    return {arm: summarize(episodes(right), str(arm)) for arm, right in counts.items()}


def test_arms_pool_their_seeds(reports):
    arms = ablations.arms_table(reports, ("accuracy",))
    assert arms.accuracy.to_dict() == {"start": 0.25, "good": 0.8, "same": 0.25, "bad": 0.0}
    assert (arms.accuracy_low <= arms.accuracy).all() and (arms.accuracy <= arms.accuracy_high).all()
    assert (arms.accuracy_high - arms.accuracy_low > 0.05).all()  # also where every answer is wrong
    seeds = ablations.metrics_table(reports)
    assert seeds[seeds.arm == "good"].accuracy.to_list() == [0.75, 0.85] and seeds.seed.to_list() == [0, 0, 1, 0, 1, 0]
    alone = ablations.arms_table({("good", 0): reports["good", 0]}, ("accuracy",))
    assert alone.accuracy_low["good"] == reports["good", 0]["accuracy"].low


def test_differences_are_put_into_words(reports):
    table = ablations.paired_table(reports, "start").set_index("arm")
    assert table["in words"].to_dict() == {"good": "higher", "same": "no difference shown", "bad": "lower"}
    assert table.loc["good", "difference"] == pytest.approx(0.55) and table.loc["bad", "high"] < 0
    assert set(table.n) == {40} and 0.25 < table["4 in 5"].iloc[0] < 0.35  # 25% against 55%, 40 each: power 79%
    said = ablations.in_words(table.reset_index())
    assert said.startswith("accuracy (exact match): good is higher than start by 0.550 (95% interval of the difference")
    assert "bad is lower than start by 0.250" in said and "No difference from start was shown for same." in said
    assert said.endswith(f"With 40 episodes per seed a gain of {table['4 in 5'].iloc[0]:.3f} is found 4 times in 5.")


def missing(reports):
    """The same reports, but the first search of half of the episodes missed."""
    return {arm: summarize(episodes(round(r["accuracy"].value * 40), missed=20), "") for arm, r in reports.items()}


def test_p_is_corrected_for_all_rows_and_a_share_of_nothing_has_none(reports):
    table = ablations.paired_table(reports, "start", ("accuracy", "retried"))
    rows = table[table.metric == "retried"]  # no first search missed
    assert rows.difference.isna().all() and set(rows["p (Holm)"]) == {1.0} and set(rows.n) == {0}
    assert "With 0 episodes per seed no gain is found 4 times in 5." in ablations.in_words(table)
    missed = missing(reports)
    one = ablations.paired_table(missed, "start").set_index("arm")["p (Holm)"]
    both = ablations.paired_table(missed, "start", ("accuracy", "retried")).set_index(["metric", "arm"])
    assert both.loc[("accuracy", "good"), "p (Holm)"] == pytest.approx(2 * one["good"])  # six rows, not three
    assert set(both.loc["retried"].n) == {20}


def test_a_comparison_needs_the_baseline_and_the_same_questions(reports):
    with pytest.raises(ValueError, match="baseline 'corectness' is no arm; allowed: start, good, same, bad"):
        ablations.paired_table(reports, "corectness")
    with pytest.raises(ValueError, match="different questions"):
        ablations.paired_table(reports | {("bad", 0): summarize(episodes(0, n=39), "")}, "start")


def test_baselines_and_arms_stand_in_one_table(reports):
    closed = summarize([replace(e, turns=e.turns[-1:]) for e in episodes(4)], "closed book")
    table = ablations.arms_table({("closed book", 0): closed} | missing(reports))
    assert table.index.to_list() == ["closed book", "start", "good", "same", "bad"]
    assert table.seeds.to_list() == [1, 1, 2, 2, 1]
    assert table.accuracy.to_list() == pytest.approx([0.1, 0.25, 0.8, 0.25, 0.0])
    assert table.loc["good", "f1_low"] < table.loc["good", "f1"] < table.loc["good", "f1_high"]
    assert table.searches.to_list() == [0.0] + [1.25] * 4  # half of the 20 misses are searched again
    shown = ablations.in_cells(table)
    assert shown.loc["closed book", "P(retried | missed)"] == "no such episode"
    assert shown.loc["start", "P(retried | missed)"].startswith("0.500 [0.")


def test_arms_are_read_from_their_folders(tmp_path, config):
    runs = {("a", 3): tmp_path / "a-3", ("b", 3): tmp_path / "b-3"}
    assert ablations.starting_policy(runs, config) == config.policy
    (tmp_path / "a-3" / "warm").mkdir(parents=True)
    assert ablations.starting_policy(runs, config) == tmp_path / "a-3" / "warm"
    for right, folder in enumerate(runs.values(), start=1):
        rows = []
        for i, label in enumerate(("before training", "after the warm start", "after training")):
            rows += [({"policy": label}, episode) for episode in episodes(10 * i + right)]
        write_traces(folder / "traces.jsonl", rows)
        append_jsonl(folder / "metrics.jsonl", {"kind": "train", "step": 1})
        append_jsonl(folder / "metrics.jsonl", {"kind": "eval", "step": 1, "accuracy": right / 10})
    found = ablations.read_reports(runs)
    right = {arm: round(40 * one["accuracy"].value) for arm, one in found.items()}
    assert right == {("start", 3): 11, ("a", 3): 21, ("b", 3): 22}  # what GRPO started from is what the warm start left
    rows = ablations.curves(runs)
    assert rows[["arm", "seed", "step", "accuracy"]].to_numpy().tolist() == [["a", 3, 1, 0.1], ["b", 3, 1, 0.2]]


def test_policies_are_tested_once_in_each_other_place(tmp_path, policy, config, chunks, questions, monkeypatch):
    save_policy(policy, tmp_path / "a-0" / "last")
    save_chunks(tmp_path / "corpus" / "chunks.jsonl", chunks)
    split = [replace(questions[0], split="dev"), replace(questions[1], split="train")]
    save_questions(tmp_path / "corpus" / "questions.jsonl", split)
    corpus = {"corpus": str(tmp_path / "corpus"), "split": "given"}
    places = [{"engine": "bm25", **corpus, "name": "here"}, {"engine": "keyword", **corpus, "name": "there"}]
    test = [{("a", 0): tmp_path / "a-0"}, places, config, tmp_path / "elsewhere"]
    found = ablations.generalise(*test)
    assert list(found) == ["here", "there"] and list(found["here"]) == list(found["there"]) == [("start", 0), ("a", 0)]
    assert [e.question.id for e in found["there"]["a", 0].episodes] == ["q1"]  # dev only
    played = []
    monkeypatch.setattr(ablations, "evaluate", lambda *a: played.append(a) or summarize(episodes(1, n=1), ""))
    again = ablations.generalise(*test)
    assert again["there"]["a", 0].episodes == found["there"]["a", 0].episodes and not played
    places[1]["engine"] = "dense"  # another place under an old name
    ablations.generalise(*test)
    assert len(played) == 2 and all(task.engine.name == "dense" for _, task, *_ in played)
    with pytest.raises(ValueError, match="place 'bm25': unknown field 'engin'"):
        ablations.generalise(test[0], [{"engin": "bm25"}], config, tmp_path)
