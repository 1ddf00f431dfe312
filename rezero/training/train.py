"""GRPO through TRL, on episodes of our own rollout. Beside `sft`, the only module that knows TRL.

TRL samples the prompts, weighs the rewards, computes advantages and takes the optimiser's steps (Shao et al. 2024,
DAPO's token-level loss by default); its `rollout_func` hook hands the prompts to `rollout.rollout`. Training questions
are drawn by measured difficulty, the policy is evaluated on dev, and the best one on dev is what training returns.
TRL is imported where it is used: Unsloth, which patches it, must come first, and only the profile says whether it does.

Under `accelerate launch` (see launch/) the episodes of a step are shared out over the processes: each samples its part,
rewards are gathered before a group's advantages are taken, and the main process alone writes.
"""

import argparse
import json
import os
import shutil
import sys
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import torch
from accelerate import PartialState
from datasets import Dataset
from rezero.vllm_server import Server
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback

from rezero.config import Config, load_config
from rezero.evaluation.evaluate import budget
from rezero.files import locked, resolve, write_jsonl, write_text
from rezero.policy.base import Policy
from rezero.policy.load import check_context, load_policy, load_trainable, naming_knobs, outline, with_adapter
from rezero.policy.unsloth import check_gpu
from rezero.protocol import Episode, build_prompt
from rezero.questions import Question
from rezero.rewards import REWARD_SETS, REWARDS, check_weights
from rezero.rewards.ours import clip_to_solved
from rezero.rollout import rollout
from rezero.runner.parameters import read_flags
from rezero.search.base import SearchError
from rezero.task import Task, load_task
from rezero.training.callbacks import (
    AdapterCheck,
    DevEvaluation,
    MetricsLog,
    Sentinel,
    episode_values,
    from_main,
    read_metrics,
)
from rezero.training.checkpoints import Durable, last_checkpoint, restore_best, unfinished
from rezero.training.curriculum import draw_questions, measure_difficulty
from rezero.training.grpo import grpo_config, trainer_class
from rezero.training.sentinel import check_limits
from rezero.warmstart.supervised import warm_start


class Trained(NamedTuple):
    """The policy that was best on dev, and the one after the last step."""

    best: Policy
    last: Policy


def train(
    config: Config,
    run_dir: str | Path,
    task: Task | None = None,
    resume: bool = True,
    difficulty: str | Path | None = None,
    server: str = "",
) -> Trained:
    """Train `config.policy` with GRPO.

    With `lora_rank` only an adapter is trained; with `warm_start_steps` it starts as `sft.warm_start` leaves it, which
    is kept in warm/. Writes to `run_dir`: config.json, difficulty.jsonl, metrics.jsonl (kinds "train" and "eval", and
    "collapse" when the sentinel stopped it), best/, and checkpoints/: the last two, beside each the policy that was
    best by then, and TensorBoard's events. With `resume` a run that was killed goes on from its last whole checkpoint
    with the same data order. `difficulty`: a file of measured difficulties to share between runs. `server`: address of
    a vLLM server that generates and gets every step's weights; see `vllm_server`.

    Raises:
        ValueError: unknown reward set or limit, a `run_dir` that holds a run of another configuration, a model whose
            context or chat template is not up to the task, or a configuration that does not go with so many processes.
        OSError, ImportError: no such model, no GPU or package where the profile needs them, or what could not be
            written, as for want of room. MemoryError: not enough of the GPU's; says what to change.
    """
    run_dir = resolve(run_dir)
    weights, _ = reward_weights(config), check_limits(config.collapse_limits)
    if not torch.cuda.is_available():
        os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"  # not "cpu:0", where transformers cannot load a checkpoint to
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=6))  # the others wait for the main
    _check_processes(config, run_dir, server)
    check_gpu(config)
    task = task or load_task(config)
    check_policy(config, task)
    checkpoint = from_main(_prepare(run_dir, config, resume) if state.is_main_process else None)
    if not (run_dir / "config.json").is_file():
        raise ValueError(f"{run_dir}: process {state.process_index} does not see what the main one wrote there; "
                         "all machines must share the run's folder")  # fmt: skip
    set_seed(config.seed)
    with naming_knobs(config):
        policy = starting_policy(config, task, run_dir)
        path = resolve(difficulty) if difficulty else run_dir / "difficulty.jsonl"
        with state.main_process_first():  # it measures, the others read the file
            order = draw_questions(config, measure_difficulty(policy, task, config, path))
        trainer = build_trainer(policy, task, config, weights, order, run_dir, server)
        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        except Exception as error:
            if half := state.is_main_process and unfinished(run_dir):  # safetensors and torch name no file
                raise OSError(f"{half} could not be written whole, {shutil.disk_usage(run_dir).free >> 20} MiB are "
                              f"free there: {error}. The run goes on from what is whole") from error  # fmt: skip
            raise
    trainer.accelerator.unwrap_model(policy.model.eval(), keep_fp32_wrapper=False)  # undoes mixed precision in place
    if server:
        policy.backend = None
    return Trained(with_adapter(policy, run_dir / "best"), policy)


