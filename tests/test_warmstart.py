"""The starting policy's training: what it learns from, and that its start can copy."""

import random

import torch

from data.policy.induction import new_model
from data.policy.train_policy import batches, encode_episode, loss_of, make_drills
from rezero.scripted import GIVE_UP, RETRY, UNKNOWN, play, searcher


def test_the_searcher_retries_or_gives_up(engine, questions):
    keen = play(searcher(1.0), questions, engine, k=1)
    assert [e.answer for e in keen] == ["Ilse Varrow", "Ondine"]
    assert keen[1].queries[1] == "Corvane cutter"
    lazy = play(searcher(0.0), questions, engine, k=1)
    assert [e.answer for e in lazy] == ["Ilse Varrow", UNKNOWN]


def test_weights_of_a_scripted_episode(policy, engine, questions):
    """Written tokens weigh 1, read ones .1, the decision to retry its own factor; ids decode to the episode."""
    episode = play(searcher(1.0), questions[1:], engine, k=1)[0]
    ids, weights = encode_episode(policy, episode, {RETRY: 0.2, GIVE_UP: 3.0}, context=0.1)
    assert len(ids) == len(weights)
    by_weight = {
        w: policy.tokenizer.decode([i for i, x in zip(ids, weights, strict=True) if x == w]) for w in set(weights)
    }
    assert set(by_weight) == {1.0, 0.1, 0.2}
    assert by_weight[0.2] == episode.turns[1].text.split("</think>")[0] + "</think>"
    assert questions[1].text in by_weight[0.1]
    assert by_weight[1.0].endswith("<answer> Ondine </answer><|im_end|>")


def test_the_layout_is_that_of_a_rollout(policy, engine, questions, monkeypatch):
    """A scripted episode encodes to the very ids that a rollout of the same turns records."""
    from test_rollout import Recited

    from rezero.rollout import Budget, rollout

    episode = play(searcher(1.0), questions[1:], engine, k=1)[0]
    monkeypatch.setattr(type(policy), "start", lambda self, *_: Recited(self, [[t.text for t in episode.turns]]))
    (rolled,) = rollout(policy, engine, questions[1:], k=1, budget=Budget(5, 200, 2000), prompt_style="short")
    ids, weights = encode_episode(policy, episode, {}, context=0.1)
    n = len(rolled.prompt_ids)
    assert tuple(ids) == rolled.prompt_ids + rolled.completion_ids
    assert [int(w == 1.0) for w in weights[n:]] == list(rolled.env_mask)


def test_drills_hold_question_and_answer(policy, chunks, questions):
    one = questions[0]
    ((ids, weights),) = make_drills(policy, (chunks, [one] * 4), 1, 0.1, random.Random(0))
    text = policy.tokenizer.decode(ids)
    assert text.count(one.text) == 4
    assert text.count("<answer> Ilse Varrow </answer>") == 4
    assert sum(w == 1.0 for w in weights) == 4 * len(policy.encode("<answer> Ilse Varrow </answer>"))


def test_batches_respect_their_size():
    examples = [([0] * n, [1.0] * n) for n in range(1, 60)]
    source = batches(examples, 100, random.Random(0))
    for _ in range(30):
        batch = next(source)
        assert len(batch) * max(len(ids) for ids, _ in batch) <= 100


def test_loss_counts_weighted_tokens_only(policy):
    """Tokens of weight 0 and padding do not matter; weights are relative."""
    model, pad = policy.model, policy.tokenizer.pad_token_id
    ids = [5, 6, 7, 8]
    alone = loss_of(model, [(ids, [0, 0, 0, 1.0])], pad)
    padded = loss_of(model, [(ids, [0, 0, 0, 2.0]), ([5, 6, 7, 8, 9, 10], [0.0] * 6)], pad)
    torch.testing.assert_close(alone, padded)


def test_an_untrained_model_copies(policy):
    """In random tokens that repeat, the start already prefers what followed last time, far above chance."""
    torch.manual_seed(0)
    model = new_model(policy.tokenizer, width=160, layers=4)
    ids = torch.randint(20, 300, (16, 40)).repeat(1, 2)
    with torch.no_grad():
        order = model(input_ids=ids).logits[:, 40:-1].argsort(descending=True)
    ranks = (order == ids[:, 41:, None]).nonzero()[:, 2]
    assert ranks.float().median() < 308 / 4  # of 308 tokens; half of that would be chance
