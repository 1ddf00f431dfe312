"""`python -m rezero data questions`: questions about the passages of a corpus, written by a language model.

What the model wrote is checked by the rules of `validation` and by a reader; what is refused is kept with its reasons.
"""

import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path

import yaml

from rezero.corpus import Chunk, find_chunks, load_chunks
from rezero.data.chunking import stable_id
from rezero.data.cloze import ASK, BLANK, NAME, cloze_questions
from rezero.data.splits import checked_shares, divide, write_corpus
from rezero.data.validation import Candidate, Known, check, difficulty, rule_table
from rezero.extras.language_model import Backend, cached, named_backend
from rezero.files import resolve, shown, write_jsonl
from rezero.judge import normalize
from rezero.questions import Question, load_questions
from rezero.text import STOP_WORDS

PROMPTS = yaml.safe_load(Path(__file__).with_name("prompts.yaml").read_text("utf-8"))
CACHE = ".cache/replies"
MADE = "made-"  # how the ids of written questions begin
REFUSAL = re.compile(r"\b(?:I(?: a|')m sorry|I can(?:no|')t|I(?: a|')m (?:unable|not able)|as an AI)\b", re.IGNORECASE)
SHARED_BY = range(2, 6)  # how many passages may mention a name that links two of them
# The passages that a prompt asks about, the name that links two of them, and the answer and its sentence, if given.
Task = tuple[tuple[Chunk, ...], str, tuple[str, ...]]


def make_questions(
    corpus, model, out="", passages=0, each=1, two_hop=0, spans=False, reader="", refuse=(), dev=0.1, test=0.2,
    by="chunk", seed=0,
) -> None:  # fmt: skip
    """Write questions about `passages` passages (0: all), `each` per passage, and about `two_hop` pairs of passages.

    With `spans`, rules choose the answers, as those of cloze questions, and the model writes one question for each,
    which needs no JSON. `model` and `reader` are named as in `named_backend`; the reader, by default the model, answers
    each question with its passages and without them (reader="none": this is not checked). `refuse` names marks of
    `difficulty` that are refused as well. Replies are kept in the cache, so a run that stopped goes on where it was.
    """
    source, rng = find_chunks(corpus).parent, random.Random(seed)
    folder, chunks, old = resolve(out) if out else source, load_chunks(corpus), []
    if (source / "questions.jsonl").is_file():
        old = [q for q in load_questions(source / "questions.jsonl", chunks) if not q.id.startswith(MADE)]
    if old and folder == source:
        raise ValueError(f"{source}: has {len(old)} questions of its own, which stay as they are; want --out DIR")
    shares, known = checked_shares(dev, test), Known(chunks)
    for question in old:
        known.add(question)
    drawn = rng.sample(chunks, min(passages or len(chunks), len(chunks)))
    tasks = plan_spans(drawn, each, rng) if spans else plan(drawn, each)
    tasks |= plan_pairs(chunks, two_hop, rng)
    tokens = 48 if spans and not two_hop else 256 + 128 * each
    ask = ask_model(model, tokens)
    candidates, refused = read_replies(tasks, ask(list(tasks)))
    checked = list(check(candidates, known))
    sound = [one.question for one, why in checked if not why]
    levels = {row["id"]: row for row in difficulty(sound, chunks)} if sound else {}
    unread = {}
    if reader != "none" and sound:
        unread = read_by(ask if reader in ("", model) else ask_model(reader, tokens), sound)
    kept, details = [], []
    for one, why in checked:
        level = levels.get(one.question.id, {})
        why = why | unread.get(one.question.id, {}) | {mark: mark for mark in level.get("marks", ()) if mark in refuse}
        (refused if why else details).append(_row(one) | ({"why": why} if why else level))
        kept += [one.question] * (not why)
    write_jsonl(folder / "refused.jsonl", refused)
    table = rule_table((row["why"] for row in refused), (row["marks"] for row in details))
    print(table[table.questions > 0].to_string())
    if not kept:
        raise ValueError(f"no question of {len(candidates)} is sound; {folder / 'refused.jsonl'} says why")
    write_corpus(folder, chunks, divide(old + kept, shares, by, chunks, seed))
    write_jsonl(folder / "written.jsonl", details)
    said = f"{len(kept)} of {len(candidates)} questions kept, from {len(tasks)} prompts"
    print(f"{shown(folder)}: {said}; refused.jsonl has the others")


def plan(chunks: list[Chunk], each: int) -> dict[str, Task]:
    """Prompt -> what it asks about."""
    return {PROMPTS["one"].format(title=chunk.title, text=chunk.text, n=each): ((chunk,), "", ()) for chunk in chunks}


def plan_spans(chunks: list[Chunk], each: int, rng: random.Random) -> dict[str, Task]:
    tasks = {}
    for chunk in chunks:
        for cloze in cloze_questions([chunk], each, rng.randrange(2**32)):
            sentence = cloze.text.removeprefix(ASK.format("")).replace(BLANK, cloze.answers[0])
            prompt = PROMPTS["span"].format(title=chunk.title, sentence=sentence, answer=cloze.answers[0])
            tasks[prompt] = ((chunk,), "", (cloze.answers[0], sentence))
    return tasks


