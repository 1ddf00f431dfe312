"""Functions by name: a key, "module:function", and what is said of names that lead nowhere."""

import sys

import pytest

from rezero.names import load_function
from rezero.text import normalized

KNOWN = {"mine": normalized, "late": "rezero.text:keywords", "optional": "no_such_package_at_all:run"}


def test_a_key_a_module_and_function_and_a_cell_of_a_notebook(monkeypatch):
    assert load_function("mine", KNOWN, "engine") is normalized
    assert load_function("late", KNOWN, "engine")("who is Ilse") == "Ilse"
    assert load_function("rezero.text:normalized", KNOWN, "engine") is normalized
    monkeypatch.setattr(sys.modules["__main__"], "from_a_cell", normalized, raising=False)
    assert load_function("__main__:from_a_cell", KNOWN, "reward") is normalized


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mien", "unknown reward 'mien'; allowed: mine, late, optional, or 'module:function'"),
        ("nowhere:f", "reward 'nowhere:f' cannot be loaded: No module named 'nowhere'; want 'module:function'"),
        ("rezero.text:f", "reward 'rezero.text:f' cannot be loaded: module 'rezero.text' has no attribute 'f'"),
        ("rezero.text:STOP_WORDS", "reward 'rezero.text:STOP_WORDS' is a frozenset; want a function"),
        (":", "reward ':' cannot be loaded: "),
    ],
)
def test_a_name_that_leads_nowhere_is_refused_in_one_line(name, said):
    with pytest.raises(ValueError) as caught:
        load_function(name, KNOWN, "reward")
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


def test_a_missing_optional_package_stays_an_import_error():
    with pytest.raises(ImportError, match="no_such_package_at_all"):
        load_function("optional", KNOWN, "engine")
