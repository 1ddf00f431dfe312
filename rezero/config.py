"""One configuration object, and the named profiles as literals."""

from dataclasses import asdict, dataclass, field, fields, replace

CHOICES = {  # what would be refused only later, or not at all
    "split": ("disjoint", "by_row"),
    "scale_rewards": ("group", "batch", "none"),
    "aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "backend": ("transformers", "unsloth"),
    "curriculum": ("samples", "first_search"),
    "optim": ("adamw_torch", "adamw_8bit", "paged_adamw_8bit"),
}


@dataclass(frozen=True)
class Config:
    """Everything a run depends on. Tokens count what the policy's own tokenizer makes; paths count from the root."""

    profile: str = "laptop"
    seed: int = 0  # one seed for sampling, data order and torch

    # task
    corpus: str = "data/larkspur"  # folder with chunks.jsonl (or .csv, .json) and questions.jsonl
    split: str = "disjoint"  # the file's own, or by chunk where it has none; by_row: as published, which leaks
    engine: str = "bm25"  # a name in search.ENGINES
    engine_options: dict = field(default_factory=dict)  # its options, as {"k1": 1.2}
    k: int = 2  # passages a search brings
    policy: str = "data/policy"  # folder of the starting policy, or a model's name on the Hugging Face hub
    prompt_style: str = "short"  # a key of protocol.PROMPTS
    max_turns: int = 5  # assistant turns an episode
    turn_tokens: int = 40  # sampled tokens a turn
    episode_tokens: int = 800  # everything after the prompt, retrieved text included

    # model: what only a real language model needs
    backend: str = "transformers"  # what loads and generates: transformers, or unsloth with vLLM (needs a GPU)
    lora_rank: int = 0  # rank of the adapter, which is all that is trained; 0: every weight is
    lora_layers: int = 0  # only the top so many layers carry the adapter; 0: all
    load_in_4bit: bool = False  # unsloth: the frozen weights in 4 bits
    max_context: int = 0  # unsloth: tokens of prompt and episode that memory is set aside for
    vllm: bool = True  # unsloth: vLLM in the same process generates; False: the model itself, where vLLM does not run
    gpu_share: float = 0.5  # unsloth: share of the GPU's memory that vLLM takes

    # warm start: supervised fine-tuning on scripted episodes, for a policy that does not know the protocol
    warm_start_steps: int = 0  # optimiser steps; 0: none
    warm_start_episodes: int = 400  # scripted episodes on training questions
    warm_start_batch: int = 4  # episodes a step
    warm_start_lr: float = 1e-3
    warm_start_retry: float = 0.5  # share of the misses after which the script searches again
    warm_start_quotes: bool = True  # whether the script's thoughts quote what they judge
    found_weight: float = 1.0  # weight in the loss of the word that says found; words that judge nothing weigh 1
    missed_weight: float = 1.0  # and of the one that says not found: above the other, more searches in doubt

    # reward
    reward_set: str = "recovery"  # a name in rewards.REWARD_SETS
    reward_weights: dict = field(default_factory=dict)  # {reward: weight}; takes the place of the set when not empty
    clip_shaping: bool = False  # a group without a right episode earns nothing from the other rewards

    # GRPO, passed to TRL's GRPOConfig explicitly
    steps: int = 60  # optimiser steps
    questions_per_step: int = 8  # groups a step
    num_generations: int = 8  # episodes a group
    micro_batch: int = 16  # episodes a forward and backward pass
    learning_rate: float = 2e-4
    lr_scheduler: str = "linear"
    warmup_steps: int = 2
    optim: str = "adamw_torch"
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.99
    max_grad_norm: float = 0.5
    temperature: float = 1.0
    loss_type: str = "dapo"  # normalised by the sampled tokens of the whole step
    scale_rewards: str = "group"  # group, batch or none
    aggregation: str = "sum_then_normalize"  # or normalize_then_sum: every reward first
    leave_one_out: bool = False  # the baseline of an episode is the mean of the others of its group (RLOO)
    beta: float = 0.0  # weight of the KL term to the starting policy; under Unsloth to the one before any warm start
    epsilon: float = 0.2  # clipping of the probability ratio

    # sampling of questions
    curriculum: str = "samples"  # what difficulty is: what samples show, or whether the question's own words find it
    difficulty_samples: int = 2  # curriculum "samples": episodes a question that measure it; 0: sample uniformly
    solved_weight: float = 0.1  # sampling weight of a question that every sample solved (a mixed one weighs 1)
    unsolved_weight: float = 1.0  # sampling weight of a question that no sample solved

    # evaluation and checkpoints
    eval_every: int = 10  # steps between evaluations on dev; the best one's policy is kept
    eval_questions: int = 0  # dev questions an evaluation; 0: all
    collapse_drop: float = 0.1  # training stops when dev accuracy stays this far below its best
    collapse_patience: int = 3  # for this many evaluations in a row
    collapse_window: int = 20  # or when a step's metric is out of bounds on average over so many steps
    collapse_limits: dict = field(default_factory=dict)  # {metric: bound}, others than those of sentinel.LIMITS
    save_every: int = 20  # steps between checkpoints that a killed run resumes from

    @property
    def episodes_per_step(self) -> int:
        return self.questions_per_step * self.num_generations

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        if self.backend == "unsloth" and not (self.lora_rank and self.max_context):
            raise ValueError(
                f"backend='unsloth' wants lora_rank={self.lora_rank} and max_context={self.max_context} > 0"
            )
        if self.load_in_4bit and self.backend != "unsloth":
            raise ValueError(f"load_in_4bit=True goes with backend='unsloth' only, not with {self.backend!r}")
        if self.warm_start_steps and not self.lora_rank:
            raise ValueError(f"warm_start_steps={self.warm_start_steps} trains an adapter: lora_rank=0 must be above 0")
        if self.episodes_per_step % self.micro_batch:
            raise ValueError(
                f"micro_batch={self.micro_batch} must divide questions_per_step x num_generations = "
                f"{self.questions_per_step} x {self.num_generations} = {self.episodes_per_step}"
            )

    def to_dict(self) -> dict:
        return asdict(self)


