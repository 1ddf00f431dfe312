"""Episodes to read: HTML for notebooks and files, plain text for terminals.

Passages and model text are untrusted, so all of it is escaped. The meaning is carried by plain tags (`details`, `ol`,
`table`, `mark`) and by ★, ✓ and ✗, because GitHub strips styles and forms from notebook outputs; `cards.css` only makes
it pretty.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import groupby
from pathlib import Path

from rezero.evaluation.traces import facts
from rezero.files import write_text
from rezero.protocol import NO_HITS, Episode, Turn
from rezero.questions import Question
from rezero.search.base import Hit
from rezero.text import clean

FILTERS = {  # what may be true of an episode -> its words; the keys are also CSS classes, see cards.css
    "correct": "✓ correct",
    "wrong": "✗ not correct",
    "gave-up": "missed, did not retry",
    "recovered": "missed, recovered",
    "malformed": "malformed turn",
}

Decode = Callable[[list[int]], str]  # token ids -> text; `policy.tokenizer.decode` shows special tokens, too


@dataclass(frozen=True)
class Page:
    """HTML that a notebook shows, text that a terminal shows, and a file of its own after `save`."""

    title: str
    body: str = field(repr=False)
    text: str
    preview: str = ""  # what a notebook shows instead of a long body

    def _repr_html_(self) -> str:
        return _root(self.preview or self.body)

    def __repr__(self) -> str:
        return self.text

    def save(self, path: str | Path) -> Path:
        """Write the whole body as a standalone HTML file, which loads nothing from elsewhere."""
        head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{_safe(self.title)}'
        style = "<style>:root{color-scheme:light dark}body{background:light-dark(#fff,#15181c)}</style>"
        start = f'<!doctype html>\n<html lang="en"><head>{head}</title>{style}</head>'
        return write_text(path, f"{start}<body>{_root(self.body)}</body></html>\n")


def card(episode: Episode, decode: Decode | None = None) -> Page:
    """One episode, turn by turn; with `decode` also its loss mask.

    That is, token by token, what the policy sampled, which is trained on, and what came from the environment (passages,
    corrections and the chat template around them), which is not.

    Raises:
        ValueError: `decode` is given and the episode has no token ids, because it does not come from a rollout.
    """
    if decode and not episode.completion_ids:
        raise ValueError("the episode has no token ids; want one from a rollout")
    tokens = _tokens(episode, decode) if decode else ""
    return Page(_asked(episode).text, _card(episode) + tokens, _plain(episode))


def browser(episodes: Sequence[Episode], title: str = "Episodes", limit: int = 50) -> Page:
    """A list of episodes to open one by one, with filters; a notebook shows the first `limit`, a saved file all."""
    items = [_fold(_headline(e), _body(e), " ".join(["episode", *_true_of(e)])) for e in episodes]
    heading = f"<p><b>{_safe(title)}</b> <small>{len(items)} episodes; open one to read it</small></p>"
    heading += _buttons(episodes)
    left = f"<p><small>and {len(items) - limit} more, not shown here</small></p>" if len(items) > limit else ""
    text = "\n".join([f"{title}: {len(items)} episodes", *(_one_line(e) for e in episodes[:limit])])
    return Page(title, heading + "".join(items), text, heading + "".join(items[:limit]) + left)


def side_by_side(a: Episode, b: Episode, names: tuple[str, str] = ("before", "after")) -> Page:
    """Two episodes on the same question, of two policies; ValueError when the questions differ."""
    left, right = _asked(a).id, _asked(b).id
    if left != right:
        raise ValueError(f"question {left!r} beside {right!r}; want two episodes on the same question")
    heads = "".join(f"<th>{_safe(name)}</th>" for name in names)
    cells = "".join(f"<td>{_card(episode)}</td>" for episode in (a, b))
    body = f"<table><thead><tr>{heads}</tr></thead><tbody><tr>{cells}</tr></tbody></table>"
    text = "\n\n".join(f"== {name} ==\n{_plain(episode)}" for name, episode in zip(names, (a, b), strict=True))
    return Page(" / ".join(names), body, text)


def _asked(episode: Episode) -> Question:
    """The episode's question; without one, the prompt stands in, without answers or gold."""
    return episode.question or Question("", episode.prompt[-1]["content"] if episode.prompt else "?", (), ())


