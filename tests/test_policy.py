"""Generation over several turns: the KV cache must not change a token, and turns end at their first closed action."""

from copy import deepcopy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rezero.extras import slots
from rezero.extras.fast_cpu import use_grouped_attention
from rezero.extras.merge import merged
from rezero.extras.slots import SlotGeneration
from rezero.policy import sampling
from rezero.policy.base import Policy, save_policy
from rezero.policy.hub import add_adapter
from rezero.policy.load import load_policy
from rezero.policy.sampling import Generation
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
@pytest.mark.parametrize("kind", [Generation, SlotGeneration])
def test_a_cached_batch_equals_single_rows_without_a_cache(heads, kind, monkeypatch):
    """Rows of different lengths over three turns; then some leave, equal ones part, and one goes on as two."""
    monkeypatch.setattr(slots, "CHECKED", 3)
    monkeypatch.setattr(slots, "BLOCK", 16)  # room must be made, and what is there kept
    policy = heads
    history = [[5, 6, 7, 8, 9], [10, 11], [5, 6, 7, 8, 9], [12, 13, 14, 15, 16, 17, 18], [5, 6, 7, 8, 9]]
    generation = kind(policy, history, 0.0)
    first, second = (
        ([4, 1, 3, 2, 1], [[20, 21], [22], [23, 24, 25], [20], [26]]),
        ([1, 3, 1], [[30], [31, 32, 33], [34]]),
    )
    for kept, reply in [first, second, ([], [])]:
        turns = generation.generate(8)
        assert [ids + turn for ids, turn in zip(history, turns, strict=True)] == [
            greedy_without_cache(policy, ids, 8) for ids in history
        ]
        history = [history[row] + turns[row] + new for row, new in zip(kept, reply, strict=True)]
        if kept:
            generation.extend(kept, reply)


def test_equal_histories_are_read_once_and_draw_for_themselves(policy, monkeypatch):
    """The draws of a batch are the same whether its equal rows are computed as one or each for itself."""
    read, forward = [], policy.model.forward
    monkeypatch.setattr(
        policy.model, "forward", lambda **given: read.append(len(given["input_ids"])) or forward(**given)
    )
    prompts = [[5, 6]] * 4 + [[7]] * 2

    def play() -> list:
        generation = Generation(policy, prompts, 1.0, torch.Generator().manual_seed(0))
        turns = generation.generate(6)
        generation.extend([0, 1, 2, 5], [[8], [8], [9, 8], [8]])
        return [turns, generation.generate(6)]

    together = play()
    assert read[0] == 2 and read[1] > 2 and len({tuple(turn) for turn in together[0][:4]}) > 1
    read.clear()
    monkeypatch.setattr(sampling, "numbered", lambda pairs: (list(pairs), list(range(len(pairs)))))
    assert play() == together and read[0] == 6


@pytest.fixture
def adapted(policy) -> Policy:
    model = add_adapter(deepcopy(policy.model), rank=2)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    return Policy(model.eval(), policy.tokenizer)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merged_adapter_says_the_same_and_leaves_no_trace(adapted, dtype):
    model, ids = adapted.model.to(dtype), torch.arange(5, 45)[None]
    before, apart = {name: weight.clone() for name, weight in model.state_dict().items()}, model(ids).logits
    with merged(model):
        together = model(ids).logits
        assert not torch.equal(apart, together)
    error = kl(apart, together)
    rounding = kl(apart, model.float()(ids).logits) if dtype is torch.bfloat16 else 1e-9
    model.to(dtype)
    assert error < 3 * rounding and torch.equal(model(ids).logits, apart)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    with model.disable_adapter(), merged(model):  # nothing is merged
        assert kl(apart, model(ids).logits) > 1e-3


def kl(one: torch.Tensor, other: torch.Tensor) -> float:
    one, other = (logits.float().log_softmax(-1) for logits in (one, other))
    return float((one.exp() * (one - other)).sum(-1).mean())


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
