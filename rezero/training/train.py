"""GRPO through TRL, on episodes of our own rollout.

TRL samples the prompts, weighs the rewards, computes the advantages and takes the optimiser's steps (Shao et al. 2024;
DAPO's token-level loss by default). Ours are the rollout, the order of the questions (`curriculum`), the evaluation on
dev, the checkpoints and the sentinel (`callbacks`). TRL is imported late, because Unsloth must patch it first.

Under torchrun the episodes of a step are shared out over the processes: each samples its part, rewards are gathered
before a group's advantages are computed, and only the main process writes.
"""

import os
import shutil
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import PartialState
from transformers import set_seed

from rezero.config import Config
from rezero.files import resolve
from rezero.policy import load
from rezero.policy.base import Policy
from rezero.questions import spread
from rezero.rewards import reward_weights
from rezero.task import Task, load_task
from rezero.training.callbacks import DevEvaluation, MetricsLog, Sentinel, from_main
from rezero.training.checkpoints import KeepBest, prepare_run, record_config, unfinished
from rezero.training.curriculum import draw_questions, measure_difficulty
from rezero.training.grpo import build_trainer, grpo_config
from rezero.training.sentinel import check_limits, most_of


class Trained(NamedTuple):
    """The policy that was best on dev, and the one after the last step."""

    best: Policy
    last: Policy


def train(
    config: Config, run_dir: str | Path, task: Task | None = None, policy: Policy | None = None, resume: bool = True
) -> Trained:
    """Train a policy with GRPO; with `config.lora_rank` only its adapter.

    Writes to `run_dir`: config.json, difficulty.jsonl, metrics.jsonl (rows of the kinds "train" and "eval", and
    "collapse" when the sentinel stopped training), best/ (the best policy on dev) and checkpoints/: the last two,
    beside each the policy that was best by then, and TensorBoard's events.

    Args:
        policy: what to start from; default: `config.policy` as it is. A profile with a warm start needs the policy
            that `rezero.warmstart.supervised.starting_policy` makes.
        resume: go on from the last whole checkpoint of a run that was killed, with the same order of questions.

    Raises:
        ValueError: a setting that is not allowed, a `run_dir` that holds a run of another configuration, or a model
            whose context or chat template is not up to the task.
        OSError, ImportError: there is no such model, GPU or package, or a file could not be written.
        MemoryError: the GPU's memory does not suffice; says what to change.
    """
    run_dir = resolve(run_dir)
    weights = reward_weights(config.reward_set, config.reward_weights)
    check_limits(config.collapse.limits)
    if config.warm_start.steps and policy is None:
        said = f"warm_start.steps={config.warm_start.steps}: pass policy=starting_policy(config, task, run_dir)"
        raise ValueError(f"{said}, which rezero.warmstart.supervised has")
    state = start_processes(config)
    task = task or load_task(config)
    if policy is None:
        check_policy(config, task)
    checkpoint = None
    if state.is_main_process:
        record_config(run_dir, config, resume)
        checkpoint = prepare_run(run_dir, resume)
    checkpoint = from_main(checkpoint)
    if not (run_dir / "config.json").is_file():
        raise ValueError(f"{run_dir}: process {state.process_index} does not see what the main process wrote there")
    set_seed(config.seed)
    with load.naming_knobs(config.micro_batch, config.episode_tokens, config.gpu_share):
        if policy is None:
            policy = load.load_trainable(config) if config.lora_rank else load.load_policy(config.policy)
        path = resolve(config.curriculum.file or run_dir / "difficulty.jsonl")
        with state.main_process_first():  # it measures, the others read the file
            shares = measure_difficulty(policy, task, config.curriculum, path, config.seed)
        questions = draw_questions(shares, config.curriculum, config.steps, config.questions_per_step, config.seed)
        arguments, lean = grpo_config(config, weights, run_dir), config.backend == "transformers"
        trainer = build_trainer(policy, task, questions, weights, arguments, config.clip_shaping, lean)
        dev = spread(task.questions["dev"], config.eval_questions)
        trainer.add_callback(MetricsLog(run_dir, trainer.seconds, task.engine))
        trainer.add_callback(DevEvaluation(policy, task, dev, run_dir, config.eval_every))
        trainer.add_callback(Sentinel(run_dir, config.collapse, most_of(config.max_turns, config.turn_tokens)))
        trainer.add_callback(KeepBest(run_dir))
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        except Exception as error:
            half = unfinished(run_dir) if state.is_main_process else None
            if half:  # the errors of safetensors and torch name no file
                free = f"{shutil.disk_usage(run_dir).free >> 20} MiB are free there"
                said = f"{half} could not be written whole, {free}: {error}. The run goes on from what is whole"
                raise OSError(said) from error
            raise
    trainer.accelerator.unwrap_model(policy.model.eval(), keep_fp32_wrapper=False)  # undoes mixed precision in place
    return Trained(load.with_weights(policy, run_dir / "best"), policy)


def policies_to_compare(trained: Trained, config: Config, run_dir: str | Path, last: bool = False) -> dict[str, Policy]:
    """The policy before training, what a warm start made of it (if there was one), and the trained one.

    `last` takes the policy after the last step instead of the best on dev, for comparisons on dev, where the score of
    the best is biased because dev selected it.
    """
    policies = {"before training": load.with_weights(trained.last, config.policy)}
    warm = resolve(run_dir) / "warm"
    if warm.is_dir():
        policies["after the warm start"] = load.with_weights(trained.last, warm)
    return policies | {"after training": trained.last if last else trained.best}


def start_processes(config: Config) -> PartialState:
    """Join the processes of torchrun, if any; ValueError if the configuration does not go with so many."""
    if not torch.cuda.is_available():
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"  # not "cpu:0", from which transformers cannot load a checkpoint
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=6))  # the others wait for the main
    n = state.num_processes
    if config.backend == "unsloth" and n > 1:
        raise ValueError(f"backend='unsloth' trains in one process, here are {n}: use backend='transformers'")
    if config.episodes_per_step % (config.micro_batch * n):
        raise ValueError(
            f"micro_batch={config.micro_batch} x {n} processes must divide questions_per_step x num_generations = "
            f"{config.questions_per_step} x {config.num_generations} = {config.episodes_per_step}"
        )
    if config.clip_shaping and config.questions_per_step % n:
        said = f"clip_shaping=True needs whole groups in each of {n} processes: questions_per_step="
        raise ValueError(f"{said}{config.questions_per_step} must be a multiple of {n}")
    return state


def check_policy(config: Config, task: Task) -> None:
    """Check that GPU and policy are there and that the policy can read the task, before its weights are loaded."""
    optim = config.grpo.get("optim", "")
    load.check_gpu(backend=config.backend, vllm=config.vllm, load_in_4bit=config.load_in_4bit, optim=optim)
    known = load.outline(config.policy) if config.lora_rank else load.load_policy(config.policy)
    questions = [question for split in task.questions.values() for question in split]
    load.check_context(known, config.policy, task.sampling, config.max_context, questions)
