"""Write the Larkspur corpus: mission reports of an invented spaceflight programme, with questions and noise rows.

    python data/larkspur/generate.py [--seed 0] [--missions 40] [--out DIR] [--check]

The same arguments give the same bytes. `build(seed, missions, partition)` makes worlds in memory; those of partition
"train" share no invented word with the shipped corpus, so a policy can be warm-started on them.
"""

import argparse
import importlib.util
import random
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from rezero.corpus import Chunk
from rezero.files import write_jsonl
from rezero.questions import Question, save_questions


def _sibling(name: str):
    """Load a module beside this file, so that this file can itself be loaded by path from anywhere."""
    key = f"larkspur_{name}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, Path(__file__).resolve().with_name(f"{name}.py"))
        sys.modules[key] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[key])
    return sys.modules[key]


world, prose, asking = (_sibling(name) for name in ("world", "prose", "asking"))

LENGTHS = (300, 520)
PER_MISSION = {"direct": 14, "reworded": 10, "alias": 4.5, "two-hop": 3.2}
SHARES = {"train": 0.7, "dev": 0.1, "test": 0.2}
SHORT_UNITS = {
    "minutes": "min",
    "hours": "h",
    "kilograms": "kg",
    "metres": "m",
    "degrees": "deg",
    "newtons": "N",
}
STALE = {"overview": "days", "description": "mass", "test": "peak", "anomaly": "hour", "timeline": "walk",
         "recovery": "wait"}  # fmt: skip


class Passage(NamedTuple):
    """A chunk and what it was made from: the plan is its title and sentence patterns in order."""

    chunk: Chunk
    kind: str
    facts: dict
    forms: dict[str, str]
    plan: tuple[str, ...]
    twin: str = ""  # "original" or "twin" of a pair that differs in one fact


def fill(pattern: str, facts: dict, forms: dict[str, str]) -> str:
    """Fill the slots, mend "a" before a vowel, start with a capital."""
    text = pattern.format_map({**facts, **forms})
    text = re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", text)
    return text[0].upper() + text[1:]


def choose_forms(rng: random.Random, other_than: dict[str, str] | None = None) -> dict[str, str]:
    """One surface form per concept; none of those in `other_than`."""
    taken = other_than or {}
    return {key: rng.choice([form for form in forms if form != taken.get(key)])
            for key, forms in world.CONCEPTS.items()}  # fmt: skip


def choose_plan(rng: random.Random, slots) -> tuple[str, ...]:
    """A title, the opening, then one pattern of each further slot in any order."""
    titles, opening, *rest = slots
    rest = [rng.choice(patterns) for patterns in rest]
    rng.shuffle(rest)
    return (rng.choice(titles), rng.choice(opening), *rest)


def write(chunk_id: str, plan, facts: dict, forms: dict[str, str]) -> Chunk:
    title, *sentences = [fill(pattern, facts, forms) for pattern in plan]
    return Chunk(chunk_id, title, " ".join(sentences), "larkspur")


def compose(rng: random.Random, chunk_id: str, kind: str, facts: dict) -> Passage:
    """A passage of the wanted length; the draws that came out too short or long are thrown away."""
    slots = prose.PASSAGES.get(kind) or prose.PROGRAMME[kind]
    while True:
        plan, forms = choose_plan(rng, slots), choose_forms(rng)
        chunk = write(chunk_id, plan, facts, forms)
        if (
            LENGTHS[0] + 5 <= len(chunk.text) <= LENGTHS[1] - 15
        ):  # a twin's text may be a little longer or shorter
            return Passage(chunk, kind, facts, forms, plan)


def make_twin(passage: Passage, changes: dict) -> list[Passage]:
    """The passage and its twin: the same sentences, one other label, one other value."""
    facts = {**passage.facts, **changes}
    chunk = write(passage.chunk.id + "-twin", passage.plan, facts, passage.forms)
    twin = passage._replace(chunk=chunk, facts=facts, twin="twin")
    return [passage._replace(twin="original"), twin]


