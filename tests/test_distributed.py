"""Two processes with gloo, launched as the README says, against one process on the same episodes.

Run as a script, this file is what each of the two does: train by the command, and leave what it saw in rank<N>.json.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState
from conftest import metrics_of

from rezero.__main__ import main
from rezero.config import load_config
from rezero.files import ROOT, read_jsonl, write_jsonl
from rezero.policy.load import load_policy
from rezero.training import grpo, train

QUESTIONS, GROUP = 3, 2  # a step is 6 episodes: the second group has one in each of two processes
CHANGED = dict(
    steps=2, questions_per_step=QUESTIONS, num_generations=GROUP, micro_batch=3, curriculum={"samples": 1},
    turn_tokens=24, max_turns=3, eval_every=1, save_every=1, temperature=1.5,
    reward_weights={"test_distributed:uneven": 1.0}, grpo={"warmup_steps": 0, "lr_scheduler_type": "constant"},
)  # fmt: skip


def uneven(episode) -> float:
    """Differs between the episodes of a group, but not for every fifth question, whose group has no advantages."""
    return sum(episode.completion_ids) % 97 / 100 if int(episode.question.id[1:]) % 5 != 4 else 0.0


def work(out: Path, patch: pytest.MonkeyPatch) -> dict:
    """Train to the end by the command, into out/run; returns what this process saw.

    Two processes then go on from the first checkpoint, as after a kill, and train once more with a sentinel that stops
    at once. out/whole is the run's folder before that.
    """
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    seen = {"asked": [], "states": [], "opened": []}
    sampled, build, trainers = grpo.rollout, train.build_trainer, []

    def rollout(policy, engine, questions, sampling, **options):
        """Each episode has draws of its own, so that it is the same in whichever process."""
        seen["asked"].append([question.id for question in questions])
        seen["states"].append(hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest())
        episodes = []
        for place, question in enumerate(questions, start=rank * len(questions)):
            draws = torch.Generator().manual_seed(place + zlib.crc32(question.id.encode()))
            episodes += sampled(policy, engine, [question], sampling, **options | {"generator": draws})
        return episodes

    patch.setattr(grpo, "rollout", rollout)
    patch.setattr(train, "build_trainer", lambda *a, **k: trainers.append(build(*a, **k)) or trainers[-1])
    destroy = PartialState.destroy_process_group
    patch.setattr(PartialState, "destroy_process_group", lambda self: None)  # the command is called more than once
    changed = CHANGED | {"corpus": str(out.parent / "corpus"), "split": "given"}
    flags = [f"{name}={json.dumps(value)}" for name, value in changed.items()]
    command = ["train", "--run-dir", str(out / "run"), "-p", *flags]
    if processes > 1:
        sys.addaudithook(lambda event, args: seen["opened"].extend(_written(event, args, out / "run")))
    assert main(command) == 0
    weights = [_weights(trainers[-1])]
    if rank == 0:
        torch.save(weights[0], out / "weights.pt")
        shutil.copytree(out / "run", out / "whole")
    if processes > 1:
        if rank == 0:
            shutil.rmtree(out / "run/checkpoints/checkpoint-2")
        PartialState().wait_for_everyone()
        assert main(command) == 0
        weights.append(_weights(trainers[-1]))
        hopeless = load_config("laptop", **changed, collapse={"drop": -2.0, "patience": 1})
        train.train(hopeless, out / "hopeless")
        destroy(PartialState())
    seen["digest"], seen["stopped"] = [_digest(one) for one in weights], trainers[-1].state.global_step
    return seen


def _written(event: str, args: tuple, folder: Path) -> list[str]:
    """The paths under `folder` that an audited event changes."""
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    if not writes and event not in ("os.rename", "os.remove", "shutil.rmtree"):
        return []
    return [str(args[0])] if str(args[0]).startswith(str(folder)) else []


def _weights(trainer) -> dict:
    return {name: value.clone() for name, value in trainer.accelerator.get_state_dict(trainer.model).items()}


def _digest(weights: dict) -> str:
    return hashlib.sha256(b"".join(weights[name].numpy().tobytes() for name in sorted(weights))).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where both runs are, beside the shipped corpus with 12 of its training questions and 5 of dev."""
    folder = tmp_path_factory.mktemp("distributed")
    rows = list(read_jsonl("data/larkspur/questions.jsonl"))
    few = [[row for row in rows if row["split"] == split][:n] for split, n in (("train", 12), ("dev", 5))]
    write_jsonl(folder / "corpus/questions.jsonl", few[0] + few[1])
    shutil.copy(ROOT / "data/larkspur/chunks.jsonl", folder / "corpus")
    for name in ("one", "two"):
        (folder / name).mkdir()
    return folder


