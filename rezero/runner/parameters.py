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

TYPES = {"str": str, "int": int, "float": float, "bool": bool, "dict": dict, "list": list}


class Parameter(NamedTuple):
    default: object
    type: object  # what an override must be, such as int, list[float] or int | None


def read_parameters(path: Path) -> dict[str, Parameter]:
    """The parameters in the notebook's one cell tagged `parameters`, without `run_dir`, which the runner sets.

    Raises:
        ValueError: not exactly one such cell, a line in it that is no parameter, or a cell tagged `raises-exception`.
    """
    try:
        cells = nbformat.read(path, as_version=4).cells
    except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
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
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        if len(targets) != 1 or not isinstance(targets[0], ast.Name) or targets[0].id in found:
            raise ValueError(f"{line}: want only lines `name = literal`, each name once")
        name = targets[0].id
        try:
            default = ast.literal_eval(node.value)
        except (ValueError, TypeError):
            raise ValueError(f"{line}: not a plain literal; derive values in the next cell") from None
        annotation = ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else ""
        found[name] = Parameter(default, override_type(annotation, default, line))
        check_value(line, name, default, found[name])
    return found


def override_type(annotation: str, default, line: str):
    """What an override must be: as annotated if that allows None, else of the default's type."""
    if annotation.endswith(" | None") and annotation.removesuffix(" | None") in TYPES:
        return TYPES[annotation.removesuffix(" | None")] | None
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
        renamed: names that are no longer parameters, and the overrides that replace them.

    Raises:
        ValueError: no chosen notebook has such a parameter (lists those they have), or the value has another type.
    """
    checked = {stem: {} for stem in parameters}
    for key, value in values.items():
        is_section = isinstance(value, dict) and key in known
        stems = [stem for stem in parameters if not is_section or stem == key]
        for name, item in (value if is_section else {key: value}).items():
            having = [stem for stem in stems if name in parameters[stem]]
            for stem in having:
                checked[stem][name] = check_value(where, name, item, parameters[stem][name])
            if stems and not having and name in (renamed or {}):
                raise ValueError(f"{where} {name}: is now set by overrides, such as -p 'overrides={{{renamed[name]}}}'")
            if stems and not having:
                allowed = ", ".join(sorted(set().union(*(parameters[stem] for stem in stems))))
                raise ValueError(f"{where}: no parameter {name!r} in {', '.join(stems)}; allowed: {allowed}")
    return checked


def choose_parameters(
    parameters: dict, sources: list[tuple[str, dict]], recorded: dict, known: Sequence[str], renamed: dict | None = None
) -> dict[str, dict]:
    """The values each notebook runs with: its defaults, what a resumed run recorded, then one source after the other.

    A source is a pair (where, values). Prints every override. See `overrides` for the rest.

    Raises:
        ValueError: see `overrides`; or a value differs from the one that the resumed run started with.
    """
    before = overrides(recorded, parameters, "params.yaml of the resumed run", known, renamed)
    used = {stem: {name: one.default for name, one in own.items()} | before[stem] for stem, own in parameters.items()}
    for where, values in sources:
        for stem, changes in overrides(values, parameters, where, known, renamed).items():
            for name, value in changes.items():
                if before[stem].get(name, value) != value:
                    began = f"{where}: {stem} started with {name} = {before[stem][name]!r}"
                    raise ValueError(f"{began}; a resumed run keeps its parameters, give {value!r} a new --run-id")
                default = parameters[stem][name].default
                print(f"{stem}: {name} = {value!r} (default {default!r}, from {where})", flush=True)
            used[stem] |= changes
    return used
