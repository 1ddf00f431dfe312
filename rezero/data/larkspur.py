"""Train the laptop's starting policy: a small Llama that knows the protocol, reads, and mostly gives up after a miss.

    python -m rezero.warmstart          (`make policy`)

It learns from scripted episodes in worlds made by the generator of `data/larkspur` with other seeds and with names
that the shipped corpus never uses, so that what it must later read and copy are names it has not seen. Episodes that
retry are as frequent as episodes that give up, so that both skills are learned; the *decision* between them is
weighted back to `retry_rate`, which leaves a policy that can retry well but seldom does.
"""

import importlib.util

from rezero.files import resolve


def load_generator():
    """The corpus generator as a module (it lives beside its data, not in the package)."""
    spec = importlib.util.spec_from_file_location("larkspur_generate", resolve("data/larkspur/generate.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