def _check_processes(config: Config, run_dir: Path, server: str) -> None:
    """Raise ValueError when the configuration does not go with so many processes, or not with a server."""
    n = PartialState().num_processes
    if config.backend == "unsloth" and (n > 1 or server):
        raise ValueError(
            f"backend='unsloth' trains in one process and generates there, here are {n} processes and server="
            f"{server!r}: use -p backend=transformers load_in_4bit=false, and --vllm-server URL to generate with vLLM"
        )
    if config.episodes_per_step % (config.micro_batch * n):
        raise ValueError(
            f"micro_batch={config.micro_batch} x {n} processes must divide questions_per_step x num_generations = "
            f"{config.questions_per_step} x {config.num_generations} = {config.episodes_per_step}"
        )
    if config.clip_shaping and config.questions_per_step % n:
        raise ValueError(f"clip_shaping=True wants whole groups in each of {n} processes: "
                         f"questions_per_step={config.questions_per_step} must be a multiple of {n}")  # fmt: skip
    if n > 1 and config.warm_start_steps and not (run_dir / "warm").is_dir():
        raise ValueError(f"warm_start_steps={config.warm_start_steps} with {n} processes: {run_dir / 'warm'} is "
                         "missing; make it in one process first, with --warm-start")  # fmt: skip


def check_policy(config: Config, task: Task) -> None:
    """Whether the policy is there and can read the task, before its weights are loaded and the run's folder is made."""
    known = outline(config.policy) if config.lora_rank else load_policy(config.policy)
    check_context(known, config, [question for split in task.questions.values() for question in split])


def starting_policy(config: Config, task: Task, run_dir: Path) -> Policy:
    """The policy that GRPO starts from; with an adapter it carries a fresh one or the warm start's."""
    if not config.lora_rank:
        return load_policy(config.policy)
    warm = run_dir / "warm"
    policy = load_trainable(config, warm if warm.is_dir() else None)
    if config.warm_start_steps and not warm.is_dir():
        warm_start(policy, task, config, run_dir)
    return policy


def reward_weights(config: Config) -> dict[str, float]:
    """The configured weights, or those of the configured set; a name that does not exist is refused."""
    if config.reward_weights:
        return check_weights(config.reward_weights)
    if config.reward_set not in REWARD_SETS:
        raise ValueError(f"unknown reward set {config.reward_set!r}; allowed: {', '.join(REWARD_SETS)}")
    return REWARD_SETS[config.reward_set]


def build_trainer(
    policy: Policy,
    task: Task,
    config: Config,
    weights: dict[str, float],
    order: list[Question],
    run_dir: Path,
    server: str = "",
):
    """TRL's trainer around our rollout: prompts in `order`, one reward function per name in `weights`."""
    prompts = [build_prompt(question.text, config.prompt_style) for question in order]
    question_of = {json.dumps(prompt): question for prompt, question in zip(prompts, order, strict=True)}
    seconds = dict.fromkeys(("generation", "search", "rewards"), 0.0)

    def rollout_func(prompts: list, trainer) -> dict:
        episodes = rollout(
            policy,
            task.engine,
            [question_of[json.dumps(prompt)] for prompt in prompts],
            k=config.k,
            budget=budget(config),
            prompt_style=config.prompt_style,
            temperature=config.temperature,
            seconds=seconds,
        )
        return {
            "prompt_ids": [list(episode.prompt_ids) for episode in episodes],
            "completion_ids": [list(episode.completion_ids) for episode in episodes],
            "env_mask": [list(episode.env_mask) for episode in episodes],
            "logprobs": None,
            "episode": episodes,
        }

    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # rollout_func is marked experimental; TRL is pinned
    trainer = trainer_class()(
        model=policy.model,
        processing_class=policy.tokenizer,
        args=grpo_config(config, weights, run_dir, server),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        reward_funcs=[_reward_function(name, config, seconds, first=i == 0) for i, name in enumerate(weights)],
        rollout_func=rollout_func,
        callbacks=[
            MetricsLog(run_dir, config, seconds, task.engine),
            evaluation := DevEvaluation(policy, task, config, run_dir),
            Sentinel(run_dir, config),
            Durable(run_dir),
            *([AdapterCheck(policy, prompts[0], config)] if config.lora_rank else []),
        ],
    )
    trainer.leave_one_out, trainer.lean = config.leave_one_out, config.backend == "transformers"
    trainer.remove_callback(PrinterCallback)
    if trainer.is_fsdp_enabled:
        evaluation.save = trainer.save_model  # every process holds a part
    if server:
        policy.backend = Server(server, trainer, policy, prompts[0]).start
    return trainer


