"""One question to a policy, or one claim to be checked, and what it did about it as text for a terminal.

A claim becomes a question for what it says last ("The commander of Corvane was Ilse Varrow": "What was the commander of
Corvane?"), asked in an episode like any other, and a rule compares the answer. It is supported when the answer is what
the claim says; refuted when both are names, dates or numbers of one unit, and differ; in both cases only if a passage
that was found holds the answer beside every name and number that the claim is about (or half of its other words), and
refuted only if no such passage holds what the claim says, too. All else is not found.

What that cannot do: only the end of a claim is checked, the rest is taken for given; words are compared
(`judge.normalize`), not meanings, so that synonyms, converted units and conclusions from two passages are not found;
the first of several right answers counts as the only one; and it is wrong where the policy reads wrongly.
Of 197 claims made of training questions the shipped policy had 62 of 117 true ones supported and one refuted, and 37 of
80 false ones refuted and none supported; the rest were not found (tests/test_ask.py, slow).
"""

import calendar
import json
import re
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rezero.config import Config, load_config
from rezero.corpus import read_corpus
from rezero.evaluation.evaluate import budget
from rezero.extras.export import find_run
from rezero.files import resolve
from rezero.judge import normalize
from rezero.policy.load import check_context, load_policy
from rezero.protocol import Episode
from rezero.questions import Question
from rezero.rollout import rollout
from rezero.search import REMOTE, build_engine
from rezero.search.base import Hit
from rezero.text import STOP_WORDS, clean, keywords

VALUE = re.compile(r"(?<=\s)(?:(?:[A-Z\d]\S*\s+)*(?:[-+]?[\d.,]+\s+[a-z°%]\S*|[-+]?[A-Z\d]\S*)|\S+)$")

PLAIN = re.compile(r"(.+) (is|was|are|were) ((?:an?|the) [a-z -]+|[a-z-]+(?: [a-z-]+)?)")  # ... was a poor weld

UNCHECKED = re.compile(  # denials, bounds, lists, several sentences: an answer does not tell whether they are true
    r"\b(?:not?|never|none|nobody|nothing|neither|nor|without|cannot|than|at least|at most)\b|n['’]t\b|\w{4}[.;!?]\s|"
    r"\b(?:about|above|after|almost|and|around|before|below|between|nearly|only|or|over|since|under|until)\s+\S+"
    r"(?:\s+[a-z%°]\S*)?$",
    re.IGNORECASE,
)

MONTHS = {name.lower() for name in calendar.month_name}

ENDS = dict(malformed="two turns not understood", turn_limit="no turns left", token_limit="no tokens left")


class Verdict(NamedTuple):
    """Of a claim: "supported", "refuted" or "not found"; why, and the passages it rests on."""

    name: str
    why: str
    hits: tuple[Hit, ...] = ()


def find_settings(policy: str, profile: str, engine: str, options: dict | None) -> Config:
    """What to ask under: `profile`, or what the run or the export that `policy` belongs to recorded, or "laptop"."""
    folder = resolve(policy or ".")
    folder = find_run(folder) / "best" if (folder / "best").is_dir() else folder
    places = [folder / "rezero.json", folder.parent / "rezero.json"]
    places += [folder.parent / "config.json"] if folder.name in ("best", "warm") else []
    recorded = None if profile else next(filter(Path.is_file, places), None)
    config = load_config(**json.loads(recorded.read_text("utf-8"))) if recorded else load_config(profile or "laptop")
    if policy:
        config = replace(config, policy=str(folder) if folder.is_dir() else policy)
    if engine and engine != config.engine:
        config = replace(config, engine=engine, engine_options={})
    return config if options is None else replace(config, engine_options=options)


def ask(text: str, config: Config, corpus: str = "") -> Episode:
    """The greedy episode of `config`'s policy on a question; ValueError when it is empty or longer than it can read.

    A remote engine gets no passages, unless a `corpus` is named.
    """
    if not (text := clean(text).strip()):
        raise ValueError("the question is empty")
    remote, place = config.engine in REMOTE and not corpus, resolve(corpus or config.corpus)
    if not remote and not place.exists():
        raise FileNotFoundError(f"no corpus {place}: want a file of chunks, or a folder of chunks or documents")
    chunks = [] if remote else read_corpus(place)
    engine, question = build_engine(config.engine, chunks, **config.engine_options), Question("asked", text, (), ())
    policy = load_policy(config.policy)
    check_context(policy, config, [question])
    how = dict(k=config.k, budget=budget(config), prompt_style=config.prompt_style)
    return rollout(policy, engine, [question], **how)[0]