LAPTOP = Config()

SMOLLM = replace(
    LAPTOP,
    profile="smollm",
    policy="HuggingFaceTB/SmolLM2-135M-Instruct",
    turn_tokens=80,
    episode_tokens=1000,
    max_turns=4,
    lora_rank=32,
    lora_layers=15,  # of 30: half as fast again as all
    warm_start_steps=180,
    warm_start_episodes=720,  # every one is read once: read three times, 400 were learned by heart
    warm_start_lr=8e-4,
    warm_start_retry=0.75,
    found_weight=10.0,  # one word in sixty, and of those that can be learned the hardest
    missed_weight=10.0,  # at 30, ten more steps made it doubt almost every first search
    steps=40,
    questions_per_step=4,
    num_generations=4,
    micro_batch=2,  # at 4 the process grew to 12 GB
    learning_rate=1e-4,  # at twice this and temperature 1 it forgot to read
    warmup_steps=2,
    max_grad_norm=1.0,
    temperature=0.8,
    curriculum="first_search",  # an episode takes seconds
    solved_weight=0.3,  # so that the first search misses for two questions of three
    eval_every=10,
    eval_questions=40,
)

# From here on no GRPO step has run; the README says what has.
SINGLE_GPU = replace(
    LAPTOP,
    profile="single_gpu",
    policy="unsloth/Llama-3.2-3B-Instruct",
    prompt_style="full",
    k=5,
    max_turns=20,
    turn_tokens=512,
    episode_tokens=8192,
    backend="unsloth",
    lora_rank=64,
    load_in_4bit=True,
    max_context=32768,
    optim="paged_adamw_8bit",
    steps=1000,
    questions_per_step=4,
    micro_batch=4,
    learning_rate=5e-6,
    lr_scheduler="cosine",
    warmup_steps=100,
    weight_decay=0.1,
    max_grad_norm=0.1,
    eval_every=50,
    save_every=50,
)

COLAB_T4 = replace(
    SINGLE_GPU,
    profile="colab_t4",
    policy="unsloth/Llama-3.2-1B-Instruct",
    k=3,
    max_turns=6,
    turn_tokens=256,
    episode_tokens=4096,
    lora_rank=32,
    max_context=8192,
    steps=100,
    questions_per_step=2,
    micro_batch=2,
    warmup_steps=10,
    learning_rate=2e-5,
    difficulty_samples=0,
    eval_questions=32,
    eval_every=25,
)

# The published runs (arXiv 2504.11001; github.com/menloresearch/ReZero, its last version and its history). Their data
# does not ship: `corpus` names a folder with its chunks.csv and questions.jsonl. The README tells field by field what
# they did and what is set here; `split="disjoint"` corrects their leaking split.
EXP_02 = replace(
    SINGLE_GPU,
    profile="exp_02",
    split="by_row",
    engine="legacy",
    turn_tokens=2048,
    gpu_share=0.6,
    reward_set="original",
    questions_per_step=1,
    num_generations=6,
    micro_batch=6,
    temperature=0.9,
    beta=0.04,
    difficulty_samples=0,
    eval_questions=32,
    collapse_drop=1.0,  # more than an accuracy can fall: never stops
    collapse_window=2000,  # more than there are steps: never stops
)
EXP_01 = replace(EXP_02, profile="exp_01", max_turns=10, reward_set="retry_always")
EXP_03 = replace(EXP_02, profile="exp_03", reward_set="no_retry")

PROFILES = {one.profile: one for one in (LAPTOP, SMOLLM, COLAB_T4, SINGLE_GPU, EXP_01, EXP_02, EXP_03)}


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