def dossier(rng: random.Random, number: int, facts: dict) -> list[Passage]:
    """The passages of one mission, about ten."""
    kinds = [
        "overview",
        "crew",
        "description a",
        "test a",
        "description b",
        "test b",
        "anomaly",
        "timeline",
        "recovery",
    ]
    passages = []
    for n, label in enumerate(kinds, start=1):
        kind, _, letter = label.partition(" ")
        own = {**facts, **facts[letter or "a"], "n": n, "letter": letter or "a"}
        passage = compose(rng, f"m{number:02d}-{label.replace(' ', '-')}", kind, own)
        if label == "test b" and number % 5 in (1, 3):
            changes = {"unit": f"{passage.forms['SPARE']} unit", "peak": own["spare_peak"], "n": n + 9}
            passages += make_twin(passage, changes)
        elif label == "recovery" and number % 5 == 2:
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


def variants(value: str) -> tuple[str, ...]:
    """Accepted spellings of an answer, the one of the passage first."""
    found = [value]
    words = value.split()
    if words[-1] in SHORT_UNITS:
        found += [f"{words[0]} {SHORT_UNITS[words[-1]]}", words[0]]
    if words[0] in ("a", "the"):
        found.append(" ".join(words[1:]))
    if len(words) == 2 and words[1] in world.MONTHS:
        found.append(f"{words[1]} {words[0]}")
    if len(words) == 2 and words[0].istitle() and words[1].istitle():
        found.append(words[1] if words[1] not in (*world.MADE_AT, "Basin") else words[0])
    return tuple(found)


def askable(passage: Passage) -> list[tuple[str, str, tuple, tuple]]:
    """(fact, scope, concepts to search by, patterns) of what may be asked of a passage."""
    facts = asking.FACTS[passage.kind]
    if not passage.twin:
        return [(fact, *rest) for fact, rest in facts.items()]
    fact, patterns = asking.TWINS[passage.kind]  # anything else stands in both twins
    scope, keys, _ = facts[fact]
    return [(fact, scope, keys, patterns)]


def ask(rng, kind: str, passage: Passage, entry, it: str, forms, via: tuple[Passage, ...], rewrites) -> dict:
    """One question as a row; `via` are the passages to be seen first."""
    fact, _, _, patterns = entry
    text = fill(rng.choice(patterns), {"it": it, "label": label_of(passage, forms)}, forms)
    answers = variants(passage.facts[fact])
    if fact in ("comp",):
        answers = (answers[0], answers[0].split()[0])
    gold = tuple(found.chunk.id for found in (*via, passage))
    return {
        "text": text,
        "answers": answers,
        "gold_chunk_ids": gold,
        "kind": kind,
        "rewrites": tuple(rewrites),
    }


def name_of(passage: Passage, scope: str) -> str:
    return passage.facts[scope]


def direct(rng: random.Random, passage: Passage, entry) -> dict:
    _, scope, keys, _ = entry
    name, forms = name_of(passage, scope), passage.forms
    queries = [f"{name} {forms[key]}" for key in keys]
    return ask(rng, "direct", passage, entry, name, forms, (), queries)


def reworded(rng: random.Random, passage: Passage, entry) -> dict:
    """Ask with forms the passage does not use; the rewrites try the two others, the right one at either place."""
    _, scope, keys, _ = entry
    name, forms = name_of(passage, scope), choose_forms(rng, passage.forms)
    if scope == "comp" and passage.twin:
        name_in_query = f"{name.split()[0]} {label_of(passage, passage.forms)}"
    else:
        name_in_query = rng.choice([name, name.split()[0]])
    queries = []
    for key in keys:
        others = [form for form in world.CONCEPTS[key] if form != forms[key]]
        queries += [f"{name_in_query} {form}" for form in rng.sample(others, 2)]
    return ask(rng, "reworded", passage, entry, name, forms, (), queries[:3])


