"""Load a policy: the only place that decides between a folder, an adapter, the hub and Unsloth."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoTokenizer

from rezero.config import Config
from rezero.files import resolve
from rezero.names import check_policy_name
from rezero.policy import hub
from rezero.policy.base import Policy, naming_damage
from rezero.protocol import Sampling, build_prompt, neutralize
from rezero.questions import Question


def load_policy(path: str | Path, dtype: torch.dtype | None = None) -> Policy:
    """A policy from a folder that `save_policy` wrote (an adapter goes onto its base), or by its name on the hub.

    It is on the GPU if there is one. `dtype`: of a model without an adapter, float32 if every weight is to be trained.
    """
    folder = resolve(path)
    if hub.adapter_config(folder):
        return load_adapter(folder)
    check_policy_name(path)
    if (folder / "config.json").is_file():
        path = folder  # for a KL term TRL loads the model a second time, by this name, from another folder
        dtype = dtype or (None if torch.cuda.is_available() else torch.float32)
    return Policy(*hub.load_base(str(path), dtype))


def load_adapter(folder: Path, trainable: bool = False, base: str = "") -> Policy:
    """The adapter of `folder`, as it is configured there, on `base` or the model that it names, with its tokenizer."""
    model, tokenizer = hub.load_base(base or hub.adapter_config(folder).base_model_name_or_path)
    with naming_damage(folder):
        model = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
        if (folder / "tokenizer_config.json").is_file():
            tokenizer = AutoTokenizer.from_pretrained(folder)
    return Policy(model.eval(), hub.mend(tokenizer))


def load_trainable(config: Config, adapter: Path | None = None) -> Policy:
    """The policy of `config` with a trainable adapter: a fresh one, or one with the weights of the folder `adapter`.

    With lora_rank=0 every weight is trained. An adapter that `config.policy` names is trained further, on its own base.
    """
    folder, rank, layers = resolve(config.policy), config.lora_rank, config.lora_layers
    given = hub.adapter_config(folder)
    if not rank and not given:
        return load_policy(config.policy, torch.float32)
    name = given.base_model_name_or_path if given else config.policy
    if config.backend == "unsloth":
        options = {key: getattr(config, key) for key in ("max_context", "load_in_4bit", "vllm", "gpu_share", "seed")}
        load = resolve_name("rezero.extras.unsloth:load_unsloth")
        policy = load(name, rank=rank, layers=layers, given=given, **options)
    elif given:
        policy = load_adapter(folder, trainable=True)
    else:
        model, tokenizer = hub.load_base(name)
        policy = Policy(hub.add_adapter(model, rank, layers, config.seed), tokenizer)
    if given and (given.r, given.layers_to_transform) != (rank, hub.top_layers(policy.model, layers)):
        has = f"the adapter in {folder} has rank {given.r} on layers {given.layers_to_transform}"
        raise ValueError(f"lora_rank={rank}, lora_layers={layers}; {has}, and both must agree")
    if given or adapter:
        hub.read_adapter(policy.model, adapter or folder)
    print(resolve_name("rezero.extras.merge:adapted_share")(policy.model), flush=True)
    return policy


def with_weights(policy: Policy, path: str | Path) -> Policy:
    """The policy at `path`: loaded anew, or the model that Unsloth holds on the GPU with the adapter there, or none."""
    if not policy.backend:
        return load_policy(path)
    weights = resolve(path) if hub.adapter_config(resolve(path)) else "base"
    return replace(policy, backend=partial(policy.backend.func, weights=weights))


def outline(name: str) -> Policy:
    """The policy `name` without its weights: enough for `check_context`, and free of a download of gigabytes."""
    adapter = hub.adapter_config(resolve(name))
    tokenizer, config = hub.read_model(adapter.base_model_name_or_path if adapter else name, AutoConfig.from_pretrained)
    return Policy(SimpleNamespace(config=config), tokenizer)


def check_context(policy: Policy, name: str, sampling: Sampling, max_context: int, questions: list[Question]) -> None:
    """ValueError if the longest prompt and a whole episode exceed `max_context` (0: what the model `name` reads)."""
    texts = (policy.template.inert(neutralize(question.text)) for question in questions)
    hardest = max(texts, key=lambda text: len(policy.encode(text)))
    longest = len(policy.prompt_ids(build_prompt(hardest, sampling.prompt_style)))
    most = max_context or getattr(policy.model.config.get_text_config(), "max_position_embeddings", 0)
    if most and longest + sampling.episode_tokens > most:
        room = f"the {most} tokens that {name} reads; want episode_tokens <= {most - longest}"
        has = f"episode_tokens={sampling.episode_tokens} and a prompt of {longest} tokens"
        raise ValueError(f"{has} do not fit {room}")


def precision(lora: bool) -> dict[str, bool]:
    """What TRL's configurations must be told of the hardware."""
    on_gpu = torch.cuda.is_available()
    # On a CPU the adapter of a bfloat16 model stays in float32 and is multiplied in bfloat16: a quarter faster.
    bf16 = hub.best_dtype() is torch.bfloat16 and (on_gpu or lora)
    return dict(use_cpu=not on_gpu, bf16=bf16, fp16=on_gpu and not bf16, gradient_checkpointing=on_gpu)


@contextmanager
def naming_knobs(micro_batch: int, episode_tokens: int, gpu_share: float) -> Iterator[None]:
    """Turn the GPU's out-of-memory error into a MemoryError that says which settings to lower."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        lower = f"micro_batch={micro_batch} (costs only time), episode_tokens={episode_tokens} (cuts long episodes)"
        raise MemoryError(f"out of GPU memory; lower, in this order: {lower}, gpu_share={gpu_share}") from error
