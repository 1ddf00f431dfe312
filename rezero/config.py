"""One configuration object, and the named profiles as literals."""

from dataclasses import asdict, dataclass, field, fields, replace

CHOICES = {  # what TRL would refuse only in the first step
    "scale_rewards": ("group", "batch", "none"),
    "aggregation": ("sum_then_normalize", "normalize_then_sum"),
}


@dataclass(frozen=True)
class Config:
    """Everything a run depends on. Tokens count what the policy's own tokenizer makes; paths count from the root."""

    profile: str = "laptop"
    seed: int = 0  # one seed for sampling, data order and torch

    # task
    corpus: str = "data/larkspur"  # folder with chunks.jsonl and questions.jsonl
    engine: str = "bm25"  # a name in search.ENGINES
    engine_options: dict = field(default_factory=dict)  # its options, as {"k1": 1.2}
    k: int = 2  # passages a search brings
    policy: str = "data/policy"  # folder of the starting policy
    prompt_style: str = "short"  # a key of protocol.PROMPTS
    max_turns: int = 5  # assistant turns an episode
    turn_tokens: int = 40  # sampled tokens a turn
    episode_tokens: int = 800  # everything after the prompt, retrieved text included

    # reward
    reward_set: str = "recovery"  # a name in rewards.REWARD_SETS
    reward_weights: dict = field(default_factory=dict)  # {reward: weight}; takes the place of the set when not empty
    clip_shaping: bool = False  # a group without a right episode earns nothing from the other rewards

    # GRPO, passed to TRL's GRPOConfig explicitly
    steps: int = 90  # optimiser steps
    questions_per_step: int = 8  # groups a step
    num_generations: int = 8  # episodes a group
    micro_batch: int = 16  # episodes a forward and backward pass
    learning_rate: float = 2e-4
    lr_scheduler: str = "linear"
    warmup_steps: int = 2
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.99
    max_grad_norm: float = 0.5
    temperature: float = 1.0
    loss_type: str = "dapo"  # normalised by the sampled tokens of the whole step
    scale_rewards: str = "group"  # group, batch or none
    aggregation: str = "sum_then_normalize"  # or normalize_then_sum: every reward first
    leave_one_out: bool = False  # the baseline of an episode is the mean of the others of its group (RLOO)
    beta: float = 0.0  # weight of the KL term to the starting policy
    epsilon: float = 0.2  # clipping of the probability ratio

    # sampling of questions
    difficulty_samples: int = 2  # episodes a training question that measure its difficulty; 0: sample uniformly
    solved_weight: float = 0.1  # sampling weight of a question that every sample solved (a mixed one weighs 1)
    unsolved_weight: float = 1.0  # sampling weight of a question that no sample solved

    # evaluation and checkpoints
    eval_every: int = 10  # steps between evaluations on dev; the best one's policy is kept
    eval_questions: int = 0  # dev questions an evaluation; 0: all
    collapse_drop: float = 0.1  # training stops when dev accuracy stays this far below its best
    collapse_patience: int = 3  # for this many evaluations in a row
    collapse_window: int = 20  # or when a step's metric is out of bounds on average over so many steps
    save_every: int = 20  # steps between checkpoints that a killed run resumes from

    @property
    def episodes_per_step(self) -> int:
        return self.questions_per_step * self.num_generations

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        if self.episodes_per_step % self.micro_batch:
            raise ValueError(
                f"micro_batch={self.micro_batch} must divide questions_per_step x num_generations = "
                f"{self.questions_per_step} x {self.num_generations} = {self.episodes_per_step}"
            )

    def to_dict(self) -> dict:
        return asdict(self)


PROFILES = {"laptop": Config()}


def load_config(profile: str = "laptop", **overrides) -> Config:
    """A profile with some fields replaced.

    Raises:
        ValueError: unknown profile, unknown field, or a value of another type than the field's.
    """
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}; allowed: {', '.join(PROFILES)}")
    types = {one.name: one.type for one in fields(Config)}
    for name, value in overrides.items():
        if name not in types:
            raise ValueError(f"unknown configuration field {name!r}; allowed: {', '.join(types)}")
        if types[name] is float and type(value) is int:
            overrides[name] = float(value)
        elif type(value) is not types[name]:
            raise ValueError(f"{name}={value!r}: want {types[name].__name__}, got {type(value).__name__}")
    return replace(PROFILES[profile], **overrides)
