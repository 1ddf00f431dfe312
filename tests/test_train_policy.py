"""The training of the laptop's starting policy: what it learns from, and that its first weights can copy."""

import random

import torch

from data.policy.induction import new_model
from data.policy.train_policy import batches, encode_episode, loss_of, make_drills
from rezero.warmstart.scripted import GIVE_UP, RETRY, play, searcher


def test_weights_of_a_scripted_episode(policy, engine, questions):
    """Written tokens weigh 1, read ones 0.1, and the thought that decides to retry has its own weight."""
    (episode,) = play(searcher(1.0), questions[1:], engine, k=1)
    ids, weights = encode_episode(policy, episode, {RETRY: 0.2, GIVE_UP: 3.0}, context=0.1)
    assert set(weights) == {1.0, 0.1, 0.2}

    def text_of(weight: float) -> str:
        return policy.tokenizer.decode([i for i, its_weight in zip(ids, weights, strict=True) if its_weight == weight])

    assert text_of(0.2) == episode.turns[1].text.split("</think>")[0] + "</think>"
    assert questions[1].text in text_of(0.1)
    assert text_of(1.0).endswith("<answer> Ondine </answer><|im_end|>")


def test_drills_hold_question_and_answer_and_batches_respect_their_size(policy, chunks, questions):
    ((ids, weights),) = make_drills(policy, (chunks, [questions[0]] * 4), 1, 0.1, random.Random(0))
    text, answer = policy.tokenizer.decode(ids), "<answer> Ilse Varrow </answer>"
    assert text.count(questions[0].text) == text.count(answer) == 4
    assert sum(weight == 1.0 for weight in weights) == 4 * len(policy.encode(answer))
    source = batches([([0] * n, [1.0] * n) for n in range(1, 60)], 100, random.Random(0))
    drawn = [next(source) for _ in range(30)]
    assert all(len(batch) * max(len(ids) for ids, _ in batch) <= 100 for batch in drawn)


def test_the_loss_is_a_weighted_mean(policy):
    """Tokens of weight 0 and padding do not matter; weights are relative."""
    model, pad = policy.model, policy.tokenizer.pad_token_id
    ids = [5, 6, 7, 8]
    alone = loss_of(model, [(ids, [0, 0, 0, 1.0])], pad)
    padded = loss_of(model, [(ids, [0, 0, 0, 2.0]), ([5, 6, 7, 8, 9, 10], [0.0] * 6)], pad)
    torch.testing.assert_close(alone, padded)


def test_an_untrained_model_copies(policy):
    """In random tokens that repeat, it ranks the token that followed last time far above chance."""
    torch.manual_seed(0)
    model = new_model(policy.tokenizer, width=160, layers=4)
    ids = torch.randint(20, 300, (16, 40)).repeat(1, 2)
    with torch.no_grad():
        order = model(input_ids=ids).logits[:, 40:-1].argsort(descending=True)
    ranks = (order == ids[:, 41:, None]).nonzero()[:, 2]
    assert ranks.float().median() < 308 / 4  # of 308 tokens; the median rank by chance would be half of them