def _true_of(episode: Episode) -> list[str]:
    """The keys of `FILTERS` that hold for this episode."""
    found = facts(episode)
    holds = {
        "correct": found["correct"],
        "wrong": found["correct"] is False,
        "gave-up": found["missed"] and not found["retried"] and found["outcome"] == "answered",
        "recovered": found["recovered"],
        "malformed": found["malformed_turns"],
    }
    return [name for name in FILTERS if holds[name]]


def _verdict(episode: Episode) -> str:
    words = [FILTERS[name] for name in _true_of(episode)] if episode.question else ["not judged: no question"]
    if episode.outcome != "answered":
        words.append(f"no answer ({episode.outcome})")
    return ", ".join(words)


def _reply(turn: Turn, episode: Episode) -> str:
    """What came back for a search."""
    if turn.error:
        return f"⚠ the search engine failed: {turn.error}"
    if turn.information is None:
        return "⚠ no reply: the episode ended here"
    what = f"passages: {len(turn.hits)}" if turn.hits or turn.information in ("", NO_HITS) else "text"
    gold = _asked(episode).gold_chunk_ids
    if not gold:
        return what
    position = next(i for i, search in enumerate(episode.searches) if search is turn)
    return f"{what}, gold seen so far: {episode.evidence()[position] * len(gold):.0f} of {len(gold)}"


def _one_line(episode: Episode) -> str:
    return f"  [{_verdict(episode)}] {len(episode.searches)} searches: {_asked(episode).text} -> {episode.answer}"


def _plain(episode: Episode) -> str:
    """The episode as text: the question, a line or two per turn, the verdict."""
    question = _asked(episode)
    lines = [f"question: {question.text}"]
    for number, turn in enumerate(episode.turns, start=1):
        lines.append(f"{number:>3} {turn.action}: {turn.argument or turn.text!r}")
        if turn.thought:
            lines.append(f"      thought: {turn.thought}")
        if turn.action == "search":
            lines.append(f"      {_reply(turn, episode)}")
    gold = f"; gold: {question.answers[0]}" if question.answers else ""
    return "\n".join([*lines, f"verdict: {_verdict(episode)}{gold}"])


def _card(episode: Episode) -> str:
    return f'<p class="text">{_headline(episode)}</p>{_body(episode)}'


def _headline(episode: Episode) -> str:
    said = _true_of(episode)
    tone = "good" if "correct" in said else "bad" if "wrong" in said else ""
    kind = f"{episode.question.kind}, " if episode.question else ""
    about = f"<small>({kind}searches: {len(episode.searches)})</small>"
    return f'<b class="{tone}">{_safe(_verdict(episode))}</b> · {_safe(_asked(episode).text)} {about}'


def _body(episode: Episode) -> str:
    question, about = episode.question, ""
    if question:
        gold, rest = _safe(" / ".join(question.answers)), _safe(f"{question.id}, {question.split}")
        about = f"<p>gold answer: <mark>{gold}</mark> <small>({rest})</small></p>"
    turns = "".join(f"<li>{_turn(turn, episode)}</li>" for turn in episode.turns)
    return f"{about}<ol>{turns}</ol>"


