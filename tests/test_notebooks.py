"""The notebooks: read without running them, then run by the real runner at tiny size (smoke.yaml)."""

import ast
import os
import re
import subprocess
import sys

import nbformat
import pytest

from rezero.files import ROOT, read_jsonl
from rezero.runner.parameters import read_parameters
from rezero.runner.run import find_notebooks

NAMES = ["00_tour", "01_generate_data", "02_train_grpo", "03_reward_ablations", "04_trace_analysis", "05_collapse"]
TABLE = ("needs", "time", "reads", "writes")
WIDGETS = re.compile(r"\b(ipywidgets|tqdm\.notebook|notebook_login|widgets)\b")
# Calls that look at the working directory, and readers that would take a bare relative path from it
CWD_CALLS = {"getcwd", "cwd", "chdir", "listdir", "scandir", "absolute", "expanduser"}
OPENERS = {"open", "Path", "glob", "rglob", "exists", "makedirs", "savefig", "read_csv", "read_json", "read_parquet",
           "to_csv", "to_json", "to_parquet"}  # fmt: skip


def read(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def python_of(source):
    """The cell as plain Python, with `!pip` and `%magic` lines turned into the calls that IPython makes."""
    from IPython.core.inputtransformer2 import TransformerManager

    return TransformerManager().transform_cell(source)


def called(node):
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def cwd_relative(tree):
    """Calls in the tree whose outcome depends on the working directory."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.match(r"\.{1,2}/|~", node.value):
            found.append(node.value)
        if isinstance(node, ast.Call):
            first = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
            relative = isinstance(first, str) and not first.startswith("/")
            moves = called(node) == "run_line_magic" and first in ("cd", "pushd")
            if moves or called(node) in CWD_CALLS or (called(node) in OPENERS and relative):
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(("source", "count"), [
    ("open('data/x.jsonl')", 1),
    ("pd.read_json('metrics.jsonl')", 1),
    ("Path('data') / 'x'", 1),
    ("load_chunks('../data/chunks.jsonl')", 1),
    ("%cd ..", 1),
    ("os.chdir(ROOT)", 1),
    ("Path.cwd()", 1),
    ("load_chunks('data/larkspur/chunks.jsonl')", 0),  # ours resolve from the project's root
    ("open(resolve('data/x'))", 0),
    ("write_text(resolve(run_dir) / 'a.txt', 'text')", 0),
    ("text.split('../')", 1),  # a false alarm that we can live with
])  # fmt: skip
def test_cwd_relative_paths_are_seen(source, count):
    assert len(cwd_relative(ast.parse(python_of(source)))) == count


def test_the_six_are_there_and_no_other():
    assert [path.stem for path in find_notebooks(["all"], ROOT / "notebooks")] == NAMES
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_format_and_hygiene(name):
    book = read(name)
    nbformat.validate(book)
    assert (book.nbformat, book.nbformat_minor) >= (4, 5)
    ids = [cell.id for cell in book.cells]
    assert len(set(ids)) == len(ids)
    assert book.metadata.kernelspec.name == "python3"
    assert set(book.metadata) <= {"kernelspec", "language_info", "colab", "accelerator"}  # no papermill, no widgets
    for number, cell in enumerate(book.cells, start=1):
        assert len(cell.source.splitlines()) <= 40, f"{name}, cell {number}: call a named function instead"
        assert cell.source.strip(), f"{name}, cell {number} is empty"
        assert set(cell.metadata.get("tags", [])) <= {"parameters"}, f"{name}, cell {number}"
        assert not {"papermill", "execution"} & set(cell.metadata), f"{name}, cell {number}: nbstripout leaves none"
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, f"{name}, cell {number} has outputs"


@pytest.mark.parametrize("name", NAMES)
def test_code(name):
    for number, cell in enumerate(read(name).cells, start=1):
        if cell.cell_type == "code":
            tree = ast.parse(python_of(cell.source), f"{name}, cell {number}")
            assert cwd_relative(tree) == [], f"{name}, cell {number}: resolve from the project's root"
            assert not WIDGETS.search(cell.source), f"{name}, cell {number}: saved widgets break GitHub's preview"
            assert "sys.exit" not in cell.source, f"{name}, cell {number}"


@pytest.mark.parametrize("name", NAMES)
def test_parameters(name):
    assert len(read_parameters(ROOT / "notebooks" / f"{name}.ipynb")) <= 12  # one cell of plain literals, or it raises


def test_notebook_02_has_eight_parameters_with_its_run_dir():
    assert len(read_parameters(ROOT / "notebooks" / "02_train_grpo.ipynb")) == 7


@pytest.mark.parametrize("name", NAMES)
def test_opening(name):
    cells = read(name).cells
    opening = "\n".join(cell.source for cell in cells[:3] if cell.cell_type == "markdown")
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    badge = r"\[!\[[^\]]*\]\(https://colab\.research\.google\.com/assets/colab-badge\.svg\)\]\(" \
        rf"https://colab\.research\.google\.com/github/\S+/notebooks/{name}\.ipynb\)"  # fmt: skip
    assert re.search(badge, opening), "no Colab badge that opens this notebook"
    table = [cell.strip(" *:").lower() for row in opening.splitlines() if "|" in row for cell in row.split("|")]
    for word in TABLE:  # as rows or as columns
        assert any(cell.startswith(word) for cell in table), f"the table does not say {word!r}"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The runner over all six, at tiny size, called from elsewhere."""
    runs = tmp_path_factory.mktemp("runs")
    before = set((ROOT / "notebooks").iterdir())
    command = [sys.executable, "-m", "rezero", "run", "all", "-f", "tests/smoke.yaml", "--run-id", "smoke"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--runs-dir", str(runs)], cwd=runs, env=env, capture_output=True, text=True)
    return runs / "smoke", done, set((ROOT / "notebooks").iterdir()) - before


def test_smoke_run(smoke):
    run_dir, done, added = smoke
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    for name in NAMES:
        book = nbformat.read(run_dir / f"{name}.ipynb", as_version=4)
        assert {cell.metadata.papermill.status for cell in book.cells} == {"completed"}
        assert "widgets" not in book.metadata
        outputs = [out for cell in book.cells if cell.cell_type == "code" for out in cell.outputs]
        assert not any("widget" in kind for out in outputs for kind in out.get("data", {}))
        assert f"s: {run_dir / name}.ipynb" in done.stdout
    for name in ("metrics.jsonl", "traces.jsonl"):
        assert sum(1 for _ in read_jsonl(run_dir / name)) > 0, name
    summary = (run_dir / "summary.txt").read_text().strip()
    assert summary and summary in done.stdout
    assert not added, "a notebook wrote into its own folder: a path that counts from the working directory"
