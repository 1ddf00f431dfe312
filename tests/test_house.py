"""The direction of imports: each file imports only files below it, and the core never imports a wing."""

import ast
from pathlib import Path

import pytest

from rezero.files import ROOT

CORE = """files text names config judge corpus questions search protocol task search_env policy rewards rollout
evaluation training""".split()  # lowest first
WINGS = ["warmstart", "data", "extras", "analysis", "runner", "__main__"]  # a wing may import the ones before it
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "rezero").rglob("*.py"))}
MODULES = {name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): name for name in FILES}


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
    return found & MODULES.keys()


def room(module: str) -> str:
    return f"{module}..".split(".")[1]


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    order, here = ["", *CORE, *WINGS], room(module)
    for target in imported(FILES[MODULES[module]]):
        assert order.index(room(target)) <= order.index(here), f"{module} imports {target}, which stands above it"
        if here == "runner":  # it knows nothing of reinforcement learning
            assert room(target) in ("files", "text", "names", "runner"), f"{module} imports {target}"


def test_there_are_no_circles():
    edges = {module: imported(FILES[name]) for module, name in MODULES.items()}
    while edges:
        lowest = [module for module, targets in edges.items() if not targets & edges.keys()]
        assert lowest, f"a circle among {sorted(edges)}"
        for module in lowest:
            del edges[module]


def test_the_house_stays_small():
    lines = {module: len(FILES[name].read_text().splitlines()) for module, name in MODULES.items()}
    core = sum(count for module, count in lines.items() if room(module) not in WINGS)
    assert max(lines.values()) <= 300, max(lines, key=lines.get)
    assert core <= 4_000 and sum(lines.values()) <= 8_500, (core, sum(lines.values()))
