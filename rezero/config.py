"""One configuration object for a run, and `load_config`, which reads a profile from profiles/<name>.yaml.

`Config` stops at the door: `load_task`, `load_policy`, `warm_start` and `train` take it and hand on what is needed.
"""

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field

from rezero.files import parse_record
from rezero.names import AboveZero, Count, Finite, NotNegative, Number, Share

PROFILES = Path(__file__).with_name("profiles")
# Fields and notebook parameters of the first version -> what to write in `overrides` now
RENAMED: dict[str, str] = yaml.safe_load(Path(__file__).with_name("renamed.yaml").read_text("utf-8"))


@dataclass(frozen=True)
class WarmStart:
    """Supervised fine-tuning on scripted episodes, for a policy that does not know the protocol."""

    steps: Number = 0  # optimiser steps; 0: no warm start
    episodes: Count = 400  # scripted episodes on training questions
    batch: Count = 4  # episodes per step
    learning_rate: AboveZero = 1e-3
    retry: Share = 0.5  # share of the misses after which the script searches again
    quotes: bool = True  # whether the script's thoughts quote the passage that they judge
    found_weight: NotNegative = 1.0  # loss weight of the verdict token "found" (all other tokens: 1)
    missed_weight: NotNegative = 1.0  # loss weight of "not found"; above found_weight, an unsure policy searches again


@dataclass(frozen=True)
class Curriculum:
    """How training questions are drawn: by how often they are solved, or by whether their first search misses."""

    by: Literal["samples", "first_search"] = "samples"
    samples: Number = 2  # by "samples": episodes per question that measure it; 0: questions are drawn uniformly
    solved_weight: NotNegative = 0.1  # sampling weight of a question that every sample solved (one solved sometimes: 1)
    unsolved_weight: NotNegative = 1.0  # sampling weight of a question that no sample solved
    seed: int | None = None  # of these episodes; None: the run's. Runs with the same one share what was measured


@dataclass(frozen=True)
class Collapse:
    """When training stops because the policy is losing what it had learned; see `training.sentinel`."""

    drop: Finite = 0.1  # dev accuracy lies this far below its best
    patience: Count = 3  # for this many evaluations in a row
    window: Count = 20  # or a metric is out of bounds on average over this many steps
    limits: dict[str, float] = field(default_factory=dict)  # {metric: bound}, in place of those of sentinel.LIMITS


