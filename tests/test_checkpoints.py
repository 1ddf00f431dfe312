"""What a killed training loses: at most the steps since its last whole checkpoint, at whatever moment it dies."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from copy import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import LENGTH, TINY, metrics_of, toy_task
from safetensors import SafetensorError
from safetensors.torch import save_file

from rezero.config import load_config
from rezero.files import ROOT
from rezero.policy.base import not_written, save_policy
from rezero.training.checkpoints import is_whole, keep_best, last_checkpoint
from rezero.training.train import train

# One process imports everything once. Each training is a fork of it, which is killed or finds the disk full, and then
# a second fork goes on. Every evaluation until step 6 counts as the best, so that best/ is replaced again and again.
DRIVER = """
import gc, json, os, resource, shutil, signal, sys, traceback
sys.path.insert(0, "tests")
from pathlib import Path
import conftest, torch, torch.utils.tensorboard, transformers
from trl import GRPOConfig, GRPOTrainer  # here once, not in every fork
from rezero.config import parse_config
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
        paths = " ".join(str(arg) for arg in args if isinstance(arg, str | Path)) + " "
        if about in paths:
            calls.append(paths)
        if len(calls) == nth:
            if cut:  # the end of what was written last is lost
                path = max((p for p in run.rglob("*") if p.is_file()), key=lambda p: p.stat().st_mtime_ns)
                os.truncate(path, path.stat().st_size - 10)
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(OWNERS[owner], name, wrapped)


def child(run, moment):
    if isinstance(moment, int):
        resource.setrlimit(resource.RLIMIT_FSIZE, (moment, moment))
    elif moment:
        kill_after(run, *moment)
    try:
        train(config, run, conftest.toy_task())
    except Exception:
        (run / "error.txt").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


gc.freeze()  # otherwise every fork looks for garbage among all that was imported
for name, moment in plan.items():
    for again in (moment, None):
        pid = os.fork()
        if not pid:
            child(folder / name, again)
        print(name, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), sep=": ", flush=True)
