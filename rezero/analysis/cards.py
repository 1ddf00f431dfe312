"""Episodes to read: HTML for notebooks and files, plain text for terminals.

Passages and model text are untrusted: all of it is escaped. Plain tags carry the meaning (`details`, `ol`, `table`,
`mark`, ★ and ✗), because GitHub strips styles and forms from notebook outputs; the style only makes it pretty.
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

FILTERS = {  # what can be said of an episode -> its words, also on the buttons of `browser`
    "correct": "✓ correct",
    "wrong": "✗ not correct",
    "gave-up": "gave up after a miss",
    "recovered": "missed, then found",
    "malformed": "malformed turn",
}

STYLE = """
.rezero{color-scheme:light dark;--fg:light-dark(#1f2328,#e3e6ea);--bg:light-dark(#fff,#15181c);
--dim:light-dark(#59636e,#9aa4af);--line:light-dark(#d1d9e0,#3a424b);--soft:light-dark(#f3f5f7,#20252b);
--good:light-dark(#00629b,#6cc0f5);--bad:light-dark(#b04a00,#ff9b52);--gold:light-dark(#fff0b8,#4f4108);
color:var(--fg);background:var(--bg);font:14px/1.5 system-ui,sans-serif;max-width:76em;padding:.4em .8em}
[data-jp-theme-light=true] .rezero,.vscode-light .rezero{color-scheme:light}
[data-jp-theme-light=false] .rezero,.vscode-dark .rezero,html[theme=dark] .rezero{color-scheme:dark}
.rezero :is(p,ol){margin:.25em 0}.rezero summary{cursor:pointer}.rezero small{color:var(--dim)}
.rezero .text{white-space:pre-wrap;overflow-wrap:anywhere}.rezero .thought{color:var(--dim)}
.rezero code{font:.95em ui-monospace,monospace;color:inherit;background:var(--soft);padding:.15em .6em;
border:1px solid var(--line);border-radius:1em;overflow-wrap:anywhere;box-decoration-break:clone}
.rezero mark{background:var(--gold);color:inherit;border-bottom:2px solid #c99700}
.rezero .good{color:var(--good)}.rezero .bad{color:var(--bad)}
.rezero ol{padding-left:1.8em}.rezero li{padding:.35em 0}.rezero li+li{border-top:1px solid var(--line)}
.rezero li::marker{color:var(--dim)}
.rezero .passage{margin:.2em 0;padding:.1em .6em;border-left:3px solid var(--line);background:var(--soft)}
.rezero .gold{border-color:#c99700}
.rezero .episode{border:1px solid var(--line);border-radius:6px;margin:.3em 0;padding:.3em .7em}
.rezero .episode[open]>summary{border-bottom:1px solid var(--line);padding-bottom:.3em;margin-bottom:.4em}
.rezero table{border-collapse:collapse;width:100%;table-layout:fixed;font:inherit}
.rezero :is(th,td){text-align:left!important;vertical-align:top;padding:.2em .8em;white-space:normal;
background:var(--bg)}
.rezero td+td,.rezero th+th{border-left:1px solid var(--line)}
.rezero .tokens b{font-weight:inherit;background:light-dark(#cfe8fa,#0f4a73)}
.rezero .tokens i{font-style:inherit;background:light-dark(#fbe3cf,#5a3413)}
.rezero .tokens span{border-right:1px solid var(--bg)}
.rezero label{display:inline-block;margin:0 .9em .3em 0}.rezero label::after{content:attr(title)}
""" + "".join(f".rezero:has([value={name}]:checked) .episode:not(.{name}){{display:none}}\n" for name in FILTERS)

Decode = Callable[[list[int]], str]


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
        """Write a standalone HTML file, in which everything is shown; nothing is loaded from elsewhere."""
        head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{_safe(self.title)}'
        style = "<style>:root{color-scheme:light dark}body{background:light-dark(#fff,#15181c)}</style>"
        start = f'<!doctype html>\n<html lang="en"><head>{head}</title>{style}</head>'
        return write_text(path, f"{start}<body>{_root(self.body)}</body></html>\n")


def html(episode: Episode, decode: Decode | None = None) -> str:
    """One episode as a self-contained card; with `decode` (ids -> str) also which tokens the policy sampled."""
    return _root(_card(episode, decode))


def browser(
    episodes: Sequence[Episode], title: str = "Episodes", limit: int = 50, decode: Decode | None = None
) -> Page:
    """A list of episodes to open one by one, with filters; a notebook shows the first `limit`, a saved file all."""
    items = [_fold(_headline(e), _body(e, decode), " ".join(["episode", *_said_of(e)])) for e in episodes]
    heading = f"<p><b>{_safe(title)}</b> <small>{len(items)} episodes; open one to read it</small></p>"
    left = f"<p><small>and {len(items) - limit} more, not shown here</small></p>" if len(items) > limit else ""
    text = "\n".join([f"{title}: {len(items)} episodes", *(_one_line(e) for e in episodes[:limit])])
    heading += _buttons(episodes)
    return Page(title, heading + "".join(items), text, heading + "".join(items[:limit]) + left)


def side_by_side(
    a: Episode, b: Episode, names: tuple[str, str] = ("before", "after"), decode: Decode | None = None
) -> Page:
    """The same question under two policies; ValueError when the questions differ."""
    ids = [e.question.id if e.question else None for e in (a, b)]
    if ids[0] != ids[1]:
        raise ValueError(f"question {ids[0]!r} beside {ids[1]!r}; want two episodes of the same question")
    heads = "".join(f"<th>{_safe(name)}</th>" for name in names)
    cells = "".join(f"<td>{_card(e, decode)}</td>" for e in (a, b))
    body = f"<table><thead><tr>{heads}</tr></thead><tbody><tr>{cells}</tr></tbody></table>"
    text = "\n\n".join(f"== {name} ==\n{plain(e)}" for name, e in zip(names, (a, b), strict=True))
    return Page(" / ".join(names), body, text)


def plain(episode: Episode) -> str:
    """The episode as text for a terminal: the question, a line or two a turn, the verdict."""
    question = _asked(episode)
    lines = [f"question: {question.text}"]
    for number, turn in enumerate(episode.turns, start=1):
        lines.append(f"{number:>3} {turn.action}: {turn.argument or turn.text!r}")
        lines += [f"      thought: {turn.thought}"] if turn.thought else []
        lines += [f"      {_reply(turn, episode)}"] if turn.action == "search" else []
    gold = f"; gold: {question.answers[0]}" if question.answers else ""
    return "\n".join([*lines, f"verdict: {_verdict(episode)}{gold}"])


def _said_of(episode: Episode) -> list[str]:
    """The keys of `FILTERS` that hold for this episode."""
    found = facts(episode)
    said = {
        "correct": found["correct"],
        "wrong": found["correct"] is False,
        "gave-up": found["first_miss"] and found["searches"] == 1 and found["outcome"] == "answered",
        "recovered": found["recovered"],
        "malformed": found["malformed_turns"],
    }
    return [name for name, holds in said.items() if holds]


def _verdict(episode: Episode) -> str:
    words = [FILTERS[name] for name in _said_of(episode)] if episode.question else ["not judged: no question"]
    if episode.outcome != "answered":
        words.append(f"no answer ({episode.outcome})")
    return ", ".join(words)


def _asked(episode: Episode) -> Question:
    """The episode's question; for one without, the prompt stands in, without answers or gold."""
    return episode.question or Question("", episode.prompt[-1]["content"] if episode.prompt else "?", (), ())


def _one_line(episode: Episode) -> str:
    return f"  [{_verdict(episode)}] {len(episode.searches)} searches: {_asked(episode).text} -> {episode.answer}"


def _headline(episode: Episode) -> str:
    said = _said_of(episode)
    tone = "good" if "correct" in said else "bad" if "wrong" in said else ""
    about = f"{episode.question.kind + ', ' if episode.question else ''}searches: {len(episode.searches)}"
    return f'<b class="{tone}">{_safe(_verdict(episode))}</b> · {_safe(_asked(episode).text)} <small>({about})</small>'


def _buttons(episodes: Sequence[Episode]) -> str:
    """Radio buttons that work by CSS alone; their words stand in attributes, so that nothing stays where forms go."""
    counts = Counter(name for episode in episodes for name in _said_of(episode))
    labels = [("all", f"all ({len(episodes)})"), *((n, f"{FILTERS[n]} ({counts[n]})") for n in FILTERS if counts[n])]
    radio = '<label title="{1}"><input type="radio" name="show" value="{0}" aria-label="{1}"{2}></label>'
    buttons = (radio.format(name, words, " checked" if name == "all" else "") for name, words in labels)
    return f"<form>{''.join(buttons)}</form>"


def _card(episode: Episode, decode: Decode | None) -> str:
    return f'<p class="text">{_headline(episode)}</p>{_body(episode, decode)}'


def _body(episode: Episode, decode: Decode | None) -> str:
    question, about = episode.question, ""
    if question:
        gold, rest = _safe(" / ".join(question.answers)), _safe(f"{question.id}, {question.split}")
        about = f"<p>gold answer: <mark>{gold}</mark> <small>({rest})</small></p>"
    turns = "".join(f"<li>{_turn(turn, episode)}</li>" for turn in episode.turns)
    return f"{about}<ol>{turns}</ol>{_tokens(episode, decode) if decode and episode.completion_ids else ''}"


def _turn(turn: Turn, episode: Episode) -> str:
    thought = f'<p class="text thought"><i>{_safe(turn.thought)}</i></p>' if turn.thought else ""
    if turn.action == "malformed":
        return f'<b class="bad">⚠ malformed turn</b><p class="text">{_safe(turn.text)}</p>'
    if turn.action == "answer":
        return f"{thought}answer: <b>{_marked(turn.argument, episode)}</b>"
    tone = "bad" if turn.error or turn.information is None else ""
    reply = f'<span class="{tone}">{_safe(_reply(turn, episode))}</span>'
    passages = "".join(_passage(i, hit, episode) for i, hit in enumerate(turn.hits, start=1))
    if not turn.hits and not turn.error and turn.information not in (None, "", NO_HITS):  # a transcript without hits
        passages = _fold("information", f'<p class="text">{_marked(turn.information, episode)}</p>', "passage")
    return f"{thought}search: <code>{_safe(turn.argument)}</code> → {reply}{passages}"


def _reply(turn: Turn, episode: Episode) -> str:
    """What came back for a search, in words."""
    if turn.error:
        return f"⚠ the search engine failed: {turn.error}"
    if turn.information is None:
        return "⚠ no reply: the episode ended here"
    gold = _asked(episode).gold_chunk_ids
    position = next(i for i, t in enumerate(episode.searches) if t is turn)
    seen = f", gold seen so far: {episode.evidence()[position] * len(gold):.0f} of {len(gold)}" if gold else ""
    what = f"passages: {len(turn.hits)}" if turn.hits or turn.information in ("", NO_HITS) else "text"
    return what + seen


def _passage(number: int, hit: Hit, episode: Episode) -> str:
    gold = hit.chunk_id in _asked(episode).gold_chunk_ids
    star = "<b>★ gold</b> " if gold else ""
    line = f"{number}. {star}{_safe(hit.title)} <small>{_safe(hit.chunk_id)}, score {hit.score:.3g}</small>"
    text = f'<p class="text">{_marked(hit.text, episode)}</p>'
    return _fold(line, text, "passage gold" if gold else "passage", opened=gold)


def _tokens(episode: Episode, decode: Decode) -> str:
    pairs = list(zip(episode.completion_ids, episode.env_mask, strict=True))
    runs = []
    for sampled, run in groupby(pairs, key=lambda pair: pair[1]):
        spans = (f'<span title="{i}">{_safe(decode([i]) or f"‹{i}›")}</span>' for i, _ in run)
        runs.append(f"<b>{''.join(spans)}</b>" if sampled else f"<i>{''.join(spans)}</i>")
    own = sum(mask for _, mask in pairs)
    legend = f"tokens: <b>{own} sampled by the policy</b>, <i>{len(pairs) - own} from the environment</i>"
    return _fold(legend, f'<p class="text">{"".join(runs)}</p>', "tokens")


def _fold(summary: str, body: str, classes: str, opened: bool = False) -> str:
    return f'<details class="{classes}"{" open" if opened else ""}><summary>{summary}</summary>{body}</details>'


def _marked(text: str, episode: Episode) -> str:
    """Escaped text in which every accepted answer is marked as a whole word."""
    answers = sorted(filter(None, _asked(episode).answers), key=len, reverse=True)
    if not answers:
        return _safe(text)
    parts = re.split(rf"(?<!\w)({'|'.join(map(re.escape, answers))})(?!\w)", text, flags=re.IGNORECASE)
    return "".join(f"<mark>{_safe(part)}</mark>" if i % 2 else _safe(part) for i, part in enumerate(parts))


def _safe(text: str) -> str:
    return escape(clean(text))


def _root(body: str) -> str:
    # The two classes keep MathJax from typesetting amounts in dollars.
    return f'<div class="rezero tex2jax_ignore mathjax_ignore"><style>{STYLE}</style>{body}</div>'
