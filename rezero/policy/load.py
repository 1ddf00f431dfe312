"""Load a policy: the only place that decides between a folder, an adapter, the hub and Unsloth."""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Literal

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from rezero.config import Config
from rezero.files import resolve
from rezero.policy.base import Policy
from rezero.policy.hub import adapter_config, add_adapter, best_dtype, load_base, read_adapter, read_model
from rezero.protocol import Sampling, build_prompt
from rezero.questions import Question

# An adapter's folder; the adapter as it is now; the model without an adapter.
Weights = Path | Literal["now", "base"]


def load_policy(path: str | Path) -> Policy:
    """A policy from a folder that `save_policy` wrote, or by its name on the Hugging Face hub ("owner/name").

    An adapter is loaded on top of the model that it was trained on.

    Raises:
        FileNotFoundError: the folder contains no model, or the hub has none of this name.
    """
    folder = resolve(path)
    adapter = adapter_config(folder)
    if adapter:
        base, _ = load_base(adapter.base_model_name_or_path)
        model = PeftModel.from_pretrained(base, str(folder))
        return Policy(model.eval(), AutoTokenizer.from_pretrained(folder))
    if (folder / "config.json").is_file():
        disable_progress_bar()  # bars of a hundred tiny loads would bury the training's own lines
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return Policy(model.eval(), AutoTokenizer.from_pretrained(folder))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and not folder.parent.is_dir():
        return Policy(*load_base(str(path)))
    raise FileNotFoundError(f"no policy in {folder}: config.json is missing; `make policy` trains the laptop's")


def load_trainable(config: Config, adapter: Path | None = None) -> Policy:
    """The policy of `config` with a trainable adapter: a fresh one, or one with the weights of the folder `adapter`.

    If `config.policy` is itself the folder of an adapter, that adapter is trained further, on its own base.

    Raises:
        ValueError: that adapter has another rank or other layers than `config` says.
    """
    folder = resolve(config.policy)
    given = adapter_config(folder)
    name = given.base_model_name_or_path if given else config.policy
    if config.backend == "unsloth":
        policy = resolve_name("rezero.extras.unsloth:load_unsloth")(
            name,
            max_context=config.max_context,
            rank=config.lora_rank,
            layers=config.lora_layers,
            load_in_4bit=config.load_in_4bit,
            vllm=config.vllm,
            gpu_share=config.gpu_share,
            seed=config.seed,
        )
    else:
        model, tokenizer = load_base(name)
        policy = Policy(add_adapter(model, config.lora_rank, config.lora_layers, config.seed), tokenizer)
    made = policy.model.peft_config["default"]
    if given and (given.r, given.layers_to_transform) != (made.r, made.layers_to_transform):
        raise ValueError(
            f"lora_rank={config.lora_rank}, lora_layers={config.lora_layers}; the adapter in {folder} has rank "
            f"{given.r} on layers {given.layers_to_transform}, and both must agree"
        )
    if given or adapter:
        read_adapter(policy.model, adapter or folder)
    return policy


def with_adapter(policy: Policy, folder: Path) -> Policy:
    """The policy with the adapter in `folder`, loaded anew, or in the model that Unsloth already holds on the GPU."""
    return with_weights(policy, folder) if policy.backend else load_policy(folder)


def untrained(policy: Policy, name: str) -> Policy:
    """What training `name` started from, loaded anew, or in the model that Unsloth already holds on the GPU."""
    if not policy.backend:
        return load_policy(name)
    folder = resolve(name)
    return with_weights(policy, folder if adapter_config(folder) else "base")


def with_weights(policy: Policy, weights: Weights) -> Policy:
    """`policy`, generating with other weights in the model or engine that is already on the GPU."""
    return replace(policy, backend=partial(policy.backend.func, weights=weights))


def outline(name: str) -> Policy:
    """The policy `name` without its weights: enough for `check_context`, and free of a download of gigabytes.

    Raises:
        FileNotFoundError, ValueError: as `hub.load_base`.
    """
    adapter = adapter_config(resolve(name))
    tokenizer, config = read_model(adapter.base_model_name_or_path if adapter else name, AutoConfig.from_pretrained)
    return Policy(SimpleNamespace(config=config), tokenizer)


def check_context(policy: Policy, name: str, sampling: Sampling, max_context: int, questions: list[Question]) -> None:
    """Raise ValueError when the model cannot hold a prompt and a whole episode, or reads no system message.

    Args:
        name: the policy's, for the message.
        max_context: tokens that memory is reserved for; 0: as many as the model reads.
    """
    longest = max((question.text for question in questions), key=len)
    prompt = build_prompt(longest, sampling.prompt_style)
    ids = policy.prompt_ids(prompt)
    read = policy.decode(ids)
    for message in prompt:
        if message["content"].strip() not in read:
            raise ValueError(
                f"{name}: its chat template drops the {message['role']} message of "
                f"prompt_style={sampling.prompt_style!r}; want prompt_style='short' or another model"
            )
    most = max_context or policy.model.config.get_text_config().max_position_embeddings
    if len(ids) + sampling.episode_tokens > most:
        raise ValueError(
            f"episode_tokens={sampling.episode_tokens} and a prompt of {len(ids)} tokens do not fit the {most} tokens "
            f"that {name} reads; want episode_tokens <= {most - len(ids)}"
        )


def precision(lora: bool) -> dict[str, bool]:
    """What TRL's configurations must be told of the hardware.

    On a CPU the adapter of a bfloat16 model stays in float32 and is multiplied in bfloat16: a quarter faster.
    """
    on_gpu = torch.cuda.is_available()
    bf16 = best_dtype() is torch.bfloat16 and (on_gpu or lora)
    return dict(use_cpu=not on_gpu, bf16=bf16, fp16=on_gpu and not bf16, gradient_checkpointing=on_gpu)


@contextmanager
def naming_knobs(micro_batch: int, episode_tokens: int, gpu_share: float) -> Iterator[None]:
    """Turn the GPU's out-of-memory error into a MemoryError that says which settings to lower."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise MemoryError(
            f"out of GPU memory; lower, in this order: micro_batch={micro_batch} (halved, it costs only time), "
            f"episode_tokens={episode_tokens} (halved, it cuts long episodes), gpu_share={gpu_share} (by 0.1 at a time)"
        ) from error


def check_gpu(*, backend: str, vllm: bool, load_in_4bit: bool, optim: str = "") -> None:
    """Check, before anything is loaded, that the GPU and the packages are there that a configuration asks for.

    Raises:
        OSError: there is no GPU, or this torch cannot use it.
        ImportError: a package of the `gpu` extra is missing.
    """
    unsloth, engine = backend == "unsloth", backend == "unsloth" and vllm
    if unsloth and not torch.cuda.is_available():
        smi = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        gpu = subprocess.run(smi, capture_output=True, text=True).stdout.strip() if shutil.which(smi[0]) else ""
        unusable = f"torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use {gpu}; is its driver too old?"
        raise OSError(f"backend='unsloth' needs a GPU: {unusable if gpu else 'there is none here'}")
    needed = {"unsloth": unsloth, "vllm": engine, "vllm_bnb_plugin": engine and load_in_4bit}
    needed["bitsandbytes"] = load_in_4bit or "8bit" in optim
    missing = [name for name, is_needed in needed.items() if is_needed and importlib.util.find_spec(name) is None]
    if missing:
        settings = f"backend={backend!r}, vllm={vllm}, load_in_4bit={load_in_4bit}, optim={optim!r}"
        raise ImportError(f"{settings}: {', '.join(missing)} missing; pip install -e '.[gpu]'")
