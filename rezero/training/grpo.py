"""TRL's GRPO with our rollout and rewards: its configuration, and a trainer that computes nothing twice."""

import os
from math import isinf, nan
from pathlib import Path
from pkgutil import resolve_name

from accelerate import PartialState
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback

from rezero.config import Config
from rezero.policy.base import Policy
from rezero.policy.hub import read_adapter
from rezero.policy.load import precision
from rezero.protocol import Episode, build_prompt
from rezero.rewards import load_reward
from rezero.rewards.ours import clip_to_solved
from rezero.rollout import rollout
from rezero.task import Task
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


def build_trainer(policy: Policy, task: Task, questions: list, weights, arguments, clip_shaping=False, forked=0.0):
    """TRL's trainer around our rollout: one prompt per question, in order. It counts a step's `seconds`, `tokens`."""
    from trl import GRPOTrainer

    prompts = [build_prompt(question.text, task.sampling.prompt_style) for question in questions]
    for place, prompt in enumerate(prompts):
        prompt[0]["question"] = place  # two questions may read the same
    seconds, tokens = dict.fromkeys(("generation", "search", "rewards"), 0.0), {"sampled": 0, "trained": 0}

    def rollout_func(prompts: list, trainer) -> dict:
        asked = [questions[prompt[0]["question"]] for prompt in prompts]
        tokens["sampled"] = 0
        more = resolve_name("rezero.extras.fork:options")(arguments.num_generations, forked, tokens) if forked else {}
        episodes = rollout(policy, task.engine, asked, task.sampling, seconds=seconds, **more)
        tokens["sampled"] += sum(sum(episode.env_mask) for episode in episodes)
        tokens["trained"] = sum(len(episode.prompt_ids) + len(episode.completion_ids) for episode in episodes)
        columns = ("prompt_ids", "completion_ids", "env_mask")
        made = {name: [list(getattr(episode, name)) for episode in episodes] for name in columns}
        return made | {"logprobs": None, "episode": episodes}

    parts = map(resolve_name, ("rezero.extras.prefix_tree:SharedSteps", "rezero.extras.fork:CountedSteps"))

    class Trainer(FiniteSteps, *parts, GRPOTrainer):
        def _load_from_checkpoint(self, checkpoint, model=None):
            super()._load_from_checkpoint(checkpoint, model)
            if Path(checkpoint, "adapter_config.json").is_file():  # with TRL's adapter "ref" beside it, transformers
                read_adapter(self.model, checkpoint)  # does not load ours

    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # rollout_func is marked experimental; TRL is pinned
    trainer = Trainer(
        model=policy.model,
        processing_class=policy.tokenizer,
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        reward_funcs=[reward_function(name, clip_shaping) for name in weights],
        rollout_func=rollout_func,
    )
    trainer.seconds, trainer.tokens, trainer.lean = seconds, tokens, policy.backend is None
    trainer.remove_callback(PrinterCallback)
    return trainer


def reward_function(name: str, clip_shaping: bool):
    """A reward in the shape that TRL calls. None, NaN: TRL leaves the episode out. ValueError for an infinite one."""
    one_reward = load_reward(name)

    def reward(episode: list[Episode], **_) -> list[float]:
        given = [one_reward(one) for one in episode]
        values = [nan if value is None else float(value) for value in given]
        for one, value in zip(episode, values, strict=True):
            if isinf(value):
                raise ValueError(f"reward {name!r} is {value} for question {one.question.id!r}; want a finite number")
        return clip_to_solved(values, episode) if clip_shaping else values

    reward.__name__ = name
    return reward
