"""The generator of the Larkspur corpus, which lives beside its data (data/larkspur/generate.py), not in the package."""

import importlib.util
from pathlib import Path
from types import ModuleType

from rezero.files import resolve


def load_generator() -> ModuleType:
    """The generator as a module; `build(seed, missions, partition)` returns chunks, questions and noise rows."""
    spec = importlib.util.spec_from_file_location("larkspur_generate", resolve("data/larkspur/generate.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_corpus(folder: str | Path, seed: int, missions: int = 40) -> Path:
    """Write another corpus like the shipped one, which is that of seed 0 with 40 missions, to `folder`."""
    generator, folder = load_generator(), resolve(folder)
    generator.save(folder, *generator.build(seed, missions))
    return folder
