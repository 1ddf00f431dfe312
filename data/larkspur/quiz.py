"""Questions about a dossier, each with rewrites: queries that a careful searcher could send after a miss."""

import random

from larkspur import asking, world
from larkspur.passages import Passage
from larkspur.world import choose_forms, fill

PER_MISSION = {"direct": 14.6, "reworded": 9.6, "alias": 4.2, "two-hop": 3.1}
SHORT = {
    "days": "d", "hours": "h", "minutes": "min", "kilograms": "kg", "metres": "m", "volts": "V", "millivolts": "mV",
    "newtons": "N", "bar": "bars",
}  # fmt: skip


def variants(value: str) -> tuple[str, ...]:
    """Accepted spellings of an answer, the one of the passage first."""
    found = [value]
    words = value.split()
    if words[-1] in SHORT:
        found += [f"{words[0]} {SHORT[words[-1]]}", words[0]]
    if words[0] in ("a", "the"):
        found.append(" ".join(words[1:]))
    if len(words) == 2 and words[1] in world.MONTHS:
        found.append(f"{words[1]} {words[0]}")
    if len(words) == 2 and words[0].istitle() and words[1].istitle():
        found.append(words[1] if words[1] not in (*world.MADE_AT, "Basin") else words[0])
    return tuple(found)


def askable(passage: Passage) -> list[tuple[str, str, tuple, tuple]]:
    """What may be asked about a passage, as (fact, scope, concepts to search by, patterns)."""
    facts = asking.FACTS[passage.kind]
    if not passage.twin:
        return [(fact, *rest) for fact, rest in facts.items()]
    fact, patterns = asking.TWINS[passage.kind]  # anything else stands in both twins
    scope, keys, _ = facts[fact]
    return [(fact, scope, keys, patterns)]


def name_of(passage: Passage, scope: str) -> str:
    return passage.facts[scope]


def label_of(passage: Passage, forms: dict[str, str]) -> str:
    return asking.TWIN_LABELS.get((passage.kind, passage.twin), "").format_map(forms)


def ask(rng, kind: str, passage: Passage, entry, it: str, forms, via: tuple[Passage, ...], rewrites) -> dict:
    """One question as a row; `via` are the passages that must be seen before `passage`."""
    fact, _, _, patterns = entry
    text = fill(rng.choice(patterns), {"it": it, "label": label_of(passage, forms)}, forms)
    answers = variants(passage.facts[fact])
    if fact == "comp":
        answers = (answers[0], answers[0].split()[0])
    if fact == "date":
        answers += (f"{answers[0]} {passage.facts['year']}",)
    gold = tuple(found.chunk.id for found in (*via, passage))
    return {"text": text, "answers": answers, "gold_chunk_ids": gold, "kind": kind, "rewrites": tuple(rewrites)}


def direct(rng: random.Random, passage: Passage, entry) -> dict:
    _, scope, keys, _ = entry
    name, forms = name_of(passage, scope), passage.forms
    queries = [f"{name} {forms[key]}" for key in keys]
    beside = next(key for key in asking.BESIDE[passage.kind] if key not in keys)
    queries.append(f"{name.split()[0]} {forms[keys[0]]} {forms[beside]}")
    return ask(rng, "direct", passage, entry, name, forms, (), queries)


def reworded(rng: random.Random, passage: Passage, entry) -> dict:
    """Ask with forms that the passage does not use; the rewrites try the two others, one of which is right."""
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
    """Ask by the nickname, which only `via` explains; the rewrites are the nickname alone, then the formal name."""
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


def alias_chances(passages: list[Passage]) -> list[tuple]:
    """Facts that can be asked about by a nickname which another passage introduces, as (passage, entry, via)."""
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
    """Facts that can be asked about by a clue in another passage only, as (passage, entry, via, phrase)."""
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
    """`count` questions made from `chances` in random order; a text that was asked before is skipped."""
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
    """The questions of one dossier. A fact is asked about directly or in other words, not both."""
    facts = [(passage, entry) for passage in passages for entry in askable(passage)]
    rng.shuffle(facts)
    count = {kind: int(share) + (number * (share % 1) % 1 + share % 1 >= 1) for kind, share in PER_MISSION.items()}
    return [
        *take(rng, facts[: count["direct"] + 2], count["direct"], direct, seen),
        *take(rng, facts[count["direct"] + 2 :], count["reworded"], reworded, seen),
        *take(rng, alias_chances(passages), count["alias"], alias, seen),
        *take(rng, chain_chances(passages), count["two-hop"], two_hop, seen),
    ]
