"""Seconds, tokens per second and memory of sampling and of learning, for every way that this machine offers.

    python tests/tools/bench_episodes.py [--profile laptop] [--policy FOLDER] [--episodes 64] [--rounds 5] [--greedy]
                                         [--threads 1] [--no-memory] [-o lora_rank=8]

All ways play the same questions with the same seeds, one after the other in each round, in one process; reported are
medians, and ratios of the same round with the least and the largest. With one thread on a CPU, seconds are processor
time, which other programs do not add to. Memory is by how much a process that runs one way once grows (on a GPU, what
torch allocates).

sampling
    plain         `Generation`, one row per episode
    shared        `Generation`: equal histories are one row. What a CPU uses
    slots         `SlotGeneration`: captured graphs. What a GPU uses
    generate      the model's own `generate`, which reads the episode anew every turn
    TRL           the turn loop of TRL's trainer with a search tool
    apart         as the fastest of the above, with an adapter that is not merged (where there is an adapter)
    EngineGeneration and others: what a profile with Unsloth brings, vLLM among them
learning: forward and backward passes over the episodes of a step that "shared" sampled
    TRL           its own micro-batches and its own loss
    ours          equal prefixes computed once, the vocabulary scored where tokens were sampled

A step is sampling and learning; that of stock TRL is "plain" and "TRL", all others learn by "ours".
"""

import argparse
import random
import resource
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from unittest import mock

import psutil
import torch
import yaml

from rezero.config import load_config
from rezero.extras.prefix_tree import lean_batches
from rezero.extras.slots import SlotGeneration
from rezero.extras.unsloth import ModelGeneration
from rezero.policy import sampling
from rezero.policy.load import load_policy, load_trainable
from rezero.policy.sampling import Generation, takes_masks
from rezero.protocol import build_prompt, format_hits, wrap_information
from rezero.rewards import reward_weights
from rezero.rollout import rollout
from rezero.task import load_task
from rezero.training.grpo import build_trainer, grpo_config

WAYS = ("plain", "shared", "slots", "generate", "apart", "EngineGeneration", "ModelGeneration", "TRL")
# TRL takes a search for a tool's call if the tokenizer says how calls are written and read.
CALLS = "{% for c in m.tool_calls or [] %}<search>{{ c.function.name }} {{ c.function.arguments }}</search>{% endfor %}"
TEMPLATE = f"""{{% for m in messages %}}{{% if m.role == 'tool' %}}<|im_end|>
<|im_start|>user
{{{{ m.content }}}}<|im_end|>
{{% elif m.role == 'assistant' %}}<|im_start|>assistant
{{{{ m.content }}}}{CALLS}{{% else %}}<|im_start|>{{{{ m.role }}}}
{{{{ m.content }}}}<|im_end|>
{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}<|im_start|>assistant
{{% endif %}}"""
CALL = {"type": "function", "function": {"name": "search", "arguments": {"query": "{content}"}}}
READ = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "reasoning_content": {"open": "<think>", "close_pattern": r"</think>\s*", "content": "text"},
        "tool_calls": {"open": "<search>", "close": "</search>", "repeats": True, "content": "text", "transform": CALL},
        "content": {"open": "<answer>", "close_pattern": r"</answer>\s*", "content": "text"},
    },
}


