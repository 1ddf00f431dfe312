"""The notebooks: read without running them, then run by the real runner at tiny size (smoke.yaml)."""

import ast
import functools
import inspect
import os
import re
import subprocess
import sys
from pkgutil import resolve_name

import nbformat
import pytest

from rezero.__main__ import main
from rezero.files import ROOT, read_jsonl
from rezero.runner.parameters import read_parameters
from rezero.runner.run import find_notebooks

NAMES = ["00_tour", "01_generate_data", "02_train_grpo", "03_reward_ablations", "04_trace_analysis", "05_collapse"]
BADGE = "[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com"
WIDGETS = re.compile(r"\b(ipywidgets|tqdm\.notebook|notebook_login|widgets)\b")  # saved ones break GitHub's preview
# Calls that look at the working directory, paths that go up from it, and readers that get a bare relative path.
FROM_CWD = re.compile(
    r"%cd|\b(?:chdir|getcwd|cwd|listdir|expanduser)\(|[\"'](?:\.{1,2}/|~)|"
    r"\b(?:open|Path|glob|exists|savefig|read_csv|read_json|read_parquet|to_csv|to_json)\(f?[\"'](?!/)"
)


def read(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ("open('data/x.jsonl')", True),
        ("pd.read_json('metrics.jsonl')", True),
        ("load_chunks('../data/chunks.jsonl')", True),
        ("os.chdir(ROOT)", True),
        ("load_chunks('data/larkspur/chunks.jsonl')", False),  # our functions resolve from the project's root
        ("open(resolve('data/x'))", False),
        ("frame.to_csv(run / 'a.csv')", False),
    ],
)
def test_paths_that_count_from_the_working_directory_are_seen(source, seen):
    assert bool(FROM_CWD.search(source)) is seen


def test_the_six_are_there_and_no_other():
    assert [path.stem for path in find_notebooks(["all"], ROOT / "notebooks")] == NAMES
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short_stripped_and_resolve_paths_from_the_root(name):
    book = read(name)
    nbformat.validate(book)
    assert book.metadata.kernelspec.name == "python3"
    assert set(book.metadata) <= {"kernelspec", "language_info", "colab", "accelerator"}  # no papermill, no widgets
    for number, cell in enumerate(book.cells, start=1):
        where = f"{name}, cell {number}"
        assert 0 < len(cell.source.strip().splitlines()) <= 40, f"{where}: call a named function instead"
        assert set(cell.metadata.get("tags", [])) <= {"parameters"}, where
        assert not {"papermill", "execution"} & set(cell.metadata), f"{where}: nbstripout leaves none"
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, f"{where} has outputs"
            assert not FROM_CWD.search(cell.source), f"{where}: resolve from the project's root"
            assert not WIDGETS.search(cell.source) and "sys.exit" not in cell.source, where


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_opens_with_its_title_its_badge_and_what_it_needs(name):
    first = read(name).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert re.search(rf"{re.escape(BADGE)}/github/\S+/notebooks/{name}\.ipynb\)", first.source)
    assert [row.split()[1] for row in first.source.splitlines() if re.match(r"\| \w", row)][:4] \
        == ["needs", "time", "reads", "writes"]  # fmt: skip


def calls(source):
    """(function of ours, the call's syntax) for each call of an imported function, also in branches that seldom run."""
    found, tree = {}, ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("rezero"):
            for alias in node.names:
                found[alias.asname or alias.name] = resolve_name(f"{node.module}.{alias.name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, *rest = ast.unparse(node.func).split(".")
            if first in found and all(map(str.isidentifier, rest)):
                yield functools.reduce(getattr, rest, found[first]), node


@pytest.mark.parametrize("name", NAMES)
def test_each_call_fits_the_signature(name):
    source = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "code")
    bound = [fits(function, node) for function, node in calls(source) if inspect.isroutine(function)]
    assert bound and not [said for said in bound if said]


@pytest.mark.parametrize(
    ("given", "said"), [("'a', seed=1", ""), ("'a', folder=1", "multiple values"), ("'a', 1, n=2", "'n'")]
)
def test_a_call_that_does_not_fit_is_seen(given, said):
    (call,) = calls(f"from rezero.data.larkspur import make_corpus\nif False:\n    make_corpus({given})")
    found = fits(*call)
    assert said in found and bool(said) == bool(found)


def fits(function, node):
    """Why the call's arguments do not fit; "" if they do, or if it unpacks some with a star."""
    if any(isinstance(one, ast.Starred) for one in node.args) or any(one.arg is None for one in node.keywords):
        return ""
    try:
        inspect.signature(function).bind(*node.args, **{one.arg: one.value for one in node.keywords})
    except TypeError as error:
        return f"{ast.unparse(node)}: {error}"
    return ""


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_few(name):
    most = 8 if name == "02_train_grpo" else 13
    assert len(read_parameters(ROOT / "notebooks" / f"{name}.ipynb")) < most  # besides run_dir


def test_reading_traces_trains_nothing():
    code = "\n".join(cell.source for cell in read("04_trace_analysis").cells if cell.cell_type == "code")
    assert "read_run(" in code and not re.search(r"\btrain\(|rezero\.(training|warmstart)|load_trainable", code)


def test_a_parameter_of_the_first_version_is_refused_with_the_new_way(tmp_path, capsys):
    runs = tmp_path / "runs"
    assert main(["run", "02", "-p", "learning_rate=1", "--runs-dir", str(runs)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: -p") and told.count("\n") == 1
    assert told.endswith("is now set by overrides, such as -p 'overrides={grpo: {learning_rate: ...}}'\n")
    assert not runs.exists()


def test_smoke_run(tmp_path):
    """The runner executes all six at tiny size, called from elsewhere."""
    before = set((ROOT / "notebooks").iterdir())
    command = [sys.executable, "-m", "rezero", "run", "all", "-f", "tests/smoke.yaml", "--run-id", "smoke"]
    command += ["--runs-dir", str(tmp_path)]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    run_dir = tmp_path / "smoke"
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    for name in NAMES:
        book = nbformat.read(run_dir / f"{name}.ipynb", as_version=4)
        assert {cell.metadata.papermill.status for cell in book.cells} == {"completed"}
        assert "widgets" not in book.metadata
        outputs = [out for cell in book.cells if cell.cell_type == "code" for out in cell.outputs]
        assert not any("widget" in kind for out in outputs for kind in out.get("data", {}))
        assert f"s: {run_dir / name}.ipynb" in done.stdout
    assert list(read_jsonl(run_dir / "metrics.jsonl")) and list(read_jsonl(run_dir / "traces.jsonl"))
    summary = (run_dir / "summary.txt").read_text().strip()
    assert summary and summary in done.stdout
    added = set((ROOT / "notebooks").iterdir()) - before
    assert not added, "a notebook wrote into its own folder: a path that counts from the working directory"
