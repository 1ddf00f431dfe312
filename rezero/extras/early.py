"""What must happen and be there before transformers, trl and peft are imported; hence nothing here imports them."""

import os
from importlib import import_module
from importlib.util import find_spec

import torch

from rezero.files import resolve


def import_unsloth() -> None:
    """Import Unsloth, which patches transformers, trl and peft and warns when they were imported before it.

    Without a GPU or without Unsloth nothing is imported: `check_gpu` says later what is missing. Variables of the
    environment that are set already stay as they are.
    """
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # it trains on one; where this is unset it compiles on one core
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a JAX that a library imports would take three quarters of the GPU
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(resolve(".cache/unsloth")))  # not the working directory
    if torch.cuda.is_available() and find_spec("unsloth"):
        import_module("unsloth")


def check_gpu(backend: str, vllm: bool | str, load_in_4bit: bool, optim: str = "") -> None:
    """Raise OSError for a GPU, ImportError for packages, that a configuration needs and that are not there."""
    unsloth, engine = backend == "unsloth", backend == "unsloth" and vllm is True  # not for "auto"
    if unsloth and not torch.cuda.is_available():
        here = f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds none, or one whose driver is too old"
        raise OSError(f"backend='unsloth' needs a GPU: {here}")
    needed = {"unsloth": unsloth, "vllm": engine, "vllm_bnb_plugin": engine and load_in_4bit}
    needed["bitsandbytes"] = load_in_4bit or "8bit" in optim
    missing = [name for name, is_needed in needed.items() if is_needed and find_spec(name) is None]
    if missing:
        settings = f"backend={backend!r}, vllm={vllm}, load_in_4bit={load_in_4bit}, optim={optim!r}"
        raise ImportError(f"{settings}: {', '.join(missing)} missing; pip install -e '.[gpu]'")
