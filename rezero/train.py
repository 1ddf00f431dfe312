"""GRPO through TRL, on episodes of our own rollout. Beside `sft`, the only module that knows TRL.

TRL samples the prompts, weighs the rewards, computes advantages and takes the optimiser's steps (Shao et al. 2024,
DAPO's token-level loss by default); its `rollout_func` hook hands the prompts to `rollout.rollout`. Training questions
are drawn by measured difficulty, the policy is evaluated on dev, and the best one on dev is what training returns.
TRL is imported where it is used: Unsloth, which patches it, must come first, and only the profile says whether it does.
"""

import json
import os
import shutil
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import torch
from datasets import Dataset
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import get_last_checkpoint

from rezero.callbacks import AdapterCheck, DevEvaluation, MetricsLog, Sentinel, episode_means, read_metrics
from rezero.config import Config
from rezero.curriculum import draw_questions, measure_difficulty
from rezero.evaluate import budget
from rezero.files import resolve, write_jsonl, write_text
from rezero.models import check_context, load_trainable, out_of_memory, precision, read_adapter, with_adapter
from rezero.policy import Policy, load_policy
from rezero.protocol import Episode, build_prompt
from rezero.questions import Question
from rezero.rewards import REWARD_SETS, REWARDS, check_weights, clip_to_solved
from rezero.rollout import rollout
from rezero.sft import warm_start
from rezero.task import Task, load_task


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
) -> Trained:
    """Train `config.policy` with GRPO.

    With `lora_rank` only an adapter is trained; with `warm_start_steps` it starts as `sft.warm_start` leaves it, which
    is kept in warm/. Writes to `run_dir`: config.json, difficulty.jsonl, metrics.jsonl (kinds "train" and "eval", and
    "collapse" when the sentinel stopped it), checkpoints/ (with TensorBoard's events) and best/. With `resume` a run
    that was killed goes on from its last checkpoint with the same data order. `difficulty`: a file of measured
    difficulties to share between runs.

    Raises:
        ValueError: unknown reward set, a `run_dir` that holds a run of another configuration, or a model whose
            context or chat template is not up to the task.
        RuntimeError: no GPU where the profile needs one, or not enough of its memory; says what to change.
    """
    run_dir = resolve(run_dir)
    weights = reward_weights(config)
    checkpoint = _prepare(run_dir, config, resume)
    task = task or load_task(config)
    set_seed(config.seed)
    policy = starting_policy(config, task, run_dir)
    check_context(policy, config, [question for split in task.questions.values() for question in split])
    path = resolve(difficulty) if difficulty else run_dir / "difficulty.jsonl"
    order = draw_questions(config, measure_difficulty(policy, task, config, path))
    trainer = build_trainer(policy, task, config, weights, order, run_dir)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except torch.cuda.OutOfMemoryError as error:
        raise RuntimeError(out_of_memory(config)) from error
    policy.model.eval()
    return Trained(with_adapter(policy, run_dir / "best"), policy)


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


def grpo_config(config: Config, weights: dict[str, float], run_dir: Path):
    """TRL's configuration, with every hyper-parameter that matters passed explicitly: Unsloth has other defaults."""
    from trl import GRPOConfig

    slices = config.episodes_per_step // config.micro_batch
    return GRPOConfig(
        output_dir=str(run_dir / "checkpoints"),
        seed=config.seed,
        data_seed=config.seed,
        max_steps=config.steps,
        per_device_train_batch_size=config.micro_batch,
        gradient_accumulation_steps=slices,
        steps_per_generation=slices,
        num_generations=config.num_generations,
        num_iterations=1,
        max_completion_length=config.episode_tokens,
        temperature=config.temperature,
        top_p=1.0,
        top_k=0,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        optim=config.optim,
        loss_type=config.loss_type,
        beta=config.beta,
        epsilon=config.epsilon,
        epsilon_high=config.epsilon,
        scale_rewards=config.scale_rewards,
        multi_objective_aggregation=config.aggregation,
        reward_weights=list(weights.values()),
        mask_truncated_completions=False,
        shuffle_dataset=False,  # the order is ours, see draw_questions
        **precision(),
        logging_steps=1,
        report_to="tensorboard",
        save_strategy="steps",
        save_steps=config.save_every,
        save_total_limit=2,
        disable_tqdm=True,
    )


