"""Groups that begin at a miss: which do, what their episodes are token by token, and what is learned from them."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import LENGTH, answer, metrics_of, search
from test_train import gradient_of, sampled_batches

from rezero.analysis.cards import card
from rezero.config import Curriculum
from rezero.evaluation.traces import read_traces, write_traces
from rezero.extras.fork import choose, is_forked, options
from rezero.extras.prefix_tree import lean_batches
from rezero.policy.base import Policy
from rezero.policy.load import load_policy
from rezero.rollout import rollout
from rezero.training.train import train

HIT, MISS, SPOKE, BABBLE = search("c1"), search("c3"), answer("x"), replace(answer(""), action="malformed")
N = 4  # episodes per group


@pytest.mark.parametrize(("turns", "over", "share", "wanted"), [
    ([HIT, MISS, SPOKE, MISS], (), 1.0, {0: 1, 1: 1, 2: 1, 3: 1}),  # those that hit or have answered begin there, too
    ([HIT, HIT, SPOKE, BABBLE], (), 1.0, {}),
    ([MISS, HIT, HIT, MISS], (0,), 1.0, dict.fromkeys(range(4), 3)),  # the first was cut off: it cannot go on
    ([MISS, HIT, HIT, HIT], (0,), 1.0, {}),
    ([HIT, MISS, HIT, HIT] * 2, (), 1.0, dict.fromkeys(range(4), 1) | dict.fromkeys(range(4, 8), 5)),
    ([HIT, HIT, HIT, HIT, MISS, HIT, HIT, HIT], (), 1.0, dict.fromkeys(range(4, 8), 4)),
    ([MISS, HIT, HIT, HIT], (), 0.0, {}),
])  # fmt: skip
def test_a_group_begins_at_its_first_miss_that_goes_on(questions, turns, over, share, wanted):
    batch = [SimpleNamespace(question=questions[0], turns=[turn], outcome=None) for turn in turns]
    for place, turn in enumerate(turns):
        batch[place].outcome = "token_limit" if place in over else "answered" if turn is SPOKE else None
    before = torch.get_rng_state()
    assert choose(batch, N, share) == wanted
    assert share == 0 or torch.equal(torch.get_rng_state(), before)  # a share of 1 draws nothing


def test_a_share_between_0_and_1_is_drawn_by_torch_and_groups_without_a_miss_draw_nothing(questions):
    batch = [SimpleNamespace(question=questions[0], turns=[turn], outcome=None) for turn in [MISS, HIT] * 200]
    drawn = []
    for hits in ([], [SimpleNamespace(question=questions[0], turns=[HIT], outcome=None)] * 2):
        torch.manual_seed(0)
        drawn.append([place - len(hits) for place in choose([*hits, *batch], 2, 0.3)])
    assert drawn[0] == drawn[1] and 0.2 < len(drawn[0]) / len(batch) < 0.4


@pytest.fixture(params=["padding stays in the cache", "every turn is read anew"])
def shipped(request, monkeypatch) -> Policy:
    if "anew" in request.param:
        monkeypatch.setattr("rezero.policy.sampling.keeps_padding", lambda cache: False)
    return load_policy("data/policy")


@pytest.fixture
def play(shipped, engine, questions, task, monkeypatch):
    """Rolls out a group per question, first turns sampled and later ones greedy; the first hits, the second misses."""
    started, start = [], Policy.start
    monkeypatch.setattr(Policy, "start", lambda *args: started.append(start(*args)) or started[-1])
    sampling = replace(task.sampling, k=1, turn_tokens=40, max_turns=4, episode_tokens=600)

    def run(share: float, seed: int = 0) -> tuple[list, dict]:
        tokens = {"sampled": 0}
        more = options(N, share, tokens)

        def greedy(batch: list) -> dict[int, int]:
            started[-1].temperature = 0.0
            return more["fork"](batch)

        asked = [question for question in questions for _ in range(N)]
        draws = torch.Generator().manual_seed(seed)
        return rollout(shipped, engine, asked, sampling, generator=draws, **more | {"fork": greedy}), tokens

    return run


def test_a_forked_group_token_by_token(play):
    """The prefix is that of an ordinary episode to the id, and has no loss; what is said after it is what was said."""
    plain, forked, seen = *(play(share)[0] for share in (0.0, 1.0)), 0
    assert len({episode.queries[0] for episode in plain[N:]}) > 1  # so that a copy of a prefix differs from its place
    for place, (one, other) in enumerate(zip(plain, forked, strict=True)):
        group = range(place // N * N, place // N * N + N)
        source = next((i for i in group if plain[i].missed and len(plain[i].turns) > 1), None)
        if source is None:
            assert one == other and not is_forked(other)
            continue
        seen += 1
        first = plain[source].env_mask.index(0)  # the first turn ends here
        prefix = first + plain[source].env_mask[first:].index(1)
        assert is_forked(other) and not is_forked(plain[source])
        assert other.completion_ids == plain[source].completion_ids and other.turns == plain[source].turns
        assert other.env_mask == (0,) * prefix + plain[source].env_mask[prefix:] and other.env_mask[prefix] == 1
        assert (other.prompt_ids, other.outcome) == (one.prompt_ids, plain[source].outcome)
    assert seen == N  # the second question's, and all of the first question hit


def test_what_was_thrown_away_was_sampled(play):
    (plain, none), (forked, more) = play(0.0), play(1.0)
    firsts = sum(episode.env_mask.index(0) if 0 in episode.env_mask else sum(episode.env_mask) for episode in plain[N:])
    assert none["sampled"] == 0 and more["sampled"] == firsts > 0
    assert all(sum(e.env_mask) < len(e.completion_ids) for e in forked)


def test_members_differ_only_after_the_prefix(shipped, engine, questions, task):
    sampling = replace(task.sampling, k=1, turn_tokens=40, max_turns=4, episode_tokens=600, temperature=1.5)
    draws, more = torch.Generator().manual_seed(0), options(8, 1.0, {"sampled": 0})
    group = rollout(shipped, engine, questions[1:] * 8, sampling, generator=draws, **more)
    (prefix,) = {episode.env_mask.index(1) for episode in group}
    assert len({episode.completion_ids[:prefix] for episode in group}) == len({e.turns[0] for e in group}) == 1
    assert len({episode.completion_ids[prefix:] for episode in group}) > 1


def test_a_forked_episode_survives_its_file_and_its_card_shows_the_mask(play, shipped, tmp_path):
    (episode, *_) = reversed(play(1.0)[0])
    ((_, read),) = read_traces(write_traces(tmp_path / "t.jsonl", [({}, episode)]))
    assert read == episode and is_forked(read)
    n, html = len(episode.env_mask), card(read, shipped.decode).body
    sampled = sum(episode.env_mask)
    assert f"{sampled} sampled by the policy" in html and f"{n - sampled} only read" in html


@pytest.fixture
def forked(config, task, tmp_path):
    """A step's micro-batches as TRL leaves them, of an ordinary and of a forked group, and the trainer."""
    torch.manual_seed(0)
    sampling = replace(task.sampling, k=1, turn_tokens=40, max_turns=4, episode_tokens=600, temperature=1.5)
    narrow = replace(task, sampling=sampling)
    mine = replace(config, forked=1.0, num_generations=N, micro_batch=N, reward_weights={LENGTH: 1.0}, temperature=1.5)
    return sampled_batches(load_policy("data/policy"), narrow, mine, tmp_path)


