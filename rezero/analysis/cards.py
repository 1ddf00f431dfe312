"""Episodes to read, as HTML for notebooks and files: what the macros of `cards.html.j2` are to show.

All looks are inline and made of what sanitizers keep, so that a card in an untrusted notebook looks as it should.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rezero.analysis.causes import CAUSES, cause
from rezero.evaluation.traces import facts
from rezero.files import write_text
from rezero.protocol import NO_HITS, Episode, Turn
from rezero.questions import Question
from rezero.rewards import score
from rezero.text import clean, keywords, printable

FAULTS = {  # what an engine that fails on purpose did, see `search.faulty`
    "empty": "it withheld all passages",
    "irrelevant": "it returned random passages",
    "stale": "it returned old issues of the passages, with other figures",
    "shuffled": "it returned the passages in another order",
    "truncated": "it cut each passage to its first third",
    "outage": "it was down",
}
Decode = Callable[[list[int]], str]  # token ids -> text
Weights = dict[str, float]  # reward -> weight


@dataclass(frozen=True)
class Page:
    """HTML that a notebook shows and a line per episode for a terminal; `save` writes a file that needs no other."""

    title: str
    body: str
    text: str
    preview: str = ""  # what a notebook shows instead of a long body

    def _repr_html_(self) -> str:
        return clean(MACROS.output(self.preview or self.body))

    def __repr__(self) -> str:
        return "\n".join(map(printable, clean(self.text).split("\n")))

    def save(self, path: str | Path) -> Path:
        return write_text(path, clean(MACROS.document(self.title, self.body)))


def card(episode: Episode, decode: Decode | None = None, weights: Weights | None = None) -> Page:
    """One episode, turn by turn; with `weights` what it earned, with `decode` which of its tokens are trained on."""
    if decode and not episode.completion_ids:
        raise ValueError("the episode has no token ids; want one from a rollout")
    one = described(episode, weights, decode)
    return Page(one["question"].text, MACROS.card(one, open=True), one["line"])


def browser(episodes: Sequence[Episode], title: str = "Episodes", limit: int = 50, **shown) -> Page:
    """Episodes to open one by one, grouped by cause; a notebook shows `limit` per cause, a saved file all.

    `limit=1` is one example per cause. `shown` are `weights` and `decode` of `card`.
    """
    ones = [described(episode, **shown) for episode in episodes]
    groups = {name: [one for one in ones if one["cause"] == name] for name in CAUSES}
    text = "\n".join([f"{title}: {len(ones)} episodes", *(one["line"] for one in ones[:limit])])
    whole, preview = (MACROS.browser(title, groups, len(ones), shown) for shown in (len(ones), limit))
    return Page(title, whole, text, preview)


def side_by_side(a: Episode, b: Episode, names: tuple[str, str] = ("before", "after"), **shown) -> Page:
    """Two episodes on the same question, of two policies, the first turn at which they part marked."""
    pair = [described(episode, **shown) for episode in (a, b)]
    left, right = (one["question"].id for one in pair)
    if left != right:
        raise ValueError(f"question {left!r} beside {right!r}; want two episodes on the same question")
    return Page(" / ".join(names), MACROS.side_by_side(names, pair, parting(a, b)), "\n".join(o["line"] for o in pair))


def parting(a: Episode, b: Episode) -> int | None:
    """Number (from 1) of the first turn in which the episodes do not act alike; None if they act alike throughout."""
    acts = [[(turn.action, turn.argument or turn.text) for turn in episode.turns] for episode in (a, b)]
    return next((i for i, (one, other) in enumerate(zip_longest(*acts), start=1) if one != other), None)


def described(episode: Episode, weights: Weights | None = None, decode: Decode | None = None) -> dict:
    """What the macros show of an episode. Without a question its prompt stands in for it, and nothing is scored."""
    prompt = episode.prompt[-1]["content"] if episode.prompt else "?"
    question, found, name = episode.question or Question("", prompt, (), ()), facts(episode), cause(episode)
    signs = {"right": "✓ ", "not judged": ""}
    words = [signs.get(name, "✗ ") + name + ("" if episode.question else ": no question")]
    words += ["missed, recovered"] if found["recovered"] else []
    words += ["malformed turn"] if found["malformed_turns"] and name != "malformed" else []
    words += [f"no answer ({episode.outcome})"] if episode.outcome != "answered" else []
    line = f"[{', '.join(words)}] {len(episode.searches)} searches: {question.text} -> {episode.answer}"
    line = " ".join(line.split())
    seen = iter(episode.evidence())  # one share of the gold passages per search
    turns = [(turn, next(seen) if turn.action == "search" else 0.0, _harm(turn)) for turn in episode.turns]
    reward, values = score(episode, weights) if weights and question.answers else (0.0, {})
    pairs = zip(episode.completion_ids, episode.env_mask, strict=True) if decode else ()
    tokens = Markup().join(_token(decode, *pair) for pair in pairs)
    one = {"episode": episode, "question": question, "cause": name, "words": words, "turns": turns, "line": line}
    return one | {"f1": found["f1"], "reward": reward, "values": values, "weights": weights, "tokens": tokens}


def _harm(turn: Turn) -> list[str]:
    return [FAULTS.get(fault, fault) for fault in turn.fault.split("+") if fault and not turn.error]


@lru_cache(maxsize=10_000)
def _token(decode: Decode, token: int, sampled: int) -> Markup:
    return MACROS.token(token, decode([token]) or f"‹{token}›", sampled)


def _cut(text: str, answers: Sequence[str], query: str = "") -> list[tuple[str, str]]:
    """The text in pieces (kind, piece): "answer" for an accepted answer, "query" for a word of the query, or ""."""
    wanted = {word.lower(): "query" for word in keywords(query).split()}
    wanted |= {answer.lower(): "answer" for answer in answers if answer}
    pieces = _pattern(tuple(sorted(wanted, key=len, reverse=True))).split(text)
    return [(wanted.get(piece.lower(), "query") if i % 2 else "", piece) for i, piece in enumerate(pieces) if piece]


@lru_cache(maxsize=10_000)
def _pattern(words: tuple[str, ...]) -> re.Pattern:  # whole words, the longest first; (?!) matches nothing
    return re.compile(rf"(?<!\w)({'|'.join(map(re.escape, words)) or '(?!)'})(?!\w)", re.IGNORECASE)


_FILES = FileSystemLoader(Path(__file__).parent)
JINJA = Environment(loader=_FILES, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
MACROS = JINJA.get_template("cards.html.j2", globals={"CAUSES": CAUSES, "NO_HITS": NO_HITS, "cut": _cut}).module
