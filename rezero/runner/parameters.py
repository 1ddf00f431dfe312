"""The parameters of a notebook: read from its tagged cell without running it, and checked before anything runs.

papermill passes on whatever it is given: an unknown name with a warning, and a string where a number belongs.
"""

import ast
import re
from collections.abc import Sequence
from inspect import formatannotation
from pathlib import Path
from typing import NamedTuple

import nbformat
import yaml
from pydantic import TypeAdapter, ValidationError

from rezero.files import resolve

OPTIONAL = {f"{kind.__name__} | None": kind | None for kind in (str, int, float, bool, dict, list)}


class Parameter(NamedTuple):
    default: object
    type: object  # what an override must be, such as int, list[float] or int | None


def read_parameters(path: Path) -> dict[str, Parameter]:
    """The parameters in the notebook's one cell tagged `parameters`, without `run_dir`, which the runner sets.

    Raises ValueError for any other number of such cells, a line that is no parameter, or a `raises-exception` tag.
    """
    try:
        cells = nbformat.read(path, as_version=4).cells
    except ValueError as error:
        raise ValueError(f"{path}: not a readable notebook: {error}") from None
    if any("raises-exception" in cell.metadata.get("tags", []) for cell in cells):
        raise ValueError(f"{path}: a cell is tagged raises-exception, but a run stops at its first error: untag it")
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1 or tagged[0].cell_type != "code":
        raise ValueError(f"{path}: want exactly one code cell tagged 'parameters', found {len(tagged)}")
    found = parse_parameters(tagged[0].source, f"{path}, parameters cell")
    found.pop("run_dir", None)
    return found


def parse_parameters(source: str, where: str) -> dict[str, Parameter]:
    """The lines `name = literal` and `name: int | None = None` of a cell. Raises ValueError naming `where` and line."""
    try:
        nodes = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(f"{where}, line {error.lineno}: {error.msg}") from None
    found = {}
    for node in nodes:
        line = f"{where}, line {node.lineno}: {ast.unparse(node)}"
        annotation = ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else ""
        try:
            (target,) = [node.target] if annotation else node.targets
            name, default = target.id, ast.literal_eval(node.value)
        except (AttributeError, ValueError, TypeError):
            raise ValueError(f"{line}: want `name = literal`; derive values in the next cell") from None
        if name in found:
            raise ValueError(f"{line}: {name} is set twice")
        found[name] = Parameter(default, OPTIONAL.get(annotation) or type_of(default, line))
        check_value(line, name, default, found[name])
    return found


def type_of(default, line: str):
    """The type that overrides must have, such as float or list[float]. Raises ValueError if the default has no such."""
    kinds = {type(item) for item in default} if isinstance(default, list) else {type(default)}
    if kinds == {int, float}:
        kinds = {float}
    if len(kinds) != 1 or not kinds <= {str, int, float, bool, dict}:
        wanted = "str, int, float, bool, dict or a list of one of them"
        raise ValueError(f"{line}: want {wanted}, or an annotation such as `steps: int | None = None`")
    return list[kinds.pop()] if isinstance(default, list) else kinds.pop()


def check_value(where: str, name: str, value, parameter: Parameter):
    """`value` if it has the parameter's type, an int for a float converted. Raises ValueError otherwise."""
    wanted = formatannotation(parameter.type)
    if "str" not in wanted:
        refuse_unread_numbers(f"{where}: {name}", value)
    try:
        return TypeAdapter(parameter.type).validate_python(value, strict=True)
    except ValidationError:
        got = f"{name} = {value!r} is {type(value).__name__}, want {wanted} (default {parameter.default!r})"
        hint = f"; quote it twice: -p '{name}=\"{value}\"'" if "str" in wanted else ""
        raise ValueError(f"{where}: {got}{hint}") from None


