"""One GPU: Unsloth loads and trains, and vLLM in the same process, or the model itself, generates.

Written against the source of unsloth 2026.10.7, vllm 0.30.0 and vllm-bnb-plugin 0.0.3. Loading, a warm start and both
ways to generate ran on an H100 with vllm 0.26.0; no GRPO step was seen to end there (see the README). On a CPU, TRL's
trainer as Unsloth rewrites it took the steps of TRL's own, beside a stand-in for vLLM (tests/test_gpu.py).
"""

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from rezero.config import Config
from rezero.files import resolve
from rezero.policy.base import Policy
from rezero.policy.hub import TARGETS, best_dtype, find_model, mend, read_adapter
from rezero.runner.kernel import output_of

STOPS = ["</search>", "</answer>"]  # what ends a turn

Adapter = Path | None | bool  # a folder; None: the weights as they are now; False: none, as before training


def check_gpu(config: Config) -> None:
    """Before anything is loaded: whether the GPU and the packages that the configuration asks for are there.

    Raises:
        OSError: no GPU, or one that this torch cannot use. ImportError: a package of the `gpu` extra is missing.
    """
    if config.backend == "unsloth" and not torch.cuda.is_available():
        found = output_of("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
        why = f"torch {torch.__version__} (CUDA {torch.version.cuda}) cannot use {found}; is its driver too old?"
        raise OSError(f"profile {config.profile!r} needs a GPU: {why if found else 'there is none here'}")
    unsloth, quantized = config.backend == "unsloth", config.load_in_4bit or "8bit" in config.optim
    wanted = {"unsloth": unsloth, "vllm": unsloth and config.vllm, "bitsandbytes": quantized,
              "vllm_bnb_plugin": unsloth and config.vllm and config.load_in_4bit}  # fmt: skip
    if missing := [name for name, needed in wanted.items() if needed and importlib.util.find_spec(name) is None]:
        raise ImportError(f"backend={config.backend!r}, load_in_4bit={config.load_in_4bit}, optim={config.optim!r}: "
                          f"{', '.join(missing)} missing; pip install -e '.[gpu]'")  # fmt: skip


def load_unsloth(config: Config) -> Policy:
    """The model through Unsloth with a fresh adapter, and what generates with it.

    Raises:
        OSError, ImportError: see `check_gpu`. ValueError: not enough memory for vLLM or for `max_context`.
    """
    check_gpu(config)
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(resolve(".cache/unsloth")))  # not in the working directory
    if torch.cuda.get_device_capability() < (8, 0):  # a T4: vLLM's FlashInfer wants 8.0, and Unsloth insists on it
        os.environ.setdefault("UNSLOTH_VLLM_NO_FLASHINFER", "1")
    from unsloth import FastLanguageModel  # before TRL, which it patches: `train` imports TRL after this

    try:
        model, tokenizer = FastLanguageModel.from_pretrained(
            model_name=find_model(config.policy)[0],
            max_seq_length=config.max_context,
            dtype=best_dtype(),
            load_in_4bit=config.load_in_4bit,
            fast_inference=config.vllm,
            gpu_memory_utilization=config.gpu_share,
            max_lora_rank=config.lora_rank,
            random_state=config.seed,
        )
    except (RuntimeError, ValueError, MemoryError) as error:
        if "memory" not in str(error):
            raise
        raise ValueError(
            f"no room for {config.policy} and max_context={config.max_context} in gpu_share={config.gpu_share} of the "
            f"GPU: raise the one or lower the other ({error})"
        ) from error
    check_engine(model, config)
    model = FastLanguageModel.get_peft_model(
        model,
        r=config.lora_rank,
        lora_alpha=config.lora_rank,
        lora_dropout=0.0,
        bias="none",
        target_modules=TARGETS,
        finetune_last_n_layers=config.lora_layers or None,
        use_gradient_checkpointing="unsloth",
        random_state=config.seed,
    )
    model.peft_config["default"].base_model_name_or_path = config.policy  # not the 4-bit copy that Unsloth loads
    policy = Policy(model, mend(tokenizer))
    policy.backend = partial(EngineGeneration if config.vllm else ModelGeneration, policy, None)
    return policy


def check_engine(model, config: Config) -> None:
    """Raise ValueError when Unsloth went on without vLLM or with less context than asked for: it only says so."""
    if not config.vllm:
        return
    if not hasattr(model, "vllm_engine"):
        raise ValueError(f"{config.policy}: Unsloth did without vLLM and said above why; -p vllm=false allows that")
    if (room := model.vllm_engine.model_config.max_model_len) < config.max_context:
        raise ValueError(
            f"gpu_share={config.gpu_share} leaves vLLM room for {room} tokens an episode: raise it, or lower "
            f"max_context={config.max_context}, and episode_tokens={config.episode_tokens} with it"
        )


def with_weights(policy: Policy, adapter: Adapter) -> Policy:
    """`policy`, served by what serves it already, with the adapter of a folder or (False) without any."""
    return replace(policy, backend=partial(policy.backend.func, policy, adapter))


