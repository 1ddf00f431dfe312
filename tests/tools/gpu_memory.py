"""Estimate whether a GPU profile fits its card, part by part: `python tests/tools/gpu_memory.py`.

vLLM takes its share of the card at once: weights (which training shares), room for an adapter, CUDA graphs, what a
prefill of 4,096 tokens needs, and keys and values with the rest. Training lives beside it: the CUDA context; the
adapter with its gradients and two 8-bit moments; and, for a micro-batch of the longest episodes, the layers' inputs
that are not offloaded, one layer's backward pass with its matrices in 16 bits, and the scores over the vocabulary in
Unsloth's chunks. The rules for quantized weights, graphs and chunks are those of unsloth_zoo
(approximate_vllm_memory_usage, autotune_batch_and_chunks).
"""

from typing import NamedTuple

from rezero.config import Config, load_config
from rezero.protocol import PROMPTS

GIB = 2**30
# GiB that torch reports of the smallest card that a profile is meant for: one of 8 GB, a T4, one of 24 GB, an H200
CARDS = {"gpu_small": 7.6, "colab_t4": 14.74, "single_gpu": 23.5, "exp_02": 139.8}


class Shape(NamedTuple):
    """The sizes in the config.json of a Llama or Qwen2; embeddings are tied."""

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

    def adapter(self, rank: int) -> int:
        """Parameters of an adapter on all layers."""
        return self.layers * rank * sum(i + o for i, o in self.matrices)


SHAPES = {
    "Qwen/Qwen2.5-0.5B-Instruct": Shape(896, 24, 14, 2, 64, 4864, 151_936),
    "unsloth/Llama-3.2-1B-Instruct": Shape(2048, 16, 32, 8, 64, 8192),
    "unsloth/Llama-3.2-3B-Instruct": Shape(3072, 28, 24, 8, 128, 8192),
}


def longest(config: Config) -> int:
    """Tokens of the longest episode with its prompt, at three letters per token."""
    return config.episode_tokens + sum(map(len, PROMPTS[config.prompt_style])) // 3 + 64


def alone(config: Config) -> dict[str, float]:
    """GiB of each part when the model itself generates, in 16 bits and with a cache of the longest episodes."""
    shape, rows = SHAPES[config.policy], min(128, config.episodes_per_step)  # a rollout's batch
    kept = 2 * shape.layers * shape.kv_heads * shape.head * 2  # bytes of a token's keys and values
    return {
        "weights": 2 * (shape.layers * sum(i * o for i, o in shape.matrices) + shape.vocabulary * shape.hidden) / GIB,
        "keys and values": rows * longest(config) * kept / GIB,
        "scores of a token": rows * shape.vocabulary * (2 + 4 + 4) / GIB,
    }


def engine(config: Config, card: float) -> dict[str, float]:
    """GiB of each part of vLLM on a card of `card` GiB."""
    shape = SHAPES[config.policy]
    weights = shape.layers * sum(i * o for i, o in shape.matrices)
    bytes_per_weight = 2 * 5 / 16 if config.load_in_4bit else 2
    parts = {
        "weights": (weights * bytes_per_weight + 2 * shape.vocabulary * shape.hidden) / GIB,
        "adapter": 2 * shape.adapter(config.lora_rank) / GIB,
        "CUDA graphs": max(0.15, 172 * shape.hidden * shape.layers * 4 / GIB),
        "prefill": 4096 * (shape.hidden + 2 * shape.mlp) * 2 / GIB,
    }
    return parts | {"keys and values": config.gpu_share * card - sum(parts.values())}


def kv_tokens(config: Config, card: float) -> int:
    """Tokens whose keys and values fit."""
    shape = SHAPES[config.policy]
    bytes_per_token = 2 * shape.layers * shape.kv_heads * shape.head * 2
    return int(engine(config, card)["keys and values"] * GIB / bytes_per_token)


def training(config: Config) -> dict[str, float]:
    """GiB of each part that training needs beside vLLM, with scores in the smallest chunks that Unsloth makes."""
    shape, tokens = SHAPES[config.policy], config.micro_batch * longest(config)
    kept = sum(o for _, o in shape.matrices) + 2 * shape.hidden  # numbers that a layer's backward pass keeps per token
    chunks = max(4, longest(config) // 4096) * config.micro_batch
    return {
        "CUDA context": 0.6,
        "adapter, gradients, moments": shape.adapter(config.lora_rank) * (4 + 4 + 2) / GIB,
        "inputs of two layers": 2 * tokens * shape.hidden * 2 / GIB,
        "backward pass of a layer": (2 * tokens * kept * 2 + max(i * o for i, o in shape.matrices) * 2) / GIB,
        "scores": longest(config) * shape.vocabulary * 16 / chunks / GIB,
    }


if __name__ == "__main__":
    for name, size in CARDS.items():
        chosen = load_config(name)
        print(f"\n{name} on {size} GiB, of which vLLM takes {chosen.gpu_share * size:.1f}")
        for part, gib in {**engine(chosen, size), **training(chosen)}.items():
            print(f"  {part:30}{gib:6.2f}")
        left = size * (1 - chosen.gpu_share) - sum(training(chosen).values())
        print(f"  left: {left:.1f}; keys and values of {kv_tokens(chosen, size):,} tokens", end="; ")
        print(f"the longest episode has {longest(chosen):,}")
        if chosen.vllm == "auto":
            print(f"  without vLLM: {sum(alone(chosen).values()) + sum(training(chosen).values()):.1f} of {size}")
