"""Two processes with gloo, launched as the README says, against one process on the same episodes.

Run as a script, this file is what each process does: train by the command, and leave what it saw in rank<N>.json.
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

from rezero.__main__ import main
from rezero.config import load_config
from rezero.files import ROOT, read_jsonl, write_jsonl
from rezero.policy.load import load_policy
from rezero.protocol import parse_turn
from rezero.training import grpo, train

QUESTIONS, GROUP = 3, 2  # a step is 6 episodes: the second group has one in each of two processes
CHANGED = dict(
    steps=2, questions_per_step=QUESTIONS, num_generations=GROUP, micro_batch=3, curriculum={"samples": 1},
    turn_tokens=24, max_turns=3, eval_every=1, save_every=1, temperature=1.5, reward_weights={"__main__:length": 1.0},
    grpo={"warmup_steps": 0, "lr_scheduler_type": "constant"},
)  # fmt: skip


def length(episode):
    """Tells the episodes of a group apart, but for every fifth question: a group without advantages."""
    return len(episode.completion_ids) / 100 if int(episode.question.id[1:]) % 5 != 4 else 0.0


def work(out: Path) -> None:
    """Train to the end; two processes also from the first checkpoint again, as after a kill, and once
    more with a sentinel that stops at once."""
    rank = int(os.environ.get("RANK", 0))
    seen = {"rollouts": [], "states": [], "batches": [], "opened": [], "rows": [], "needed": []}
    sampled, build, lean = grpo.rollout, train.build_trainer, grpo.lean_batches

    def rollout(policy, engine, questions, sampling, **options):
        """Each episode by draws of its own, so that it is the same in whichever process."""
        seen["states"].append(hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest())
        episodes = []
        for place, question in enumerate(questions, start=rank * len(questions)):
            draws = torch.Generator().manual_seed(place + zlib.crc32(question.id.encode()))
            episodes += sampled(policy, engine, [question], sampling, **options | {"generator": draws})
        seen["rollouts"].append([_described(policy, episode) for episode in episodes])
        return episodes

    def lean_batches(batches, drop):
        rows = [(b["completion_ids"][i], b["completion_mask"][i], b["tool_mask"][i]) for b in batches for i in range(3)]
        seen["batches"].append([[ids[mask > 0].tolist(), tool[mask > 0].tolist()] for ids, mask, tool in rows])
        seen["needed"].append(sum(int((batch["advantages"].abs() > 1e-6).sum()) for batch in batches))
        kept = lean(batches, drop)
        seen["rows"].append([len(batch["advantages"]) for batch in kept])
        return kept

    trainers = []
    grpo.rollout, grpo.lean_batches = rollout, lean_batches
    train.build_trainer = lambda *a, **k: trainers.append(build(*a, **k)) or trainers[-1]
    sys.addaudithook(lambda event, args: seen["opened"].extend(_written(event, args, out / "run")))
    destroy, PartialState.destroy_process_group = PartialState.destroy_process_group, lambda self: None
    changed = CHANGED | {"corpus": str(out.parent / "corpus")}
    flags = [f"{name}={json.dumps(value)}" for name, value in changed.items()]
    command = ["train", "--run-dir", str(out / "run"), "-p", *flags]
    assert main(command) == 0
    weights = [_weights(trainers[-1])]
    if rank == 0:
        torch.save(weights[0], out / "weights.pt")
        shutil.copytree(out / "run", out / "whole")
    if PartialState().num_processes > 1:
        if rank == 0:
            shutil.rmtree(out / "run/checkpoints/checkpoint-2")
        PartialState().wait_for_everyone()
        assert main(command) == 0
        weights.append(_weights(trainers[-1]))
        hopeless = load_config("laptop", **changed, collapse={"drop": -2.0, "patience": 1})
        train.train(hopeless, out / "hopeless")
    seen["digest"], seen["stopped"] = [_digest(one) for one in weights], trainers[-1].state.global_step
    destroy(PartialState())
    (out / f"rank{rank}.json").write_text(json.dumps(seen))


def _described(policy, episode) -> dict:
    """What the ids under mask 1 say, cut where the mask changes, beside the episode's turns."""
    pieces, last = [], 0
    for token, mask in zip(episode.completion_ids, episode.env_mask, strict=True):
        if mask and not last:
            pieces.append([])
        if mask:
            pieces[-1].append(token)
        last = mask
    return {
        "question": episode.question.id,
        "ids": episode.completion_ids,
        "mask": episode.env_mask,
        "sampled": [policy.decode(piece) for piece in pieces],
        "turns": [turn.text for turn in episode.turns],
    }


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


