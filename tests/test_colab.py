"""The cell that installs on Colab: executed as there, its commands caught, and elsewhere, where it does nothing.

Once in full: notebooks 00 to 04 ran in a kernel of Colab's own pins (ipykernel 6.17.1, IPython 7.34.0, jupyter_client
7.4.9, numpy 2.0.2 loaded) behind this cell, the project's packages in a folder beside them. A Colab it never saw.
"""

import os
import re
import sys
import tomllib
from types import ModuleType, SimpleNamespace

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from IPython.utils.text import DollarFormatter

from rezero.files import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SITE, CLONE = "/content/rezero-packages", "/content/rezero"


def cell(path) -> str:
    first = next(one for one in nbformat.read(path, as_version=4).cells if one.cell_type == "code")
    return first.source


SOURCE = cell(NOTEBOOKS[0])


@pytest.fixture
def run(monkeypatch):
    """Execute the cell; `existing`: the paths that there are, to which a command that succeeds adds the site."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "/env/python")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    made = SimpleNamespace(commands=[], existing=set(), works=True)

    def system(command):
        made.commands.append(DollarFormatter().vformat(command, [], namespace))
        if "pip install" in command and made.works:
            made.existing.add(SITE)

    def execute():
        namespace.clear()
        namespace["get_ipython"] = lambda: SimpleNamespace(system=system)
        exec(TransformerManager().transform_cell(SOURCE), namespace)

    namespace = {}
    monkeypatch.setattr(os.path, "isdir", lambda path: path in made.existing)
    monkeypatch.setattr(os.path, "exists", lambda path: path in made.existing)
    made.execute = execute
    return made


@pytest.fixture
def colab(monkeypatch):
    google = ModuleType("google")
    google.__path__ = ["/usr/lib/google"]
    monkeypatch.setitem(sys.modules, "google", google)
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))


def test_all_notebooks_open_with_the_same_cell():
    assert [path.name for path in NOTEBOOKS if cell(path) != SOURCE] == []


def test_elsewhere_it_does_nothing(run):
    before = list(sys.path)
    run.execute()
    assert run.commands == [] and sys.path == before and os.environ["PYTHONPATH"] == "/env/python"


@pytest.mark.parametrize(("device", "extra"), [("/dev/nvidia0", "gpu"), ("/dev/null", "cpu")])
def test_on_colab_it_installs_once_what_the_runtime_needs(colab, run, device, extra, monkeypatch):
    run.existing.add(device)
    run.execute()
    clone, install = run.commands
    assert clone == f"git clone -q {PROJECT['urls']['repository']} {CLONE}"
    assert install == f'pip install -qU -t {SITE}.new "{CLONE}[{extra}]" && mv {SITE}.new {SITE}'
    assert extra in PROJECT["optional-dependencies"] and "==" not in install  # the pins are the project's
    assert sys.path[:2] == [CLONE, SITE] and os.environ["PYTHONPATH"] == f"{CLONE}:{SITE}"
    assert sys.modules["google"].__path__ == [f"{SITE}/google", "/usr/lib/google"]
    run.execute()  # again in the same kernel, whatever was imported meanwhile
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    run.execute()
    assert len(run.commands) == 2 and sys.path.count(SITE) == 1


def test_after_a_restart_it_installs_nothing(colab, run):
    run.existing.add(SITE)
    run.execute()
    assert run.commands == [] and sys.path[:2] == [CLONE, SITE]


def test_a_failed_installation_stops_the_notebook(colab, run):
    run.works = False
    with pytest.raises(RuntimeError, match="the installation failed, see above"):
        run.execute()
    assert SITE not in sys.path
    run.works = True
    run.execute()
    assert sys.path[1] == SITE


def test_colab_s_torch_is_not_mixed_with_ours(colab, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    with pytest.raises(RuntimeError, match="restart the session"):
        run.execute()
    assert SITE not in sys.path


def test_the_owner_is_named_once():
    """Else a fork would be cloned in one place and opened in another."""
    _, owner, name = PROJECT["urls"]["repository"].rsplit("/", 2)
    texts = {path.name: path.read_text() for path in [*NOTEBOOKS, ROOT / "README.md"]}
    for file, text in texts.items():
        named = set(re.findall(rf"github(?:\.com)?/(\w[\w-]*)/{name}\b", text))
        assert named <= {owner}, file
    assert all(f"github/{owner}/{name}/blob/main/notebooks/{path.name}" in texts[path.name] for path in NOTEBOOKS)
