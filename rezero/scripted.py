"""Scripted searchers: turns written by rules instead of a model, played against the real engines.

They teach the laptop policy the protocol (`warmstart.py`) and serve as baselines and as probes of a reward. A script is
a function `(question, turns so far, rng) -> text of the next turn`.
"""

import random
import re
from collections.abc import Callable

import Stemmer

from rezero.protocol import Episode, Turn, build_prompt, parse_turn
from rezero.questions import Question, keywords
from rezero.rollout import respond
from rezero.search import Asker, Engine

Script = Callable[[Question, tuple[Turn, ...], random.Random], str]

FIRST, FOUND, MISSED = "look this up", "found:", "not found"
RETRY, GIVE_UP = "search again with other words", "give up"
UNKNOWN = "unknown"


def play(
    script: Script,
    questions: list[Question],
    engine: Engine,
    *,
    k: int,
    max_turns: int = 20,
    seed: int = 0,
    prompt_style: str = "short",
) -> list[Episode]:
    """One scripted episode a question; all episodes advance together, so that the engine is asked in batches."""
    rng = random.Random(seed)
    turns: list[tuple[Turn, ...]] = [() for _ in questions]
    going = list(range(len(questions)))
    for number in range(1, max_turns + 1):
        new = [parse_turn(script(questions[i], turns[i], rng)) for i in going]
        askers = [Asker(questions[i].id, number) for i in going]
        replies = respond(new, engine, k, askers) if number < max_turns else new
        for i, turn in zip(going, replies, strict=True):
            turns[i] += (turn,)
        going = [i for i in going if turns[i][-1].action == "search"]
        if not going:
            break
    outcomes = {"answer": "answered", "search": "turn_limit", "malformed": "malformed"}
    return [
        Episode(q, t, outcomes[t[-1].action], tuple(build_prompt(q.text, prompt_style)))
        for q, t in zip(questions, turns, strict=True)
    ]


def searcher(retry: float = 1.0, max_searches: int = 4) -> Script:
    """A searcher that knows the gold evidence when it sees it.

    It first searches the question's words; after a miss it writes its next rewrite with probability `retry` and
    otherwise gives up; with the evidence it quotes the passage and answers. `retry=1` is the scripted always-retry
    baseline.
    """

    def script(question: Question, turns: tuple[Turn, ...], rng: random.Random) -> str:
        if not turns:
            return say(FIRST, "search", keywords(question.text))
        if Episode(question, turns, "unfinished").evidence_search:
            return say(f"{FOUND} {quote(question, turns)}", "answer", question.answers[0])
        rewrites = question.rewrites[len(turns) - 1 :]
        if rewrites and len(turns) < max_searches and rng.random() < retry:
            return say(f"{MISSED}, {RETRY}", "search", rewrites[0])
        return say(f"{MISSED}, {GIVE_UP}", "answer", UNKNOWN)

    return script


def quote(question: Question, turns: tuple[Turn, ...]) -> str:
    """The words of the gold passage from the one that tells what was asked to the answer, in their order.

    Quoting turns reading into copying: a small policy finds the word it asked about and goes on from there. The word
    is one of the question or of its rewrites, by its stem.
    """
    answer = question.answers[0]
    texts = (hit.text for turn in turns for hit in turn.hits if hit.chunk_id == question.gold_chunk_ids[-1])
    sentence = next(s for text in texts for s in re.split(r"(?<=[.!?]) ", text) if answer in s)
    start, stem = sentence.index(answer), Stemmer.Stemmer("english").stemWord
    asked = {stem(word.lower()) for word in keywords(" ".join((question.text, *question.rewrites))).split()}
    telling = [m for m in re.finditer(r"[a-z]{4,}", sentence) if stem(m.group()) in asked and m.group() not in answer]
    before = [m.start() for m in telling if m.start() < start]
    after = [m.end() for m in telling if m.start() > start]
    if before:
        return sentence[before[0] : start + len(answer)]
    return sentence[start : after[0]] if after else sentence[: start + len(answer)]


def say(thought: str, action: str, argument: str) -> str:
    return f"<think> {thought} </think><{action}> {argument} </{action}>"
