"""Episodes to read, as HTML for notebooks and files: what the macros of `cards.html.j2` are to show."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rezero.evaluation.traces import facts
from rezero.files import write_text
from rezero.protocol import NO_HITS, Episode
from rezero.questions import Question
from rezero.text import clean, printable

FILTERS = {  # what may be true of an episode -> its words; the keys are also CSS classes, see cards.css
    "correct": "✓ correct",
    "wrong": "✗ not correct",
    "gave-up": "missed, did not retry",
    "recovered": "missed, recovered",
    "malformed": "malformed turn",
}


@dataclass(frozen=True)
class Page:
    """HTML that a notebook shows and a line per episode for a terminal; `save` writes a file that needs no other."""

    title: str
    body: str
    text: str
    preview: str = ""  # what a notebook shows instead of a long body

    def _repr_html_(self) -> str:
        return clean(_MACROS.output(self.preview or self.body))

    def __repr__(self) -> str:
        return "\n".join(map(printable, clean(self.text).split("\n")))

    def save(self, path: str | Path) -> Path:
        return write_text(path, clean(_MACROS.document(self.title, self.body)))


def card(episode: Episode, decode: Callable[[list[int]], str] | None = None) -> Page:
    """One episode, turn by turn; with `decode` (token ids -> text) also which tokens of its rollout are trained on."""
    if decode and not episode.completion_ids:
        raise ValueError("the episode has no token ids; want one from a rollout")
    mask = zip(episode.completion_ids, episode.env_mask, strict=True) if decode else ()
    tokens = [(token, decode([token]) or f"‹{token}›", sampled) for token, sampled in mask]
    one = _described(episode)
    return Page(one["question"].text, _MACROS.card(one, tokens), one["line"])


def browser(episodes: Sequence[Episode], title: str = "Episodes", limit: int = 50) -> Page:
    """A list of episodes to open one by one, with filters; a notebook shows the first `limit`, a saved file all."""
    ones = [_described(episode) for episode in episodes]
    counts = {name: sum(name in one["true"] for one in ones) for name in FILTERS}
    text = "\n".join([f"{title}: {len(ones)} episodes", *(one["line"] for one in ones[:limit])])
    whole, preview = (_MACROS.browser(title, ones, counts, shown) for shown in (len(ones), limit))
    return Page(title, whole, text, preview)


def side_by_side(a: Episode, b: Episode, names: tuple[str, str] = ("before", "after")) -> Page:
    """Two episodes on the same question, of two policies."""
    pair = [_described(a), _described(b)]
    left, right = (one["question"].id for one in pair)
    if left != right:
        raise ValueError(f"question {left!r} beside {right!r}; want two episodes on the same question")
    return Page(" / ".join(names), _MACROS.side_by_side(names, pair), "\n".join(one["line"] for one in pair))


def _described(episode: Episode) -> dict:
    prompt = episode.prompt[-1]["content"] if episode.prompt else "?"  # stands in for a question
    question, found = episode.question or Question("", prompt, (), ()), facts(episode)
    gave_up = found["missed"] and not found["retried"] and episode.outcome == "answered"
    held = (found["correct"], found["correct"] is False, gave_up, found["recovered"], found["malformed_turns"])
    true = [name for name, holds in zip(FILTERS, held, strict=True) if holds]
    words = [FILTERS[name] for name in true] if episode.question else ["not judged: no question"]
    if episode.outcome != "answered":
        words.append(f"no answer ({episode.outcome})")
    line = f"[{', '.join(words)}] {len(episode.searches)} searches: {question.text} -> {episode.answer}"
    line = " ".join(line.split())
    seen = iter(episode.evidence())  # one share of the gold passages per search
    turns = [(turn, next(seen) if turn.action == "search" else 0.0) for turn in episode.turns]
    return {"episode": episode, "question": question, "true": true, "words": words, "turns": turns, "line": line}


def _cut(text: str, answers: Sequence[str]) -> list[str]:  # every second part is an answer, as whole words
    longest_first = map(re.escape, sorted(filter(None, answers), key=len, reverse=True))
    pattern = "|".join(longest_first) or "(?!)"  # (?!) matches nothing
    return re.split(rf"(?<!\w)({pattern})(?!\w)", text, flags=re.IGNORECASE)


_FILES = FileSystemLoader(Path(__file__).parent)
_JINJA = Environment(loader=_FILES, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_MACROS = _JINJA.get_template("cards.html.j2", globals={"FILTERS": FILTERS, "NO_HITS": NO_HITS, "cut": _cut}).module