def masked(claim: str) -> tuple[str, str]:
    """(question, value): the name, the number or else the word that ends `claim`, and the question that asks for it.

    Raises:
        ValueError: fewer than three words, or one of `UNCHECKED`.
    """
    words = clean(claim).strip(" .!?").split()
    words[:1] = [word.lower() if word.lower() in STOP_WORDS else word for word in words[:1]]
    claim = " ".join(words)
    if len(words) < 3 or UNCHECKED.search(claim):
        raise ValueError(f"cannot check {claim!r}: want one sentence of three words or more that ends with the name, "
                         "number or word in question, without 'not', 'and', 'more than' or the like")  # fmt: skip
    if plain := PLAIN.fullmatch(claim):
        return f"What {plain[2]} {plain[1]}?", plain[3]
    value = VALUE.search(claim)
    start = claim[: value.start()].strip()
    copula = re.fullmatch(r"(.+) (is|was|are|were)(?: an?| the)?", start)
    return f"What {copula[2]} {copula[1]}?" if copula else f"{start} what?", value[0]


def verify(episode: Episode, claim: str, value: str) -> Verdict:
    """Whether the answer to `masked`'s question is what the claim says, by the rule at the head of this module."""
    answer, telling = episode.answer or "", keywords(episode.question.text).split()
    said, claimed = normalize(answer), normalize(value)
    said = "" if _within(said, normalize(episode.question.text)) else said  # the question again is no answer
    hits = {hit.chunk_id: hit for turn in episode.searches for hit in turn.hits}.values()
    found = [hit for hit in hits if _is_about(hit, telling)]
    basis = tuple(hit for hit in found if said and _within(said, _words(hit)))
    if not basis:
        return Verdict("not found", f"no passage holds the policy's answer, {answer!r}, beside what the claim is about")
    inside = _within(said, normalize(claim)) and set(said.split()) & set(claimed.split())
    if inside or (not value[0].islower() and _within(claimed, said)):
        return Verdict("supported", f"the policy, too, answers {answer!r}", basis)
    if _differ(answer, value) and not any(_within(claimed, _words(hit)) for hit in found):
        return Verdict("refuted", f"the policy answers {answer!r}, not {value!r}", basis)
    return Verdict("not found", f"the policy's answer, {answer!r}, neither is {value!r} nor rules it out", basis)


def _differ(answer: str, value: str) -> bool:
    """Whether they are two names, two dates or two numbers of one unit, each with a word that the other lacks."""
    one, other = set(normalize(answer).split()), set(normalize(value).split())
    units = [{"month" if word in MONTHS else word for word in words if word[0].isalpha()} for words in (one, other)]
    numbers = all(any(word[0].isdigit() for word in words) for words in (one, other))
    of_a_kind = units[0] <= units[1] or units[1] <= units[0] if numbers else answer[0].isupper() and value[0].isupper()
    return of_a_kind and bool(one - other) and bool(other - one)


def _is_about(hit: Hit, telling: list[str]) -> bool:
    names = [word for word in telling if not word[0].islower()]
    held = [_within(normalize(word), _words(hit)) for word in names or telling]
    return all(held) if names else 2 * sum(held) >= len(held)


def _words(hit: Hit) -> str:
    return normalize(f"{hit.title} {hit.text}")


def _within(part: str, whole: str) -> bool:
    return f" {part} " in f" {whole} "


def show(episode: Episode) -> str:
    """The episode for a terminal, turn by turn: thought, query, passages with title, id and score, answer."""
    lines = [f"question  {printable(episode.question.text)}"]
    for number, turn in enumerate(episode.turns, start=1):
        lines += ["", f"turn {number}"] + ([_line("thought", turn.thought)] if turn.thought else [])
        lines.append(_line(turn.action, turn.argument or turn.text))
        lines += [_line("engine", f"failed: {turn.error}")] if turn.error else []
        lines += [passage(hit, f"[{i}]") for i, hit in enumerate(turn.hits, start=1)]
        if turn.action == "search" and not turn.hits and not turn.error:
            lines.append("    no passage" if turn.information is not None else "    no reply")
    end = episode.answer if episode.outcome == "answered" else f"none: {ENDS[episode.outcome]}"
    return "\n".join([*lines, "", f"answer    {printable(end)}"])


def passage(hit: Hit, mark: str = "-") -> str:
    """A passage with its title, id and score, indented."""
    head = f"    {mark} {printable(hit.title) or '(no title)'} ({printable(hit.chunk_id)}, score {hit.score:.3g})"
    return "\n".join([head, textwrap.indent(textwrap.fill(printable(hit.text), 92), " " * 8)])


def printable(text: str) -> str:
    """`text` in one line, without what could steer a terminal: passages and policies are not to be trusted."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


def _line(name: str, text: str) -> str:
    return "\n".join(textwrap.wrap(f"{name:10}{printable(text)}", 100, initial_indent="  ", subsequent_indent=" " * 12))
