"""The trainer that Unsloth makes of TRL's, on a CPU beside TRL's own. Runs only where Unsloth is installed."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_gpu import SAMPLING, StandIn, fake_vllm, shake

from rezero.config import load_config
from rezero.extras.unsloth import EngineGeneration
from rezero.files import ROOT
from rezero.policy import hub, load
from rezero.policy.base import Policy, save_policy
from rezero.policy.hub import add_adapter, load_base
from rezero.search import build_engine
from rezero.task import Task


def big(episode) -> float:
    """A reward that differs between episodes."""
    return float(sum(episode.completion_ids) % 7)


def take_step(folder: Path, which: str) -> None:
    """Train the toy in `folder`/base for one step, with TRL's trainer ("ours") or with Unsloth's ("theirs").

    With SGD and learning rate 1 the gradient is what each weight lost: it is written to {which}.safetensors. In a
    process of its own, because Unsloth patches TRL for good.
    """
    from conftest import CHUNKS, QUESTIONS

    from rezero.training import train as training

    hub.best_dtype = load.best_dtype = lambda: torch.float32
    training.load.check_gpu = lambda **options: None
    model, tokenizer = load_base(str(folder / "base"))
    policy = Policy(add_adapter(model, rank=4), tokenizer, backend=partial(EngineGeneration, weights="now"))
    shake(policy)  # otherwise only one of an adapter's two matrices has a gradient
    if which == "theirs":
        rewrite_trainer()
    sys.modules["vllm"] = fake_vllm()
    model = policy.model
    model.vllm_engine = StandIn(replace(policy, backend=None))
    model.save_lora, model.load_lora = lambda *args, **options: None, lambda *args, **options: 1
    model.for_training, model.for_inference = lambda **options: model.train(), model.eval
    config = load_config(
        "single_gpu",
        policy=str(folder / "base"),
        **dict(steps=1, questions_per_step=2, num_generations=2, micro_batch=2, curriculum={"samples": 0}),
        grpo=dict(optim="sgd", learning_rate=1.0, warmup_steps=0, weight_decay=0.0, max_grad_norm=1e9),
        reward_weights={"test_gpu_trainer:big": 1.0},
    )
    engine, sampling = build_engine("bm25", CHUNKS), replace(SAMPLING, max_turns=2, temperature=1.0)
    before = {name: weight.clone() for name, weight in model.named_parameters() if weight.requires_grad}
    training.train(config, folder / which, Task(engine, {"train": QUESTIONS, "dev": QUESTIONS}, sampling), policy)
    lost = {name: (weight - model.get_parameter(name)).detach() for name, weight in before.items()}
    save_file(lost, folder / f"{which}.safetensors")


def rewrite_trainer() -> None:
    """Have Unsloth patch TRL without a GPU, as it does with one."""
    import trl
    import unsloth  # noqa: F401
    from trl.generation import vllm_generation
    from unsloth.models import rl

    rl.patch_trl_disable_gradient_checkpointing()
    rl._patch_trl_rl_trainers("grpo_trainer")
    vllm_generation.is_vllm_available = lambda: True
    rl.patch_trl_vllm_generation()
    assert "Unsloth" in str(trl.GRPOTrainer.__mro__)
    trl.GRPOTrainer._autocast_enabled, trl.GRPOTrainer._autocast_dtype = False, None  # on a CPU it would be bfloat16


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("unsloth") is None, reason="Unsloth is not installed: the gpu extra")
def test_the_trainer_of_unsloth_takes_the_step_of_trl_s(policy, tmp_path):
    """It, too, calls our rollout, and has the same gradient: what the policy reads carries no loss."""
    save_policy(policy, tmp_path / "base")
    options = dict(UNSLOTH_ALLOW_CPU="1", UNSLOTH_COMPILE_DISABLE="1", UNSLOTH_FORCE_FLOAT32="1")
    env = os.environ | options | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "ACCELERATE_TORCH_DEVICE": "cpu"}
    for which in ("ours", "theirs"):
        command = [sys.executable, __file__, str(tmp_path), which]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    ours, theirs = (load_file(tmp_path / f"{which}.safetensors") for which in ("ours", "theirs"))
    largest = max(gradient.abs().max() for gradient in ours.values())
    assert largest > 1e-4
    for name, gradient in ours.items():
        assert (theirs[name] - gradient).abs().max() < 1e-4 * largest, name


if __name__ == "__main__":
    take_step(Path(sys.argv[1]), sys.argv[2])
