"""The cell that installs on Colab: executed as there, its commands caught, and elsewhere, where it does nothing.

Once in full: notebooks 00 to 04 ran in a kernel of Colab's own pins (ipykernel 6.17.1, IPython 7.34.0, jupyter_client
7.4.9, numpy 2.0.2 loaded) with the project's packages in a folder beside them. They never ran on Colab itself.
"""

import io
import os
import re
import subprocess
import sys
import tomllib
import urllib.request
from types import ModuleType, SimpleNamespace

import nbformat
import pytest

from rezero.files import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SITE, CLONE = "/content/rezero-packages", "/content/rezero"
PLACE = re.compile(r"(?:github\.com|github|githubusercontent\.com)/([\w-]+)/rezero\b")


def cell(path) -> str:
    return next(one for one in nbformat.read(path, as_version=4).cells if one.cell_type == "code").source


@pytest.fixture
def run(monkeypatch):
    """Execute the cell. `existing` are the folders there are; an installation that succeeds adds the packages'."""
    made = SimpleNamespace(commands=[], existing=set(), works=True, execute=lambda: exec(cell(NOTEBOOKS[0]), {}))

    def fetch(url):
        assert re.fullmatch(r"https://raw\.githubusercontent\.com/[\w-]+/rezero/main/notebooks/colab\.py", url)
        return io.BytesIO((ROOT / "notebooks" / "colab.py").read_bytes())

    def call(command, **options):
        made.commands.append(command)
        if "pip install" in command and made.works:
            made.existing.add(SITE)
        return SimpleNamespace(returncode=int(not made.works), stdout="no such version")

    monkeypatch.setattr(urllib.request, "urlopen", fetch)
    monkeypatch.setattr(subprocess, "run", call)
    monkeypatch.setattr(os.path, "isdir", lambda path: path in made.existing)
    monkeypatch.setattr(os.path, "exists", lambda path: path in made.existing)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "/env/python")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    return made


@pytest.fixture
def colab(monkeypatch):
    google = ModuleType("google")
    google.__path__ = ["/usr/lib/google"]
    monkeypatch.setitem(sys.modules, "google", google)
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))


def test_elsewhere_it_does_nothing(run):
    before = list(sys.path)
    run.execute()
    assert run.commands == [] and sys.path == before and os.environ["PYTHONPATH"] == "/env/python"


@pytest.mark.parametrize(("device", "extra"), [("/dev/nvidia0", "gpu"), ("/dev/null", "cpu")])
def test_on_colab_it_installs_once_what_the_runtime_needs(colab, run, device, extra, monkeypatch):
    run.existing.add(device)
    run.execute()
    clone, install = run.commands
    assert re.fullmatch(rf"test -d {CLONE} \|\| git clone -q https://github\.com/[\w-]+/rezero {CLONE}", clone)
    assert install == f"pip install -qU -t {SITE}.new '{CLONE}[{extra}]' && mv {SITE}.new {SITE}"
    assert extra in EXTRAS and "==" not in install  # the pins are the project's
    assert sys.path[:2] == [CLONE, SITE] and os.environ["PYTHONPATH"] == f"{CLONE}:{SITE}"
    assert sys.modules["google"].__path__ == [f"{SITE}/google", "/usr/lib/google"]
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))  # the project's
    run.execute()  # again in the same kernel
    assert len(run.commands) == 2 and sys.path.count(SITE) == 1
    sys.path.remove(SITE)  # after a restart
    with pytest.raises(RuntimeError, match="restart the session"):  # Colab's torch must not be mixed with ours
        run.execute()
    assert SITE not in sys.path
    monkeypatch.delitem(sys.modules, "torch")
    run.execute()
    assert len(run.commands) == 2 and sys.path[:2] == [CLONE, SITE]


def test_a_failed_installation_stops_the_notebook(colab, run):
    run.works = False
    with pytest.raises(RuntimeError, match=r"(?s)The installation failed.*git clone.*no such version"):
        run.execute()
    assert SITE not in sys.path and len(run.commands) == 1
    run.works = True
    run.execute()
    assert sys.path[1] == SITE


def test_one_command_makes_the_notebooks_those_of_a_fork(tmp_path):
    assert len({cell(path) for path in NOTEBOOKS}) == 1  # all open with the same cell
    texts = {path.name: path.read_text() for path in [*NOTEBOOKS, ROOT / "notebooks" / "colab.py"]}
    (owner,) = {owner for text in texts.values() for owner in PLACE.findall(text)}  # one owner everywhere
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    subprocess.run(f"sed -i s/{owner}/you/ {tmp_path}/*", shell=True, check=True)
    for path in NOTEBOOKS:
        text = (tmp_path / path.name).read_text()
        assert PLACE.findall(text) == ["you", "you"] and f"github/you/rezero/blob/main/notebooks/{path.name}" in text
    assert (tmp_path / "colab.py").read_text().count("github.com/you/rezero") == 1
