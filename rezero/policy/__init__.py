"""Policies: load a language model or an adapter, generate turns with it, and save it."""
