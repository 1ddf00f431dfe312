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
CONTEXT = 0.1  # loss weight of tokens that the policy reads; those it writes weigh 1
SHOWN_RETRIES = 0.6  # share of retries among the scripted decisions after a miss

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


def encode_episode(policy: Policy, episode: Episode, decision: dict[str, float]) -> Example:
    """Ids and loss weights of a scripted episode, in the very layout a rollout produces.

    A thought that ends in a key of `decision` weighs its value: that is where retrying or giving up is decided.
    """
    ids = policy.prompt_ids(list(episode.prompt))
    weights = [CONTEXT] * len(ids)
    for turn in episode.turns:
        thought, action = turn.text.split("</think>")
        factor = next((f for ending, f in decision.items() if turn.thought.endswith(ending)), 1.0)
        parts = [(policy.encode(thought + "</think>"), factor), (policy.encode(action), 1.0)]
        if turn.action == "search":
            parts.append((policy.information_ids(turn.information or "", parts[1][0]), CONTEXT))
        for new, weight in parts:
            ids, weights = ids + new, weights + [weight] * len(new)
    return [*ids, policy.end_of_turn], [*weights, 1.0]


def make_drills(policy: Policy, world: World, n: int, rng: random.Random) -> tuple[list[Example], list[Example]]:
    """Dense practice in looking up: passages, then questions with their answers in random order.

    Returns `n` drills on four single sentences and `n` on two whole passages.
    """
    chunks, questions = world
    asked: dict[str, list[Question]] = {chunk.id: [] for chunk in chunks}
    for question in questions:
        if len(question.gold_chunk_ids) == 1:
            asked[question.gold_chunk_ids[0]].append(question)
    whole = [(f"{chunk.title} | {chunk.text}", asked[chunk.id]) for chunk in chunks if asked[chunk.id]]
    short = [
        (f"{chunk.title} | {sentence}", [question])
        for chunk in chunks
        for question in asked[chunk.id]
        for sentence in re.split(r"(?<=[.!?]) ", chunk.text)
        if question.answers[0] in sentence
    ]
    return tuple(
        [_drill(policy, rng.sample(pairs, size), rng) for _ in range(n)] for pairs, size in ((short, 4), (whole, 2))
    )


def _drill(policy: Policy, pairs: list[tuple[str, list[Question]]], rng: random.Random) -> Example:
    ids = policy.encode("\n".join(f"[{i}] {passage}" for i, (passage, _) in enumerate(pairs, 1)))
    weights = [CONTEXT] * len(ids)
    questions = [question for _, questions in pairs for question in questions]
    for question in rng.sample(questions, len(questions)):
        asked = policy.encode(f"\n{question.text}")
        answer = policy.encode(f"<answer> {question.answers[0]} </answer>")
        ids, weights = ids + asked + answer, weights + [CONTEXT] * len(asked) + [1.0] * len(answer)
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
    add("--worlds", default=12, help="worlds to learn in, in each of the two cycles")
    add("--k", default=2, help="passages a search")
    add("--drill-steps", default=300, help="first cycle: steps on single sentences")
    add("--episode-steps", default=700, help="first cycle: steps on episodes")
    add("--reading-steps", default=750, help="second cycle: steps on episodes and whole passages")
    add("--tokens", default=6000, help="tokens a step")
    add("--width", default=160)
    add("--layers", default=4)
    add("--vocab", default=2048)
    add("--seed", default=0)
    add("--retry-rate", default=0.2, type=float, help="how often the finished policy should retry after a miss")
    add("--out", default="data/policy", type=str)
    args = parser.parse_args(argv)
    started = perf_counter()
    torch.manual_seed(args.seed)
    worlds = make_worlds(2 * args.worlds, args.seed)
    episodes = make_episodes(worlds, args.k, args.seed)
    tokenizer = train_tokenizer(episodes[::20], args.vocab)
    policy = Policy(new_model(tokenizer, args.width, args.layers), tokenizer)
    decision = {RETRY: args.retry_rate / SHOWN_RETRIES, GIVE_UP: (1 - args.retry_rate) / (1 - SHOWN_RETRIES)}
    examples = [encode_episode(policy, episode, decision) for episode in tqdm(episodes, desc="encode", mininterval=5)]
    rng = random.Random(args.seed)
    drills = [make_drills(policy, world, 1000, rng) for world in tqdm(worlds, desc="drills", mininterval=5)]
    short, whole = ([drill for pair in drills for drill in pair[part]] for part in (0, 1))
    half = len(examples) // 2
    size = sum(p.numel() for p in policy.model.parameters())
    print(f"{len(examples)} episodes, {len(short) + len(whole)} drills; {size / 1e6:.2f} M parameters", flush=True)
    fit(policy, [(short, args.drill_steps), (examples[:half], args.episode_steps)], args.tokens, 2e-3, args.seed)
    fit(policy, [(examples[half:] + whole, args.reading_steps)], args.tokens, 1.5e-3, args.seed)
    save_policy(policy, args.out)
    print(f"{resolve(args.out)}: {perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
