"""TRL's GRPO with our rollout and rewards: its configuration, and a trainer that computes nothing twice."""

import os
from functools import partial
from math import isinf, nan
from pathlib import Path
from pkgutil import resolve_name
from time import perf_counter

from accelerate import PartialState
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback

from rezero.config import Config
from rezero.policy.base import Policy
from rezero.policy.hub import read_adapter
from rezero.policy.load import precision
from rezero.protocol import Episode, build_prompt
from rezero.questions import Question
from rezero.rewards import load_reward
from rezero.rewards.ours import clip_to_solved
from rezero.rollout import rollout
from rezero.task import Task
from rezero.training.callbacks import episode_values
from rezero.training.finite import FiniteSteps


def grpo_config(config: Config, weights: dict[str, float], run_dir: Path):
    """TRL's GRPOConfig. All that matters is passed explicitly, because Unsloth has other defaults."""
    from trl import GRPOConfig

    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run_dir / "tensorboard")  # read when the trainer is made
    slices = config.episodes_per_step // (config.micro_batch * PartialState().num_processes)
    try:
        return GRPOConfig(
            output_dir=str(run_dir / "checkpoints"),
            max_steps=config.steps,
            save_steps=config.save_every,
            per_device_train_batch_size=config.micro_batch,
            num_generations=config.num_generations,
            max_completion_length=config.episode_tokens,
            temperature=config.temperature,
            epsilon_high=config.grpo["epsilon"],
            reward_weights=list(weights.values()),
            **dict(seed=config.seed, data_seed=config.seed, ddp_find_unused_parameters=False, disable_tqdm=True),
            **dict(gradient_accumulation_steps=slices, steps_per_generation=slices),
            **dict(shuffle_dataset=False, use_vllm=False),  # order (`draw_questions`) and rollout are ours
            **precision(lora=config.lora_rank > 0),
            **config.grpo,
        )
    except TypeError as error:
        raise ValueError(f"grpo: {error}; want fields of TRL's GRPOConfig that no other setting decides") from None


def build_trainer(policy: Policy, task: Task, questions: list[Question], weights: dict, arguments, clip_shaping=False):
    """TRL's trainer around our rollout: one prompt per question, in order. It counts a step's `seconds`, `tokens`."""
    prompts = []
    for place, question in enumerate(questions):
        messages = build_prompt(question.text, task.sampling.prompt_style)
        prompts.append([message | {"question": place} for message in messages])  # two questions may read the same
    seconds, tokens = dict.fromkeys(("generation", "search", "rewards"), 0.0), {"sampled": 0, "trained": 0}

    def rollout_func(prompts: list, trainer) -> dict:
        asked = [questions[prompt[0]["question"]] for prompt in prompts]
        episodes = rollout(policy, task.engine, asked, task.sampling, seconds=seconds)
        tokens["sampled"] = sum(sum(episode.env_mask) for episode in episodes)
        tokens["trained"] = sum(len(episode.prompt_ids) + len(episode.completion_ids) for episode in episodes)
        columns = ("prompt_ids", "completion_ids", "env_mask")
        made = {name: [list(getattr(episode, name)) for episode in episodes] for name in columns}
        return made | {"logprobs": None, "episode": episodes}

    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # rollout_func is marked experimental; TRL is pinned
    trainer = trainer_class()(
        model=policy.model,
        processing_class=policy.tokenizer,
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        reward_funcs=[reward_function(name, clip_shaping, seconds, logs=i == 0) for i, name in enumerate(weights)],
        rollout_func=rollout_func,
    )
    trainer.seconds, trainer.tokens, trainer.lean = seconds, tokens, policy.backend is None
    trainer.remove_callback(PrinterCallback)
    return trainer


def reward_function(name: str, clip_shaping: bool, seconds: dict[str, float], logs: bool):
    """A reward in the shape that TRL calls; one that `logs` also logs what the episodes were like.

    None or NaN: the episode cannot be scored, and TRL leaves it out. ValueError for an infinite reward.
    """
    one_reward = load_reward(name)

    def reward(episode: list[Episode], log_metric=None, **_) -> list[float]:
        clock = perf_counter()
        given = [one_reward(one) for one in episode]
        values = [nan if value is None else float(value) for value in given]
        for one, value in zip(episode, values, strict=True):
            if isinf(value):
                raise ValueError(f"reward {name!r} is {value} for question {one.question.id!r}; want a finite number")
        values = clip_to_solved(values, episode) if clip_shaping else values
        seconds["rewards"] += perf_counter() - clock
        if logs and log_metric is not None:
            for metric, each in episode_values(episode).items():
                for value in each:
                    log_metric(metric, value)
        return values

    reward.__name__ = name
    return reward


def trainer_class() -> type:
    from trl import GRPOTrainer
    from trl.trainer.utils import selective_log_softmax_and_entropy

    sharing = resolve_name("rezero.extras.prefix_tree")

    class Trainer(FiniteSteps, GRPOTrainer):
        """TRL's trainer, which computes what episodes share once; not under Unsloth, whose own trainer packs."""

        batch = None  # the micro-batch whose loss is being computed

        def _load_from_checkpoint(self, checkpoint, model=None):
            super()._load_from_checkpoint(checkpoint, model)
            if Path(checkpoint, "adapter_config.json").is_file():  # with TRL's adapter "ref" beside it, transformers
                read_adapter(self.model, checkpoint)  # does not load ours

        def _prepare_inputs(self, generation_batch):
            before = self._buffered_inputs
            inputs = super()._prepare_inputs(generation_batch)
            if not self.lean or self._buffered_inputs is before:
                return inputs
            plain = self.top_entropy_quantile == 1 and not self._entropy_bonus_enabled
            drop = self.loss_type == "dapo" and self.beta == 0 and plain
            self._buffered_inputs = sharing.lean_batches(self._buffered_inputs, drop)
            return self._buffered_inputs[self._step % self.args.steps_per_generation]

        def _compute_loss(self, model, inputs):
            self.batch = inputs
            try:
                return super()._compute_loss(model, inputs)
            finally:
                self.batch = None

        def _full_logits_logps(self, model, input_ids, attention_mask, logits_to_keep, compute_entropy=False, **rest):
            if not self.lean or rest.get("compute_aux_loss") or "logits_to_keep" not in self.model_kwarg_keys:
                entropy = dict(compute_entropy=compute_entropy)
                return super()._full_logits_logps(model, input_ids, attention_mask, logits_to_keep, **entropy, **rest)
            batch, scored = self.batch or {}, attention_mask[:, -logits_to_keep:]
            scored = scored * batch.get("tool_mask", 1)
            options = dict(entropy_requires_grad=self._entropy_bonus_enabled, temperature=self.temperature)
            score = partial(selective_log_softmax_and_entropy, **options)
            logps, entropies = sharing.shared_logps(model, input_ids, attention_mask, scored, score)
            if "entropy_weight" in batch:
                entropies = entropies * batch["entropy_weight"][:, None]
            return logps, entropies if compute_entropy else None, None

    return Trainer
