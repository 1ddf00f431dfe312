"""Train the laptop's starting policy: a small Llama that knows the protocol, reads, and mostly gives up after a miss.

    python -m rezero.warmstart          (`make policy`)

It learns from scripted episodes in worlds made by the generator of `data/larkspur` with other seeds and with names
that the shipped corpus never uses, so that what it must later read and copy are names it has not seen. Episodes that
retry are as frequent as episodes that give up, so that both skills are learned; the *decision* between them is
weighted back to `retry_rate`, which leaves a policy that can retry well but seldom does.
"""

import argparse
import importlib.util
import random
import re
from functools import partial
from time import perf_counter

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from rezero.corpus import Chunk
from rezero.files import resolve
from rezero.induction import new_model
from rezero.policy import Policy, save_policy
from rezero.protocol import Episode
from rezero.questions import Question
from rezero.scripted import GIVE_UP, RETRY, play, searcher
from rezero.search import build_engine

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
TAGS = [f"<{slash}{name}>" for name in ("think", "search", "answer", "information") for slash in ("", "/")]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHOWN_RETRIES = 0.75  # share of retries among the scripted decisions after a miss

World = tuple[list[Chunk], list[Question]]
Example = tuple[list[int], list[float]]  # token ids, loss weight of each token


def make_worlds(n: int, seed: int) -> list[World]:
    """Chunks and questions of `n` worlds with train-partition names."""
    generator = load_generator()
    return [generator.build(seed=seed + 1 + i, partition="train")[:2] for i in range(n)]


def load_generator(path: str = "data/larkspur/generate.py"):
    """The corpus generator as a module (it lives beside its data, not in the package)."""
    spec = importlib.util.spec_from_file_location("larkspur_generate", resolve(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_episodes(worlds: list[World], k: int, seed: int) -> list[Episode]:
    """Scripted episodes on all questions of all worlds, against the real engine."""
    episodes = []
    for i, (chunks, questions) in enumerate(tqdm(worlds, desc="scripted episodes", mininterval=5)):
        episodes += play(searcher(SHOWN_RETRIES), questions, build_engine("bm25", chunks), k=k, seed=seed + i)
    return episodes


def train_tokenizer(episodes: list[Episode], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with ChatML; the protocol's tags are single, non-special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (message["content"] for episode in episodes for message in episode.to_messages())
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )


def encode_episode(policy: Policy, episode: Episode, decision: dict[str, float], context: float) -> Example:
    """Ids and loss weights of a scripted episode, in the very layout a rollout produces.

    Tokens that the policy writes weigh 1, those that it reads `context`. A thought that ends in a key of `decision`
    weighs its value: that is where retrying or giving up is decided.
    """
    ids = policy.prompt_ids(list(episode.prompt))
    weights = [context] * len(ids)
    for turn in episode.turns:
        thought, action = turn.text.split("</think>")
        factor = next((f for ending, f in decision.items() if turn.thought.endswith(ending)), 1.0)
        parts = [(policy.encode(thought + "</think>"), factor), (policy.encode(action), 1.0)]
        if turn.action == "search":
            parts.append((policy.information_ids(turn.information or "", parts[1][0]), context))
        for new, weight in parts:
            ids, weights = ids + new, weights + [weight] * len(new)
    return [*ids, policy.end_of_turn], [*weights, 1.0]


def make_drills(policy: Policy, world: World, n: int, context: float, rng: random.Random) -> list[Example]:
    """Dense practice in looking up: four sentences, then their questions with the answers, in random order."""
    chunks, questions = world
    texts = {chunk.id: chunk for chunk in chunks}
    pairs = []
    for question in questions:
        chunk = texts[question.gold_chunk_ids[-1]]
        sentences = [s for s in re.split(r"(?<=[.!?]) ", chunk.text) if question.answers[0] in s]
        if len(question.gold_chunk_ids) == 1:
            pairs.append((question, f"{chunk.title} | {sentences[0]}"))
    return [_drill(policy, rng.sample(pairs, 4), context, rng) for _ in range(n)]


def _drill(policy: Policy, pairs: list[tuple[Question, str]], context: float, rng: random.Random) -> Example:
    ids = policy.encode("\n".join(f"[{i}] {passage}" for i, (_, passage) in enumerate(pairs, 1)))
    weights = [context] * len(ids)
    for question, _ in rng.sample(pairs, len(pairs)):
        asked = policy.encode(f"\n{question.text}")
        answer = policy.encode(f"<answer> {question.answers[0]} </answer>")
        ids, weights = ids + asked + answer, weights + [context] * len(asked) + [1.0] * len(answer)
    return ids, weights


def batches(examples: list[Example], tokens: int, rng: random.Random):
    """Endless batches of about `tokens` tokens of examples of similar length (little padding), in random order."""
    while True:
        pool = rng.sample(examples, min(len(examples), 2048))
        pool.sort(key=lambda example: len(example[0]))
        groups: list[list[Example]] = [[]]
        for example in pool:
            if (len(groups[-1]) + 1) * len(example[0]) > tokens:
                groups.append([])
            groups[-1].append(example)
        rng.shuffle(groups)
        yield from groups


def loss_of(model: LlamaForCausalLM, batch: list[Example], pad: int) -> torch.Tensor:
    """Weighted next-token cross-entropy, scalar."""
    width = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in batch])
    weights = torch.tensor([w + [0.0] * (width - len(w)) for _, w in batch])[:, 1:]
    logits = model(input_ids=ids, attention_mask=(ids != pad).long()).logits[:, :-1]
    losses = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view_as(weights)
    return (losses * weights).sum() / weights.sum()


