"""Unsloth and vLLM on one GPU: Unsloth loads and trains; vLLM in the same process, or the model itself, generates.

Written against the source of unsloth 2026.10.9, vllm 0.30.0 and vllm-bnb-plugin 0.0.3; README.md says what has run.
Their packages are imported inside functions: Unsloth must come before TRL, which it patches, and a CPU needs none.
"""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict

from rezero.policy.base import Policy
from rezero.policy.early import import_unsloth
from rezero.policy.hub import best_dtype, find_model, linear_layers, mend, read_adapter
from rezero.policy.load import check_gpu
from rezero.policy.sampling import pad_left

STOPS = ["</search>", "</answer>"]  # what ends a turn
Weights = Path | Literal["now", "base"]  # an adapter's folder; the adapter as it is now; the model without one


def load_unsloth(
    name: str, *, max_context, rank, layers, load_in_4bit, vllm, gpu_share, seed, given: LoraConfig | None = None
) -> Policy:
    """The model `name` through Unsloth, with a fresh adapter on its top `layers` layers (0: all).

    The arguments are those of `Config`; `given`: of an adapter that will be trained further. ValueError when the memory
    is too small, or Unsloth knows no such adapter.
    """
    check_gpu(backend="unsloth", vllm=vllm, load_in_4bit=load_in_4bit)
    names = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern")
    unknown = {name: getattr(given, name) for name in names if getattr(given, name, None)}
    if unknown:
        raise ValueError(f"backend='unsloth' cannot train an adapter with {unknown}; want backend='transformers'")
    import_unsloth()
    optional, vllm = vllm == "auto", find_spec("vllm") is not None if vllm == "auto" else vllm
    if torch.cuda.get_device_capability() < (8, 0):  # a T4: vLLM's FlashInfer needs 8.0, and Unsloth insists on it
        os.environ.setdefault("UNSLOTH_VLLM_NO_FLASHINFER", "1")
    from unsloth import FastLanguageModel

    try:
        model, tokenizer = FastLanguageModel.from_pretrained(
            **dict(model_name=find_model(name)[0], dtype=best_dtype(), load_in_4bit=load_in_4bit, random_state=seed),
            **dict(max_seq_length=max_context, max_lora_rank=rank, fast_inference=vllm),
            gpu_memory_utilization=gpu_share,
        )
    except (RuntimeError, ValueError, MemoryError) as error:
        if "memory" not in str(error):
            raise
        what = f"{name} and max_context={max_context} in gpu_share={gpu_share} of the GPU"
        raise ValueError(f"no room for {what}: lower max_context or raise gpu_share ({error})") from error
    # When Unsloth goes on without vLLM, or with a shorter context, it only prints that.
    room = model.vllm_engine.model_config.max_model_len if hasattr(model, "vllm_engine") else 0
    vllm = vllm and bool(room or not optional)
    if vllm and room < max_context:
        has = f"vLLM has room for episodes of {room} tokens (0: Unsloth went on without vLLM and printed why)"
        want = f"raise gpu_share={gpu_share}, lower max_context={max_context} and episode_tokens, or set vllm=False"
        raise ValueError(f"{has}: {want}")
    model = FastLanguageModel.get_peft_model(
        model,
        **dict(r=rank, lora_alpha=given.lora_alpha if given else rank, use_rslora=bool(given and given.use_rslora)),
        **dict(target_modules=given.target_modules if given else linear_layers(model)),
        **dict(finetune_last_n_layers=layers or None, use_gradient_checkpointing="unsloth", random_state=seed),
    )
    model.peft_config["default"].base_model_name_or_path = name  # not the 4-bit copy that Unsloth loads
    model.generation_config.max_length = None  # a turn's limit is max_new_tokens; with both, each call warns
    log = logging.getLogger("transformers.models.llama.modeling_llama")  # Unsloth's, which reports every save there
    log.addFilter(lambda record: "Restored added_tokens_decoder" not in record.getMessage())
    print(f"Unsloth trains, {'vLLM' if vllm else 'the model itself'} generates")
    kind = EngineGeneration if vllm else ModelGeneration
    return Policy(model, mend(tokenizer), backend=partial(kind, weights="now"))


