"""Parameters of a notebook run: read from the notebooks without running them, overridden only if they fit.

papermill passes on whatever it is given: an unknown name with a warning, and the string "1e-6" where a float
belongs, which is how YAML reads it. Here a name that no notebook has, or a value of another type than the
default, is an error that says what is allowed.
"""

import ast
import re
from pathlib import Path

from rezero.files import ROOT, resolve

LISTED = {str, bool, int, float, dict}  # what a list may be of, one of them at a time


def read_parameters(path: Path) -> dict:
    """Name and default of every parameter in the notebook's one cell tagged `parameters`, which is not run.

    Plain literals only: papermill does not see `seed: int | None = None`, and a value derived in this cell
    would be computed before the override lands.

    Raises:
        ValueError: not exactly one such cell, something else than a literal (names the line), or a cell tagged
            `raises-exception` (papermill would go on after its error, and fail the run at the end).
    """
    import nbformat

    try:
        cells = nbformat.read(path, as_version=4).cells
    except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise ValueError(f"{path}: not a readable notebook: {error}") from None
    tags = [cell.metadata.get("tags", []) for cell in cells]
    if any("raises-exception" in tag for tag in tags):
        raise ValueError(f"{path}: a cell is tagged raises-exception; a run stops at its first error: untag it")
    tagged = [cell for cell, tag in zip(cells, tags, strict=True) if "parameters" in tag]
    if len(tagged) != 1 or tagged[0].cell_type != "code":
        raise ValueError(f"{path}: want exactly one code cell tagged 'parameters', found {len(tagged)}")
    return parse_parameters(tagged[0].source, f"{path}, parameters cell")


def parse_parameters(source: str, where: str) -> dict:
    """The `name = literal` lines of a parameters cell as a dict. Raises ValueError naming `where` and line."""
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(f"{where}, line {error.lineno}: {error.msg}") from None
    values = {}
    for node in statements:
        line = f"{where}, line {node.lineno}: {ast.unparse(node)}"
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if len(targets) != 1 or not isinstance(targets[0], ast.Name) or isinstance(node, ast.AugAssign):
            raise ValueError(f"{line}: only lines `name = literal` can be overridden")
        try:
            value = ast.literal_eval(node.value)
        except (ValueError, TypeError):
            raise ValueError(f"{line}: not a plain literal; derive values in the next cell") from None
        if kind(value) not in ("str", "bool", "int", "float", "dict") and not kind(value).startswith("list of"):
            raise ValueError(f"{line}: want str, bool, int, float, a list of one of them or dict, got {kind(value)}")
        if targets[0].id in values:
            raise ValueError(f"{line}: set twice")
        values[targets[0].id] = value
    return values


def kind(value) -> str:
    """The type of a value in words: `int`, `list of float` (an int among floats is one), `mixed list`, ..."""
    if not isinstance(value, list):
        return "None" if value is None else type(value).__name__
    kinds = {type(item) for item in value}
    if kinds == {int, float}:
        return "list of float"
    simple = len(kinds) == 1 and kinds <= LISTED
    return f"list of {kinds.pop().__name__}" if simple else "mixed list" if kinds else "empty list"


def check_value(name: str, value, default, where: str):
    """`value` if it has the type of `default`, an int for a float converted. Raises ValueError otherwise."""
    got, want = kind(value), kind(default)
    converts = want.endswith("float") and got == want.replace("float", "int")
    if got != want and not converts and not (got == "empty list" and want.startswith("list of")):
        hint = ""
        if want.endswith("float") and re.search(r"\d[eE][+-]?\d", str(value)):
            hint = "; YAML reads 1e-6 as a string: write 1.0e-6"
        elif want == "str":
            hint = f"; quote it twice: -p '{name}=\"{value}\"'" if where == "-p" else "; put it in quotes"
        raise ValueError(f"{where}: {name} = {value!r} is {got}, want {want} (default {default!r}){hint}")
    if not want.endswith("float"):
        return value
    return [float(item) for item in value] if isinstance(value, list) else float(value)


def read_flags(pairs: list[str]) -> dict:
    """`-p name=value` arguments as a dict, the values read as YAML. Raises ValueError on a malformed one."""
    import yaml

    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"-p {pair!r}: want name=value (name the notebooks before -p)")
        if name in values:
            raise ValueError(f"-p {name} is given twice")
        try:
            values[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"-p {pair!r}: not a YAML value: {error}") from None
    return values


def read_params_file(path: str | Path) -> dict:
    """A YAML file of `name: value`, and of `notebook: {name: value}`, as a run's own params.yaml has it.

    Raises:
        FileNotFoundError: there is none. ValueError: not a mapping, or a key twice (YAML keeps the last).
    """
    import yaml

    path = resolve(path)
    if not path.is_file():
        raise FileNotFoundError(f"-f {path}: no such file (relative paths count from {ROOT})")
    try:
        root, values = yaml.compose(path.read_text("utf-8")), yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: want `name: value` lines, got {kind(values)}")
    keys = [key.value for key, _ in root.value]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise ValueError(f"{path}: set twice: {sorted(twice)}")
    return values


def overrides(values: dict, defaults: dict[str, dict], where: str, known: list[str]) -> dict[str, dict]:
    """The checked overrides of one source (-p, a file) for each chosen notebook.

    `values` holds `name: value`, for every notebook that has it, and `notebook: {name: value}`, for that one.

    Raises:
        ValueError: a name that no chosen notebook has (lists those they have), or a wrong type.
    """
    checked = {stem: {} for stem in defaults}
    for key, value in values.items():
        is_section = isinstance(value, dict) and key in known
        if is_section and key not in defaults:
            continue  # the parameters of a notebook that this run leaves out
        stems = [key] if is_section else list(defaults)
        for name, item in (value if is_section else {key: value}).items():
            having = [stem for stem in stems if name in defaults[stem] and name != "run_dir"]
            if not having:
                allowed = sorted({name for stem in stems for name in defaults[stem]} - {"run_dir"})
                note = " (set by --run-id and --runs-dir)" if name == "run_dir" else ""
                raise ValueError(f"{where}: no parameter {name!r}{note} in {', '.join(stems)}; "
                                 f"allowed: {', '.join(allowed)}")  # fmt: skip
            for stem in having:
                checked[stem][name] = check_value(name, item, defaults[stem][name], where)
    return checked


def choose_parameters(defaults: dict, flags: dict, file: str | None, recorded: dict, known: list[str]) -> dict:
    """All parameters each notebook runs with: defaults, then what a resumed run recorded, then -f, then -p.

    Prints every override.

    Raises:
        ValueError: see `overrides`; or an override that differs from what the resumed run started with.
    """
    before = overrides(recorded, defaults, "params.yaml of the resumed run", known)
    used = {stem: defaults[stem] | before[stem] for stem in defaults}
    for parameters in used.values():
        parameters.pop("run_dir", None)  # where, not how: with it, a recorded params.yaml would not serve as -f
    sources = [(str(resolve(file)), read_params_file(file))] if file else []
    for where, values in [*sources, ("-p", flags)]:
        for stem, changes in overrides(values, defaults, where, known).items():
            for name, value in changes.items():
                if name in before[stem] and before[stem][name] != value:
                    raise ValueError(f"{where}: {stem} started with {name} = {before[stem][name]!r}; a resumed "
                                     f"run keeps its parameters, give {value!r} a new --run-id")  # fmt: skip
                print(f"{stem}: {name} = {value!r} (default {defaults[stem][name]!r}, from {where})", flush=True)
            used[stem] |= changes
    return used