def _launch(out: Path, processes: int) -> list[dict]:
    out.mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    launcher = launcher if processes > 1 else []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launcher, __file__, str(out)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("step 1/2") == processes  # one process prints, twice where there are two trainings
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where both runs are, beside the shipped corpus with a dozen of its training questions and five of dev."""
    folder = tmp_path_factory.mktemp("distributed")
    rows = list(read_jsonl("data/larkspur/questions.jsonl"))
    few = [[row for row in rows if row["split"] == split][:n] for split, n in (("train", 12), ("dev", 5))]
    write_jsonl(folder / "corpus/questions.jsonl", few[0] + few[1])
    shutil.copy(ROOT / "data/larkspur/chunks.jsonl", folder / "corpus")
    return folder


@pytest.fixture(scope="module")
def two(folder):
    return _launch(folder / "two", 2)


@pytest.fixture(scope="module")
def one(folder):
    return _launch(folder / "one", 1)[0]


def test_ranks_sample_their_own_part_of_each_step(one, two):
    for whole, *parts in zip(one["rollouts"], *(rank["rollouts"][:2] for rank in two), strict=True):
        assert len(whole) == QUESTIONS * GROUP
        first, second = ([episode["question"] for episode in part] for part in parts)
        assert first != second and len(set(first)) == len(set(second)) == 2
        assert first + second == [episode["question"] for episode in whole]
        groups = [set((first + second)[i : i + GROUP]) for i in range(0, len(whole), GROUP)]
        assert all(len(group) == 1 for group in groups)
    assert not {*two[0]["states"]} & {*two[1]["states"]}  # they draw from other states


def test_masks_stay_on_the_tokens_that_were_sampled(two):
    for rank in two:
        for episodes, rows in zip(rank["rollouts"], rank["batches"], strict=True):
            for episode in episodes:
                assert len(episode["mask"]) == len(episode["ids"])
                assert episode["sampled"] == episode["turns"]
                assert parse_turn(episode["sampled"][0]).text == episode["turns"][0]
            wanted = sorted([episode["ids"], episode["mask"]] for episode in episodes)
            assert sorted(rows) == wanted  # and so they reach the loss
        assert any(0 in mask for rows in rank["batches"] for _, mask in rows)


def test_one_rank_writes(folder, two):
    assert {Path(path).name for path in two[1]["opened"]} <= {"rng_state_1.pth"}  # each keeps its random state
    assert any(path.endswith("metrics.jsonl") for path in two[0]["opened"])
    rows = [(row["kind"], row["step"]) for row in read_jsonl(folder / "two/whole/metrics.jsonl")]
    assert rows == [("eval", 0), ("eval", 1), ("train", 1), ("eval", 2), ("train", 2)]
    assert (folder / "two/whole/checkpoints/checkpoint-1/rng_state_1.pth").is_file()


def _same_steps(folder, name, other):
    """Two runs of the same episodes: equal metrics, and weights that differ by a fraction of what training moved."""
    ours, theirs = (list(read_jsonl(folder / f"{run}/whole/metrics.jsonl")) for run in (name, other))
    assert [row["step"] for row in theirs if row.get("grad_norm", 0) > 0] == [1, 2]
    for row, same in zip(ours, theirs, strict=True):
        left_out = ("kind", "split", "entropy", "seconds/")  # entropy is of the rows that were kept
        assert row.keys() == same.keys()
        wanted = {name: value for name, value in same.items() if not name.startswith(left_out)}
        assert {name: row[name] for name in wanted} == pytest.approx(wanted, rel=1e-3, nan_ok=True)
    after, before = (torch.load(folder / f"{run}/weights.pt") for run in (name, other))
    start = load_policy("data/policy").model.state_dict()
    apart, moved = (sum((a[name] - after[name]).square().sum() for name in after).sqrt() for a in (before, start))
    assert apart < 0.02 * moved


def test_two_processes_take_the_steps_of_one(folder, one, two):
    assert two[0]["digest"] == two[1]["digest"]  # the same weights everywhere, bit for bit
    _same_steps(folder, "two", "one")


def test_ranks_keep_as_many_rows_as_the_one_that_needs_most(two):
    ours, theirs = (rank["rows"] for rank in two)
    assert ours == theirs == [[max(needs)] for needs in zip(two[0]["needed"], two[1]["needed"], strict=True)]
    assert two[0]["needed"] != two[1]["needed"]


def test_difficulty_is_measured_once_and_read_by_all(folder, one, two):
    a, b = (list(read_jsonl(folder / f"{name}/whole/difficulty.jsonl")) for name in ("one", "two"))
    assert a == b


def test_a_killed_run_goes_on_in_all_ranks(folder, two):
    whole, again = ([row for row in read_jsonl(folder / f"two/{name}/metrics.jsonl")] for name in ("whole", "run"))
    timeless = lambda row: {k: v for k, v in row.items() if not k.startswith("seconds/")}  # noqa: E731
    assert [str(timeless(row)) for row in again] == [str(timeless(row)) for row in whole]
    assert two[0]["digest"][0] == two[0]["digest"][1]


def test_the_sentinel_stops_all_ranks(folder, two):
    assert [rank["stopped"] for rank in two] == [1, 1]  # of 2
    rows = list(read_jsonl(folder / "two/hopeless/metrics.jsonl"))
    assert [row["kind"] for row in rows].count("collapse") == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"micro_batch": 4},
            "micro_batch=4 x 2 processes must divide questions_per_step x num_generations = 2 x 2 = 4",
        ),
        ({"questions_per_step": 1, "num_generations": 4, "clip_shaping": True}, "must be a multiple of 2"),
        ({"backend": "unsloth", "lora_rank": 4, "max_context": 512}, "backend='unsloth' trains in one process"),
    ],
)
def test_what_does_not_go_with_two_processes_is_refused(config, tmp_path, monkeypatch, changes, said):
    monkeypatch.setattr(train, "PartialState", lambda **_: SimpleNamespace(num_processes=2))
    with pytest.raises(ValueError, match=said):
        train.train(replace(config, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_commands_say_what_is_wrong_and_make_a_warm_start(config, tmp_path, capsys, monkeypatch):
    run = ["--run-dir", str(tmp_path / "run")]
    assert main(["train", "--profile", "laptob", *run]) == 2
    assert "error: unknown profile 'laptob'; allowed: colab_t4" in capsys.readouterr().err
    assert main(["warm-start", *run]) == 2
    assert "warm-start needs one process and warm_start.steps=0 above 0" in capsys.readouterr().err
    flags = [f"policy={config.policy}", "lora_rank=4", "warm_start={steps: 2}", "episode_tokens=1500"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", *run, "-p", *flags]) == 2
    assert "warm is missing; make it in one process first: python -m rezero warm-start" in capsys.readouterr().err
    monkeypatch.delenv("WORLD_SIZE")
    assert main(["warm-start", *run, "-p", *flags]) == 0
    assert (tmp_path / "run/warm/adapter_config.json").is_file() and not (tmp_path / "run/metrics.jsonl").exists()
    further = ["warm-start", "--run-dir", str(tmp_path / "further"), "-p", f"policy={tmp_path / 'run/warm'}"]
    assert main([*further, *flags[1:]]) == 0  # an adapter is trained further, on its own base
    assert (tmp_path / "further/warm/adapter_config.json").is_file()


if __name__ == "__main__":
    work(Path(sys.argv[1]))
