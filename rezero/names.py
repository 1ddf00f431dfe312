"""Names in a configuration: a key of a literal dict, or any function as "module:function"."""

from collections.abc import Callable, Mapping
from pkgutil import resolve_name


def load_function(name: str, known: Mapping[str, Callable | str], what: str) -> Callable:
    """The function that `name` stands for.

    Args:
        name: a key of `known`, or "module:function". In a notebook, "__main__:function" names one of its own cells.
        known: name -> function, or "module:function" where the module is imported only when it is asked for.
        what: what the function is, for error messages ("engine", "reward").

    Raises:
        ValueError: the name is unknown, or its module or function does not exist.
    """
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
