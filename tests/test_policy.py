"""Generation over several turns: the KV cache must not change a token, and turns end at their first closed action."""

from copy import deepcopy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rezero.policy.base import Policy, save_policy
from rezero.policy.fast_cpu import use_grouped_attention
from rezero.policy.load import load_policy
from rezero.protocol import build_prompt, wrap_information


def greedy_without_cache(policy, ids, n):
    ids = list(ids)
    for _ in range(n):
        ids.append(int(policy.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if policy.ends_turn(ids[-1:]):
            break
    return ids


@pytest.fixture(params=["one key per head", "two heads share a key"])
def heads(request, policy) -> Policy:
    """`policy`, or a random one whose attention heads share keys, with grouped attention."""
    if request.param == "one key per head":
        return policy
    sizes = dict(vocab_size=len(policy.tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    torch.manual_seed(0)
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.5)
    model = LlamaForCausalLM(config).eval()
    use_grouped_attention(model)
    return Policy(model, policy.tokenizer)


@torch.no_grad()
def test_a_cached_batch_equals_single_rows_without_a_cache(heads):
    """Three rows of different lengths over three turns; the first row leaves after the second turn."""
    policy = heads
    rows = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14, 15, 16, 17, 18]]
    generation = policy.start(rows, temperature=0.0)
    history = [list(row) for row in rows]
    alive = [0, 1, 2]
    for reply in ([[20, 21], [22], [23, 24, 25]], [[30], [31, 32, 33, 34]], None):
        turns = generation.generate(4)
        for row, turn in zip(alive, turns, strict=True):
            expected = greedy_without_cache(policy, history[row], 4)
            assert history[row] + turn == expected
            history[row] = expected
        if reply is None:
            break
        kept = list(range(len(alive)))[-len(reply) :]
        generation.extend(kept, reply)
        alive = [alive[i] for i in kept]
        for row, new in zip(alive, reply, strict=True):
            history[row] += new


def test_sampling_repeats_with_the_same_generator(policy):
    first, again, other = (
        policy.start([[5, 6], [7]], 1.0, torch.Generator().manual_seed(seed)).generate(6) for seed in (3, 3, 4)
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("<think> a </think>", False),  # a closed thought is no action
        ("<think> a </think><search> b </search>", True),
        ("<answer> b </answer>", True),
        ("<search> b", False),
        ("b<|im_end|>", True),
    ],
)
def test_a_turn_ends_at_its_first_closed_action(policy, text, ends):
    assert policy.ends_turn(policy.encode(text)) is ends


def test_seams_rebuild_the_chat_template(policy):
    """The ids of prompt, turn and reply decode to what the template writes for the whole chat."""
    prompt = build_prompt("Who?", "short")
    turn = policy.encode("<search> x </search>")
    ids = policy.prompt_ids(prompt) + turn + policy.information_ids("[1] A | b", turn)
    chat = [
        *prompt,
        {"role": "assistant", "content": "<search> x </search>"},
        {"role": "user", "content": wrap_information("[1] A | b")},
    ]
    whole = policy.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert policy.tokenizer.decode(ids) == whole


def test_end_of_turn_is_not_doubled(policy):
    turn = [*policy.encode("lost"), policy.end_of_turn]
    assert policy.information_ids("x", turn)[0] != policy.end_of_turn
    assert policy.information_ids("x", turn[:-1])[0] == policy.end_of_turn


def test_save_and_load(policy, tmp_path):
    again = load_policy(save_policy(policy, tmp_path / "p"))
    assert again.start([[5, 6, 7]], 0.0).generate(5) == policy.start([[5, 6, 7]], 0.0).generate(5)
    assert not list((tmp_path / "p").glob("*.bin"))


def test_a_missing_policy_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no policy in .*nowhere.*make policy"):
        load_policy(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("pad_token", "<|im_end|>", r"pad token is '<\|im_end\|>'; want one that never ends a turn"),
        ("pad_token", None, "pad token is None; want one"),
        ("chat_template", None, "no chat template"),
    ],
)
def test_a_tokenizer_that_cannot_hold_an_episode_is_refused(policy, field, value, said):
    tokenizer = deepcopy(policy.tokenizer)
    setattr(tokenizer, field, value)
    with pytest.raises(ValueError, match=said):
        Policy(policy.model, tokenizer)
