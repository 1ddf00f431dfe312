"""Seconds, tokens per second and memory of sampling and of learning, for every way that this machine offers.

    python tests/tools/bench_episodes.py [--profile laptop] [--policy FOLDER] [--episodes 64] [--rounds 5] [--greedy]
                                         [--threads 1] [--no-memory] [-o lora_rank=8]

All ways play the same questions with the same seeds, one after the other in each round, in one process; reported are
medians, and ratios of the same round with the least and the largest. Memory is the growth of a process that runs
one way once (on a GPU, of what torch has allocated).

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

A step is sampling and learning; that of stock TRL is "plain" and "TRL".
"""

import argparse
import random
import resource
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter
from unittest import mock

import psutil
import torch
import yaml

from rezero.config import load_config
from rezero.extras.slots import SlotGeneration
from rezero.extras.unsloth import ModelGeneration
from rezero.policy import sampling
from rezero.policy.load import load_policy, load_trainable
from rezero.policy.sampling import Generation, takes_masks
from rezero.protocol import build_prompt, format_hits, wrap_information
from rezero.rewards import reward_weights
from rezero.rollout import rollout
from rezero.task import load_task
from rezero.training.grpo import build_trainer, grpo_config, lean_batches

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


def prepare(args: argparse.Namespace):
    """The ways to sample, the ways to learn, and functions that set a round's seed and sample what is learned from."""
    torch.set_num_threads(args.threads)
    changes = {"policy": args.policy} | {
        key: yaml.safe_load(value) for key, _, value in (o.partition("=") for o in args.o)
    }
    config = load_config(
        args.profile, **changes, questions_per_step=args.episodes // load_config(args.profile).num_generations
    )
    task = load_task(config)
    policy = load_trainable(config) if config.lora_rank else load_policy(config.policy)
    asked = random.Random(0).sample(task.questions["train"], config.questions_per_step)
    questions = [question for question in asked for _ in range(config.num_generations)]
    sampled, play = ways_to_sample(policy, task, config, args.episodes, args.greedy)
    learned, sample = ways_to_learn(policy, task, config, questions)
    return {name: partial(way, questions) for name, way in sampled.items()}, learned, play, sample


def timed(way) -> tuple[float, int]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = perf_counter()
    tokens = way()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter() - start, tokens


def memory_of(args: argparse.Namespace, learns: bool, name: str) -> float:
    """By how many MB this process grows when one way runs once."""
    sampled, learned, _, sample = prepare(args)
    torch.manual_seed(0)
    if learns:
        sample()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        (learned if learns else sampled)[name]()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = psutil.Process().memory_info().rss
    (learned if learns else sampled)[name]()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 2**20


def report(title: str, rows: dict[str, list[tuple[float, int]]], base: str, memory: dict[str, float]) -> None:
    print(f"\n{title:18}{'seconds':>9}{'tokens/s':>10}{'against ' + base:>26}{'MB':>8}")
    for name, runs in rows.items():
        seconds, speeds = median(run[0] for run in runs), median(run[1] / run[0] for run in runs)
        against = [theirs[0] / ours[0] for theirs, ours in zip(rows[base], runs, strict=True)]
        ratio = f"{median(against):.2f}x [{min(against):.2f}, {max(against):.2f}]"
        print(f"{name:18}{seconds:9.2f}{speeds:10.0f}{ratio:>26}{memory.get(name, float('nan')):8.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--policy", help="in place of the profile's, for example a trained one")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--greedy", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--skip", nargs="*", default=[], help="ways that are left out, such as sampling:generate")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("-o", nargs="*", default=[], metavar="FIELD=VALUE", help="further fields of the profile")
    args = parser.parse_args()
    sampled, learned, play, sample = prepare(args)
    kept = {"sampling": sampled, "learning": learned}
    kept = {kind: {n: w for n, w in ways.items() if f"{kind}:{n}" not in args.skip} for kind, ways in kept.items()}
    runs = {kind: {name: [] for name in ways} for kind, ways in kept.items()}
    same = {name: 0 for name in kept["sampling"]}
    for number in range(args.rounds + 1):
        first = None
        for name, way in kept["sampling"].items():
            torch.manual_seed(number)
            play.episodes = []
            run = timed(way)
            episodes = [episode.completion_ids for episode in play.episodes]
            first = first or episodes
            same[name] += sum(one == other for one, other in zip(first, episodes, strict=False)) * (number > 0)
            runs["sampling"][name].append(run)
        torch.manual_seed(number)
        sample()
        for name, way in kept["learning"].items():
            runs["learning"][name].append(timed(way))
    runs = {kind: {name: rows[1:] for name, rows in of.items()} for kind, of in runs.items()}  # the first warms up
    memory = {kind: {} for kind in runs}
    for kind, name in [(kind, name) for kind, of in kept.items() for name in of] if not args.no_memory else []:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # a process of its own, for its own memory
            memory[kind][name] = pool.submit(memory_of, args, kind == "learning", name).result()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {args.threads} threads"
    how = "greedy" if args.greedy else "sampled"
    print(f"{args.profile}, {args.episodes} {how} episodes, {args.rounds} rounds, {device}")
    report(
        "sampling", runs["sampling"], "TRL" if "TRL" in sampled else next(iter(kept["sampling"])), memory["sampling"]
    )
    print(
        "episodes equal to the first row's:",
        {name: f"{n} of {args.episodes * args.rounds}" for name, n in same.items()},
    )
    report("learning", runs["learning"], "TRL", memory["learning"])
    both = zip(runs["sampling"].items(), [runs["learning"]["TRL"]] + [runs["learning"]["ours"]] * 9, strict=False)
    steps = {name: [(a[0] + b[0], b[1]) for a, b in zip(rows, rest, strict=True)] for (name, rows), rest in both}
    report(
        "a step",
        {("stock TRL" if i == 0 else name): rows for i, (name, rows) in enumerate(steps.items())},
        "stock TRL",
        {},
    )


if __name__ == "__main__":
    main()