def trl_loop(policy, task, config, n: int, greedy: bool):
    """A function that plays `n` questions by the loop of TRL's own trainer, and returns the number of sampled tokens.

    It ends a turn only at single tokens; None if this tokenizer writes a closing tag with several.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    ends = [policy.encode(tag) for tag in ("</search>", "</answer>")]
    if any(len(ids) > 1 for ids in ends):
        return None
    policy = load_policy(config.policy)
    policy.tokenizer.chat_template, policy.tokenizer.response_template = TEMPLATE, READ
    policy.tokenizer.eos_token = "</search>"
    policy.model.generation_config.eos_token_id = [ids[0] for ids in ends] + [policy.end_of_turn]

    def search(query: str) -> str:
        """Search the corpus.

        Args:
            query: the words to look for

        Returns:
            The passages.
        """
        return wrap_information(format_hits(task.engine.search([query.strip()], config.k)[0]))

    sizes = dict(per_device_train_batch_size=n, num_generations=n, max_completion_length=config.episode_tokens)
    draws = dict(temperature=1.0, top_p=1.0, top_k=0, beta=0.0)
    kwargs = dict(max_new_tokens=config.turn_tokens) | (dict(do_sample=False) if greedy else {})
    arguments = GRPOConfig(
        **dict(output_dir=tempfile.mkdtemp(), max_steps=1, report_to="none", use_cpu=not torch.cuda.is_available()),
        **sizes | draws | dict(generation_kwargs=kwargs, max_tool_calling_iterations=config.max_turns - 1, bf16=False),
    )
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": "x"}]}] * n)
    reward = [lambda completions, **_: [0.0] * len(completions)]
    options = dict(processing_class=policy.tokenizer, args=arguments, tools=[search], train_dataset=rows)
    trainer = GRPOTrainer(model=policy.model, reward_funcs=reward, **options)
    trainer.model.eval()

    def play(questions) -> int:
        trainer._sync_tool_dicts = [{"search": search}] * len(questions)
        trainer._async_tool_dicts = [{}] * len(questions)
        made = trainer._generate([build_prompt(question.text, config.prompt_style) for question in questions])
        trainer._metrics["eval"].clear()
        return sum(map(sum, made[2]))

    return play


@contextmanager
def one_row_each():
    """Equal histories are not computed as one."""
    with mock.patch.object(sampling, "numbered", lambda things: (things, list(range(len(things))))):
        yield


def ways_to_sample(policy, task, config, n: int, greedy: bool) -> dict:
    """Name -> function that plays questions and returns the number of sampled tokens; it keeps the `episodes`."""
    how = replace(task.sampling, temperature=0.0 if greedy else config.temperature)

    def play(kind, questions, around=nullcontext, bare=False) -> int:
        # `rollout` merges an adapter unless a backend generates
        chosen = replace(policy, backend=kind) if bare else policy
        start = mock.patch.object(type(policy), "start", lambda self, *given: kind(self, *given))
        with around(), nullcontext() if bare else start:
            play.episodes = rollout(chosen, task.engine, questions, how, batch_size=n)
        return sum(sum(episode.env_mask) for episode in play.episodes)

    found = {"plain": partial(play, Generation, around=one_row_each), "shared": partial(play, Generation)}
    if takes_masks(policy.model):
        found["slots"] = partial(play, SlotGeneration)
    found["generate"] = partial(play, partial(ModelGeneration, weights="now"), bare=True)
    if hasattr(policy.model, "peft_config"):
        found["apart"] = partial(play, SlotGeneration if torch.cuda.is_available() else Generation, bare=True)
    if policy.backend:
        found = {policy.backend.func.__name__: partial(play, policy.backend, bare=True)}
    loop = None if policy.backend or hasattr(policy.model, "peft_config") else trl_loop(policy, task, config, n, greedy)
    return found | ({"TRL": loop} if loop else {}), play


def ways_to_learn(policy, task, config, questions) -> dict:
    """Name -> function that computes the gradient of the step that the trainer sampled last, and returns its tokens."""
    weights = reward_weights(config.reward_set, config.reward_weights)
    arguments = grpo_config(config, weights, Path(tempfile.mkdtemp()))
    one_each = questions[:: config.num_generations]
    trainer = build_trainer(policy, task, one_each, weights, arguments)
    batch = next(iter(trainer.get_train_dataloader()))

    def sample() -> None:
        trainer.model.train()
        trainer._step, trainer._buffered_inputs = 0, None
        super(type(trainer), trainer)._prepare_inputs(batch)
        learn.batches = trainer._buffered_inputs

    def learn(lean: bool) -> int:
        trainer.model.train()
        trainer.lean = lean
        trainer.model.zero_grad()
        batches = lean_batches(learn.batches, drop=True) if lean else learn.batches
        trainer.current_gradient_accumulation_steps = len(batches)
        for part in batches:
            trainer.compute_loss(trainer.model, part).backward()
        trainer._metrics["train"].clear()
        return sum(int(part["prompt_mask"].sum() + part["completion_mask"].sum()) for part in learn.batches)

    return {"TRL": partial(learn, False), "ours": partial(learn, True)}, sample


def prepare(args: argparse.Namespace) -> tuple[dict, dict, Callable, Callable]:
    """The ways to sample and to learn, what keeps the sampled `episodes`, and what samples episodes to learn from."""
    torch.set_num_threads(args.threads)
    given = {name: yaml.safe_load(value) for name, _, value in (one.partition("=") for one in args.o)}
    config = load_config(args.profile, policy=args.policy, **given)
    config = replace(config, questions_per_step=args.episodes // config.num_generations)
    task = load_task(config)
    policy = load_trainable(config) if config.lora_rank else load_policy(config.policy)
    asked = random.Random(0).sample(task.questions["train"], config.questions_per_step)
    questions = [question for question in asked for _ in range(config.num_generations)]
    sampled, play = ways_to_sample(policy, task, config, args.episodes, args.greedy)
    learned, sample = ways_to_learn(policy, task, config, questions)
    return {name: partial(way, questions) for name, way in sampled.items()}, learned, play, sample


def timed(way: Callable, threads: int) -> tuple[float, int]:
    """The seconds that a way took, and its tokens."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    clock = process_time if threads == 1 and not torch.cuda.is_available() else perf_counter
    wait()
    start = clock()
    tokens = way()
    wait()
    return clock() - start, tokens