def _turn(turn: Turn, episode: Episode) -> str:
    if turn.action == "malformed":
        return f'<b class="bad">⚠ malformed turn</b><p class="text">{_safe(turn.text)}</p>'
    thought = f'<p class="text thought"><i>{_safe(turn.thought)}</i></p>' if turn.thought else ""
    if turn.action == "answer":
        return f"{thought}answer: <b>{_marked(turn.argument, episode)}</b>"
    tone = "bad" if turn.error or turn.information is None else ""
    reply = f'<span class="{tone}">{_safe(_reply(turn, episode))}</span>'
    passages = "".join(_passage(number, hit, episode) for number, hit in enumerate(turn.hits, start=1))
    if not turn.hits and not turn.error and turn.information not in (None, "", NO_HITS):  # a transcript without hits
        passages = _fold("information", f'<p class="text">{_marked(turn.information, episode)}</p>', "passage")
    return f"{thought}search: <code>{_safe(turn.argument)}</code> → {reply}{passages}"


def _passage(number: int, hit: Hit, episode: Episode) -> str:
    gold = hit.chunk_id in _asked(episode).gold_chunk_ids
    star = "<b>★ gold</b> " if gold else ""
    line = f"{number}. {star}{_safe(hit.title)} <small>{_safe(hit.chunk_id)}, score {hit.score:.3g}</small>"
    text = f'<p class="text">{_marked(hit.text, episode)}</p>'
    return _fold(line, text, "passage gold" if gold else "passage", opened=gold)


def _tokens(episode: Episode, decode: Decode) -> str:
    """All tokens after the prompt, in runs of one author; a token's id is its tooltip."""
    runs = []
    pairs = zip(episode.completion_ids, episode.env_mask, strict=True)
    for sampled, run in groupby(pairs, key=lambda pair: pair[1]):
        spans = [f'<span title="{token}">{_safe(decode([token]) or f"‹{token}›")}</span>' for token, _ in run]
        tag = "b" if sampled else "i"
        runs.append(f"<{tag}>{''.join(spans)}</{tag}>")
    count, own = len(episode.env_mask), sum(episode.env_mask)
    legend = f"tokens: <b>{own} sampled by the policy</b>, <i>{count - own} from the environment</i>"
    return _fold(legend, f'<p class="text">{"".join(runs)}</p>', "tokens", opened=True)


def _buttons(episodes: Sequence[Episode]) -> str:
    """Radio buttons that work by CSS alone.

    Their words are attributes, which CSS shows: where a page may have no forms, no words are left behind.
    """
    counts = Counter(name for episode in episodes for name in _true_of(episode))
    labels = {"all": f"all ({len(episodes)})"}
    labels |= {name: f"{words} ({counts[name]})" for name, words in FILTERS.items() if counts[name]}
    buttons = ""
    for name, words in labels.items():
        checked = " checked" if name == "all" else ""
        radio = f'<input type="radio" name="show" value="{name}" aria-label="{words}"{checked}>'
        buttons += f'<label title="{words}">{radio}</label>'
    return f"<form>{buttons}</form>"


def _fold(summary: str, body: str, classes: str, opened: bool = False) -> str:
    return f'<details class="{classes}"{" open" if opened else ""}><summary>{summary}</summary>{body}</details>'


def _marked(text: str, episode: Episode) -> str:
    """Escaped text in which every accepted answer is marked as a whole word."""
    answers = sorted(filter(None, _asked(episode).answers), key=len, reverse=True)
    if not answers:
        return _safe(text)
    pattern = "|".join(map(re.escape, answers))
    parts = re.split(rf"(?<!\w)({pattern})(?!\w)", text, flags=re.IGNORECASE)  # every second part is an answer
    return "".join(f"<mark>{_safe(part)}</mark>" if i % 2 else _safe(part) for i, part in enumerate(parts))


def _safe(text: str) -> str:
    return escape(clean(text))


def _root(body: str) -> str:
    style = Path(__file__).with_name("cards.css").read_text("utf-8")
    # The two classes keep MathJax from typesetting amounts in dollars.
    return f'<div class="rezero tex2jax_ignore mathjax_ignore"><style>{style}</style>{body}</div>'