def refuse_unread_numbers(path: str, value) -> None:
    """Raise ValueError for a string such as 1e-6 in `value`, naming its path: YAML reads only 1.0e-6 as a number."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d[\d.]*[eE][-+]?\d+", value):
        raise ValueError(f"{path} = {value!r} is str, want a number; YAML reads 1e-6 as a string: write 1.0e-6")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        refuse_unread_numbers(f"{path}.{key}", item)


def read_flags(pairs: Sequence[str]) -> dict:
    """`-p name=value` arguments as a dict, the values read as YAML. Raises ValueError on a malformed one."""
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier() or name in values:
            raise ValueError(f"-p {pair!r}: want name=value, each name once (name the notebooks before -p)")
        try:
            values[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"-p {pair!r}: not a YAML value: {error}") from None
    return values


def read_params_file(path: str | Path) -> dict:
    """A YAML file of `name: value` and of `notebook: {name: value}`, such as a run's own params.yaml.

    Raises ValueError if it is no YAML mapping, or sets a name twice, of which YAML would keep the last.
    """
    path = resolve(path)
    text = path.read_text("utf-8")
    try:
        root, values = yaml.compose(text), yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: want `name: value` lines, got {type(values).__name__}")
    names = [key.value for key, _ in root.value]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: set twice: {', '.join(twice)}")
    return values


def overrides(
    values: dict, parameters: dict, where: str, known: Sequence[str] = (), renamed: dict | None = None
) -> dict:
    """The checked overrides of one source, as {notebook: {name: value}} for the chosen notebooks.

    Args:
        values: `name: value` for every notebook that has the parameter, `notebook: {name: value}` for one of them.
        parameters: {notebook: its parameters} of the chosen notebooks; `known` names all, also those left out.
        where: the source, for error messages: "-p" or a file.
        renamed: {former parameter: overrides that replace it}.

    Raises ValueError if no chosen notebook has a parameter (lists those they have) or a value has another type.
    """
    checked = {stem: {} for stem in parameters}
    for key, value in values.items():
        is_section = isinstance(value, dict) and key in known
        stems = [stem for stem in parameters if not is_section or stem == key]
        for name, item in (value if is_section else {key: value}).items():
            having = [stem for stem in stems if name in parameters[stem]]
            for stem in having:
                checked[stem][name] = check_value(where, name, item, parameters[stem][name])
            if having or not stems:  # a section of a notebook that this run leaves out has no stems
                continue
            if name in (renamed or {}):
                raise ValueError(f"{where} {name}: is now set by overrides, such as -p 'overrides={{{renamed[name]}}}'")
            allowed = ", ".join(sorted(set().union(*(parameters[stem] for stem in stems))))
            raise ValueError(f"{where}: no parameter {name!r} in {', '.join(stems)}; allowed: {allowed}")
    return checked


def choose_parameters(
    parameters: dict, sources: list[tuple[str, dict]], recorded: dict, known: Sequence[str], renamed: dict | None = None
) -> dict[str, dict]:
    """The values each notebook runs with: its defaults, what a resumed run recorded, then one source after the other.

    The `sources` are pairs (where, values). Prints what differs from the defaults. Raises ValueError as `overrides`
    does, and for a value that differs from the one that the resumed run started with.
    """
    used = {stem: {name: one.default for name, one in own.items()} for stem, own in parameters.items()}
    for where, values in [("params.yaml of the resumed run", recorded), *sources]:
        for stem, changes in overrides(values, parameters, where, known, renamed).items():
            for name, value in changes.items():
                began, default = recorded.get(stem, {}).get(name, value), parameters[stem][name].default
                if value != began:
                    fixed = f"{stem} started with {name} = {began!r}, and a resumed run keeps its parameters"
                    raise ValueError(f"{where}: {fixed}; give {value!r} a new --run-id")
                if value != default:
                    print(f"{stem}: {name} = {value!r} (default {default!r}, from {where})", flush=True)
            used[stem] |= changes
    return used
