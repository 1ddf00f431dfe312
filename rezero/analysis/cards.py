"""Episodes to read, as HTML for notebooks and files. (`rezero.extras.ask.show` writes one for a terminal.)

Passages and model text are untrusted, so all of it is escaped. The meaning is carried by plain tags (`details`, `ol`,
`table`, `mark`) and by ★, ✓ and ✗, because GitHub strips styles and forms from notebook outputs; `cards.css` only makes
it pretty.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

from rezero.evaluation.traces import facts
from rezero.files import write_text
from rezero.protocol import NO_HITS, Episode, Turn
from rezero.questions import Question
from rezero.text import clean

FILTERS = {  # what may be true of an episode -> its words; the keys are also CSS classes, see cards.css
    "correct": "✓ correct",
    "wrong": "✗ not correct",
    "gave-up": "missed, did not retry",
    "recovered": "missed, recovered",
    "malformed": "malformed turn",
}


@dataclass(frozen=True)
class Page:
    """HTML that a notebook shows, a line per episode that a terminal shows, and a file of its own after `save`."""

    title: str
    body: str
    text: str
    preview: str = ""  # what a notebook shows instead of a long body

    def _repr_html_(self) -> str:
        style = Path(__file__).with_name("cards.css").read_text("utf-8")
        body = f"<style>{style}</style>{self.preview or self.body}"
        return f'<div class="rezero tex2jax_ignore mathjax_ignore">{body}</div>'  # MathJax would typeset dollars

    def __repr__(self) -> str:
        return clean(self.text)

    def save(self, path: str | Path) -> Path:
        """Write the whole body as a standalone HTML file, which loads nothing from elsewhere."""
        head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{_safe(self.title)}'
        style = "<style>:root{color-scheme:light dark}body{background:light-dark(#fff,#15181c)}</style>"
        whole = replace(self, preview="")._repr_html_()
        start = f'<!doctype html>\n<html lang="en"><head>{head}</title>{style}</head>'
        return write_text(path, f"{start}<body>{whole}</body></html>\n")


def card(episode: Episode, decode: Callable[[list[int]], str] | None = None) -> Page:
    """One episode, turn by turn; with `decode` (token ids -> text) also its loss mask, if it comes from a rollout.

    That is, token by token, what the policy sampled, which is trained on, and what came from the environment (passages,
    corrections and the chat template around them), which is not. A token's id is its tooltip.
    """
    one, tokens = _Html(episode), ""
    if decode and not episode.completion_ids:
        raise ValueError("the episode has no token ids; want one from a rollout")
    if decode:
        for token, sampled in zip(episode.completion_ids, episode.env_mask, strict=True):
            tag, text = "b" if sampled else "i", decode([token]) or f"‹{token}›"
            tokens += f'<{tag} title="{token}">{_safe(text)}</{tag}>'
        own, others = sum(episode.env_mask), episode.env_mask.count(0)
        legend = f"tokens: <b>{own} sampled by the policy</b>, <i>{others} from the environment</i>"
        tokens = _fold(legend, f'<p class="text">{tokens}</p>', "tokens", opened=True)
    return Page(one.question.text, one.card() + tokens, one.line)


def browser(episodes: Sequence[Episode], title: str = "Episodes", limit: int = 50) -> Page:
    """A list of episodes to open one by one, with filters; a notebook shows the first `limit`, a saved file all."""
    shown = [_Html(episode) for episode in episodes]
    counts = Counter(name for one in shown for name in one.true)
    labels = {name: f"{words} ({counts[name]})" for name, words in FILTERS.items() if counts[name]}
    # Radio buttons that filter by CSS alone. Their words are attributes, which CSS shows: where a page may have no
    # forms, no words are left behind.
    buttons = ""
    for name, words in {"all": f"all ({len(shown)})", **labels}.items():
        checked = " checked" if name == "all" else ""
        radio = f'<input type="radio" name="show" value="{name}" aria-label="{words}"{checked}>'
        buttons += f'<label title="{words}">{radio}</label>'
    heading = f"<p><b>{_safe(title)}</b> <small>{len(shown)} episodes; open one to read it</small></p>"
    heading += f"<form>{buttons}</form>"
    items = [_fold(one.headline, one.turns(), " ".join(["episode", *one.true])) for one in shown]
    left = f"<p><small>and {len(items) - limit} more, not shown here</small></p>" if len(items) > limit else ""
    text = "\n".join([f"{title}: {len(items)} episodes", *(one.line for one in shown[:limit])])
    return Page(title, heading + "".join(items), text, heading + "".join(items[:limit]) + left)


def side_by_side(a: Episode, b: Episode, names: tuple[str, str] = ("before", "after")) -> Page:
    """Two episodes on the same question, of two policies."""
    left, right = _Html(a), _Html(b)
    if left.question.id != right.question.id:
        both = f"question {left.question.id!r} beside {right.question.id!r}"
        raise ValueError(f"{both}; want two episodes on the same question")
    heads = "".join(f"<th>{_safe(name)}</th>" for name in names)
    row = f"<td>{left.card()}</td><td>{right.card()}</td>"
    body = f"<table><thead><tr>{heads}</tr></thead><tbody><tr>{row}</tr></tbody></table>"
    return Page(" / ".join(names), body, f"{left.line}\n{right.line}")


class _Html:
    """An episode as parts of a page. `true`: the keys of `FILTERS` that hold for it; `line`: plain text."""

    def __init__(self, episode: Episode):
        self.episode = episode
        prompt = episode.prompt[-1]["content"] if episode.prompt else "?"  # stands in for a question
        self.question = question = episode.question or Question("", prompt, (), ())
        found = facts(episode)
        holds = {
            "correct": found["correct"],
            "wrong": found["correct"] is False,
            "gave-up": found["missed"] and not found["retried"] and found["outcome"] == "answered",
            "recovered": found["recovered"],
            "malformed": found["malformed_turns"],
        }
        self.true = [name for name in FILTERS if holds[name]]
        words = [FILTERS[name] for name in self.true] if episode.question else ["not judged: no question"]
        if episode.outcome != "answered":
            words.append(f"no answer ({episode.outcome})")
        verdict, searches = ", ".join(words), len(episode.searches)
        self.line = f"[{verdict}] {searches} searches: {question.text} -> {episode.answer}"
        tone = "good" if holds["correct"] else "bad" if holds["wrong"] else ""
        kind = f"{_safe(question.kind)}, " if episode.question else ""
        about = f"<small>({kind}searches: {searches})</small>"
        self.headline = f'<b class="{tone}">{_safe(verdict)}</b> · {_safe(question.text)} {about}'

    def card(self) -> str:
        return f'<p class="text">{self.headline}</p>{self.turns()}'

    def turns(self) -> str:
        question, about = self.episode.question, ""
        if question:
            gold, rest = _safe(" / ".join(question.answers)), _safe(f"{question.id}, {question.split}")
            about = f"<p>gold answer: <mark>{gold}</mark> <small>({rest})</small></p>"
        seen = iter(self.episode.evidence())
        turns = [self.turn(turn, next(seen) if turn.action == "search" else 0) for turn in self.episode.turns]
        return f"{about}<ol>{''.join(f'<li>{turn}</li>' for turn in turns)}</ol>"

    def turn(self, turn: Turn, seen: float) -> str:
        """`seen` is the share of the gold passages that were seen after this turn."""
        if turn.action == "malformed":
            return f'<b class="bad">⚠ malformed turn</b><p class="text">{_safe(turn.text)}</p>'
        thought = f'<p class="text thought"><i>{_safe(turn.thought)}</i></p>' if turn.thought else ""
        if turn.action == "answer":
            return f"{thought}answer: <b>{self.marked(turn.argument)}</b>"
        search = f"{thought}search: <code>{_safe(turn.argument)}</code> → "
        if turn.error:
            return f'{search}<span class="bad">⚠ the search engine failed: {_safe(turn.error)}</span>'
        if turn.information is None:
            return f'{search}<span class="bad">⚠ no reply: the episode ended here</span>'
        reply, passages, gold_ids = f"passages: {len(turn.hits)}", "", self.question.gold_chunk_ids
        for number, hit in enumerate(turn.hits, start=1):
            gold = hit.chunk_id in gold_ids
            star, classes = ("<b>★ gold</b> ", "passage gold") if gold else ("", "passage")
            line = f"{number}. {star}{_safe(hit.title)} <small>{_safe(hit.chunk_id)}, score {hit.score:.3g}</small>"
            passages += _fold(line, f'<p class="text">{self.marked(hit.text)}</p>', classes, opened=gold)
        if not turn.hits and turn.information not in ("", NO_HITS):  # a transcript without hits
            reply = "text"
            passages = _fold("information", f'<p class="text">{self.marked(turn.information)}</p>', "passage")
        if gold_ids:
            reply += f", gold seen so far: {seen * len(gold_ids):.0f} of {len(gold_ids)}"
        return f"{search}<span>{reply}</span>{passages}"

    def marked(self, text: str) -> str:
        """Escaped text in which every accepted answer is marked as a whole word."""
        answers = sorted(filter(None, self.question.answers), key=len, reverse=True)
        pattern = "|".join(map(re.escape, answers)) or "(?!)"  # (?!) matches nothing
        parts = re.split(rf"(?<!\w)({pattern})(?!\w)", text, flags=re.IGNORECASE)  # every second part is an answer
        return "".join(f"<mark>{_safe(part)}</mark>" if i % 2 else _safe(part) for i, part in enumerate(parts))


def _fold(summary: str, body: str, classes: str, opened: bool = False) -> str:
    return f'<details class="{classes}"{" open" if opened else ""}><summary>{summary}</summary>{body}</details>'


def _safe(text: str) -> str:
    return escape(clean(text))
