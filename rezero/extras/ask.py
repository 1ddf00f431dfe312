"""One question to a policy, or one claim to be checked with it, and the episode as text for a terminal.

A claim becomes a question for what it ends with ("The commander of Corvane was Ilse Varrow": "What was the commander of
Corvane?"). It is supported when the policy answers what it says; refuted when both are names, dates or numbers of one
unit, and differ; else not found. The first two need a retrieved passage with the answer and every name and number that
the claim is about (or half of its other words), and no claim is refuted while such a passage has what it says.
Words are compared (`judge.normalize`), not meanings. Of 164 claims (tests/test_ask.py, slow) 55 of 95 true ones were
supported and one refuted, because the policy misread its passage; 28 of 69 false ones were refuted and none supported.
"""

import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace

from rezero.config import Config, load_config, parse_config
from rezero.corpus import load_chunks
from rezero.files import read_json, resolve
from rezero.judge import MONTHS, normalize
from rezero.policy.load import check_context, load_policy
from rezero.protocol import Episode, Sampling
from rezero.questions import Question
from rezero.rollout import turn_by_turn
from rezero.search import REMOTE, build_engine, check_options
from rezero.search.base import Engine, Hit
from rezero.text import STOP_WORDS, clean, keywords, printable

# What a claim ends with: a number with its unit, else words that begin with a capital or a digit, else the last word.
VALUE = re.compile(r"(?<=\s)(?:(?:[A-Z\d]\S*\s+)*(?:[-+]?[\d.,]+\s+[a-z°%]\S*|[-+]?[A-Z\d]\S*)|\S+)$")
PLAIN = re.compile(r".+ (?:is|was|are|were) ((?:an?|the) [a-z -]+|[a-z-]+(?: [a-z-]+)?)")  # ... was a poor weld
COPULA = re.compile(r"(.+) (is|was|are|were)(?: an?| the)?")
UNCHECKED = re.compile(  # negations, bounds, lists, several sentences: no answer tells whether they are true
    r"\b(?:not?|never|none|nobody|nothing|neither|nor|without|cannot|than|at least|at most)\b|n['’]t\b|\w{4}[.;!?]\s|"
    r"\b(?:about|above|after|almost|and|around|before|below|between|nearly|only|or|over|since|under|until)\s+\S+"
    r"(?:\s+[a-z%°]\S*)?$",
    re.IGNORECASE,
)
ENDS = {"malformed": "two malformed turns", "turn_limit": "no turns left", "token_limit": "no tokens left"}


def run_ask(question, claim, policy: str, profile: str, engine: str, options: dict | None, corpus: str) -> None:
    """Print the episode of a question or, with a claim, of the claim's question, and the verdict with its passages."""
    if (question is None) == (claim is None):
        raise ValueError("ask wants a question in quotes, or --verify CLAIM")
    config = find_settings(policy, profile, engine, options)
    text, value = (question, "") if claim is None else masked(claim)
    episode = ask(text, config, corpus)
    print(show(episode))
    if claim is not None:
        name, why, hits = verify(episode, claim, value)
        print(f"\nclaim     {printable(claim)}\n{name}: {printable(why)}")
        print("\n".join(["resting on:" if hits else "resting on no passage", *map(passage, hits)]))


def find_settings(policy: str, profile: str, engine: str, options: dict | None) -> Config:
    """What to ask with: `profile`, else what the run or the export that `policy` belongs to recorded, else "laptop"."""
    config, folder = load_config(profile or "laptop"), resolve(policy or ".")
    if (folder / "best").is_dir():
        from rezero.extras.export import find_run  # here, because it imports much and is seldom needed

        folder = find_run(folder) / "best"
    above = "config.json" if folder.name in ("best", "warm") else "rezero.json"
    recorded = next(filter(Path.is_file, (folder / "rezero.json", folder.parent / above)), None)
    if recorded and not profile:
        config = parse_config(read_json(recorded), str(recorded))
    if policy:
        config = replace(config, policy=str(folder) if folder.is_dir() else policy)
    if engine and engine != config.engine:
        config = replace(config, engine=engine, engine_options={})  # the recorded options are those of another engine
    return config if options is None else replace(config, engine_options=options)


def ask(text: str, config: Config, corpus: str = "") -> Episode:
    """The greedy episode of `config`'s policy on the question `text`, over `config`'s corpus or another one."""
    *_, episode = episodes_so_far(Question("asked", clean(text).strip(), (), ()), config, corpus)
    return episode


def episodes_so_far(question: Question, config: Config, corpus: str = "", fault: str = "") -> Iterator[Episode]:
    """The episode of `ask` after each turn; with a `fault`, an option of the engine faulty, its first search fails."""
    if not question.text:
        raise ValueError("the question is empty")
    check_options(config.engine, config.engine_options)
    place = "" if config.engine in REMOTE else config.corpus  # a remote engine gets passages only if a corpus is named
    asked = corpus or place, config.engine, json.dumps(config.engine_options)
    folder = resolve(config.policy)
    written = folder.stat().st_mtime_ns if folder.is_dir() else 0  # a training may put another policy there
    engines, policy = chain([_engine(*asked, fault)], repeat(_engine(*asked))), _policy(config.policy, written)
    sampling = Sampling(config.k, config.max_turns, config.turn_tokens, config.episode_tokens, config.prompt_style)
    check_context(policy, config.policy, sampling, config.max_context, [question])
    engine = SimpleNamespace(search=lambda *searched: next(engines).search(*searched))
    for (state,) in turn_by_turn(policy, engine, [question], sampling, None, {"generation": 0.0, "search": 0.0}):
        yield state.episode()


