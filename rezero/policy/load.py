"""Load a policy and generate with it.

One interface for every backend, stateful over turns so that a backend can keep its KV cache: `start` with the
prompts, then alternate `generate` (the next turn of the rows that go on) and `extend` (append the environment's
tokens). Token in, token out: nothing that was sampled is ever decoded and tokenized again.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
)
from transformers.utils.logging import disable_progress_bar

from rezero.config import Config
from rezero.files import resolve
from rezero.policy.base import Policy
from rezero.policy.hub import _adapter_of, _load, add_adapter, best_dtype, load_base, read_adapter
from rezero.protocol import build_prompt
from rezero.questions import Question


def load_policy(path: str | Path) -> Policy:
    """A policy from a folder written by `save_policy`, or by its name on the Hugging Face hub ("owner/name").

    A folder with an adapter brings the model that the adapter was trained on, from `rezero.models`.

    Raises:
        FileNotFoundError: the folder holds no model, or the hub has none of this name.
    """
    from rezero.policy import hub as models

    folder = resolve(path)
    if (folder / "adapter_config.json").is_file():
        return Policy(*models.load_adapter(folder))
    if (folder / "config.json").is_file():
        disable_progress_bar()  # a bar for each of a hundred tiny loads would bury the training's own lines
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return Policy(model.eval(), AutoTokenizer.from_pretrained(folder))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and not folder.parent.is_dir():
        return Policy(*models.load_base(str(path)))
    raise FileNotFoundError(f"no policy in {folder}: config.json is missing; `make policy` trains the laptop's")


def outline(name: str) -> Policy:
    """`name`'s tokenizer and configuration without weights, which is all that `check_context` looks at.

    Of an adapter's folder those of its base.

    Raises what `load_base` does, but a multi-gigabyte download earlier.
    """
    if adapter := _adapter_of(resolve(name)):
        name = adapter.base_model_name_or_path
    tokenizer, config = _load(name, AutoConfig.from_pretrained)
    return Policy(SimpleNamespace(config=config), tokenizer)


def load_trainable(config: Config, adapter: Path | None = None) -> Policy:
    """The policy of `config` with a trainable adapter: a fresh one, or with the weights of the one in `adapter`.

    Where `config.policy` is the folder of an adapter, that one is trained further, on its own base.

    Raises:
        ValueError: it has another rank or other layers than `config` says.
    """
    folder, name = resolve(config.policy), config.policy
    if had := _adapter_of(folder):
        name, adapter = had.base_model_name_or_path, adapter or folder
    if config.backend == "unsloth":
        from rezero.policy.unsloth import load_unsloth  # it builds on this module

        policy = load_unsloth(replace(config, policy=name))
    else:
        model, tokenizer = load_base(name)
        policy = Policy(add_adapter(model, config.lora_rank, config.lora_layers, config.seed), tokenizer)
    now = policy.model.peft_config["default"]
    if had and (had.r, had.layers_to_transform) != (now.r, now.layers_to_transform):
        raise ValueError(
            f"{folder} has rank {had.r} on layers {had.layers_to_transform}; "
            f"lora_rank={config.lora_rank} and lora_layers={config.lora_layers} must say the same"
        )
    if adapter:
        read_adapter(policy.model, adapter)
    return policy


def with_adapter(policy: Policy, folder: Path) -> Policy:
    """The policy with the adapter in `folder`; on a GPU that Unsloth holds, served by what serves it already."""
    if policy.backend is None:
        return load_policy(folder)
    from rezero.policy.unsloth import with_weights

    return with_weights(policy, folder)


def untrained(policy: Policy, config: Config) -> Policy:
    """What `config.policy` names: loaded anew, or where Unsloth holds the GPU the same model with other weights."""
    if policy.backend is None:
        return load_policy(config.policy)
    from rezero.policy.unsloth import with_weights

    folder = resolve(config.policy)
    return with_weights(policy, folder if _adapter_of(folder) else False)


def check_context(policy, name, sampling, max_context, questions) -> None:
    pass


def precision(lora: bool) -> dict[str, bool]:
    """What TRL's configurations want to know of the hardware.

    On a CPU a bfloat16 model's adapter stays in float32 and is multiplied in bfloat16, too: a quarter faster.
    """
    on_gpu = torch.cuda.is_available()
    bf16 = best_dtype() is torch.bfloat16 and (on_gpu or lora)
    return dict(use_cpu=not on_gpu, bf16=bf16, fp16=on_gpu and not bf16, gradient_checkpointing=on_gpu)


@contextmanager
def naming_knobs(config: Config) -> Iterator[None]:
    """Turns the GPU's out-of-memory error into a MemoryError with `out_of_memory`."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise MemoryError(out_of_memory(config)) from error


def out_of_memory(config: Config) -> str:
    """What to say when the GPU is full: which knobs to turn, and by how much."""
    return (
        f"out of GPU memory; turn these, in this order: micro_batch={config.micro_batch} to "
        f"{max(1, config.micro_batch // 2)} (halves what a backward pass holds, costs time only), "
        f"episode_tokens={config.episode_tokens} to {config.episode_tokens // 2} (halves it again, cuts episodes), "
        f"gpu_share={config.gpu_share} to {config.gpu_share - 0.1:.1f} (a tenth of the card, from vLLM to training)"
    )