def memory_of(args: argparse.Namespace, learns: bool, name: str) -> float:
    """By how many MB this process grows when one way runs once."""
    sampled, learned, _, sample = prepare(args)
    torch.manual_seed(0)
    if learns:
        sample()
    way = (learned if learns else sampled).get(name, int)  # 0: this machine or profile does not offer it
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = psutil.Process().memory_info().rss
    way()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 2**20


def report(title: str, runs: dict[str, list[tuple[float, int]]], base: str, memory: dict[str, float]) -> None:
    """Print one row per way, with ratios against the way `base`."""
    print(f"\n{title:18}{'seconds':>9}{'tokens/s':>10}{'against ' + base:>26}{'MB':>8}")
    for name, rounds in runs.items():
        seconds, speed = (median(values) for values in zip(*((s, tokens / s) for s, tokens in rounds), strict=True))
        against = [theirs[0] / ours[0] for theirs, ours in zip(runs[base], rounds, strict=True)]
        ratio = f"{median(against):.2f}x [{min(against):.2f}, {max(against):.2f}]"
        print(f"{name:18}{seconds:9.2f}{speed:10.0f}{ratio:>26}" + (f"{memory[name]:8.0f}" if name in memory else ""))


def measure(args: argparse.Namespace) -> tuple[dict, dict, dict[str, str]]:
    """The rounds of each way to sample and to learn, and how many episodes equal those of the first way to sample."""
    sampled, learned, play, sample = prepare(args)
    sampled = {name: way for name, way in sampled.items() if name not in args.skip}
    sampling, learning = {name: [] for name in sampled}, {name: [] for name in learned}
    kept: dict[str, list] = {name: [] for name in sampled}
    for number in range(args.rounds + 1):
        for name, way in sampled.items():
            torch.manual_seed(number)
            play.episodes = []
            sampling[name].append(timed(way, args.threads))
            kept[name] += [episode.completion_ids for episode in play.episodes]
        torch.manual_seed(number)
        sample()
        for name, way in learned.items():
            learning[name].append(timed(way, args.threads))
    first = next(iter(kept.values()))
    same = {name: sum(map(tuple.__eq__, first, episodes)) for name, episodes in kept.items() if episodes}
    sampling, learning = ({name: rounds[1:] for name, rounds in runs.items()} for runs in (sampling, learning))
    return sampling, learning, {name: f"{n} of {len(first)}" for name, n in same.items()}  # the first round warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--policy", help="in place of the profile's, for example a trained one")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--greedy", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--skip", nargs="*", default=[], help="ways to sample that are left out")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("-o", nargs="*", default=[], metavar="FIELD=VALUE", help="further fields of the profile")
    args = parser.parse_args()
    memory: dict[bool, dict] = {False: {}, True: {}}  # whether it is a way to learn -> way -> MB
    if not args.no_memory:  # first, because a process inherits the peak of the one that starts it
        for learns, name in [*((False, name) for name in WAYS if name not in args.skip), (True, "TRL"), (True, "ours")]:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                memory[learns][name] = pool.submit(memory_of, args, learns, name).result()
    sampling, learning, same = measure(args)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {args.threads} threads"
    how = "greedy" if args.greedy else "sampled"
    print(f"{args.profile}, {args.episodes} {how} episodes, {args.rounds} rounds, {device}")
    report("sampling", sampling, "TRL" if "TRL" in sampling else next(iter(sampling)), memory[False])
    print("episodes equal to those of the first row:", same)  # "slots" draws otherwise: only greedy ones are equal
    report("learning", learning, "TRL", memory[True])
    pairs = {"stock TRL": (next(iter(sampling)), "TRL")} | {name: (name, "ours") for name in sampling}
    steps = {
        step: [(a[0] + b[0], b[1]) for a, b in zip(sampling[one], learning[other], strict=True)]
        for step, (one, other) in pairs.items()
    }
    report("a step", steps, "stock TRL", {})


if __name__ == "__main__":
    main()
