"""What must happen before transformers, trl and peft are imported; hence this module imports none of them."""

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
