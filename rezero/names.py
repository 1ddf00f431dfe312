"""What may stand in a configuration: numbers in their bounds, names of functions, where a policy is."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated

from pydantic import Field

from rezero.files import resolve

Share = Annotated[float, Field(ge=0, le=1)]  # NaN lies in no bounds
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
AboveZero = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Number = Annotated[int, Field(ge=0)]


def load_function(name: str, known: Mapping[str, Callable | str], what: str) -> Callable:
    """The function of `name`: a key of `known`, or "module:function", imported now. ValueError calls it a `what`."""
    found = known.get(name, name)
    if callable(found):
        return found
    if ":" not in found:
        raise ValueError(f"unknown {what} {name!r}; allowed: {', '.join(known)}, or 'module:function'")
    try:
        function = resolve_name(found)
    except (ImportError, AttributeError, ValueError) as error:
        if found != name and isinstance(error, ImportError):  # one of ours, whose optional package is missing
            raise
        raise ValueError(f"{what} {name!r} cannot be loaded: {error}; want 'module:function'") from error
    if not callable(function):
        raise ValueError(f"{what} {name!r} is a {type(function).__name__}; want a function")
    return function


def check_policy_name(path: str | Path) -> None:
    """Raise FileNotFoundError if `path` is neither the folder of a policy nor looks like a name on the hub."""
    folder = resolve(path)
    if any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        return
    if folder.parent.is_dir() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        raise FileNotFoundError(f"no policy in {folder}: config.json is missing; `make policy` trains the laptop's")
