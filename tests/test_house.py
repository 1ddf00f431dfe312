"""The package's own rules: imports point one way, it stays small, and its subject has one set of labels."""

import ast
import re
from pathlib import Path

import pytest

from rezero.evaluation.evaluate import LABELS
from rezero.files import ROOT

CORE = """text files names config judge corpus questions search protocol task search_env policy rewards rollout
evaluation training""".split()  # lowest first
WINGS = ["warmstart", "extras", "data", "analysis", "runner", "__main__"]  # a wing may import the ones before it
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "rezero").rglob("*.py"))}
MODULES = {name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): FILES[name] for name in FILES}


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            wholes = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {whole if whole in MODULES else node.module for whole in wholes}
    return found & MODULES.keys()


def room(module: str) -> str:
    return f"{module}..".split(".")[1]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    order, here = ["", *CORE, *WINGS], room(module)
    for target in imported(MODULES[module]):
        assert order.index(room(target)) <= order.index(here), f"{module} imports {target}, which stands above it"
        if here == "runner":  # it knows nothing of reinforcement learning
            assert room(target) in ("files", "text", "names", "runner"), f"{module} imports {target}"


def test_there_are_no_circles():
    edges = {module: imported(path) for module, path in MODULES.items()}
    while edges:
        lowest = [module for module, targets in edges.items() if not targets & edges.keys()]
        assert lowest, f"a circle among {sorted(edges)}"
        for module in lowest:
            del edges[module]


def test_the_house_stays_small():
    lines = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    core = sum(count for module, count in lines.items() if room(module) not in WINGS)
    assert max(lines.values()) <= 300, max(lines, key=lines.get)
    wings = sum(lines.values()) - core
    assert core <= 3_800 and wings <= 7_400, (core, wings)


def test_missed_retried_and_recovered_have_one_label_each():
    labels = {LABELS[name] for name in ("missed", "retried", "recovered")}
    assert labels == {"P(missed)", "P(retried | missed)", "P(recovered | retried)"}
    folders = [ROOT / "rezero", ROOT / "notebooks"]
    paths = [path for folder in folders for path in folder.rglob("*") if path.suffix in {".py", ".ipynb", ".md"}]
    for path in paths:
        text = path.read_text().replace("\\|", "|")  # as in a Markdown table
        assert set(re.findall(r"\bP\([^()]*\)", text)) <= labels, path
        former = r"search again \||first miss(es)?\b|retry after miss|found after retry|gold not seen"
        assert not re.search(former, text, re.IGNORECASE), f"{path}: {re.search(former, text, re.IGNORECASE)[0]!r}"