def test_trl_learns_from_what_follows_the_prefix_alone(forked, monkeypatch):
    whole, trainer = forked
    episodes, advantages = trainer.rolled_out["episode"], torch.cat([part["advantages"] for part in whole])
    assert sorted(map(is_forked, episodes)) == [False] * N + [True] * N
    rows = {tuple(e.completion_ids): (e.env_mask, is_forked(e)) for e in episodes}
    asked, trainer.lean = [], False
    scored = trainer._full_logits_logps

    def recorded(*args, **options):
        logps, *rest = scored(*args, **options)
        logps.retain_grad()
        asked.append(logps)
        return logps, *rest

    monkeypatch.setattr(trainer, "_full_logits_logps", recorded)
    assert advantages.abs().sum() > 1
    trainer.current_gradient_accumulation_steps, forked_rows = len(whole), []
    for part in whole:
        trainer.compute_loss(trainer.model, part).backward()
        for i, gradient in enumerate(asked[-1].grad):
            n = int(part["completion_mask"][i].sum())
            mask, begun_at_miss = rows[tuple(part["completion_ids"][i, :n].tolist())]
            wanted = torch.tensor(mask, dtype=torch.bool) & bool(part["advantages"][i].abs() > 1e-6)
            assert torch.equal(gradient[:n] != 0, wanted) and not gradient[n:].any()
            forked_rows += [part["advantages"][i].item()] if begun_at_miss else []
    assert len(forked_rows) == N and max(forked_rows) > 0.1 and sum(forked_rows) == pytest.approx(0, abs=1e-4)


def test_a_tree_has_the_gradient_of_trl_and_reads_the_prefix_once(forked):
    whole, trainer = forked
    stock, shared = gradient_of(trainer, whole, lean=False), gradient_of(trainer, lean_batches(whole, True), lean=True)
    assert stock.norm() > 1e-3 and (shared - stock).norm() < 1e-4 * stock.norm()
    assert abs(shared[-1] - stock[-1]) < 1e-5


def content(episode) -> float:
    """A reward that differs between any two episodes."""
    return float(sum(episode.completion_ids) % 97)


def test_a_training_logs_its_groups_and_goes_on_after_a_kill(config, task, tmp_path):
    sampling = replace(task.sampling, k=1, turn_tokens=40, max_turns=4, episode_tokens=600, temperature=1.5)
    narrow = replace(task, sampling=sampling)
    sizes = dict(save_every=1, eval_every=2, num_generations=N, micro_batch=N, curriculum=Curriculum(samples=0))
    mine = replace(config, policy="data/policy", reward_weights={f"{__name__}:content": 1.0}, temperature=1.5, **sizes)
    ordinary, forked = (replace(mine, forked=share, steps=steps) for share, steps in ((0.0, 1), (0.999, 2)))
    for name, one in (("ordinary", ordinary), ("forked", forked)):
        train(one, tmp_path / name, narrow)
    (row,) = metrics_of(tmp_path / "ordinary", "train")
    assert row["forked_groups"] == 0 and "reward_std/forked" not in row
    assert row["zero_variance_groups/ordinary"] == row["zero_variance_groups"]
    assert row["tokens/sampled"] == pytest.approx(row["policy_tokens"] * 2 * N)
    before = metrics_of(tmp_path / "forked")
    for row in (row for row in before if row["kind"] == "train"):
        assert row["forked_groups"] == 0.5 and row["reward_std/forked"] > 0
        kinds = [row[f"zero_variance_groups/{kind}"] for kind in ("forked", "ordinary")]
        assert row["zero_variance_groups"] == pytest.approx(sum(kinds) / 2)
        assert row["tokens/sampled"] > row["policy_tokens"] * 2 * N  # with the prefixes, and what they replaced
    shutil.rmtree(tmp_path / "forked/checkpoints/checkpoint-2")
    train(forked, tmp_path / "forked", narrow)
    assert json.dumps(metrics_of(tmp_path / "forked")) == json.dumps(before)  # as text, in which NaN equals NaN
