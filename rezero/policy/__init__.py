"""Policies: load a language model or an adapter, generate turns with it, and save it."""

import sys

# Where scikit-learn is installed, transformers imports it for a way to generate that nothing here uses. That took a
# fifth of the time that every command with a policy needs to start, so transformers does not see it.
hidden = sys.modules.setdefault("sklearn", None) is None
import transformers.generation.utils  # noqa: E402, F401

if hidden:
    del sys.modules["sklearn"]