def alias(rng: random.Random, passage: Passage, entry, via: Passage) -> dict:
    """Ask by the nickname, which only `via` knows: the nickname alone, then the formal name it led to."""
    _, scope, keys, _ = entry
    formal, nickname = name_of(passage, scope), via.facts["nick" if scope == "comp" else "craft"]
    it = nickname if scope == "comp" else f"the {nickname}"
    queries = [nickname, *(f"{formal} {passage.forms[key]}" for key in keys)]
    return ask(rng, "alias", passage, entry, it, passage.forms, (via,), queries)


def two_hop(rng: random.Random, passage: Passage, entry, via: Passage, phrase: str) -> dict:
    _, scope, keys, _ = entry
    it, bridge = fill(phrase, via.facts, via.forms), name_of(passage, scope)
    it = it[0].lower() + it[1:]
    queries = [f"{bridge} {passage.forms[key]}" for key in keys]
    return ask(rng, "two-hop", passage, entry, it, passage.forms, (via,), queries)


def label_of(passage: Passage, forms: dict[str, str]) -> str:
    return asking.TWIN_LABELS.get((passage.kind, passage.twin), "").format_map(forms)


def alias_chances(passages: list[Passage]) -> list[tuple]:
    """(passage, entry, via): facts that can be asked by a nickname that another passage introduces."""
    found = []
    for via in passages:
        for passage in passages:
            same = passage.kind == "anomaly" or passage.facts["letter"] == via.facts["letter"]
            scope = {"description": "comp", "crew": "mission"}.get(via.kind)
            fits = passage.kind in ("test", "anomaly") and same if scope == "comp" else passage.kind != "crew"
            if passage.kind == "anomaly" and via.facts["letter"] != "a":
                continue
            found += [(passage, entry, via) for entry in askable(passage) if fits and entry[1] == scope]
    return found


def chain_chances(passages: list[Passage]) -> list[tuple]:
    """(passage, entry, via, phrase): facts that can be asked by a clue that only another passage holds."""
    found = []
    for via in [passage for passage in passages if not passage.twin]:
        for phrases, hops in asking.CLUES.get(via.kind, {}).values():
            scope = "mission" if via.kind in ("crew", "recovery") else "comp"
            for passage in passages:
                same = scope == "mission" or passage.facts["letter"] == via.facts["letter"]
                if passage.kind in hops and same and not passage.twin:
                    entries = [entry for entry in askable(passage) if entry[1] == scope]
                    found += [(passage, entry, via, phrase) for entry in entries for phrase in phrases]
    return found


def take(rng: random.Random, chances: list[tuple], count: int, make, seen: set[str]) -> list[dict]:
    """`count` questions made from `chances` in random order; a text that was asked before is passed over."""
    rows = []
    for chance in rng.sample(chances, len(chances)):
        if len(rows) == count:
            break
        row = make(rng, *chance)
        if row["text"].lower() not in seen:
            seen.add(row["text"].lower())
            rows.append(row)
    return rows


def inquire(rng: random.Random, number: int, passages: list[Passage], seen: set[str]) -> list[dict]:
    """The questions of one dossier. A fact is asked plainly or reworded, not both."""
    facts = [(passage, entry) for passage in passages for entry in askable(passage)]
    rng.shuffle(facts)
    count = {
        kind: int(share) + (number * (share % 1) % 1 + share % 1 >= 1) for kind, share in PER_MISSION.items()
    }
    return [
        *take(rng, facts[: count["direct"] + 2], count["direct"], direct, seen),
        *take(rng, facts[count["direct"] + 2 :], count["reworded"], reworded, seen),
        *take(rng, alias_chances(passages), count["alias"], alias, seen),
        *take(rng, chain_chances(passages), count["two-hop"], two_hop, seen),
    ]