@pytest.fixture(scope="module")
def two(folder) -> list[dict]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launcher, __file__, str(folder / "two")]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("step 1/2") == 1  # one process prints; the command that goes on has this step behind it
    return [json.loads((folder / f"two/rank{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def one(folder) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        return work(folder / "one", patch)


def test_ranks_sample_their_own_part_of_each_step(one, two):
    for whole, first, second in zip(one["asked"], *(rank["asked"][:2] for rank in two), strict=True):
        assert first + second == whole and len(whole) == QUESTIONS * GROUP
        assert first != second and len(set(first)) == len(set(second)) == 2  # the group in the middle has one in each
    assert not {*two[0]["states"]} & {*two[1]["states"]}  # they draw from other states


def test_one_rank_writes(folder, two):
    assert {Path(path).name for path in two[1]["opened"]} <= {"rng_state_1.pth"}  # each keeps its random state
    assert any(path.endswith("metrics.jsonl") for path in two[0]["opened"])
    rows = [(row["kind"], row["step"]) for row in metrics_of(folder / "two/whole")]
    assert rows == [("eval", 0), ("eval", 1), ("train", 1), ("eval", 2), ("train", 2)]
    assert (folder / "two/whole/checkpoints/checkpoint-1/rng_state_1.pth").is_file()


def test_two_processes_take_the_steps_of_one(folder, one, two):
    """The metrics are equal, and the weights differ by a fraction of what training moved.

    So both have sampled the same tokens, masked what was read, and dropped no row that has an advantage, though one of
    the two ranks has fewer of those (see `uneven`).
    """
    assert two[0]["digest"] == two[1]["digest"]  # the same weights everywhere, bit for bit
    ours, theirs = (metrics_of(folder / f"{run}/whole") for run in ("two", "one"))
    assert [row["step"] for row in theirs if row.get("grad_norm", 0) > 0] == [1, 2]
    for row, same in zip(ours, theirs, strict=True):
        left_out = ("kind", "split", "entropy")  # the entropy is that of the rows that were kept
        assert row.keys() == same.keys()
        wanted = {name: value for name, value in same.items() if not name.startswith(left_out)}
        assert {name: row[name] for name in wanted} == pytest.approx(wanted, rel=1e-3, nan_ok=True)
    after, before = (torch.load(folder / f"{run}/weights.pt") for run in ("two", "one"))
    start = load_policy("data/policy").model.state_dict()
    apart, moved = (sum((a[name] - after[name]).square().sum() for name in after).sqrt() for a in (before, start))
    assert apart < 0.02 * moved
    measured = [list(read_jsonl(folder / f"{name}/whole/difficulty.jsonl")) for name in ("one", "two")]
    assert measured[0] == measured[1]  # measured once and read by all


def test_a_killed_run_goes_on_in_all_ranks(folder, two):
    whole, again = (metrics_of(folder / f"two/{name}") for name in ("whole", "run"))
    assert str(whole) == str(again)  # as text, in which NaN equals NaN
    assert two[0]["digest"][0] == two[0]["digest"][1]


def test_the_sentinel_stops_all_ranks(folder, two):
    assert [rank["stopped"] for rank in two] == [1, 1]  # of 2 steps
    assert len(metrics_of(folder / "two/hopeless", "collapse")) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"micro_batch": 4}, "micro_batch=4 x 2 processes must divide questions_per_step x .* = 2 x 2 = 4"),
        ({"questions_per_step": 1, "num_generations": 4, "clip_shaping": True}, "must be a multiple of 2"),
        (
            {"questions_per_step": 1, "num_generations": 4, "forked": 0.5},
            "forked need whole groups: questions_per_step=1 .* multiple of 2",
        ),
        ({"backend": "unsloth", "lora_rank": 4, "max_context": 512}, "backend='unsloth' trains in one process"),
    ],
)
def test_what_does_not_go_with_two_processes_is_refused(config, tmp_path, monkeypatch, changes, said):
    monkeypatch.setattr(train, "PartialState", lambda **_: SimpleNamespace(num_processes=2))
    with pytest.raises(ValueError, match=said):
        train.train(replace(config, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_commands_say_what_is_wrong_and_make_a_warm_start(config, tmp_path, capsys, monkeypatch):
    def refused(*args) -> str:
        assert main([*args]) == 2
        return capsys.readouterr().err

    run = ["--run-dir", str(tmp_path / "run")]
    assert "error: unknown profile 'laptob'; allowed: colab_t4" in refused("train", "--profile", "laptob", *run)
    assert "warm-start needs one process and warm_start.steps=0 above 0" in refused("warm-start", *run)
    flags = ["-p", "lora_rank=4", "warm_start={steps: 2, episodes: 8}", "episode_tokens=1500"]
    base, warm = f"policy={config.policy}", tmp_path / "run/warm"
    monkeypatch.setenv("WORLD_SIZE", "2")
    want = "warm is missing; make it in one process first: python -m rezero warm-start"
    assert want in refused("train", *run, *flags, base)
    monkeypatch.delenv("WORLD_SIZE")
    assert main(["warm-start", *run, *flags, base]) == 0
    assert (warm / "adapter_config.json").is_file() and not (tmp_path / "run/metrics.jsonl").exists()
    further = ["warm-start", "--run-dir", str(tmp_path / "further"), *flags]
    assert main([*further, f"policy={warm}"]) == 0  # an adapter is trained further, on its own base
    assert (tmp_path / "further/warm/adapter_config.json").is_file()


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        seen = work(Path(sys.argv[1]), patch)
    Path(sys.argv[1], f"rank{os.environ['RANK']}.json").write_text(json.dumps(seen))
