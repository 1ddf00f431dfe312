"""Sweeps of small functions: what is run, skipped and refused, in workers that live on, one by one and on Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
from filelock import FileLock

from rezero.files import ROOT
from rezero.runner import sweep as sweeps
from rezero.runner.sweep import sweep

HERE = f"{__name__}:"


def work(folder, seed=0, engine="", options=None):
    """A job: it says who did it, and fails, dies or waits where it is told to."""
    done = folder / "done.txt"
    done.write_text(done.read_text() + " again" if done.exists() else f"{seed} {options}")
    (folder / "who.txt").write_text(f"{os.getpid()} {os.getppid()} {os.environ.get('OMP_NUM_THREADS')}")
    print("hello from", seed)
    if not (folder.parent / "mended").exists():
        assert engine != "broken", "no such engine"
        if engine == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
    while engine == "together" and len(list(folder.parent.glob("*/who.txt"))) < 2:
        time.sleep(0.05)
    while engine == "endless":
        time.sleep(0.05)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder and the function of a sweep with two workers, which can import this file."""
    monkeypatch.setattr(sweeps, "cpu_share", lambda: 2)
    monkeypatch.setattr(sweeps, "output_of", lambda *command: "")
    return {"folder": tmp_path / "sweep", "work": f"{HERE}work"}


@pytest.mark.parametrize(("engine", "said"), [
    ("broken", "b-0: AssertionError: no such engine"), ("deadly", r"b-0: its process died, see .*b-0\.log")
])  # fmt: skip
def test_a_job_that_fails_stops_no_other_and_a_rerun_keeps_what_is_done(place, capsys, engine, said):
    folder, jobs = place["folder"], {"b-0": {"engine": engine}, "a-0": {"seed": 1, "options": {"k": 3}}, "a-1": {}}
    with pytest.raises(RuntimeError, match=f"1 of 3 jobs failed.*: {said}"):
        sweep(jobs, **place)
    assert (folder / "a-0" / "done.txt").read_text() == "1 {'k': 3}" and (folder / "a-1" / "done.txt").exists()
    record = json.loads((folder / "a-0" / "job.json").read_text())
    assert record.pop("seconds") >= 0
    assert record == {"arguments": jobs["a-0"], "status": "done", "error": ""}
    assert "hello from 1" in (folder / "a-0.log").read_text() and "hello" not in capsys.readouterr().out
    (folder / "mended").touch()
    assert sweep(jobs, **place) == {name: folder / name for name in jobs}
    assert "3 jobs, 2 done before" in capsys.readouterr().out
    assert (folder / "a-0" / "done.txt").read_text() == "1 {'k': 3}"
    assert (folder / "b-0" / "done.txt").read_text().endswith("again")
    with pytest.raises(ValueError, match=r"a-0 was begun with {'seed': 1, 'options': {'k': 3}}, not {'seed': 1}; want"):
        sweep({"new": {}, "a-0": {"seed": 1}}, **place)
    assert not (folder / "new").exists()


def test_workers_run_side_by_side_and_do_one_job_after_the_other(place):
    sweep({"a": {"engine": "together"}, "b": {"engine": "together"}, "c": {}, "d": {}}, **place)
    found = [(place["folder"] / job / "who.txt").read_text().split() for job in "abcd"]
    assert found[0] != found[1] and found[2] in found[:2] and found[3] in found[:2]
    assert not any(log.read_text().count("Traceback") for log in place["folder"].glob("*.log"))  # of idle workers
    assert {parent for _, parent, _ in found} == {str(os.getpid())} and {threads for *_, threads in found} == {"1"}


def test_workers_of_a_script_that_has_imported_torch_use_one_core_each(tmp_path):
    script = tmp_path / "script.py"  # a spawned worker first runs what a script does on import
    script.write_text("""
import sys, torch
from pathlib import Path
from rezero.runner.sweep import sweep

def threads(folder):
    (folder / "threads.txt").write_text(str(torch.get_num_threads()))

if __name__ == "__main__":
    sweep({"a": {}}, sys.argv[1], "script:threads")
""")
    env = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, script, tmp_path / "sweep"], env=env, check=True, capture_output=True)
    assert (tmp_path / "sweep" / "a" / "threads.txt").read_text() == "1"