"""
MOMENTS = {  # [owner, function, which call, about which path, whether the end of what was written last is lost]
    "first checkpoint": ["state", "save_to_json", 1, "checkpoint-2", True],
    "state of a checkpoint": ["state", "save_to_json", 1, "checkpoint-4", True],
    "optimiser of a checkpoint": ["torch", "save", 1, "checkpoint-4/optimizer.pt", True],
    "old checkpoint deleted": ["shutil", "rmtree", 1, "checkpoint-2", False],
    "best copied": ["shutil", "copytree", 1, "new.best-4", False],
    "best replaced": ["shutil", "rmtree", 5, "/best ", False],
    "line of metrics": ["callbacks", "append_jsonl", 8, "metrics.jsonl", True],
}
# What is half written when the disk is full
FULL = {"disk full at best": "best.new", "disk full at a checkpoint": "checkpoints/checkpoint-2"}


@pytest.fixture(scope="module")
def killed(policy, tmp_path_factory):
    """(config, folder of all runs, what the driver printed): each run was killed at its moment, and then went on."""
    folder = tmp_path_factory.mktemp("killed")
    start = save_policy(policy, folder / "start")
    weights = (start / "model.safetensors").stat().st_size
    limits = dict(zip(FULL, (weights // 2, weights * 3 // 2), strict=True))
    config = load_config("laptop", **TINY | {"policy": str(start), "steps": 8, "reward_weights": {LENGTH: 1.0}})
    plan = json.dumps({"whole": None} | limits | MOMENTS)
    command = [sys.executable, "-c", DRIVER, json.dumps(config.to_dict()), str(folder), plan]
    env = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return config, folder, done


@pytest.mark.parametrize("name", ["whole", *FULL, *MOMENTS])
def test_a_run_goes_on_as_if_nothing_had_happened(killed, name):
    _, folder, done = killed
    ended = [int(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines() if line.startswith(f"{name}: ")]
    assert ended == [-signal.SIGKILL if name in MOMENTS else 1 if name in FULL else 0, 0], done.stderr
    run, whole_run = folder / name, folder / "whole"
    assert metrics_of(run) == metrics_of(whole_run)
    assert len(metrics_of(run)) == 8 + 5  # steps and evaluations, each once
    for file in ("step.txt", "model.safetensors"):
        assert (run / "best" / file).read_bytes() == (whole_run / "best" / file).read_bytes()
    assert (run / "best" / "step.txt").read_text() == "6\n"
    kept = sorted(path.name for path in (run / "checkpoints").glob("*-*"))
    assert kept == ["best-6", "best-8", "checkpoint-6", "checkpoint-8"]


@pytest.mark.parametrize(("name", "half"), FULL.items())
def test_the_error_of_a_file_that_cannot_grow_names_it_and_blames_no_full_disk(killed, name, half):
    run = killed[1] / name
    *_, last = (run / "error.txt").read_text().strip().splitlines()
    assert last.startswith(f"OSError: {run / half} could not be written whole: ")
    assert "disk is full" not in last


NO_SPACE = "No space left on device"
WRITING = [  # (the error of saving, bytes that are free, what is said)
    (OSError(errno.ENOSPC, NO_SPACE), 2**20, r"the disk is full: about 0\.\d MiB are needed and 1\.0 MiB are free"),
    (SafetensorError(f"I/O error: {NO_SPACE} (os error 28)"), 0, r"the disk is full: .* and 0\.0 MiB are free"),
    (OSError(errno.EFBIG, "File too large"), 0, r"\[Errno 27\] File too large"),
    (OSError(errno.EACCES, "Permission denied"), 2**40, r"\[Errno 13\] Permission denied"),
]


@pytest.mark.parametrize(("error", "free", "said"), WRITING)
def test_only_a_full_disk_is_called_one(policy, tmp_path, monkeypatch, error, free, said):
    def save_pretrained(*_, **__):
        raise error

    broken = replace(policy, model=copy(policy.model))
    broken.model.save_pretrained = save_pretrained
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(OSError, match=rf"^{tmp_path / 'p'} could not be written whole: {said}") as caught:
        save_policy(broken, tmp_path / "p")
    assert ("disk is full" in str(caught.value)) == (NO_SPACE in str(error))


def test_a_copy_of_the_best_policy_may_find_the_disk_full(tmp_path, monkeypatch):
    def copytree(source, target):
        raise shutil.Error([(f"{source}/a", f"{target}/a", f"[Errno 28] {NO_SPACE}: 'a'")] * 9)

    for name in ("best", "checkpoints"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(shutil, "copytree", copytree)
    with pytest.raises(OSError, match=r"new.best-2 could not be written whole: the disk is full: about 0\.0 MiB are"):
        keep_best(tmp_path, 2)


def test_torch_names_no_cause_so_a_full_disk_is_told_by_its_space(tmp_path):
    error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 204352 vs 204240")
    free = shutil.disk_usage(tmp_path).free
    assert "disk is full" in str(not_written(tmp_path / "c", error, free + 2**40))
    assert "disk is full" not in str(not_written(tmp_path / "c", error, 0))
    assert "disk is full" not in str(not_written(tmp_path / "c", ValueError("temperature"), free + 2**40))


def test_the_same_seed_gives_the_same_metrics(killed, tmp_path):
    """As in the driver's process, which hashes strings in another way; another seed gives other metrics."""
    config, folder, _ = killed
    for seed in (0, 1):
        train(replace(config, seed=seed), tmp_path / str(seed), toy_task())
    assert metrics_of(tmp_path / "0") == metrics_of(folder / "whole") != metrics_of(tmp_path / "1")


def test_best_is_put_back_with_the_checkpoint(config, task, tmp_path):
    """When the last checkpoint is cut off, best/ may be that of a step which is taken again."""
    run = tmp_path / "run"
    train(config, run, task)
    before = metrics_of(run)
    (run / "best" / "step.txt").write_text("3\n")
    os.truncate(run / "checkpoints/checkpoint-4/optimizer.pt", 1000)
    with pytest.warns(UserWarning, match="checkpoint-4: half written, deleted"):
        train(config, run, task)
    assert metrics_of(run) == before
    assert (run / "best" / "step.txt").read_text() == "0\n"  # a random policy never gets better


