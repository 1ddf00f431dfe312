"""Sweeps of a small notebook: what is run, skipped and refused, side by side, one after the other and on Ray."""

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from filelock import FileLock
from nbformat.v4 import new_code_cell, new_notebook

from rezero.files import ROOT
from rezero.runner import sweep as sweeps
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


def test_jobs_run_side_by_side_each_in_a_process(places, monkeypatch):
    """Two jobs wait for each other. With a GPU in the machine they would run one after the other."""
    source = """import os, time
from pathlib import Path
here = Path(run_dir)
(here / "here.txt").write_text(f"{os.getppid()} {os.environ['OMP_NUM_THREADS']}")
while len(list(here.parent.glob("*/here.txt"))) < 2:
    time.sleep(0.05)
"""
    cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(source)]
    nbformat.write(new_notebook(cells=cells), places["notebook"])
    monkeypatch.setattr(sweeps, "cpu_share", lambda: 2)
    sweep({"a": {}, "b": {}}, **places)
    found = {(places["folder"] / job / "here.txt").read_text() for job in "ab"}
    parents = {one.split()[0] for one in found}
    assert len(parents) == 2 and {one.split()[1] for one in found} == {"1"}
    assert "[1/1] 02_work" in (places["folder"] / "a.log").read_text()


def test_a_sweep_that_is_killed_takes_its_jobs_along(places):
    source = (
        "import os, time\nfrom pathlib import Path\nPath(run_dir, 'pid').write_text(str(os.getpid()))\ntime.sleep(60)"
    )
    cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(source)]
    nbformat.write(new_notebook(cells=cells), places["notebook"])
    code = "import sys; from pathlib import Path; from rezero.runner.sweep import sweep; "
    code += "sweep({'a': {}, 'b': {}}, Path(sys.argv[1]), Path(sys.argv[2]))"
    command = [sys.executable, "-c", code, *map(str, places.values())]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        pids = []
        while not pids and process.poll() is None:
            time.sleep(0.05)
            pids = [path.read_text() for path in places["folder"].glob("*/pid") if path.read_text()]
        process.kill()
    assert pids
    _, alive = psutil.wait_procs([psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))], timeout=10)
    assert not alive


def test_a_job_that_cannot_be_run_at_all_fails_alone(places):
    """Another process writes in the folder of one job."""
    places["folder"].mkdir()
    (places["folder"] / "a").mkdir()
    with (
        FileLock(places["folder"] / "a" / "lock"),
        pytest.raises(RuntimeError, match=r"1 of 2 jobs failed.*: a, see .*a\.log"),
    ):
        sweep({"a": {}, "b": {}}, **places)
    assert "Timeout" in (places["folder"] / "a.log").read_text()
    assert (places["folder"] / "b" / "done.txt").is_file()


def test_jobs_run_one_after_the_other_where_they_would_share_a_gpu(places, monkeypatch):
    ran = []
    monkeypatch.setattr(sweeps, "output_of", lambda *command: "GPU 0: H100")
    monkeypatch.setattr(
        sweeps, "run_job", lambda call: ran.append(call["run_id"]) or {"status": "done", "seconds": 1, "error": ""}
    )
    sweep({"a": {}, "b": {}}, **places)
    assert ran == ["a", "b"]


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
    with pytest.raises(ImportError, match=r"pip install -e '.\[ray\]'"):
        sweep(JOBS, launcher="ray", **places)


def test_ray_gets_a_task_per_job(places, monkeypatch):
    started = []

    class Task:
        def options(self, **resources):
            assert resources == {"num_gpus": 1}
            return self

        def remote(self, call, root):
            assert root == str(ROOT)
            started.append(call["run_id"])
            return f"task {call['run_id']}"

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(
        init=lambda **options: None, shutdown=lambda: None, remote=lambda function: Task(),
        wait=lambda tasks: (tasks[-1:], tasks[:-1]), get=lambda task: {"status": "done", "seconds": 1, "error": None},
    ))  # fmt: skip
    runs = sweep({"a": {}, "b": {}, "c": {}}, launcher="ray", resources={"num_gpus": 1}, **places)
    assert list(runs) == started == ["a", "b", "c"]


@pytest.mark.slow
def test_ray_runs_the_jobs(places):
    pytest.importorskip("ray")
    jobs = JOBS | {"a-1": {"seed": 2}}
    with pytest.raises(RuntimeError, match="1 of 3 jobs failed"):
        sweep(jobs, launcher="ray", resources={"num_cpus": 1}, **places)
    assert (places["folder"] / "a-1" / "done.txt").read_text() == "2  None {}"
    assert "hello from 2" in (places["folder"] / "a-1.log").read_text()