def _reward_function(name: str, config: Config, seconds: dict[str, float], first: bool):
    """`REWARDS[name]` in the shape TRL calls; the first one also logs what the episodes were like."""

    def reward(episode: list[Episode], log_metric=None, **_) -> list[float]:
        clock = perf_counter()
        values = [float(REWARDS[name](one)) for one in episode]
        if config.clip_shaping:
            values = clip_to_solved(values, episode)
        seconds["rewards"] += perf_counter() - clock
        if first and log_metric is not None:
            for metric, each in episode_values(episode).items():
                for value in each:
                    log_metric(metric, value)
        return values

    reward.__name__ = name
    return reward


def _prepare(run_dir: Path, config: Config, resume: bool) -> str | None:
    """Make the run folder ready and return the checkpoint to go on from, None to start afresh."""
    path = run_dir / "config.json"
    if resume and path.is_file() and _recorded(path) != config:
        raise ValueError(f"{path} records another configuration; choose another run folder, or resume=False")
    checkpoint = last_checkpoint(run_dir / "checkpoints") if resume else None
    step = int(checkpoint.name.rsplit("-", 1)[1]) if checkpoint else -1
    shutil.rmtree(run_dir / "best.new", ignore_errors=True)
    if checkpoint:
        restore_best(checkpoint, run_dir / "best")
    else:
        for name in ("checkpoints", "best", *(() if resume else ("warm", "warm_checkpoints"))):
            shutil.rmtree(run_dir / name, ignore_errors=True)
        (run_dir / "difficulty.jsonl").unlink(missing_ok=True)
    write_text(path, json.dumps(config.to_dict(), indent=1))
    write_jsonl(run_dir / "metrics.jsonl", [row for row in read_metrics(run_dir) if row["step"] <= step])
    return checkpoint and str(checkpoint)


def _recorded(path: Path) -> Config | None:
    """The configuration of a run, whose fields of today it had at their defaults; None with a field of another day."""
    try:
        return Config(**json.loads(path.read_text("utf-8")))
    except TypeError:
        return None


def main(argv: list[str] | None = None) -> int:
    """`python -m rezero.train`, alone or under `accelerate launch`; exit status 2 is for what the user got wrong."""
    parser = argparse.ArgumentParser(prog="python -m rezero.train", description="Train a profile, evaluate it on dev.")
    parser.add_argument("--profile", default="laptop", help="default: %(default)s")
    parser.add_argument("--run-dir", required=True, metavar="DIR", help="goes on with the run that is there, if any")
    parser.add_argument("-p", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
                        help="override a field of the profile; the value is YAML: write 1.0e-6, not 1e-6")  # fmt: skip
    parser.add_argument("--vllm-server", default="", metavar="URL", help="generate with the vLLM server there")
    parser.add_argument("--warm-start", action="store_true", help="make the profile's warm start, and stop there")
    args = parser.parse_args(argv)
    run_dir, alone = resolve(args.run_dir), int(os.environ.get("WORLD_SIZE", 1)) == 1
    try:
        config = load_config(args.profile, **read_flags(args.p))
        if args.warm_start and not (config.warm_start_steps and alone):
            raise ValueError(f"--warm-start wants one process and warm_start_steps={config.warm_start_steps} above 0")
        run_dir.mkdir(parents=True, exist_ok=True)
        with locked(run_dir) if os.environ.get("RANK", "0") == "0" else nullcontext():
            if args.warm_start:
                check_policy(config, task := load_task(config))
                with naming_knobs(config):
                    starting_policy(config, task, run_dir)
            else:
                train(config, run_dir, server=args.vllm_server)
    except (ValueError, OSError, ImportError, MemoryError, SearchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        PartialState().destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