def assign_splits(rng: random.Random, missions: int) -> list[str]:
    """A split per mission: whole dossiers, so that neither gold chunks nor chains are shared."""
    dev, test = max(1, round(missions * SHARES["dev"])), max(1, round(missions * SHARES["test"]))
    splits = ["dev"] * dev + ["test"] * test + ["train"] * (missions - dev - test)
    rng.shuffle(splits)
    return splits


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
    number = re.match(r"\d+", passage.facts[fact])[0]
    wrong = passage.facts[fact].replace(number, str(int(number) + rng.randint(2, 9)), 1)
    return f"{passage.chunk.title} (old issue)", write(
        "", passage.plan, {**passage.facts, fact: wrong}, passage.forms
    ).text


def heading_only(rng: random.Random, passage: Passage) -> tuple[str, str]:
    return passage.chunk.title, passage.chunk.title


NOISE = {"paraphrase": paraphrase, "truncated": truncated, "refusal": refusal, "stale": stale,
         "heading-only": heading_only}  # fmt: skip


def spoil(rng: random.Random, passage: Passage) -> list[dict]:
    """One or two noise rows of a passage."""
    kinds = [kind for kind in NOISE if kind != "stale" or passage.kind in STALE]
    rows = []
    for kind in rng.sample(kinds, rng.randint(1, 2)):
        title, text = NOISE[kind](rng, passage)
        rows.append({"id": f"{passage.chunk.id}-{kind}", "chunk_id": passage.chunk.id, "kind": kind,
                     "title": title, "text": text})  # fmt: skip
    return rows


def build(seed: int = 0, missions: int = 40, partition: str = "ship"):
    """A world: (chunks, questions, noise rows). Same arguments, same result."""
    if partition not in ("ship", "train"):
        raise ValueError(f"partition is {partition!r}, allowed: 'ship', 'train'")
    rng = random.Random(f"larkspur {seed} {missions} {partition}")
    names = world.words(rng, partition)
    shared = {
        key: [next(names) for _ in range(count)]
        for key, count in (("pads", 6), ("vehicles", 5), ("labs", 15))
    }
    passages, rows, seen = [], [], set()
    for number, split in enumerate(assign_splits(rng, missions), start=1):
        found = dossier(rng, number, world.mission(rng, names, shared, 2061 + number // 4))
        passages += found
        rows += [{**row, "split": split} for row in inquire(rng, number, found, seen)]
    passages += programme(rng, shared)
    texts = {passage.chunk.id: passage.chunk.text for passage in passages}
    questions = [Question(id=f"q{n:04d}", gold_texts=tuple(texts[gold] for gold in row["gold_chunk_ids"]), **row)
                 for n, row in enumerate(rows, start=1)]  # fmt: skip
    noise = [row for passage in passages for row in spoil(rng, passage)]
    return [passage.chunk for passage in passages], questions, noise


def save(out: Path, chunks, questions, noise) -> None:
    write_jsonl(out / "chunks.jsonl", (asdict(chunk) for chunk in chunks))
    save_questions(out / "questions.jsonl", questions)
    write_jsonl(out / "noise.jsonl", noise)
    print(f"{out}: {len(chunks)} chunks, {len(questions)} questions, {len(noise)} noise rows")


def check(chunks, questions, noise) -> None:
    """Print counts, lengths, problems and the room to retry."""
    from collections import Counter

    from rezero.questions import room_to_retry, validate
    from rezero.search import build_engine

    print("problems:", validate(questions, chunks) or "none")
    lengths = sorted(len(chunk.text) for chunk in chunks)
    print(
        f"{len(chunks)} chunks of {lengths[0]}-{lengths[-1]} characters, median {lengths[len(lengths) // 2]}"
    )
    print("noise:", dict(Counter(row["kind"] for row in noise)))
    for split in ("train", "dev", "test"):
        print(split, dict(Counter(question.kind for question in questions if question.split == split)))
    engine = build_engine("bm25", chunks)
    for k in (1, 2, 3):
        for row in room_to_retry(questions, engine, k):
            print(row)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--missions", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--check", action="store_true", help="print counts, lengths and the room to retry")
    arguments = parser.parse_args(argv)
    made = build(arguments.seed, arguments.missions)
    save(arguments.out.resolve(), *made)
    if arguments.check:
        check(*made)


if __name__ == "__main__":
    main()
