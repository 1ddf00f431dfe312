"""A small Llama whose first two layers can copy before any training.

The laptop's policy must copy: names from the question into a query, answers from passages. From a random start a model
of its size learned no copying in 2 million tokens of dense practice; from this start it copies names that it has never
seen after 1 million.
"""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROPE_THETA = 10_000.0


def new_model(tokenizer: PreTrainedTokenizerFast, width: int, layers: int, heads: int = 4) -> LlamaForCausalLM:
    """A Llama with attention biases and tied embeddings: an induction circuit in two layers, all else random."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 8 // 3 // 16 * 16,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        attention_bias=True,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    start_copying(model)
    return model


@torch.no_grad()
def start_copying(model: LlamaForCausalLM) -> None:
    """Initialise an induction circuit (Olsson et al. 2022) in the first two layers, which training starts from.

    The first head of layer 0 attends to the previous token, by its biases alone, and writes a projection of it (the
    note) to the residual stream. The heads of layer 1 attend to positions whose note equals the current token and copy
    the token there. The gains were chosen so that both attentions are clearly peaked at the start.
    """
    width, heads = model.config.hidden_size, model.config.num_attention_heads
    size = width // heads
    half = size // 2  # Llama rotates dimension i together with i + half
    angles = ROPE_THETA ** (-torch.arange(half) * 2 / size)
    read, note = orthonormal(size, width), orthonormal(size, width)

    first = model.model.layers[0].self_attn
    bias = torch.full((half,), 8.0 / half**0.25)
    first.k_proj.weight[:size], first.q_proj.weight[:size] = 0, 0
    first.k_proj.bias[:size] = torch.cat([bias, 0 * bias])
    first.q_proj.bias[:size] = torch.cat([bias * angles.cos(), -bias * angles.sin()])  # peaks one token back
    first.v_proj.weight[:size], first.o_proj.weight[:, :size] = read, 0.1 * note.T

    slow = torch.where(angles < 1 / 200)[0]  # matching must work over distances of about 200 tokens
    slow = torch.cat([slow, slow + half])
    second, copied = model.model.layers[1].self_attn, orthonormal(width, width)
    for head in range(heads):
        rows, mix = slice(head * size, (head + 1) * size), orthonormal(len(slow), size)
        second.q_proj.weight[rows], second.k_proj.weight[rows] = 0, 0
        second.q_proj.weight[rows][slow] = 2 * mix @ read
        second.k_proj.weight[rows][slow] = 6 * mix @ note
        second.v_proj.weight[rows], second.o_proj.weight[:, rows] = copied[rows], 0.1 * copied[rows].T


def orthonormal(rows: int, columns: int) -> torch.Tensor:
    """A random matrix with orthonormal rows, shape (rows, columns)."""
    return torch.linalg.qr(torch.randn(columns, rows))[0].T