def plan_pairs(chunks: list[Chunk], two_hop: int, rng: random.Random) -> dict[str, Task]:
    tasks = {}
    linked = list(linked_pairs(chunks)) if two_hop else []
    for first, last, bridge in rng.sample(linked, min(two_hop, len(linked))):
        texts = dict(first_title=first.title, first=first.text, title=last.title, text=last.text)
        tasks[PROMPTS["two-hop"].format(bridge=bridge, **texts)] = ((first, last), bridge, ())
    return tasks


def read_replies(tasks: dict[str, Task], replies: Iterable[str]) -> tuple[list[Candidate], list[dict]]:
    """The questions in the replies, and the replies without any."""
    candidates, refused = [], []
    for (golds, bridge, given), reply in zip(tasks.values(), replies, strict=True):
        if given:
            asked = re.match(r'\W*(?:Question:\s*)?([^\n"]+\?)', reply)
            found = [written(golds, asked[1], *given)] if asked else []
        else:
            found = list(read_reply(reply, golds, bridge))
        candidates += found
        if not found:
            why = no_json(reply)
            refused.append({"gold_chunk_ids": [gold.id for gold in golds], "reply": reply, "why": {why: why}})
    return candidates, refused


def ask_model(model: str, tokens: int) -> Backend:
    name = f"{model}, {tokens} tokens"
    return cached(named_backend(model, tokens), name, f"{CACHE}/{stable_id(name)}.jsonl")


def linked_pairs(chunks: list[Chunk]) -> Iterator[tuple[Chunk, Chunk, str]]:
    """(first, last, name) of passages of which each mentions a name within a sentence, one that few others mention."""
    holders = defaultdict(list)
    for chunk in chunks:
        for name in dict.fromkeys(re.findall(rf"(?<=[a-z,] ){NAME}", chunk.text)):
            if name.lower() not in STOP_WORDS:
                holders[name].append(chunk)
    pairs = {}  # of the names that two passages share, the longest is kept
    for name in sorted(holders, key=len):
        if len(holders[name]) in SHARED_BY:
            pairs |= {(a.id, b.id): (a, b, name) for a, b in combinations(holders[name], 2)}
    for a, b, name in pairs.values():
        yield a, b, name
        yield b, a, name


def read_reply(reply: str, golds: tuple[Chunk, ...], bridge: str) -> Iterator[Candidate]:
    """The questions of a reply: its JSON objects, wherever they stand, that have a question and an answer."""
    decoder, end = json.JSONDecoder(strict=False), 0
    for match in re.finditer(r"\{", reply):
        if match.start() < end:
            continue
        try:
            row, stop = decoder.raw_decode(reply, match.start())
        except (ValueError, RecursionError):
            continue
        found = {key.lower(): str(value).strip() for key, value in row.items() if isinstance(value, str | int | float)}
        if found.get("question") and found.get("answer"):
            end = stop
            yield written(golds, found["question"], found["answer"].rstrip("."), found.get("support", ""), bridge)


def written(golds: tuple[Chunk, ...], text: str, answer: str, support: str, bridge: str = "") -> Candidate:
    ids, texts = tuple(gold.id for gold in golds), tuple(gold.text for gold in golds)
    kind = "two-hop" if len(golds) > 1 else "direct"
    return Candidate(Question(MADE + stable_id(text, answer, *ids), text, (answer,), ids, texts, kind), support, bridge)


def no_json(reply: str) -> str:
    """Why a reply holds no question."""
    opened = reply.count("{") > reply.count("}")
    return "a refusal" if REFUSAL.search(reply) else "cut off" if opened else "no question"


def read_by(ask: Backend, questions: list[Question]) -> dict[str, dict[str, str]]:
    """Question -> what a reader finds wrong: it cannot answer with the gold passages, or it can without them."""
    prompts = [PROMPTS["open"].format(text="\n\n".join(q.gold_texts), question=q.text) for q in questions]
    prompts += [PROMPTS["closed"].format(question=q.text) for q in questions]
    replies, broken = list(ask(prompts)), {}
    for question, opened, closed in zip(questions, replies, replies[len(questions) :], strict=False):
        if not _says(opened, question):
            broken[question.id] = {"not_answered_from_the_passage": f"with it the reader says {opened[:80]!r}"}
        elif _says(closed, question):
            broken[question.id] = {"answered_without_the_passage": f"without it the reader says {closed[:80]!r}"}
    return broken


def _says(reply: str, question: Question) -> bool:
    return any(f" {normalize(answer)} " in f" {normalize(reply)} " for answer in question.answers)


def _row(one: Candidate) -> dict:
    question = one.question
    names = ("id", "text", "answers", "gold_chunk_ids", "kind")
    return {name: getattr(question, name) for name in names} | {"support": one.support, "bridge": one.bridge}
