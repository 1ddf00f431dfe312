"""The text-tag protocol: prompts, one assistant turn of text to a `Turn`, turns as an `Episode`.

Each assistant turn thinks in `<think>…</think>` and then does exactly one of `<search>query</search>` or
`<answer>text</answer>`; a search is answered by `<information>…</information>` (ReZero, arXiv 2504.11001).
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Literal

import yaml

from rezero.questions import Question
from rezero.search.base import Hit
from rezero.text import clean

Action = Literal["search", "answer", "malformed"]
Outcome = Literal["answered", "malformed", "turn_limit", "token_limit", "unfinished"]

# name -> [system message, user message]
PROMPTS = yaml.safe_load(Path(__file__).with_name("prompts.yaml").read_text("utf-8"))
PROMPTS["user"] = ["", "\n\n".join(PROMPTS["full"])]  # the same rules without a system message
NAMES = ("think", "search", "answer", "information")
TAGS = tuple(f"<{slash}{name}>" for name in NAMES for slash in ("", "/"))
NO_HITS = "No passage matched this query. Try other words."
ENGINE_FAILED = "The search engine failed ({reason}). The query may be repeated or changed."
CORRECTION = "That turn was not understood: after the thought, write exactly one search or exactly one answer."

_ACTION = re.compile(r"<(search|answer)>(.*?)</\1>", re.DOTALL)
_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_TAG_START = re.compile(rf"[<＜﹤](?=[/|｜!]?[A-Za-z_|｜-]|\s*/?\s*(?:{'|'.join(NAMES)})\b)")


@dataclass(frozen=True)
class Sampling:
    """How an episode is played, and what it may spend. Tokens are the policy's."""

    k: int = 2  # passages per search
    max_turns: int = 20  # assistant turns per episode
    turn_tokens: int = 512  # sampled tokens per turn
    episode_tokens: int = 8192  # everything after the prompt, retrieved text included
    prompt_style: str = "full"  # a key of `PROMPTS`
    temperature: float = 0.0  # 0 is greedy

    def __post_init__(self) -> None:
        for name in ("k", "max_turns", "turn_tokens", "episode_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; want at least 1")
        build_prompt("", self.prompt_style)  # refuses an unknown style


@dataclass(frozen=True)
class Turn:
    """One assistant turn and what came back for it."""

    text: str
    thought: str
    action: Action
    argument: str  # the query or the answer, stripped; "" when the turn is malformed
    hits: tuple[Hit, ...] = ()
    information: str | None = None  # the text inside the `<information>` block that followed, if any
    error: str | None = None  # what a failing engine said; None when it worked
    engine: str = ""  # the name of the engine that answered
    fault: str = ""  # what an engine that fails on purpose did to the hits; "" when nothing


