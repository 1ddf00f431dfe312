"""GRPO through TRL, which is imported late because Unsloth must patch it first, on episodes of our own rollout.

TRL samples the prompts, weighs the rewards, computes the advantages and takes the optimiser's steps (Shao et al. 2024;
DAPO's token-level loss by default). Under torchrun the processes share a step's episodes, and the main one writes.
"""

import os
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import Trainer, TrainerCallback, set_seed

from rezero.config import Config
from rezero.files import resolve
from rezero.policy import load
from rezero.policy.base import Policy, bytes_of
from rezero.policy.hub import adapter_config
from rezero.protocol import PROMPTS, Sampling
from rezero.questions import spread
from rezero.rewards import reward_weights
from rezero.task import Task, load_task
from rezero.training.callbacks import DevEvaluation, MetricsLog, Sentinel
from rezero.training.checkpoints import check_written, prepare_run, read_metrics
from rezero.training.curriculum import draw_questions, measure_difficulty
from rezero.training.grpo import build_trainer, grpo_config
from rezero.training.sentinel import STOPS, check_limits, most_of


class Trained(NamedTuple):
    best: Policy  # on dev
    last: Policy  # after the last step


def train(
    config: Config,
    run_dir: str | Path,
    task: Task | None = None,
    policy: Policy | None = None,
    resume: bool = True,
    callbacks: Iterable[TrainerCallback] = (),
) -> Trained:
    """Train a policy with GRPO, or only its adapter if `config.lora_rank` is set; `resume` continues a killed run.

    It starts from `policy`, or from `config.policy` as it is; after a warm start, from what `starting_policy` of
    `rezero.warmstart.supervised` returns. `run_dir` gets config.json, difficulty.jsonl, metrics.jsonl (rows of the
    kinds "train", "eval" and, when training was stopped early, one of `STOPS`), best/ (the best policy on dev) and
    checkpoints/: the last two, beside each the policy that was best by then, and tensorboard/. `callbacks` such as
    `rezero.analysis.watch.Watch` come after the evaluation on dev and see all that was written by then. Raises
    ValueError for a wrong setting or a folder of another run, OSError or ImportError for what is missing, MemoryError
    for too small a GPU.
    """
    run_dir = resolve(run_dir)
    weights = reward_weights(config.reward_set, config.reward_weights)
    check_limits(config.collapse.limits)
    if config.warm_start.steps and policy is None:
        said = f"warm_start.steps={config.warm_start.steps}: pass policy=starting_policy(config, task, run_dir)"
        raise ValueError(f"{said} of rezero.warmstart.supervised")
    state = start_processes(config)
    task = task or load_task(config)
    if policy is None:
        check_policy(config, task)
    checkpoint = prepare_run(run_dir, config, resume) if state.is_main_process else None
    stopped = state.is_main_process and any(row["kind"] in STOPS for row in read_metrics(run_dir))
    checkpoint, stopped = broadcast_object_list([checkpoint, stopped])  # waits for the main process
    set_seed(config.seed)
    with load.naming_knobs(config.micro_batch, config.episode_tokens, config.gpu_share):
        if policy is None:
            policy = load.load_trainable(config)
        with state.main_process_first():  # it measures, the others read the file
            shares = measure_difficulty(policy, task, config.curriculum, run_dir / "difficulty.jsonl", config.seed)
        if stopped:  # early, at this checkpoint: no step is left
            config = replace(config, steps=int(checkpoint.rsplit("-", 1)[1]))
        questions = draw_questions(shares, config.curriculum, config.steps, config.questions_per_step, config.seed)
        arguments = grpo_config(config, weights, run_dir)
        trainer = build_trainer(policy, task, questions, weights, arguments, config.clip_shaping, config.forked)
        dev = spread(task.questions["dev"], config.eval_questions)
        trainer.add_callback(MetricsLog(run_dir, trainer.seconds, trainer.tokens))
        log = partial(Trainer.log, trainer)  # TRL's own would end the step's means before the step
        most = most_of(config.max_turns, config.turn_tokens)
        sentinel = Sentinel(run_dir, config.collapse, most, config.patience, task.engine)
        for callback in (DevEvaluation(policy, task, dev, run_dir, config.eval_every, log), *callbacks, sentinel):
            trainer.add_callback(callback)
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        except Exception as error:
            if state.is_main_process:
                trained = bytes_of(weight for weight in policy.model.parameters() if weight.requires_grad)
                check_written(run_dir, error, 3 * trained)  # the weights and two moments of each
            raise
    trainer.accelerator.unwrap_model(policy.model.eval(), keep_fp32_wrapper=False)  # undoes mixed precision in place
    return Trained(load.with_weights(policy, run_dir / "best"), policy)


def untrained_sampling(config: Config, sampling: Sampling) -> Sampling:
    """How a policy is evaluated before training: as `sampling` says, with a prompt that explains the protocol.

    Only a language model that gets its first adapter needs another prompt for that: it has never seen the protocol.
    """
    ours = config.policy == Config.policy  # the laptop's, which is trained on the protocol
    knows = ours or not config.lora_rank or adapter_config(resolve(config.policy))
    explained = "<search>" in "".join(PROMPTS[sampling.prompt_style])
    return sampling if knows or explained else replace(sampling, prompt_style="user")


def start_processes(config: Config) -> PartialState:
    """Join the processes of torchrun, if any; ValueError if the configuration does not go with so many."""
    if not torch.cuda.is_available():
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"  # not "cpu:0", from which transformers cannot load a checkpoint
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=6))  # the others wait for the main
    config.check(state.num_processes)
    return state


def check_policy(config: Config, task: Task) -> None:
    """Check that GPU and policy are there and that the policy can read the task, before its weights are loaded."""
    optim = config.grpo.get("optim", "")
    resolve_name("rezero.extras.early:check_gpu")(config.backend, config.vllm, config.load_in_4bit, optim)
    known = load.outline(config.policy) if config.lora_rank else load.load_policy(config.policy)
    questions = [question for split in task.questions.values() for question in split]
    for sampling in (task.sampling, untrained_sampling(config, task.sampling)):
        load.check_context(known, config.policy, sampling, config.max_context, questions)
