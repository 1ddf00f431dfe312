"""The reward of exp_01, and the sets of the three published runs; the other published rewards: test_rewards.py."""

import pytest
from test_rewards import GOLD, HIT, MISS, OTHER, RIGHT, WRONG, episode, query, searched

from rezero import rewards
from rezero.config import load_config
from rezero.rewards import REWARD_SETS, score


@pytest.mark.parametrize(
    ("one", "want"),
    [
        (episode(query("a"), query("b")), 0.5),  # no answer: `retry` pays nothing
        (episode(RIGHT, query("b")), 0.35),
        (episode((query("a"), GOLD), "neither"), 0.35),  # a malformed end
        (episode(*[query("a")] * 3), 0.65),
        (episode(*[query("a")] * 4), 0.8),
        (episode(*[query("a")] * 10), 0.95),  # ten turns of searches: as much as it can pay
        (episode(query("a", "b")), 0.25),  # two in one message: half
        (episode(query("a", "b"), query("c"), query("d"), query("e")), 0.475),
        (episode(query("a"), RIGHT), 0.35),  # with an answer it is `retry`
        (episode((query("a"), OTHER), (query("b"), OTHER), WRONG), 0.5),
        (episode(query("a", "b", "c"), RIGHT), 0.325),
        (episode(RIGHT), 0),
        (episode("neither"), 0),
        (episode(), 0),
    ],
)
def test_retry_always(one, want):
    assert rewards.retry_always(one) == want
    answered = bool(one.turns) and "<answer>" in one.turns[-1].text
    assert rewards.retry(one) == (want if answered else 0)


def test_a_spammer_without_an_answer_is_paid_in_exp_01_alone():
    sets = {name: REWARD_SETS[load_config(name).reward_set] for name in ("exp_01", "exp_02", "exp_03")}
    spam, solved = searched(*[MISS] * 9, answer=None), searched(MISS, HIT)
    first, second, third = (score(spam, weights)[0] for weights in sets.values())
    assert first == pytest.approx(second + 0.95) and second == third
    first, second, third = (score(solved, weights)[0] for weights in sets.values())
    assert first == second == pytest.approx(third + 0.5)
    assert list(sets["exp_01"].values()) == list(sets["exp_02"].values()) == [4, 2, 1, 1, 1, 1]