@dataclass(frozen=True)
class Episode:
    """One question, the turns spent on it, and how it ended.

    An episode from a rollout also carries its token ids: `prompt_ids`, `completion_ids` (all turns and all retrieved
    text) and `env_mask`, as long as `completion_ids`, 1 where the policy chose the token and 0 where it only read it.
    Whether a search failed is decided here and nowhere else, by `missed`, `retried` and `recovered`. A question with
    several gold passages needs all of them, so a first search that brings some of the gold is a miss, too: an answer
    would still be a guess, and to search again is still the right decision.
    """

    question: Question | None
    turns: tuple[Turn, ...]
    outcome: Outcome
    prompt: tuple[dict, ...] = ()
    prompt_ids: tuple[int, ...] = field(default=(), repr=False)
    completion_ids: tuple[int, ...] = field(default=(), repr=False)
    env_mask: tuple[int, ...] = field(default=(), repr=False)

    @property
    def answer(self) -> str | None:
        """The final answer; None if the episode ended without one."""
        return self.turns[-1].argument if self.outcome == "answered" else None

    @property
    def searches(self) -> tuple[Turn, ...]:
        return tuple(turn for turn in self.turns if turn.action == "search")

    @property
    def queries(self) -> tuple[str, ...]:
        return tuple(turn.argument for turn in self.searches)

    @property
    def malformed_turns(self) -> int:
        return sum(turn.action == "malformed" for turn in self.turns)

    def evidence(self) -> list[float]:
        """Share of the gold chunks seen after each search, by id among its hits or, without hits, by text."""
        if self.question is None or not self.question.gold_chunk_ids:
            return [0.0] * len(self.searches)
        golds, seen, shares = self.question.gold_chunk_ids, set(), []
        for turn in self.searches:
            if turn.hits or not turn.information:
                seen |= {hit.chunk_id for hit in turn.hits} & set(golds)
            else:
                pairs = zip(golds, self.question.gold_texts, strict=False)
                seen |= {gold for gold, text in pairs if holds(turn.information, text)}
            shares.append(len(seen) / len(golds))
        return shares

    @property
    def evidence_search(self) -> int | None:
        """Number (from 1) of the search after which all gold chunks had been seen; None if that never happened."""
        return next((i for i, share in enumerate(self.evidence(), start=1) if share == 1.0), None)

    @property
    def missed(self) -> bool:
        """Whether gold passages were still unseen after the first search. False without a search or without gold."""
        has_gold = bool(self.question and self.question.gold_chunk_ids)
        return has_gold and bool(self.searches) and self.evidence_search != 1

    @property
    def retried(self) -> bool:
        """Whether it searched again after a miss."""
        return self.missed and len(self.searches) > 1

    @property
    def recovered(self) -> bool:
        """Whether, after a miss, all gold passages were seen in the end."""
        return self.missed and self.evidence_search is not None

    def to_messages(self) -> list[dict]:
        """Chat messages; the inverse of `from_messages`."""
        messages = [dict(message) for message in self.prompt]
        for turn in self.turns:
            messages.append({"role": "assistant", "content": turn.text})
            if turn.information is not None:
                messages.append({"role": "user", "content": wrap_information(turn.information)})
        return messages

    @classmethod
    def from_messages(cls, transcript: list[dict] | str | dict, question: Question | None = None) -> "Episode":
        """Read chat messages, a string as Search-R1 writes it, or a row of TRL; `extras.transcripts` says how.

        ValueError names a message without a known role or without text; a warning counts what was not understood.
        """
        return resolve_name("rezero.extras.transcripts:read_episode")(transcript, question)


def build_prompt(question: str, style: str = "full") -> list[dict]:
    """Chat messages that pose `question`, neutralized; `style` is a key of `PROMPTS`."""
    if style not in PROMPTS:
        raise ValueError(f"unknown prompt style {style!r}; allowed: {', '.join(PROMPTS)}")
    texts = zip(("system", "user"), PROMPTS[style], strict=True)
    return [{"role": role, "content": text.replace("{question}", neutralize(question))} for role, text in texts if text]


def parse_turn(text: str) -> Turn:
    """Read one assistant message as a `Turn`.

    The action stands outside the thoughts. A search with an answer, neither, or a thought that never closes makes the
    turn malformed. Of several searches, which only transcripts have, the first is run.
    """
    text = clean(text)
    thought = "\n".join(part.strip() for part in _THOUGHT.findall(text))
    rest = _THOUGHT.sub("", text)
    actions = _ACTION.findall(rest)
    if len({name for name, _ in actions}) != 1 or "<think>" in rest:
        return Turn(text, thought, "malformed", "")
    name, argument = actions[0] if actions[0][0] == "search" else actions[-1]
    return Turn(text, thought, name, argument.strip())


def closes_turn(text: str) -> bool:
    """Whether `text` contains a closed action, after which generation must stop."""
    return "</search>" in text or "</answer>" in text


def neutralize(text: str) -> str:
    """Make foreign text inert: what looks like the start of a tag or of a chat token loses its bracket.

    `<answer>`, `</information>`, `<|im_end|>` and `<start_of_turn>` become `‹answer>` and so on; `a < b` stays. What
    else is a token of its own for a policy, such as `[INST]`, is broken when the policy reads it (`Template.inert`).
    """
    return _TAG_START.sub("‹", clean(text))


def holds(information: str, text: str) -> bool:
    """Whether retrieved text contains `text`, verbatim or neutralized. An empty `text` counts as unknown: False."""
    return bool(text) and (text in information or neutralize(text) in information)


def format_hits(hits: list[Hit] | tuple[Hit, ...]) -> str:
    """The passages as the policy reads them: numbered, with their titles, neutralized."""
    lines = [f"[{i}] {neutralize(hit.title)} | {neutralize(hit.text)}" for i, hit in enumerate(hits, start=1)]
    return "\n".join(lines or [NO_HITS])


def wrap_information(text: str) -> str:
    return f"<information>\n{text}\n</information>"
