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

REFUSED = "I'm sorry, but I cannot rewrite this text."
SHORT = 0.5  # a model's text counts as truncated below this share of the passage's length
OTHER_WORDS = {  # of the rules' paraphrases; both words of a pair mean the same wherever they stand
    "approximately": "about", "about": "roughly", "began": "started", "started": "began", "because": "since",
    "during": "in the course of", "however": "still", "large": "big", "obtained": "got", "required": "needed",
    "several": "a number of", "shown": "displayed", "until": "up to when", "used": "employed",
}  # fmt: skip


def make_noise(corpus: str, model: str = "", keep=("paraphrase",), share: float = 1.0, seed: int = 0) -> None:
    """Write noise.jsonl beside the chunks, with rows of the kinds `keep` for a `share` of the passages.

    By rules each passage gets a row of each kind. A model is asked for a paraphrase, and what it says is labelled: a
    refusal, truncated, the heading alone, or a paraphrase.
    """
    if not 0 < share <= 1:
        raise ValueError(f"--share {share}; want above 0, and 1 at most")
    source, rng = find_chunks(corpus).parent, random.Random(seed)
    chunks = load_chunks(corpus)
    chunks = sorted(rng.sample(chunks, max(1, round(share * len(chunks)))), key=lambda chunk: chunk.id)
    if model:
        longest = max(len(chunk.text) for chunk in chunks)
        replies = ask_model(model, 64 + longest // 2)([PROMPTS["paraphrase"].format(text=c.text) for c in chunks])
        made = [(chunk, kind_of(reply, chunk), reply.strip()) for chunk, reply in zip(chunks, replies, strict=True)]
    else:
        made = [(chunk, kind, BY_RULES[kind](chunk, rng)) for chunk in chunks for kind in BY_RULES]
    made = [(chunk, kind, text) for chunk, kind, text in made if text and text != chunk.text]
    counts = Counter(kind for _, kind, _ in made)
    rows = [
        {"id": f"{chunk.id}-{kind}", "chunk_id": chunk.id, "kind": kind, "title": chunk.title, "text": text}
        for chunk, kind, text in made
        if kind in keep
    ]
    if not rows:
        raise ValueError(f"{source}: no row of the kinds {', '.join(keep)}; found were {dict(counts)}")
    path = write_jsonl(source / "noise.jsonl", rows)
    left = ", ".join(f"{n} {kind}{'' if kind in keep else ' (left out)'}" for kind, n in counts.items())
    print(f"{shown(path)}: {len(rows)} rows; {left}")


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
    words = rf"\b(?:{'|'.join(OTHER_WORDS)})\b"
    return re.sub(words, lambda match: OTHER_WORDS[match[0]], " ".join(sentences))


def truncated(chunk: Chunk, rng: random.Random) -> str:
    words = chunk.text.split(" ")
    return " ".join(words[: round(rng.uniform(0.3, 0.8) * len(words))])


BY_RULES = {  # kind -> function of the passage
    "paraphrase": paraphrased,
    "truncated": truncated,
    "refusal": lambda chunk, rng: REFUSED,
    "heading-only": lambda chunk, rng: chunk.title,
}
