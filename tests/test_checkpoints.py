"""What a killed training loses: at most the steps since its last whole checkpoint, at whatever moment it dies."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from conftest import TINY
from safetensors.torch import save_file

from rezero.config import load_config
from rezero.files import ROOT, read_jsonl
from rezero.policy.base import save_policy
from rezero.training.checkpoints import is_whole, last_checkpoint
from rezero.training.train import train

# One process that imports once; each training is a child of its own, which is killed or finds the disk full.
# Every evaluation until step 6 counts as the best, so that best/ is replaced again and again.
DRIVER = """
import json, os, resource, shutil, signal, sys, traceback
sys.path.insert(0, "tests")
from pathlib import Path
import conftest, torch, transformers
from rezero.config import parse_config
from rezero.protocol import Sampling
from rezero.search import build_engine
from rezero.task import Task
from rezero.training import callbacks
from rezero.training.train import train

OWNERS = {"torch": torch, "state": transformers.TrainerState, "shutil": shutil, "callbacks": callbacks}
config, folder, plan = parse_config(json.loads(sys.argv[1]), ""), Path(sys.argv[2]), json.loads(sys.argv[3])
record = callbacks.DevEvaluation._record
callbacks.DevEvaluation._record = lambda self, step, result: (record(self, step, result), step <= 6)[1]


def kill_after(run, owner, name, nth, about, cut):
    real, calls = getattr(OWNERS[owner], name), []

    def wrapped(*args, **kwargs):
        result = real(*args, **kwargs)
        calls.extend([1] if about in " ".join(str(a) for a in args if isinstance(a, str | Path)) + " " else [])
        if len(calls) == nth:
            if cut:  # the end of what was written last
                path = max((p for p in run.rglob("*") if p.is_file()), key=lambda p: p.stat().st_mtime_ns)
                os.truncate(path, path.stat().st_size - 10)
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(OWNERS[owner], name, wrapped)


def child(run, moment):
    sampling = Sampling(k=2, prompt_style="short", temperature=1.0, **conftest.EPISODES)
    questions = {name: conftest.QUESTIONS for name in ("train", "dev")}
    task = Task(build_engine("bm25", conftest.CHUNKS), questions, sampling)
    if isinstance(moment, int):
        resource.setrlimit(resource.RLIMIT_FSIZE, (moment, moment))
    elif moment:
        kill_after(run, *moment)
    try:
        train(config, run, task)
    except Exception:
        (run / "error.txt").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


for name, moment in plan.items():
    for again in (moment, None):
        pid = os.fork()
        if not pid:
            child(folder / name, again)
        print(name, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), sep=": ", flush=True)
"""
MOMENTS = {  # [owner, function, which call, about what, whether the end of what was written last is lost]
    "first checkpoint": ["state", "save_to_json", 1, "checkpoint-2", True],
    "state of a checkpoint": ["state", "save_to_json", 1, "checkpoint-4", True],
    "optimiser of a checkpoint": ["torch", "save", 1, "checkpoint-4/optimizer.pt", True],
    "old checkpoint deleted": ["shutil", "rmtree", 1, "checkpoint-2", False],
    "best copied": ["shutil", "copytree", 1, "new.best-4", False],
    "best replaced": ["shutil", "rmtree", 5, "/best ", False],
    "line of metrics": ["callbacks", "append_jsonl", 8, "metrics.jsonl", True],
}


def metrics(folder):
    rows = read_jsonl(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if not name.startswith("seconds/")} for row in rows]


@pytest.fixture(scope="module")
def killed(policy, tmp_path_factory):
    """(folder of all runs, what the driver said): each run killed at its moment, then gone on with."""
    folder = tmp_path_factory.mktemp("killed")
    start = save_policy(policy, folder / "start")
    weights = (start / "model.safetensors").stat().st_size
    plan = {"whole": None, "disk full at best": weights // 2, "disk full at a checkpoint": weights * 3 // 2} | MOMENTS
    config = load_config("laptop", **TINY | {"policy": str(start), "steps": 8})
    command = [sys.executable, "-c", DRIVER, json.dumps(config.to_dict()), str(folder), json.dumps(plan)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.mark.parametrize("name", ["whole", "disk full at best", "disk full at a checkpoint", *MOMENTS])
def test_a_run_goes_on_as_if_nothing_had_happened(killed, name):
    folder, done = killed
    ended = [int(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines() if line.startswith(f"{name}: ")]
    assert ended == [-signal.SIGKILL if name in MOMENTS else 1 if "full" in name else 0, 0], done.stderr
    run, whole_run = folder / name, folder / "whole"
    assert metrics(run) == metrics(whole_run)
    assert len(metrics(run)) == 8 + 5  # steps and evaluations, each once
    for file in ("step.txt", "model.safetensors"):
        assert (run / "best" / file).read_bytes() == (whole_run / "best" / file).read_bytes()
    assert (run / "best" / "step.txt").read_text() == "6\n"
    kept = sorted(path.name for path in (run / "checkpoints").glob("*-*"))
    assert kept == ["best-6", "best-8", "checkpoint-6", "checkpoint-8"]


@pytest.mark.parametrize(("name", "half"), [("at best", "best.new"), ("at a checkpoint", "checkpoints/checkpoint-2")])
def test_a_full_disk_is_told_with_the_file(killed, name, half):
    *_, last = (killed[0] / f"disk full {name}" / "error.txt").read_text().strip().splitlines()
    assert last.startswith(f"OSError: {killed[0] / f'disk full {name}' / half} could not be written whole, ")
    assert "MiB are free there: " in last


def test_best_comes_back_with_the_checkpoint(config, task, tmp_path):
    """The last checkpoint lost its end, and best/ is that of a step which is taken again."""
    run = tmp_path / "run"
    train(config, run, task)
    before = metrics(run)
    (run / "best" / "step.txt").write_text("3\n")
    os.truncate(run / "checkpoints/checkpoint-4/optimizer.pt", 1000)
    with pytest.warns(UserWarning, match="checkpoint-4: half written, deleted"):
        train(config, run, task)
    assert metrics(run) == before
    assert (run / "best" / "step.txt").read_text() == "0\n"  # a random policy never gets better


def test_what_a_whole_checkpoint_is(tmp_path):
    def make(step):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        save_file({"w": torch.ones(1000)}, folder / "model.safetensors")
        torch.save({"w": torch.ones(1000)}, folder / "optimizer.pt")
        (folder / "config.json").write_text("{}")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        return folder

    assert last_checkpoint(tmp_path) is None
    first, second = make(9), make(10)
    assert last_checkpoint(tmp_path) == second
    for name in ("model.safetensors", "optimizer.pt", "config.json", "trainer_state.json"):
        assert is_whole(second)
        kept = (second / name).read_bytes()
        (second / name).write_bytes(kept[: len(kept) // 2] if name != "config.json" else b"")
        assert not is_whole(second), name
        (second / name).write_bytes(kept)
    (second / "trainer_state.json").unlink()
    with pytest.warns(UserWarning, match="checkpoint-10: half written"):
        assert last_checkpoint(tmp_path) == first
    assert not second.exists() and first.exists()