class WholeGeneration:
    """The interface of `sampling.Generation` for what needs all ids of an episode every turn.

    `generator` is not used: vLLM draws by itself, and the model's own `generate` from torch's global generator.
    """

    def __init__(self, policy: Policy, prompts: list[list[int]], temperature: float, generator=None, weights="now"):
        self.policy, self.ids, self.temperature, self.weights = policy, prompts, temperature, weights

    def generate(self, max_new_tokens: int) -> list[list[int]]:
        turns = self._turns(max_new_tokens)
        self.ids = [ids + turn for ids, turn in zip(self.ids, turns, strict=True)]
        return turns

    def extend(self, rows: list[int], ids: list[list[int]]) -> None:
        self.ids = [self.ids[row] + new for row, new in zip(rows, ids, strict=True)]


class EngineGeneration(WholeGeneration):
    """Generation by the vLLM in this process, with one adapter request per rollout: vLLM caches prefixes by request."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        model, folder = self.policy.model, self.weights
        if folder == "now":
            folder = Path(tempfile.gettempdir()) / f"rezero-adapter-{os.getpid()}"
            model.save_lora(str(folder), selected_adapters=["default"])
        self.request = None if folder == "base" else model.load_lora(str(folder))

    def _turns(self, max_new_tokens: int) -> list[list[int]]:
        from vllm import SamplingParams

        sampling = SamplingParams(
            **dict(max_tokens=max_new_tokens, stop=STOPS, stop_token_ids=[self.policy.end_of_turn]),
            **dict(include_stop_str_in_output=True, skip_special_tokens=False),
            **dict(temperature=self.temperature, top_p=1.0, top_k=0, min_p=0.0),  # the whole distribution
        )
        prompts = [{"prompt_token_ids": ids} for ids in self.ids]
        engine = self.policy.model.vllm_engine
        answers = engine.generate(prompts, sampling, use_tqdm=False, lora_request=self.request)
        return [list(answer.outputs[0].token_ids) for answer in answers]


class ModelGeneration(WholeGeneration):
    """Generation by the model's own `generate`, which reads the episode anew every turn, for where vLLM cannot run."""

    def _turns(self, max_new_tokens: int) -> list[list[int]]:
        model, tokenizer = self.policy.model, self.policy.tokenizer
        ids, mask = pad_left(self.ids, tokenizer.pad_token_id, model.device)
        ends = dict(stop_strings=STOPS, tokenizer=tokenizer, eos_token_id=self.policy.end_of_turn)
        draws = dict(temperature=self.temperature, top_p=1.0, top_k=0) if self.temperature else {}
        ends |= dict(max_new_tokens=max_new_tokens, pad_token_id=tokenizer.pad_token_id, do_sample=bool(draws))
        with weights_of(model, self.weights):
            rows = model.generate(input_ids=ids, attention_mask=mask, **ends, **draws)
        new = rows[:, ids.shape[1] :]
        lengths = (new != tokenizer.pad_token_id).sum(1).tolist()  # rows that ended earlier are padded on the right
        return [row[:length].tolist() for row, length in zip(new, lengths, strict=True)]


@contextmanager
def weights_of(model, weights: Weights) -> Iterator[None]:
    """Give `model` these weights for as long as the context lasts."""
    current = {}
    if weights not in ("now", "base"):
        current = {name: weight.clone() for name, weight in get_peft_model_state_dict(model).items()}
        read_adapter(model, weights)
    try:
        with model.disable_adapter() if weights == "base" else nullcontext():
            yield
    finally:
        if current:
            set_peft_model_state_dict(model, current)