class WholeGeneration:
    """`policy.Generation`'s interface for what gets all ids of an episode every turn: `_turns` samples the next one."""

    def __init__(self, prompts: list[list[int]]):
        self.ids = [list(ids) for ids in prompts]

    def generate(self, max_new_tokens: int) -> list[list[int]]:
        turns = self._turns(max_new_tokens)
        self.ids = [ids + turn for ids, turn in zip(self.ids, turns, strict=True)]
        return turns

    def extend(self, rows: list[int], ids: list[list[int]]) -> None:
        self.ids = [self.ids[row] + new for row, new in zip(rows, ids, strict=True)]


class EngineGeneration(WholeGeneration):
    """Generation by the vLLM in this process.

    One adapter request a rollout: the prefix cache is kept by adapter, so that it holds over the turns. Draws are
    vLLM's: `generator` is not used.
    """

    def __init__(self, policy: Policy, adapter: Adapter, prompts: list[list[int]], temperature: float, generator=None):
        super().__init__(prompts)
        model, self.end_of_turn, self.temperature = policy.model, policy.end_of_turn, temperature
        if adapter is None:  # the weights as they are now, in a place that vLLM reads
            adapter = Path(tempfile.gettempdir()) / f"rezero-adapter-{os.getpid()}"
            model.save_lora(str(adapter), selected_adapters=["default"])
        self.engine, self.request = model.vllm_engine, model.load_lora(str(adapter)) if adapter else None

    def follows_adapter(self) -> bool:
        """Whether the prompts score otherwise without the adapter, by more than vLLM's noise (see unsloth #8701)."""
        ours, base, again = (self._scores(request) for request in (self.request, None, None))
        return distance(ours, base) > distance(base, again)

    def _turns(self, max_new_tokens: int) -> list[list[int]]:
        return [list(answer.outputs[0].token_ids) for answer in self._ask(self.request, max_tokens=max_new_tokens)]

    def _scores(self, request) -> list[float]:
        answers = self._ask(request, max_tokens=1, prompt_logprobs=0)
        return [score.logprob for a in answers for token in a.prompt_logprobs[1:] for score in token.values()]

    def _ask(self, request, **options) -> list:
        from vllm import SamplingParams

        sampling = SamplingParams(
            temperature=self.temperature,
            top_p=1.0,
            top_k=0,
            min_p=0.0,
            stop=STOPS,
            include_stop_str_in_output=True,
            stop_token_ids=[self.end_of_turn],
            skip_special_tokens=False,
            **options,
        )
        prompts = [{"prompt_token_ids": ids} for ids in self.ids]
        return self.engine.generate(prompts, sampling, use_tqdm=False, lora_request=request)


class ModelGeneration(WholeGeneration):
    """Generation by the model's own `generate`, which reads an episode anew every turn: for where vLLM does not run.

    Draws are torch's global ones: `generator` is not used.
    """

    def __init__(self, policy: Policy, adapter: Adapter, prompts: list[list[int]], temperature: float, generator=None):
        super().__init__(prompts)
        self.policy, self.adapter, self.temperature = policy, adapter, temperature

    @torch.no_grad()
    def follows_adapter(self) -> bool:
        """Whether the model's adapter changes what comes after the first prompt."""
        ids = torch.tensor(self.ids[:1], device=self.policy.model.device)
        with weights_of(self.policy.model, self.adapter):
            ours = self.policy.model(input_ids=ids).logits
        with weights_of(self.policy.model, False):
            return not torch.equal(self.policy.model(input_ids=ids).logits, ours)

    def _turns(self, max_new_tokens: int) -> list[list[int]]:
        model, tokenizer, width = self.policy.model, self.policy.tokenizer, max(map(len, self.ids))
        ids = [[tokenizer.pad_token_id] * (width - len(row)) + row for row in self.ids]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in self.ids]
        how = dict(do_sample=True, temperature=self.temperature, top_p=1.0, top_k=0) if self.temperature else {}
        with weights_of(model, self.adapter):
            rows = model.generate(
                input_ids=torch.tensor(ids, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=max_new_tokens,
                stop_strings=STOPS,
                tokenizer=tokenizer,
                eos_token_id=self.policy.end_of_turn,
                pad_token_id=tokenizer.pad_token_id,
                **({"do_sample": False} | how),
            )
        ends = (rows[:, width:] != tokenizer.pad_token_id).sum(1)  # padded where others went on; no turn holds it
        return [row[width : width + end].tolist() for row, end in zip(rows, ends.tolist(), strict=True)]


@contextmanager
def weights_of(model, adapter: Adapter) -> Iterator[None]:
    """`model` with its adapter's weights from a folder, or with none (False), for as long as the context lasts."""
    if adapter is None:
        yield
    elif adapter is False:
        with model.disable_adapter():
            yield
    else:
        mine = {name: weight.clone() for name, weight in get_peft_model_state_dict(model).items()}
        read_adapter(model, adapter)
        try:
            yield
        finally:
            set_peft_model_state_dict(model, mine)


def distance(a: list[float], b: list[float]) -> float:
    """The sum of absolute differences of two lists of scores."""
    return sum(abs(x - y) for x, y in zip(a, b, strict=True))
