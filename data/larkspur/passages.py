"""Passages made from facts and sentence patterns: dossiers, twins, programme notes, and spoilt copies (noise)."""

import random
from typing import NamedTuple

from larkspur import prose
from larkspur.world import choose_forms, fill

from rezero.corpus import Chunk

LENGTHS = (300, 520)
KINDS = ("overview", "crew", "description a", "test a", "description b", "test b", "anomaly", "timeline", "recovery")
# The fact that a stale copy gets wrong.
STALE = {
    "overview": "days",
    "description": "mass",
    "test": "peak",
    "anomaly": "hour",
    "timeline": "walk",
    "recovery": "wait",
}


class Passage(NamedTuple):
    """A chunk and what it was made from; `plan` is its title pattern and its sentence patterns, in order."""

    chunk: Chunk
    kind: str
    facts: dict
    forms: dict[str, str]
    plan: tuple[str, ...]
    twin: str = ""  # "original" or "twin" of a pair that differs in one fact


def choose_plan(rng: random.Random, kind: str) -> tuple[str, ...]:
    """A title, the opening, then one pattern of each further slot; two may be swapped, in half of the draws."""
    titles, opening, *rest = prose.PASSAGES.get(kind) or prose.PROGRAMME[kind]
    rest = [rng.choice(patterns) for patterns in rest]
    if rng.random() < 0.5 and kind in prose.SWAPS:
        at = rng.choice(prose.SWAPS[kind])
        rest[at], rest[at + 1] = rest[at + 1], rest[at]
    return (rng.choice(titles), rng.choice(opening), *rest)


def write(chunk_id: str, plan, facts: dict, forms: dict[str, str]) -> Chunk:
    title, *sentences = [fill(pattern, facts, forms) for pattern in plan]
    return Chunk(chunk_id, title, " ".join(sentences), "larkspur")


def compose(rng: random.Random, chunk_id: str, kind: str, facts: dict) -> Passage:
    """A passage of the wanted length; drafts that are too short or too long are thrown away."""
    while True:
        plan, forms = choose_plan(rng, kind), choose_forms(rng)
        chunk = write(chunk_id, plan, facts, forms)
        if LENGTHS[0] + 5 <= len(chunk.text) <= LENGTHS[1] - 15:  # a twin's text may be a little longer or shorter
            return Passage(chunk, kind, facts, forms, plan)


def make_twin(passage: Passage, changes: dict) -> list[Passage]:
    """The passage and its twin: the same sentences, one other label, one other value."""
    facts = {**passage.facts, **changes}
    chunk = write(passage.chunk.id + "-twin", passage.plan, facts, passage.forms)
    twin = passage._replace(chunk=chunk, facts=facts, twin="twin")
    return [passage._replace(twin="original"), twin]


def dossier(rng: random.Random, number: int, facts: dict) -> list[Passage]:
    """The nine passages of one mission and, in three missions of five, a twin of one of them."""
    passages = []
    for n, label in enumerate(KINDS, start=1):
        kind, _, letter = label.partition(" ")
        own = {**facts, **facts[letter or "a"], "n": n, "letter": letter or "a"}
        twin_return = label == "recovery" and number % 5 == 2
        if twin_return:
            own["occasion"] = "On the actual return of"
        passage = compose(rng, f"m{number:02d}-{label.replace(' ', '-')}", kind, own)
        if label == "test b" and number % 5 in (1, 3):
            unit = f"{passage.forms['SPARE']} unit"
            passages += make_twin(passage, {"unit": unit, "peak": own["spare_peak"], "n": n + 9})
        elif twin_return:
            occasion = f"In the {passage.forms['REHEARSAL']} for"
            passages += make_twin(passage, {"occasion": occasion, "wait": own["drill_wait"], "n": n + 9})
        else:
            passages.append(passage)
    return passages


def programme(rng: random.Random, shared: dict) -> list[Passage]:
    """Passages on places, vehicles and rules, which belong to no mission."""
    subjects = [("pad", name) for name in shared["pads"]] + [("vehicle", name) for name in shared["vehicles"]]
    subjects += [("rule", "")] * 3
    return [compose(rng, f"p{n:02d}-{kind}", kind, {"place": name, "n": n})
            for n, (kind, name) in enumerate(subjects, start=1)]  # fmt: skip


def paraphrase(rng: random.Random, passage: Passage) -> tuple[str, str]:
    chunk = compose(rng, passage.chunk.id, passage.kind, passage.facts).chunk
    return chunk.title, chunk.text


def truncated(rng: random.Random, passage: Passage) -> tuple[str, str]:
    words = passage.chunk.text.split()
    return passage.chunk.title, " ".join(words[: rng.randint(len(words) // 4, len(words) * 2 // 3)])


def refusal(rng: random.Random, passage: Passage) -> tuple[str, str]:
    return passage.chunk.title, rng.choice(prose.REFUSALS).format_map({"title": passage.chunk.title})


def stale(rng: random.Random, passage: Passage) -> tuple[str, str]:
    """The passage with an older, wrong figure."""
    fact = STALE[passage.kind]
    number, _, unit = passage.facts[fact].partition(" ")
    wrong = f"{float(number) + rng.randint(2, 9):.1f}" if "." in number else int(number) + rng.randint(2, 9)
    chunk = write("", passage.plan, {**passage.facts, fact: f"{wrong} {unit}"}, passage.forms)
    return f"{chunk.title} (old issue)", chunk.text


def heading_only(rng: random.Random, passage: Passage) -> tuple[str, str]:
    return passage.chunk.title, passage.chunk.title


NOISE = {
    "paraphrase": paraphrase,
    "truncated": truncated,
    "refusal": refusal,
    "stale": stale,
    "heading-only": heading_only,
}


def spoil(rng: random.Random, passage: Passage) -> list[dict]:
    """One or two noise rows of a passage."""
    kinds = [kind for kind in NOISE if kind != "stale" or passage.kind in STALE]
    rows = []
    for kind in rng.sample(kinds, rng.randint(1, 2)):
        title, text = NOISE[kind](rng, passage)
        rows.append({"id": f"{passage.chunk.id}-{kind}", "chunk_id": passage.chunk.id, "kind": kind,
                     "title": title, "text": text})  # fmt: skip
    return rows