_policy, _chunks = lru_cache(2)(lambda name, written: load_policy(name)), lru_cache(1)(load_chunks)


@lru_cache(8)
def _engine(corpus: str, name: str, options: str, fault: str = "") -> Engine:
    """An engine with `options` (JSON) over a corpus; with a `fault` every search of it fails."""
    chunks, given = _chunks(corpus) if corpus else [], json.loads(options)
    if fault and not chunks:
        raise ValueError(f"the engine {name!r} has no passages here, and so cannot be made to fail; name a corpus")
    if fault:
        return build_engine("faulty", chunks, engine={"engine": name, "engine_options": given}, **{fault: 1.0})
    return build_engine(name, chunks, **given)


def masked(claim: str) -> tuple[str, str]:
    """(question, value): the name, number or else the word that ends `claim`, and the question that asks for it."""
    words = clean(claim).strip(" .!?").split()
    words[:1] = [word.lower() if word.lower() in STOP_WORDS else word for word in words[:1]]
    claim = " ".join(words)
    if len(words) < 3 or UNCHECKED.search(claim):
        want = "one sentence of three words or more that ends with the name, number or word in question"
        raise ValueError(f"cannot check {claim!r}; want {want}, without 'not', 'and', 'more than' or the like")
    plain = PLAIN.fullmatch(claim)
    value = plain[1] if plain else VALUE.search(claim)[0]
    if not keywords(words[-1]) and not re.search(r"\d", value):  # "The pilot of Corvane was the"
        raise ValueError(f"cannot check {claim!r:.80}: it ends with {value!r:.80}; want a name, number or word there")
    start = claim.removesuffix(value).strip()
    copula = COPULA.fullmatch(start)
    return f"What {copula[2]} {copula[1]}?" if copula else f"{start} what?", value


def verify(episode: Episode, claim: str, value: str) -> tuple[str, str, list[Hit]]:
    """By the rule above: "supported", "refuted" or "not found"; why; and the passages that it rests on."""
    answer, question = episode.answer or "", episode.question.text
    said, claimed = normalize(answer), normalize(value)
    hits = {hit.chunk_id: hit for turn in episode.searches for hit in turn.hits}
    texts = {id: normalize(f"{hit.title} {hit.text}") for id, hit in hits.items()}
    words = keywords(question).split()
    names = [normalize(word) for word in words if not word[0].islower()]
    about = []  # the passages with all names and numbers of the question or, if it has none, half of its words
    for id, text in texts.items():
        held = [_within(word, text) for word in names or map(normalize, words)]
        if all(held) if names else 2 * sum(held) >= len(held):
            about.append(id)
    basis = [hits[id] for id in about if _within(said, texts[id])]
    if not said or not basis or _within(said, normalize(question)):  # the words of the question are no answer
        return "not found", f"no passage has the policy's answer, {answer!r}, next to what the claim is about", []
    in_claim = _within(said, normalize(claim)) and not set(said.split()).isdisjoint(claimed.split())
    if in_claim or (not value[0].islower() and _within(claimed, said)):
        return "supported", f"the policy answers {answer!r}, too", basis
    if _differ(answer, value) and not any(_within(claimed, texts[id]) for id in about):
        return "refuted", f"the policy answers {answer!r}, not {value!r}", basis
    return "not found", f"the policy's answer, {answer!r}, is not {value!r} and does not rule it out", basis


def _differ(answer: str, value: str) -> bool:
    """Whether they are two names, two dates or two numbers of one unit, each with a word that the other lacks."""
    pair = [set(normalize(text).split()) for text in (answer, value)]
    if pair[0] <= pair[1] or pair[1] <= pair[0]:
        return False
    if all(any(word[0].isdigit() for word in words) for words in pair):
        units, others = ({"month" if w in MONTHS else w for w in words if w[0].isalpha()} for words in pair)
        return units <= others or others <= units
    return answer[0].isupper() and value[0].isupper()


def _within(part: str, whole: str) -> bool:
    return f" {part} " in f" {whole} "


def show(episode: Episode) -> str:
    """The episode for a terminal, turn by turn: thought, query, passages with title, id and score, answer."""
    lines = [f"question  {printable(episode.question.text)}"]
    for number, turn in enumerate(episode.turns, start=1):
        lines += ["", f"turn {number}"]
        lines += [_line("thought", turn.thought)] if turn.thought else []
        lines.append(_line(turn.action, turn.argument or turn.text))
        lines += [passage(hit, f"[{i}]") for i, hit in enumerate(turn.hits, start=1)]
        if turn.error:
            lines.append(_line("engine", f"failed: {turn.error}"))
        elif turn.action == "search" and not turn.hits:
            lines.append("    no passage" if turn.information is not None else "    no reply")
    end = episode.answer if episode.outcome == "answered" else f"none: {ENDS[episode.outcome]}"
    return "\n".join([*lines, "", f"answer    {printable(end)}"])


def passage(hit: Hit, mark: str = "-") -> str:
    head = f"    {mark} {printable(hit.title) or '(no title)'} ({printable(hit.chunk_id)}, score {hit.score:.3g})"
    return f"{head}\n{textwrap.indent(textwrap.fill(printable(hit.text), 92), ' ' * 8)}"


def _line(name: str, text: str) -> str:
    return textwrap.fill(f"{name:10}{printable(text)}", 100, initial_indent="  ", subsequent_indent=" " * 12)
