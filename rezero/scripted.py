"""Scripted searchers: turns written by rules instead of a model, played against the real engines.

They teach the laptop policy the protocol (`warmstart.py`) and serve as baselines and as probes of a reward. A script is
a function `(question, turns so far, rng) -> text of the next turn`.
"""

import random
from collections.abc import Callable

from rezero.protocol import Episode, Turn, build_prompt, parse_turn
from rezero.questions import Question, keywords
from rezero.rollout import respond
from rezero.search import Engine

Script = Callable[[Question, tuple[Turn, ...], random.Random], str]

FIRST, FOUND, MISSED = "look this up", "found in the information", "not found in the information"
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
        replies = respond(new, engine, k) if number < max_turns else new
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
    otherwise gives up; with the evidence it answers. `retry=1` is the scripted always-retry baseline.
    """

    def script(question: Question, turns: tuple[Turn, ...], rng: random.Random) -> str:
        if not turns:
            return _turn(FIRST, "search", keywords(question.text))
        if Episode(question, turns, "unfinished").evidence_search:
            return _turn(FOUND, "answer", question.answers[0])
        rewrites = question.rewrites[len(turns) - 1 :]
        if rewrites and len(turns) < max_searches and rng.random() < retry:
            return _turn(f"{MISSED}, {RETRY}", "search", rewrites[0])
        return _turn(f"{MISSED}, {GIVE_UP}", "answer", UNKNOWN)

    return script


def _turn(thought: str, action: str, argument: str) -> str:
    return f"<think> {thought} </think><{action}> {argument} </{action}>"
