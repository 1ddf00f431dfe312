"""Any architecture of transformers: tiny random models, whose batched episodes equal single rows without a cache.

`python -m pytest tests/test_models.py -vv` prints the table.
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY
from test_templates import text_of, tokenizer_for
from transformers import AutoConfig, AutoModelForCausalLM

from rezero.config import load_config
from rezero.extras.fast_cpu import use_grouped_attention
from rezero.extras.prefix_tree import shared_logps
from rezero.extras.slots import SlotGeneration, takes_masks
from rezero.policy.base import Policy, save_policy
from rezero.policy.hub import to_hardware
from rezero.policy.load import load_policy
from rezero.policy.sampling import keeps_padding, new_cache
from rezero.training.train import train
from rezero.warmstart.supervised import starting_policy

SIZES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2)
SIZES |= dict(head_dim=8, max_position_embeddings=256, initializer_range=0.2, tie_word_embeddings=False)
WINDOW = dict(sliding_window=8)
MAMBA = dict(mamba_d_state=8, mamba_n_heads=4, mamba_d_head=16, mamba_n_groups=1, mamba_expand=2, mamba_chunk_size=8)
DELTA = dict(linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8)
EXPERTS = dict(num_experts=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
LINEAR = dict(layer_types=["linear_attention", "full_attention"] * 2)
LATENT = dict(q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, n_routed_experts=4)
LATENT |= dict(num_key_value_heads=4, n_group=1, topk_group=1, first_k_dense_replace=1)
EAGER = dict(attn_implementation="eager")
CACHED, ANEW = "one cache", "reads anew"

# model type of transformers -> what is set beside SIZES, and how episodes are read, or why they are refused
STATES = dict(num_heads=8, state_size=8, n_groups=1, chunk_size=8)
MODELS = {
    "llama": ({}, CACHED),
    "qwen2": ({}, CACHED),
    "qwen3": ({}, CACHED),
    "mistral": (WINDOW, ANEW),
    "phi3": (WINDOW | dict(pad_token_id=0), ANEW),
    "phi3 ": (dict(sliding_window=256, pad_token_id=0), CACHED),  # a window that leaves nothing out
    "gemma": ({}, CACHED),
    "gemma2": (WINDOW | dict(attn_logit_softcapping=0.5), ANEW),
    "gemma3_text": (WINDOW, ANEW),
    "cohere2": (WINDOW, ANEW),
    "gpt_oss": (WINDOW | EXPERTS, ANEW),
    "lfm2": (dict(layer_types=["conv", "full_attention"] * 2), ANEW),
    "qwen3_5_text": (DELTA | LINEAR, ANEW),
    "qwen3_next": (DELTA | LINEAR | EXPERTS, ANEW),
    "granitemoehybrid": (MAMBA | EXPERTS | dict(layer_types=["mamba", "attention"] * 2), ANEW),
    "falcon_h1": (MAMBA | dict(mamba_d_ssm=64), ANEW),
    "bamba": (MAMBA | dict(attn_layer_indices=[1, 3]), ANEW),
    "jamba": (EXPERTS | dict(mamba_dt_rank=4, use_mamba_kernels=False, attn_layer_period=2, attn_layer_offset=1), ANEW),
    "nemotron_h": (MAMBA | EXPERTS | dict(layers_block_type=["linear_attention", "full_attention"] * 2), ANEW),
    "zamba2": (MAMBA | dict(layers_block_type=["mamba", "hybrid"] * 2), ANEW),
    "olmo_hybrid": (DELTA | LINEAR | dict(pad_token_id=0), ANEW),
    "smollm3": (dict(pad_token_id=0), CACHED),
    "llama4_text": (EXPERTS | dict(attention_chunk_size=8), ANEW),
    "granite": ({}, CACHED),
    "olmo3": (WINDOW, ANEW),
    "deepseek_v3": (EXPERTS | LATENT, CACHED),
    "glm4_moe": ({}, CACHED),
    "ministral3": ({}, CACHED),
    "gpt2": ({}, CACHED),
    "mamba2": (STATES, "mamba2 models keep their state in a way of their own"),
    "recurrent_gemma": (dict(lru_width=32, attention_window_size=8), ANEW),
}


def tiny_model(kind: str, options: dict, vocabulary: int, **how):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind.strip(), vocab_size=vocabulary, **SIZES | options)
    return AutoModelForCausalLM.from_config(config, **how).eval()


def kinds(names):
    """Rows of a table test; those of the slowest architectures, of a family that has other rows, are marked slow."""
    heavy = ("nemotron_h", "jamba", "zamba2")
    return [pytest.param(name, marks=pytest.mark.slow) if name in heavy else name for name in names]


@pytest.mark.parametrize("slots", [False, True])
@pytest.mark.parametrize("kind", kinds(MODELS))
@torch.no_grad()
def test_a_batch_equals_single_rows_without_a_cache(policy, kind, slots):
    """Three turns of three rows whose lengths differ by more than a window; then one leaves, and one is there twice."""
    options, verdict = MODELS[kind]
    model, plain = (tiny_model(kind, options, len(policy.tokenizer), **how) for how in ({}, EAGER))
    to_hardware(model).cpu()
    use_grouped_attention(model)
    if verdict not in (CACHED, ANEW):
        with pytest.raises(ValueError, match=verdict):
            Policy(model, policy.tokenizer)
        return
    made = Policy(model, policy.tokenizer)
    assert keeps_padding(new_cache(model.config)) == takes_masks(model) == (verdict == CACHED)
    if slots and verdict == ANEW:
        return
    history = [list(range(5, 25)), [10, 11], list(range(30, 37))]
    generation = SlotGeneration(made, history, 0.0) if slots else made.start(history, 0.0)
    for kept, lengths in (([0, 1, 2], [1, 12, 4]), ([0, 1, 0], [9, 2, 3]), ([], [])):
        for text, logits in zip(history, generation.logits, strict=True):
            alone = plain(input_ids=torch.tensor([text]), use_cache=False).logits[0, -1]
            torch.testing.assert_close(logits, alone, rtol=1e-3, atol=1e-3)
        turns = generation.generate(5)
        for text, turn in zip(history, turns, strict=True):
            ids = torch.tensor([text + turn])
            logits = plain(input_ids=ids, use_cache=False).logits[0, -len(turn) - 1 : -1]
            chosen = logits.gather(1, ids[0, -len(turn) :, None])[:, 0]
            torch.testing.assert_close(chosen, logits.amax(1), rtol=1e-3, atol=1e-3)
        if not kept:
            return
        news = [list(range(40, 40 + length)) for length in lengths]
        history = [history[row] + turns[row] + new for row, new in zip(kept, news, strict=True)]
        generation.extend(kept, news)


@pytest.mark.parametrize("kind", kinds(kind for kind, (_, verdict) in MODELS.items() if verdict in (CACHED, ANEW)))
@torch.no_grad()
def test_shared_tokens_have_the_log_probabilities_of_single_rows(policy, kind):
    """Rows longer than a window that part after a prompt, after some tokens, and never."""
    options, _ = MODELS[kind]
    model, plain = (tiny_model(kind, options, len(policy.tokenizer), **how) for how in ({}, EAGER))
    to_hardware(model).cpu()
    rows = [[*range(5, 25), *end] for end in ([30, 31, 32], [30, 31, 33], [34, 35, 36], [30, 31, 32])]
    ids, prompt = torch.tensor(rows), 10
    scored = torch.ones(4, 13, dtype=torch.long)
    scored[:, :5] = 0

    def score(logits, ids):
        shares = logits.log_softmax(-1)
        return shares.gather(1, ids[:, None])[:, 0], -(shares.exp() * shares).sum(-1)

    found = shared_logps(model, ids, torch.ones_like(ids), scored, score)
    for row, (logps, entropies) in enumerate(zip(*found, strict=True)):
        logits = plain(input_ids=ids[row : row + 1], use_cache=False).logits[0, prompt - 1 : -1]
        for ours, theirs in zip((logps, entropies), score(logits, ids[row, prompt:]), strict=True):
            torch.testing.assert_close(ours, theirs * scored[row], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("kind", "template"), [
    ("gemma2", "gemma"), ("lfm2", "lfm2"), ("qwen3_5_text", "qwen3_5_think"), ("granitemoehybrid", "granite")
])  # fmt: skip
def test_a_model_with_its_template_is_warmed_up_and_trained(task, kind, template, tmp_path):
    """From a folder as the hub would give it, whose pad token is the end of sequence."""
    tokenizer = tokenizer_for(text_of(template), special_tags=False)
    model = tiny_model(kind, MODELS[kind][0] | dict(max_position_embeddings=2048), len(tokenizer))
    save_policy(SimpleNamespace(model=model, tokenizer=tokenizer), tmp_path / "start")
    settings = TINY | dict(steps=1, eval_every=1, episode_tokens=1400, warm_start=dict(steps=2, episodes=4, batch=2))
    config = load_config("smollm", policy=str(tmp_path / "start"), lora_rank=2, lora_layers=0, **settings)
    task = replace(task, sampling=replace(task.sampling, episode_tokens=1400))
    policy = starting_policy(config, task, tmp_path / "run")
    train(config, tmp_path / "run", task, policy)
    load_policy(tmp_path / "run" / "best")
