"""`python -m rezero data noise`: spoilt versions of passages, as rows for the engine "noisy", labelled by kind.

The original's corpus had such rows by accident: paraphrases, among which the model had refused or stopped too early.
"""

import random
import re
from collections import Counter

from rezero.corpus import Chunk, find_chunks, load_chunks
from rezero.data.generate import PROMPTS, REFUSAL, ask_model
from rezero.files import shown, write_jsonl
from rezero.text import normalized

SHORT = 0.5  # a model's text counts as truncated below this share of the passage's length
WORDS = rf"\b(?:{'|'.join(PROMPTS['other words'])})\b"


def make_noise(corpus: str, model: str = "", keep=("paraphrase",), share: float = 1.0, seed: int = 0) -> None:
    """Write noise.jsonl beside the chunks, with rows of the kinds `keep` for a `share` of the passages.

    By rules each passage gets a row of each kind that `BY_RULES` has. A model is asked for a paraphrase, and what it
    says is labelled by `kind_of`.
    """
    if not 0 < share <= 1:
        raise ValueError(f"--share {share}; want above 0, and 1 at most")
    chunks, rng = load_chunks(corpus), random.Random(seed)
    chunks = sorted(rng.sample(chunks, max(1, round(share * len(chunks)))), key=lambda chunk: chunk.id)
    if model:
        ask = ask_model(model, 64 + max(len(chunk.text) for chunk in chunks) // 2)
        replies = ask([PROMPTS["paraphrase"].format(text=chunk.text) for chunk in chunks])
        made = [(chunk, kind_of(reply, chunk), reply.strip()) for chunk, reply in zip(chunks, replies, strict=True)]
    else:
        made = [(chunk, kind, BY_RULES[kind](chunk, rng)) for chunk in chunks for kind in BY_RULES]
    rows = [
        {"id": f"{chunk.id}-{kind}", "chunk_id": chunk.id, "kind": kind, "title": chunk.title, "text": text}
        for chunk, kind, text in made
        if text and text != chunk.text
    ]
    counts, rows = Counter(row["kind"] for row in rows), [row for row in rows if row["kind"] in keep]
    if not rows:
        raise ValueError(f"{corpus}: no row of the kinds {', '.join(keep)}; found were {dict(counts)}")
    path = write_jsonl(find_chunks(corpus).parent / "noise.jsonl", rows)
    named = ", ".join(f"{n} {kind}{'' if kind in keep else ' (left out)'}" for kind, n in counts.items())
    print(f"{shown(path)}: {len(rows)} rows; {named}")


def kind_of(reply: str, chunk: Chunk) -> str:
    """What a model's reply to the prompt "paraphrase" is."""
    text = reply.strip()
    if normalized(text) == normalized(chunk.title):
        return "heading-only"
    if REFUSAL.search(text[:200]):
        return "refusal"
    whole = re.search(r"[.!?…。！？\"'”’)\]|]$", text) and len(text) >= SHORT * len(chunk.text)
    return "paraphrase" if whole else "truncated"


def paraphrased(chunk: Chunk, rng: random.Random) -> str:
    """Its sentences in another order, some words replaced by others of the same meaning."""
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z])", chunk.text)
    rng.shuffle(sentences)
    return re.sub(WORDS, lambda match: PROMPTS["other words"][match[0]], " ".join(sentences))


def truncated(chunk: Chunk, rng: random.Random) -> str:
    words = chunk.text.split(" ")
    return " ".join(words[: round(rng.uniform(0.3, 0.8) * len(words))])


BY_RULES = {"paraphrase": paraphrased, "truncated": truncated, "heading-only": lambda chunk, rng: chunk.title}
