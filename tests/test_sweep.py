"""Sweeps of a small notebook: what is run, skipped and refused, one job after the other and on Ray."""

import json
import sys
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from rezero.runner.sweep import sweep

PARAMETERS = "seed = 0\nengine = ''\nsteps: int | None = None\noverrides = {}\nrun_dir = 'none'"
WORK = """from pathlib import Path
done = Path(run_dir) / "done.txt"
done.write_text(done.read_text() + "again" if done.exists() else f"{seed} {engine} {steps} {overrides}")
print("hello from", seed)
assert engine != "broken" or (Path(run_dir).parent / "mended").exists(), "no such engine"
"""
JOBS = {"b-0": {"engine": "broken"}, "a-0": {"seed": 1, "overrides": {"k": 3}}}


@pytest.fixture
def places(tmp_path):
    """A sweep's folder, and a notebook that takes a second, as keyword arguments."""
    cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(WORK)]
    nbformat.write(new_notebook(cells=cells), tmp_path / "02_work.ipynb")
    return {"folder": tmp_path / "sweep", "notebook": tmp_path / "02_work.ipynb"}


def test_a_sweep_skips_what_is_done_and_goes_on_with_what_failed(places, capsys):
    folder = places["folder"]
    with pytest.raises(RuntimeError, match=r"1 of 2 jobs failed.*: b-0, cell 2 .*no such engine"):
        sweep(JOBS, **places)
    good = folder / "a-0"
    assert (good / "done.txt").read_text() == "1  None {'k': 3}"
    assert json.loads((good / "run.json").read_text())["notebooks"]["02_work"]["status"] == "done"
    assert "hello from 1" in (folder / "a-0.log").read_text()
    assert "hello" not in capsys.readouterr().out
    (folder / "mended").touch()
    assert sweep(JOBS, **places) == {"b-0": folder / "b-0", "a-0": good}
    assert (good / "done.txt").read_text() == "1  None {'k': 3}"
    assert (folder / "b-0" / "done.txt").read_text().endswith("again")
    with pytest.raises(ValueError, match=r"a-0 started 02_work with \{'overrides': \{'k': 3\}\}; other"):
        sweep({"new": {}, "a-0": {"seed": 1}}, **places)
    assert not (folder / "new").exists()


@pytest.mark.parametrize(("jobs", "options", "message"), [
    ({"a": {"sed": 1}}, {}, "job 'a': no parameter 'sed' in 02_work; allowed: engine, overrides, seed, steps"),
    ({"a": {}, "b": {"steps": "9"}}, {}, "job 'b': steps = '9' is str, want int"),
    ({"../a": {}}, {}, r"job '../a': want up to 100 letters"),
    ({"a": {}}, {"launcher": "slurm"}, "unknown launcher 'slurm'; allowed: local, ray"),
])  # fmt: skip
def test_what_is_wrong_is_said_before_anything_runs(places, jobs, options, message):
    with pytest.raises(ValueError, match=message):
        sweep(jobs, **places, **options)
    assert not places["folder"].exists()


def test_without_ray_it_says_what_to_install(places, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'rezero\[ray\]'"):
        sweep(JOBS, launcher="ray", **places)


def test_a_ray_task_gets_the_one_that_it_waits_for(places, monkeypatch):
    started = []

    class Task:
        def options(self, **resources):
            assert resources == {"num_gpus": 1}
            return self

        def remote(self, call, after):
            started.append((call["run_id"], after))
            return f"task {call['run_id']}"

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(
        init=lambda **options: None, shutdown=lambda: None, remote=lambda function: Task(),
        wait=lambda tasks: (tasks[-1:], tasks[:-1]), get=lambda task: {"status": "done", "seconds": 1, "error": None},
    ))  # fmt: skip
    runs = sweep({"a": {}, "b": {}, "c": {}}, launcher="ray", resources={"num_gpus": 1}, wait_for={"c": "a"}, **places)
    assert list(runs) == ["a", "b", "c"]
    assert started == [("a", None), ("b", None), ("c", "task a")]


@pytest.mark.slow
def test_ray_runs_the_jobs(places):
    pytest.importorskip("ray")
    jobs = JOBS | {"a-1": {"seed": 2}}
    with pytest.raises(RuntimeError, match="1 of 3 jobs failed"):
        sweep(jobs, launcher="ray", resources={"num_cpus": 1}, wait_for={"a-1": "b-0"}, **places)
    assert (places["folder"] / "a-1" / "done.txt").read_text() == "2  None {}"
    assert "hello from 2" in (places["folder"] / "a-1.log").read_text()
