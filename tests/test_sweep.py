"""Sweeps of a small notebook 02: what is run, skipped, refused; and what the files of the arms are made to say."""

import json
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from rezero.runner.sweep import NOTEBOOK, grid, sweep

PARAMETERS = """profile = "laptop"
seed = 0
reward_set = ""
reward_weights = {}
steps = 0
engine = ""
options = {}
difficulty = ""
test = True
run_dir = "none"
"""
WORK = """from pathlib import Path
done = Path(run_dir) / "done.txt"
done.write_text(done.read_text() + "again" if done.exists() else f"{reward_set} {seed} {steps} {test} {options}")
print("hello from", reward_set)
assert engine != "broken" or (Path(run_dir).parent / "mended").exists(), "no such engine"
"""


@pytest.fixture
def books(tmp_path):
    """A folder with a notebook 02 that takes a second."""
    cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(WORK)]
    (tmp_path / "books").mkdir()
    nbformat.write(new_notebook(cells=cells), tmp_path / "books" / f"{NOTEBOOK}.ipynb")
    return tmp_path / "books"


def test_a_sweep_skips_what_is_done_and_goes_on_with_what_failed(books, tmp_path, capsys):
    arms = grid([{"reward_set": "b", "engine": "broken"}, {"reward_set": "a"}], [0], steps=2)
    with pytest.raises(RuntimeError, match=r"1 of 2 arms failed.*b-broken-0, cell 2 .*no such engine"):
        sweep(arms, tmp_path / "sweep", books=books)
    good = tmp_path / "sweep" / "a-0"
    assert (good / "done.txt").read_text() == "a 0 2 False {}"  # test stays sealed
    assert json.loads((good / "run.json").read_text())["notebooks"][NOTEBOOK]["status"] == "done"
    assert "hello from a" in (tmp_path / "sweep" / "a-0.log").read_text()
    assert "hello" not in capsys.readouterr().out
    (tmp_path / "sweep" / "mended").touch()
    runs = sweep(arms, tmp_path / "sweep", books=books)
    assert runs == {("b-broken", 0): tmp_path / "sweep" / "b-broken-0", ("a", 0): good}
    assert (good / "done.txt").read_text() == "a 0 2 False {}"
    assert (runs["b-broken", 0] / "done.txt").read_text().endswith("again")
    with pytest.raises(ValueError, match="started with steps = 2"):
        sweep(grid([{"reward_set": "a"}], [0], steps=3), tmp_path / "sweep", books=books)


@pytest.mark.parametrize(("arms", "options", "message"), [
    ([{"reward": "a"}], {}, "arm 'a': no parameter 'reward' in 02_train_grpo; allowed: difficulty, engine"),
    ([{"reward_set": "a", "steps": "9"}], {}, "arm 'a-9': steps = '9' is str, want int"),
    ([{"name": "a", "steps": 1}, {"name": "a", "steps": 2}], {}, "two arms are called 'a-0'"),
    ([{"reward_set": "a"}], {"launcher": "slurm"}, "unknown launcher 'slurm'; allowed: local, ray"),
])  # fmt: skip
def test_what_is_wrong_is_said_before_anything_runs(books, tmp_path, arms, options, message):
    with pytest.raises(ValueError, match=message):
        sweep(grid(arms, [0]), tmp_path / "sweep", books=books, **options)
    assert not (tmp_path / "sweep").exists()


def test_without_ray_it_says_what_to_install(books, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'rezero\[ray\]'"):
        sweep(grid([{"reward_set": "a"}], [0]), tmp_path / "sweep", "ray", books=books)


@pytest.mark.slow
def test_ray_runs_the_arms(books, tmp_path):
    pytest.importorskip("ray")
    arms = grid([{"reward_set": "b", "engine": "broken"}, {"reward_set": "a"}], [0, 1])
    with pytest.raises(RuntimeError, match="2 of 4 arms failed"):
        sweep(arms, tmp_path / "sweep", "ray", {"num_cpus": 1}, books)
    assert (tmp_path / "sweep" / "a-1" / "done.txt").read_text() == "a 1 0 False {}"
    assert "hello from a" in (tmp_path / "sweep" / "a-1.log").read_text()