def test_a_sweep_that_is_killed_takes_its_workers_along(place):
    code = "import sys; from rezero.runner.sweep import sweep; "
    code += "sweep({'a': {'engine': 'endless'}, 'b': {'engine': 'endless'}}, sys.argv[1], sys.argv[2])"
    command, env = [sys.executable, "-c", code, *map(str, place.values())], {"PYTHONPATH": f"{ROOT}/tests:{ROOT}"}
    with subprocess.Popen(command, env=os.environ | env, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        pids = []
        while not pids and process.poll() is None:
            time.sleep(0.05)
            pids = [path.read_text().split()[0] for path in place["folder"].glob("*/who.txt") if path.read_text()]
        process.kill()
    assert pids
    _, alive = psutil.wait_procs([psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))], timeout=10)
    assert not alive


def test_a_job_in_whose_folder_another_process_writes_fails_alone(place):
    (place["folder"] / "a").mkdir(parents=True)
    with (
        FileLock(place["folder"] / "a" / "lock"),
        pytest.raises(RuntimeError, match=r"1 of 2 jobs failed.*: a: another process is doing it"),
    ):
        sweep({"a": {}, "b": {}}, **place)
    assert not (place["folder"] / "a" / sweeps.RECORD).exists()  # which is the other process's to write
    assert not (place["folder"] / "a" / "done.txt").exists() and (place["folder"] / "b" / "done.txt").is_file()


def test_jobs_run_one_after_the_other_where_they_would_share_a_gpu(place, monkeypatch):
    monkeypatch.setattr(sweeps, "output_of", lambda *command: "GPU 0: H100")
    sweep({"a": {}, "b": {}}, **place)
    found = {(place["folder"] / job / "who.txt").read_text().split()[0] for job in "ab"}
    assert found == {str(os.getpid())}


@pytest.mark.parametrize(("jobs", "options", "message"), [
    ({"../a": {}}, {}, r"job '../a': want up to 100 letters"),
    ({"a": {}}, {"launcher": "slurm"}, "unknown launcher 'slurm'; allowed: local, ray"),
])  # fmt: skip
def test_what_is_wrong_is_said_before_anything_runs(place, jobs, options, message):
    with pytest.raises(ValueError, match=message):
        sweep(jobs, **place, **options)
    assert not place["folder"].exists()


def test_a_job_is_refused_by_another_clone(tmp_path):
    with pytest.raises(RuntimeError, match="the sweep that of /other"):
        sweeps.run_job({"work": f"{HERE}work", "folder": str(tmp_path / "x"), "arguments": {}}, "/other")


def test_without_ray_it_says_what_to_install(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install -e '.\[ray\]'"):
        sweep({"a": {}}, launcher="ray", **place)


def test_ray_gets_a_task_per_job(place, monkeypatch):
    started = []

    class Task:
        def options(self, **resources):
            assert resources == {"num_gpus": 1}
            return self

        def remote(self, call, root):
            assert root == str(ROOT)
            started.append(call)
            return len(started) - 1

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(
        init=lambda **options: None, shutdown=lambda: None, remote=lambda function: Task(),
        wait=lambda tasks: (tasks[-1:], tasks[:-1]), get=lambda number: sweeps.run_job(started[number]),
    ))  # fmt: skip
    runs = sweep({"a": {}, "b": {"seed": 2}, "c": {}}, launcher="ray", resources={"num_gpus": 1}, **place)
    assert len(started) == 3 and (runs["b"] / "done.txt").read_text() == "2 None"


@pytest.mark.slow
def test_ray_runs_the_jobs(place):
    pytest.importorskip("ray")
    with pytest.raises(RuntimeError, match="1 of 2 jobs failed"):
        sweep({"a": {"seed": 2}, "b": {"engine": "broken"}}, launcher="ray", resources={"num_cpus": 1}, **place)
    assert (place["folder"] / "a" / "done.txt").read_text() == "2 None"