def test_a_run_that_stopped_early_is_over(config, task, tmp_path):
    """A random policy never gets better. The run neither goes on, nor, when it is resumed before that, stops later."""
    config, run = replace(config, steps=9, save_every=3, patience=2, reward_weights={LENGTH: 1.0}), tmp_path / "run"
    last = train(config, run, task).last.model.state_dict()
    before = metrics_of(run)
    assert [(row["kind"], row["step"]) for row in before[-3:]] == [("eval", 4), ("train", 4), ("stalled", 4)]
    for lost in ("checkpoint-4", "none"):
        shutil.rmtree(run / "checkpoints" / lost, ignore_errors=True)
        again = train(config, run, task).last.model.state_dict()
        assert metrics_of(run) == before
        assert all(torch.equal(again[name], weight) for name, weight in last.items())


@pytest.mark.parametrize("beta", [0.0, 0.1])  # with a KL term TRL keeps a second adapter
def test_a_killed_adapter_run_goes_on_to_the_same_adapter(config, task, tmp_path, beta):
    """Without its last checkpoint the run goes on from the one before."""
    config = replace(config, lora_rank=4, reward_weights={LENGTH: 1.0}, grpo=config.grpo | {"beta": beta})
    run = tmp_path / "run"
    whole = train(config, run, task).last.model
    shutil.rmtree(run / "checkpoints" / "checkpoint-4")
    again = train(config, run, task).last.model
    weights = {name: weight for name, weight in whole.named_parameters() if weight.requires_grad}
    assert any(weight.abs().max() > 0 for name, weight in weights.items() if "lora_B" in name)
    assert all(torch.equal(again.get_parameter(name), weight) for name, weight in weights.items())
    assert [row["step"] for row in metrics_of(run, "train")] == [1, 2, 3, 4]


def test_what_a_whole_checkpoint_is(tmp_path):
    (tmp_path / "checkpoint-foo").mkdir()  # somebody's own
    first, second = (tmp_path / f"checkpoint-{step}" for step in (9, 10))
    for folder in (first, second):
        folder.mkdir()
        save_file({"w": torch.ones(1000)}, folder / "model.safetensors")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({"w": torch.ones(1000)}, folder / name)
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": int(folder.name[11:])}))
    assert last_checkpoint(tmp_path) == second
    for path in second.iterdir():
        kept = path.read_bytes()
        path.write_bytes(kept[: len(kept) // 2])
        assert not is_whole(second), path
        path.unlink()
        assert not is_whole(second), path
        path.write_bytes(kept)
    (second / "trainer_state.json").unlink()
    with pytest.warns(UserWarning, match="checkpoint-10: half written"):
        assert last_checkpoint(tmp_path) == first
    assert not second.exists() and first.exists() and (tmp_path / "checkpoint-foo").exists()


def test_a_run_whose_metrics_are_lost_is_refused_and_left_as_it_is(config, task, tmp_path):
    run = tmp_path / "run"
    train(config, run, task)
    path, whole = run / "metrics.jsonl", metrics_of(run)
    modes = {oct(file.stat().st_mode) for file in run.rglob("*") if file.suffix in (".safetensors", ".json")}
    assert len(modes) == 1  # who may read the settings may read the weights
    for folder in ("checkpoint-foo", "best-foo", "best-1"):
        (run / "checkpoints" / folder).mkdir()
    train(config, run, task)
    assert metrics_of(run) == whole
    left = {folder.name for folder in (run / "checkpoints").iterdir()}
    assert {"checkpoint-foo", "best-foo", "checkpoint-4"} <= left and "best-1" not in left  # its checkpoint is gone
    lines = path.read_text().splitlines(keepends=True)
    for kept in ([], lines[:3]):
        path.write_text("".join(kept))
        with pytest.raises(
            ValueError, match=r"metrics.jsonl: its last step is \d, and .*checkpoint-4 is of step 4; put"
        ):
            train(config, run, task)
        assert path.read_text() == "".join(kept)
    path.unlink()
    with pytest.raises(ValueError, match="its last step is 0"):
        train(config, run, task)
    train(config, run, task, resume=False)
    assert metrics_of(run) == whole