def build_trainer(
    policy: Policy,
    task: Task,
    config: Config,
    weights: dict[str, float],
    order: list[Question],
    run_dir: Path,
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
        args=grpo_config(config, weights, run_dir),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        reward_funcs=[_reward_function(name, config, seconds, first=i == 0) for i, name in enumerate(weights)],
        rollout_func=rollout_func,
        callbacks=[
            MetricsLog(run_dir, config, seconds, task.engine),
            DevEvaluation(policy, task, config, run_dir),
            Sentinel(run_dir, config),
            *([AdapterCheck(policy, prompts[0], config)] if config.lora_rank else []),
        ],
    )
    trainer.leave_one_out, trainer.lean = config.leave_one_out, config.backend == "transformers"
    trainer.remove_callback(PrinterCallback)
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
            for metric, value in episode_means(episode).items():
                log_metric(metric, value)
        return values

    reward.__name__ = name
    return reward


def trainer_class() -> type:
    from trl import GRPOTrainer

    class Trainer(GRPOTrainer):
        """TRL's trainer, without the work that cannot change the gradient, and with a leave-one-out baseline.

        With G episodes a group, r - (mean of the others) = (r - mean) G / (G - 1) (RLOO, Ahmadian et al. 2024): no
        more than a constant factor, which matters with a KL term and for the size of the steps.
        An episode whose advantage is 0 adds nothing to the loss when there is no KL term, and padding adds nothing
        ever: the micro-batches of a step are rebuilt from the other episodes, sorted by length and cut to their
        longest. The loss stays normalised by all sampled tokens of the step ("dapo"), so the gradient is the same.
        Not `lean` under Unsloth, whose own trainer packs.
        """

        leave_one_out, lean = False, True

        def _load_from_checkpoint(self, checkpoint, model=None):
            super()._load_from_checkpoint(checkpoint, model)
            if Path(checkpoint, "adapter_config.json").is_file():  # beside TRL's "ref", transformers passes it over
                read_adapter(self.model, checkpoint)

        def _prepare_inputs(self, generation_batch):
            before = self._buffered_inputs
            inputs = super()._prepare_inputs(generation_batch)
            if self._buffered_inputs is before:
                return inputs
            if self.leave_one_out:
                for batch in self._buffered_inputs:
                    batch["advantages"] *= self.num_generations / (self.num_generations - 1)
            if self.lean:
                drop = self.loss_type == "dapo" and self.beta == 0
                self._buffered_inputs = lean_batches(self._buffered_inputs, drop)
            return self._buffered_inputs[self._step % self.args.steps_per_generation]

    return Trainer


def lean_batches(batches: list[dict], drop: bool) -> list[dict]:
    """The rows of `batches` in as many batches, sorted by length and trimmed; with `drop`, without zero advantages."""
    whole = {k: torch.cat([b[k] for b in batches]) if v.ndim else v for k, v in batches[0].items()}
    order = whole["completion_mask"].sum(1).argsort()
    if drop:
        idle = whole["advantages"][order].abs() < 1e-6
        spare = max(0, len(batches) - int((~idle).sum()))  # every batch needs a row
        order = torch.cat([order[idle][:spare], order[~idle]])
    rows = [{k: v[part] if v.ndim else v for k, v in whole.items()} for part in order.tensor_split(len(batches))]
    return [_trim(batch) for batch in rows]


def _trim(batch: dict) -> dict:
    """Cut the columns that are padding in every row: prompts are padded on the left, completions on the right."""
    prompt, completion = batch["prompt_mask"].shape[1], batch["completion_mask"].shape[1]
    start = prompt - int(batch["prompt_mask"].sum(1).max())
    end = int(batch["completion_mask"].sum(1).max())
    cut = {k: v for k, v in batch.items()}
    for key, value in batch.items():
        if value.ndim == 2 and value.shape[1] == completion and not key.startswith("prompt"):
            cut[key] = value[:, :end]
        elif key.startswith("prompt"):
            cut[key] = value[:, start:]
    return cut


def _prepare(run_dir: Path, config: Config, resume: bool) -> str | None:
    """Make the run folder ready and return the checkpoint to go on from, None to start afresh."""
    settings = json.dumps(config.to_dict(), indent=1)
    path = run_dir / "config.json"
    if resume and path.is_file() and path.read_text() != settings:
        raise ValueError(f"{path} records another configuration; choose another run folder, or resume=False")
    checkpoints = run_dir / "checkpoints"
    checkpoint = get_last_checkpoint(str(checkpoints)) if resume and checkpoints.is_dir() else None
    step = int(checkpoint.rsplit("-", 1)[1]) if checkpoint else -1
    if checkpoint is None:
        for name in ("checkpoints", "best", *(() if resume else ("warm", "warm_checkpoints"))):
            shutil.rmtree(run_dir / name, ignore_errors=True)
        (run_dir / "difficulty.jsonl").unlink(missing_ok=True)
    write_text(path, settings)
    write_jsonl(run_dir / "metrics.jsonl", [row for row in read_metrics(run_dir) if row["step"] <= step])
    return checkpoint
