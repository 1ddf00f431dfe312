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
from dataclasses import replace
from functools import partial
from time import perf_counter

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rezero.corpus import Chunk
from rezero.files import resolve
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
Example = tuple[list[int], list[float]]  # token ids, loss weight of each token


def make_episodes(worlds: int, k: int, retry: float, seed: int, sentences: bool = False) -> list[Episode]:
    """Scripted episodes in `worlds` worlds of train-partition names; all questions of each world once."""
    generator = load_generator()
    episodes = []
    for world in tqdm(range(worlds), desc="scripted episodes", mininterval=5):
        chunks, questions, _ = generator.build(seed=seed + 1 + world, partition="train")
        if sentences:
            chunks, questions = by_sentence(chunks, questions)
        episodes += play(searcher(retry), questions, build_engine("bm25", chunks), k=k, seed=seed + world)
    return episodes


def by_sentence(chunks: list[Chunk], questions: list[Question]) -> tuple[list[Chunk], list[Question]]:
    """The same world with every sentence as a passage of its own, and the questions that one passage answers.

    Looking up and copying is learned several times faster on short passages; it carries over to long ones.
    """
    sentences = {c.id: [replace(c, id=f"{c.id}.{i}", text=s) for i, s in enumerate(_sentences(c.text))] for c in chunks}
    single = []
    for question in questions:
        gold = [s.id for s in sentences[question.gold_chunk_ids[-1]] if question.answers[0] in s.text]
        if len(question.gold_chunk_ids) == 1 and len(gold) == 1:
            single.append(replace(question, gold_chunk_ids=tuple(gold), gold_texts=()))
    return [sentence for parts in sentences.values() for sentence in parts], single


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?]) ", text)


def load_generator(path: str = "data/larkspur/generate.py"):
    """The corpus generator as a module (it lives beside its data, not in the package)."""
    spec = importlib.util.spec_from_file_location("larkspur_generate", resolve(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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

    Assistant tokens weigh 1, the rest `context`; a thought that ends in a key of `decision` weighs its value.
    """
    ids = policy.prompt_ids(list(episode.prompt))
    weights = [context] * len(ids)
    for turn in episode.turns:
        thought, action = turn.text.split("</think>")
        factor = next((f for ending, f in decision.items() if turn.thought.endswith(ending)), 1.0)
        for text, weight in ((thought + "</think>", factor), (action, 1.0)):
            new = policy.encode(text)
            ids, weights = ids + new, weights + [weight] * len(new)
        if turn.action == "search":
            new = policy.information_ids(turn.information or "", ids)
            ids, weights = ids + new, weights + [context] * len(new)
    return [*ids, policy.end_of_turn], [*weights, 1.0]


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


def fit(policy: Policy, examples: list[Example], steps: int, tokens: int, lr: float, seed: int) -> None:
    """AdamW with one warm-up and a cosine decay; shows the loss."""
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.05)
    source = batches(examples, tokens, random.Random(seed))
    bar = tqdm(range(steps), desc="warm start", mininterval=10)
    running = 0.0
    for step in bar:
        loss = loss_of(policy.model.train(), next(source), policy.tokenizer.pad_token_id)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        running = loss.item() if step == 0 else 0.95 * running + 0.05 * loss.item()
        bar.set_postfix(loss=f"{running:.3f}", refresh=False)
    policy.model.eval()


def new_policy(tokenizer: PreTrainedTokenizerFast, width: int, layers: int) -> Policy:
    """A randomly initialised Llama with head size 32."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 8 // 3 // 16 * 16,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Policy(LlamaForCausalLM(config), tokenizer)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = partial(parser.add_argument, type=int)
    add("--worlds", default=24, help="worlds to play scripted episodes in")
    add("--k", default=2, help="passages a search")
    add("--steps", default=1200)
    add("--tokens", default=12_000, help="tokens a step")
    add("--width", default=160)
    add("--layers", default=4)
    add("--vocab", default=2048)
    add("--seed", default=0)
    add("--lr", default=2e-3, type=float)
    add("--retry-rate", default=0.12, type=float, help="how often the finished policy searches again after a miss")
    add("--out", default="data/policy", type=str)
    args = parser.parse_args(argv)
    started = perf_counter()
    torch.manual_seed(args.seed)
    mixed = 0.6  # share of retries among the scripted decisions, so that retrying well is learned
    episodes = make_episodes(args.worlds, args.k, mixed, args.seed)
    tokenizer = train_tokenizer(episodes[::20], args.vocab)
    policy = new_policy(tokenizer, args.width, args.layers)
    decision = {RETRY: args.retry_rate / mixed, GIVE_UP: (1 - args.retry_rate) / (1 - mixed)}
    examples = [encode_episode(policy, episode, decision, context=0.1) for episode in tqdm(episodes, desc="encode")]
    mean = sum(len(ids) for ids, _ in examples) / len(examples)
    size = sum(p.numel() for p in policy.model.parameters())
    print(f"{len(examples)} episodes of {mean:.0f} tokens on average; {size / 1e6:.2f} M parameters")
    fit(policy, examples, args.steps, args.tokens, args.lr, args.seed)
    save_policy(policy, args.out)
    print(f"{resolve(args.out)}: {perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