@dataclass(frozen=True)
class Config:
    """Everything a run depends on. Tokens are those of the policy's own tokenizer; paths count from the root."""

    profile: str = "laptop"
    seed: Number = 0  # one seed for sampling, the order of the data and torch
    # task
    corpus: str = "data/larkspur"  # folder with chunks.jsonl (or .csv) and questions.jsonl
    # the file's own, or by chunk, and refused if they leak; given: only warned about; by_row: as published, it leaks
    split: Literal["disjoint", "given", "by_row"] = "disjoint"
    engine: str = "bm25"  # a name in search.ENGINES, or "module:function"
    engine_options: dict = field(default_factory=dict)  # the engine's options, such as {"k1": 1.2}
    # episodes
    k: Count = 2  # passages per search
    prompt_style: str = "short"  # a key of protocol.PROMPTS
    max_turns: Count = 5  # assistant turns per episode
    turn_tokens: Count = 40  # sampled tokens per turn
    episode_tokens: Count = 800  # everything after the prompt, retrieved text included
    temperature: AboveZero = 1.0  # of training episodes; evaluation is greedy
    # policy
    policy: str = "data/policy"  # folder of the starting policy, or a model's name on the Hugging Face hub
    backend: Literal["transformers", "unsloth"] = "transformers"  # what loads and generates; unsloth needs a GPU
    lora_rank: Number = 0  # rank of the adapter, which is all that is trained; 0: every weight is trained
    lora_layers: Number = 0  # how many of the top layers carry the adapter; 0: all
    load_in_4bit: bool = False  # unsloth: keep the frozen weights in 4 bits
    max_context: Number = 0  # unsloth: tokens of prompt and episode that memory is reserved for
    # unsloth: vLLM in the same process generates; False: the model itself; "auto": vLLM where it is installed
    vllm: bool | Literal["auto"] = True
    gpu_share: Share = 0.5  # unsloth: share of the GPU's memory that vLLM takes
    warm_start: WarmStart = field(default_factory=WarmStart)
    # reward
    reward_set: str = "recovery"  # a name in rewards.REWARD_SETS
    reward_weights: dict[str, Finite] = field(default_factory=dict)  # {reward: weight}; replaces the set if not empty
    clip_shaping: bool = False  # if no episode of a group is correct, its other rewards are capped at 0
    # training
    steps: Count = 60  # optimiser steps
    questions_per_step: Count = 8  # groups per step
    num_generations: Annotated[int, Field(ge=2)] = 8  # episodes per group, which are compared
    micro_batch: Count = 16  # episodes per forward and backward pass
    forked: Share = 0.0  # share of the groups with a missed first search that begin there; see extras/fork.py
    grpo: dict = field(default_factory=dict)  # further fields of TRL's GRPOConfig, by TRL's names
    curriculum: Curriculum = field(default_factory=Curriculum)
    # evaluation and checkpoints
    eval_every: Count = 10  # steps between evaluations on dev; the policy of the best one is kept
    patience: Number = 0  # training stops after so many evaluations in a row without a new best, see sentinel; 0: never
    eval_questions: Number = 0  # dev questions per evaluation, drawn across kinds; 0: all
    test_questions: Number = 0  # test questions in the final evaluation, drawn across kinds; 0: all
    save_every: Count = 20  # steps between checkpoints, from which a killed run resumes
    collapse: Collapse = field(default_factory=Collapse)

    @property
    def episodes_per_step(self) -> int:
        return self.questions_per_step * self.num_generations

    def check(self, processes: int = 1) -> None:
        """Raise ValueError for fields that contradict each other, or so many processes: the libraries fail late."""
        unsloth, n = self.backend == "unsloth", self.questions_per_step
        has = f"lora_rank={self.lora_rank} and max_context={self.max_context}"
        warm = f"warm_start.steps={self.warm_start.steps} trains an adapter"
        each = f"micro_batch={self.micro_batch}" + f" x {processes} processes" * (processes > 1)
        whole = f"questions_per_step x num_generations = {n} x {self.num_generations} = {self.episodes_per_step}"
        groups = f"clip_shaping and forked need whole groups: questions_per_step={n} must be a multiple of {processes}"
        for wrong, said in (
            (unsloth and not (self.lora_rank and self.max_context), f"backend='unsloth' needs {has} above 0"),
            (self.load_in_4bit and not unsloth, f"load_in_4bit=True needs backend='unsloth'; it is {self.backend!r}"),
            (self.warm_start.steps and not self.lora_rank, f"{warm}: lora_rank=0 must be above 0"),
            (
                unsloth and processes > 1,
                f"backend='unsloth' trains in one process, here are {processes}: use backend='transformers'",
            ),
            (self.episodes_per_step % (self.micro_batch * processes), f"{each} must divide {whole}"),
            (n % processes and (self.clip_shaping or self.forked), groups),
        ):
            if wrong:
                raise ValueError(said)

    __post_init__ = check

    def to_dict(self) -> dict:
        return asdict(self)


MERGED = ("grpo", "warm_start", "curriculum", "collapse")  # an override of these changes single entries


def load_config(profile: str = "laptop", **overrides) -> Config:
    """A profile with some fields replaced; an override of None leaves the profile's value.

    Entries of the fields in `MERGED` are replaced one by one, other dicts as a whole. ValueError says what is allowed.
    """
    for name in overrides.keys() & RENAMED.keys():
        raise ValueError(f"{name} is now set by overrides {{{RENAMED[name]}}}")
    changes = {name: value for name, value in overrides.items() if value is not None}
    return parse_config(_merged(read_profile(profile), changes), f"profile {profile!r}")


def parse_config(values: dict, where: str) -> Config:
    """`values` as a `Config`; ValueError names `where`."""
    try:
        config = parse_record(values, Config)
    except (ValueError, TypeError) as error:  # json's TypeError names what is no plain value
        raise ValueError(f"{where}: {error}") from None
    for name, value in config.grpo.items():
        if isinstance(value, str) and re.fullmatch(r"[-+]?\d[\d.]*[eE][-+]?\d+", value):
            raise ValueError(f"{where}: grpo: {name} is the string {value!r}; in YAML write 1.0e-6, not 1e-6")
    return config


def read_profile(name: str) -> dict:
    """The fields that profiles/<name>.yaml sets, and those of its `base`, by default the laptop's."""
    known = sorted(path.stem for path in PROFILES.glob("*.yaml"))
    if name not in known:
        raise ValueError(f"unknown profile {name!r}; allowed: {', '.join(known)}")
    values = yaml.safe_load((PROFILES / f"{name}.yaml").read_text("utf-8")) | {"profile": name}
    base = values.pop("base", None if name == "laptop" else "laptop")
    return _merged(read_profile(base), values) if base else values


def _merged(values: dict, changes: dict) -> dict:
    for name, value in changes.items():
        groups = name in MERGED and isinstance(value, dict)
        values[name] = values.get(name, {}) | value if groups else value
    return values
