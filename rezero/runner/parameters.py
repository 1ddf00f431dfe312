"""The parameters of a notebook, checked before anything runs: papermill passes on whatever it is given."""

import ast
import json
import re
from inspect import formatannotation
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import TypeAdapter, ValidationError

from rezero.files import readable
from rezero.text import printable

TYPES = {kind.__name__: kind for kind in (str, int, float, bool, dict, list)}
TYPES |= {f"{name} | None": kind | None for name, kind in TYPES.items()}
UNREAD = re.compile(r"'[-+]?\d[\d.]*[eE][-+]?\d+'")  # in a repr: a number that YAML has read as a string


class Parameter(NamedTuple):
    default: object
    type: object  # what an override must be, such as int, list[float] or int | None


def read_parameters(path: Path) -> dict[str, Parameter]:
    """The parameters in the notebook's one cell tagged `parameters`, without `run_dir`, which the runner sets."""
    try:
        cells = json.loads(path.read_text("utf-8"))["cells"]  # nbformat takes seconds to import
        (source,) = [cell["source"] for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
        nodes = ast.parse("".join(source), "parameters cell").body
    except (SyntaxError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: want a notebook with one code cell tagged 'parameters': {error}") from None
    found = {}
    for node in nodes:
        where = f"{path}, parameters cell, line {node.lineno}: {ast.unparse(node)}"
        annotation = ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else ""
        try:
            (target,) = [node.target] if annotation else node.targets
            name, default = target.id, ast.literal_eval(node.value)
            kind = TYPES.get(annotation) or TYPES[type(default).__name__]
        except (AttributeError, KeyError, TypeError, ValueError):
            wanted = f"want `name = literal` or `name: int | None = None`, of the types {', '.join(TYPES)}"
            raise ValueError(f"{where}: {wanted}; derive values in the next cell") from None
        found[name] = Parameter(default, list[type(default[0])] if kind is list and default else kind)
        check_value(where, name, default, found[name])
    found.pop("run_dir", None)
    return found


def check_value(where: str, name: str, value, parameter: Parameter):
    """`value` if it has the parameter's type, an int for a float converted. Raises ValueError otherwise."""
    wanted, unread = formatannotation(parameter.type), UNREAD.search(repr(value))
    if unread and "str" not in wanted:
        raise ValueError(f"{where}: {name}: YAML reads {unread[0]} as a string; write 1.0e-6 for a number")
    try:
        return TypeAdapter(parameter.type).validate_python(value, strict=True)
    except ValidationError:
        got = f"{name} = {value!r} is {type(value).__name__}, want {wanted} (default {parameter.default!r})"
        hint = f"; quote it twice: -p '{name}=\"{value}\"'" if "str" in wanted else ""
        raise ValueError(f"{where}: {got}{hint}") from None


def read_flags(pairs: list[str]) -> dict:
    """`-p name=value` arguments as a dict, the values read as YAML."""
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier() or name in values:
            raise ValueError(f"-p {pair!r}: want name=value, each name once (name the notebooks before -p)")
        values[name] = parse_yaml(text, f"-p {pair!r:.200}")
    return values


def read_params_file(path: str | Path) -> dict:
    """A YAML file of `name: value` and of `notebook: {name: value}`, such as a run's own params.yaml."""
    values = parse_yaml(readable(path).read_text("utf-8"), str(path))
    if not isinstance(values, dict):
        raise ValueError(f"{path}: want `name: value` lines, got {type(values).__name__}")
    return values


class _Loader(yaml.SafeLoader):
    def flatten_mapping(self, node):
        """Leave merge keys (<<), which are then refused: nested ones grow without bound while they are read."""


def _check_size(value, most: int = 1_000_000) -> None:
    """ValueError for YAML whose aliases stand for more than `most` characters of JSON: 1 kB can be gigabytes."""
    size = 0
    for part in json.JSONEncoder(skipkeys=True, default=str).iterencode(value):
        size += len(part)
        if size > most:
            raise ValueError(f"its aliases stand for more than {most:,} characters")


def parse_yaml(text: str, where: str):
    """The value of a YAML text; ValueError says `where` it stands and on which line of it something is wrong."""
    try:
        value = yaml.load(text, _Loader)
        _check_size(value)
        return value
    except yaml.YAMLError as error:
        mark, reason = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        place = f"{where}, line {mark.line + 1}" if mark and mark.line else where
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:  # such as 2024-99-99
        place, reason = where, str(error)
    raise ValueError(f"{place}: not YAML: {printable(reason)[:300]}")


def choose_parameters(
    parameters: dict, sources: dict[str, dict], known: list[str] | tuple = (), renamed: dict | None = None
) -> dict[str, dict]:
    """The values that each notebook runs with: its defaults, overridden by one of `sources` after the other.

    `name: value` is for every notebook that has the parameter, `notebook: {name: value}` for one of them, and wins.
    `known` names all notebooks, also those left out; `renamed` is {former parameter: overrides that replace it}.
    """
    used = {stem: {name: one.default for name, one in own.items()} for stem, own in parameters.items()}
    for where, values in sources.items():
        sections = {stem: values[stem] for stem in known if isinstance(values.get(stem), dict)}
        shared = {name: value for name, value in values.items() if name not in sections}
        refuse_unknown(where, shared, parameters, renamed or {})
        for stem, declared in parameters.items():
            own = sections.get(stem, {})
            refuse_unknown(where, own, {stem: declared}, renamed or {})
            for name in declared.keys() & (shared | own).keys():
                used[stem][name] = check_value(where, name, (shared | own)[name], declared[name])
    return used


def refuse_unknown(where: str, values: dict, parameters: dict, renamed: dict) -> None:
    allowed = sorted(set().union(*parameters.values()))
    for name in [name for name in values if name not in allowed]:
        hint = f"allowed: {', '.join(allowed)}"
        if name in renamed:
            hint = f"it is now set by overrides, such as -p 'overrides={{{renamed[name]}}}'"
        raise ValueError(f"{where}: no parameter {name!r} in {', '.join(parameters)}; {hint}")


def check_unchanged(run_dir: Path, recorded: dict, used: dict) -> None:
    for stem, values in used.items():
        other = {name: began for name, began in recorded.get(stem, {}).items() if values.get(name) != began}
        if other:
            raise ValueError(f"{run_dir} started {stem} with {other}; other values need another name (--run-id)")
