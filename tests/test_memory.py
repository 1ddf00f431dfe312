"""Does a GPU profile fit its card? Reckoned part by part, since no card was at hand: `python tests/test_memory.py`.

vLLM takes its share at once: weights (which training shares), room for an adapter, CUDA graphs, what a prefill of 4,096
tokens needs, and keys and values with the rest. Training lives beside it: the CUDA context, the adapter with gradients
and two 8-bit moments, and for a micro-batch of the longest episodes the layers' inputs that are not offloaded, one
layer's backward pass with its matrices in 16 bits, and the scores over the vocabulary in Unsloth's chunks. The rules
for quantised weights, graphs and chunks are unsloth_zoo's (approximate_vllm_memory_usage, autotune_batch_and_chunks).
"""

from dataclasses import replace
from typing import NamedTuple

import pytest

from rezero.config import PROFILES, Config
from rezero.policy.load import out_of_memory
from rezero.protocol import PROMPTS

GIB = 2**30
T4, RTX_4090, H200 = 14.74, 23.5, 139.8  # GiB that torch reports of a "16", a 24 and a 141 GB card


class Shape(NamedTuple):
    """A Llama's config.json, embeddings tied."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    mlp: int
    vocabulary: int = 128_256

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """(in, out) of the seven matrices of a layer."""
        q, kv = self.heads * self.head, self.kv_heads * self.head
        attention = [(self.hidden, q), (self.hidden, kv), (self.hidden, kv), (q, self.hidden)]
        return [*attention, (self.hidden, self.mlp), (self.hidden, self.mlp), (self.mlp, self.hidden)]


SHAPES = {
    "unsloth/Llama-3.2-1B-Instruct": Shape(2048, 16, 32, 8, 64, 8192),
    "unsloth/Llama-3.2-3B-Instruct": Shape(3072, 28, 24, 8, 128, 8192),
}


def longest(config: Config) -> int:
    """Tokens of the longest episode with its prompt, at three letters a token."""
    return config.episode_tokens + sum(map(len, PROMPTS[config.prompt_style])) // 3 + 64


def engine(config: Config, card: float) -> dict[str, float]:
    """GiB of vLLM's parts on a card of `card` GiB."""
    s = SHAPES[config.policy]
    weights = s.layers * sum(i * o for i, o in s.matrices)
    parts = {
        "weights": (weights * (2 * 5 / 16 if config.load_in_4bit else 2) + 2 * s.vocabulary * s.hidden) / GIB,
        "adapter": 2 * s.layers * config.lora_rank * sum(i + o for i, o in s.matrices) / GIB,
        "CUDA graphs": max(0.15, 172 * s.hidden * s.layers * 4 / GIB),
        "prefill": 4096 * (s.hidden + 2 * s.mlp) * 2 / GIB,
    }
    return parts | {"keys and values": config.gpu_share * card - sum(parts.values())}


def kv_tokens(config: Config, card: float) -> int:
    s = SHAPES[config.policy]
    return int(engine(config, card)["keys and values"] * GIB / (2 * s.layers * s.kv_heads * s.head * 2))


def training(config: Config) -> dict[str, float]:
    """GiB of what training needs beside vLLM, scores in the smallest chunks that Unsloth makes."""
    s, tokens = SHAPES[config.policy], config.micro_batch * longest(config)
    adapter = s.layers * config.lora_rank * sum(i + o for i, o in s.matrices)
    layer = sum(o for _, o in s.matrices) + 2 * s.hidden  # what a layer's backward pass keeps of a token
    chunks = max(4, longest(config) // 4096)
    return {
        "CUDA context": 0.6,
        "adapter, gradients, moments": adapter * (4 + 4 + 2) / GIB,
        "inputs of two layers": 2 * tokens * s.hidden * 2 / GIB,
        "backward pass of a layer": (2 * tokens * layer * 2 + max(i * o for i, o in s.matrices) * 2) / GIB,
        "scores": longest(config) * s.vocabulary * 16 / chunks / config.micro_batch / GIB,
    }


@pytest.mark.parametrize(
    ("profile", "card"), [("colab_t4", T4), ("single_gpu", RTX_4090), ("exp_01", H200), ("exp_02", H200)]
)
def test_a_profile_fits_its_card(profile, card):
    config = PROFILES[profile]
    left = card * (1 - config.gpu_share)
    assert sum(training(config).values()) < 0.8 * left  # a fifth for fragments and for what this does not know
    assert kv_tokens(config, card) > config.max_context  # else vLLM refuses to start
    assert longest(config) <= config.max_context


def test_a_t4_holds_all_episodes_of_a_step_at_once_and_colab_what_is_offloaded():
    config = PROFILES["colab_t4"]
    assert kv_tokens(config, T4) > config.episodes_per_step * longest(config)
    s = SHAPES[config.policy]
    assert s.layers * config.micro_batch * longest(config) * s.hidden * 2 / GIB < 1  # of its 12.7 GiB of memory


def test_a_3b_model_in_16_bits_does_not_fit_a_t4():
    """The reckoning says no, too."""
    config = replace(PROFILES["single_gpu"], load_in_4bit=False)
    assert kv_tokens(config, T4) < config.max_context


@pytest.mark.parametrize("profile", ["colab_t4", "single_gpu"])
def test_the_knobs_of_an_out_of_memory_message_turn_what_they_say(profile):
    config = PROFILES[profile]
    rows, tokens = config.micro_batch // 2, config.episode_tokens // 2
    assert f"micro_batch={config.micro_batch} to {rows}" in out_of_memory(config)
    part = "backward pass of a layer"
    full, half, quarter = (
        training(one)[part]
        for one in (config, replace(config, micro_batch=rows), replace(config, micro_batch=rows, episode_tokens=tokens))
    )
    assert half < 0.6 * full and quarter < 0.65 * half
    assert engine(replace(config, gpu_share=config.gpu_share - 0.1), T4)["keys and values"] == pytest.approx(
        engine(config, T4)["keys and values"] - 0.1 * T4
    )


if __name__ == "__main__":
    for name, size in [("colab_t4", T4), ("single_gpu", RTX_4090), ("exp_02", H200)]:
        chosen = PROFILES[name]
        print(f"\n{name} on {size} GiB, vLLM {chosen.gpu_share * size:.1f}")
        for part, gib in {**engine(chosen, size), **training(chosen)}.items():
            print(f"  {part:30}{gib:6.2f}")
        left = size * (1 - chosen.gpu_share) - sum(training(chosen).values())
        print(f"  left {left:.1f}; keys and values of {kv_tokens(chosen, size):,} tokens, longest episode "
              f"{longest(chosen):,}")  # fmt: skip