def fit(policy: Policy, stages: list[tuple[list[Example], int]], tokens: int, lr: float, seed: int) -> None:
    """AdamW over all stages (examples, steps) with one warm-up and a cosine decay; shows the loss."""
    steps = sum(n for _, n in stages)
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.05)
    bar = tqdm(total=steps, desc="warm start", mininterval=10)
    running = None
    policy.model.train()
    for examples, n in stages:
        source = batches(examples, tokens, random.Random(seed))
        for _ in range(n):
            loss = loss_of(policy.model, next(source), policy.tokenizer.pad_token_id)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            running = loss.item() if running is None else 0.95 * running + 0.05 * loss.item()
            bar.set_postfix(loss=f"{running:.3f}", refresh=False)
            bar.update()
    policy.model.eval()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = partial(parser.add_argument, type=int)
    add("--cycles", default=4, help="cycles of the learning rate, each in worlds of its own")
    add("--worlds", default=12, help="worlds a cycle")
    add("--k", default=2, help="passages a search")
    add("--drill-steps", default=300, help="steps on drills, before the first cycle's episodes")
    add("--steps", default=800, help="steps a cycle on episodes")
    add("--tokens", default=6000, help="tokens a step")
    add("--width", default=160)
    add("--layers", default=4)
    add("--vocab", default=2048)
    add("--seed", default=0)
    add("--retry-rate", default=0.3, type=float, help="how often the finished policy should retry after a miss")
    add("--out", default="data/policy", type=str)
    args = parser.parse_args(argv)
    started, policy = perf_counter(), None
    torch.manual_seed(args.seed)
    for cycle in range(args.cycles):
        policy = run_cycle(policy, cycle, args)
        save_policy(policy, args.out)
    print(f"{resolve(args.out)}: {perf_counter() - started:.0f} s")


def run_cycle(policy: Policy | None, cycle: int, args: argparse.Namespace) -> Policy:
    """One cycle of the learning rate; the first one makes the policy and begins with drills."""
    first = policy is None
    worlds = make_worlds(args.worlds, args.seed + cycle * args.worlds)
    episodes = make_episodes(worlds, args.k, args.seed + cycle)
    if first:
        tokenizer = train_tokenizer(episodes[::10], args.vocab)
        policy = Policy(new_model(tokenizer, args.width, args.layers), tokenizer)
        print(f"{sum(p.numel() for p in policy.model.parameters()) / 1e6:.2f} M parameters")
    context = 0.1 if first else 0.02  # at first, what is read teaches the language, too
    decision = {RETRY: args.retry_rate / SHOWN_RETRIES, GIVE_UP: (1 - args.retry_rate) / (1 - SHOWN_RETRIES)}
    stages = [([encode_episode(policy, episode, decision, context) for episode in episodes], args.steps)]
    if first:
        rng = random.Random(args.seed)
        drills = [drill for world in worlds for drill in make_drills(policy, world, 1000, context, rng)]
        stages.insert(0, (drills, args.drill_steps))
    fit(policy, stages, args.tokens, 2e-3 if first else 1.5e-3, args.seed + cycle)
    return policy


if __name__ == "__main__":
    main()
