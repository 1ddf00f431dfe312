"""One page of a run's episodes, or of two runs' on the same questions, that needs no network and filters thousands.

What the page filters and searches is in a table of columns; the cards are HTML from `cards.html.j2`, packed (gzip) in
blocks that the browser opens when a card is opened. So there is one card, here and in notebooks.
"""

import base64
import gzip
import hashlib
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from markupsafe import Markup
from tokenizers import Tokenizer

from rezero.analysis import logs
from rezero.analysis.cards import JINJA, MACROS, Decode, Weights, described, parting
from rezero.config import parse_config
from rezero.evaluation.traces import Row, read_traces
from rezero.files import read_json, resolve, shown, write_text
from rezero.protocol import Episode
from rezero.rewards import reward_weights
from rezero.text import clean

BLOCK = 50  # cards that are packed and opened together
SIDES = {(False, True): "won", (True, False): "lost", (True, True): "both right", (False, False): "both wrong"}


@dataclass(frozen=True)
class Run:
    """What a training left: its episodes, the rewards it was paid by, and how to read its tokens, where known."""

    name: str
    folder: Path
    rows: list[Row]
    weights: Weights | None = None
    decode: Decode | None = None

    @cached_property
    def latest(self) -> dict[str, Episode]:
        """The episodes of the last policy in the file by question, of repeated ones the first."""
        last = self.rows[-1][0].get("policy")
        own = [episode for labels, episode in self.rows if labels.get("policy") == last and episode.question]
        return dict(reversed({episode.question.id: episode for episode in own[::-1]}.items()))


def read_run(path: str | Path) -> Run:
    """The run of a folder with traces.jsonl, or of such a file. ValueError or OSError if there are no episodes.

    Rewards are left out with a warning where they cannot be loaded, such as those of a notebook's cell, or where
    another version wrote config.json.
    """
    path = resolve(path)
    file = path / "traces.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{shown(file)} is missing; want a folder with traces.jsonl, or such a file")
    rows, folder, weights, decode = read_traces(file), file.parent, None, None
    if not rows:
        raise ValueError(f"{shown(file)} has no episodes; want at least one")
    if (folder / "config.json").is_file():
        try:
            config = parse_config(read_json(folder / "config.json"), shown(folder / "config.json"))
            weights = reward_weights(config.reward_set, config.reward_weights)
        except ValueError as error:
            warnings.warn(f"{shown(folder)}: rewards are not shown: {error}", stacklevel=2)
    if (folder / "best" / "tokenizer.json").is_file():
        tokenizer = Tokenizer.from_file(str(folder / "best" / "tokenizer.json"))
        decode = partial(tokenizer.decode, skip_special_tokens=False)
    return Run(folder.name, folder, rows, weights, decode)


def two_runs(paths: Sequence[str | Path]) -> tuple[Run, ...]:
    """One or two runs, by names that differ."""
    runs = tuple(read_run(path) for path in paths)
    if len(runs) > 2:
        raise ValueError(f"{len(runs)} runs; want one or two")
    same = len({run.name for run in runs}) < len(runs)
    return tuple(replace(run, name=shown(run.folder)) for run in runs) if same else runs


def common(first: Run, second: Run) -> list[str]:
    """Ids of the questions that both runs' last policies were asked, and asked in the same words."""
    a, b = first.latest, second.latest
    shared = [id for id in a if id in b and a[id].question.text == b[id].question.text]
    if not shared:
        raise ValueError(f"{first.name} and {second.name} have no question in common ({len(a)} and {len(b)} questions)")
    return shared


def report(*runs: Run) -> str:
    """The HTML of one run, every episode an entry, or of two, every question that both were asked an entry."""
    title, table, blocks, cards = " beside ".join(run.name for run in runs), [], [], []
    passages: dict[str, int] = {}  # text -> its number; entries share most of their passages
    for facets, episodes, one, card in _singles(*runs) if len(runs) == 1 else _pairs(*runs):
        turns = [turn for episode in episodes for turn in episode.turns]
        found = {f"{hit.title}\n{hit.text}" for turn in turns for hit in turn.hits}
        question, reward = one["question"], round(one["reward"], 3) if one["values"] else None
        own = "\n".join([question.id, *question.answers, *(turn.text for turn in turns)])
        hits = [passages.setdefault(text, len(passages)) for text in sorted(found)]
        table.append((facets, reward, (question.text, own), hits))
        cards.append(clean(card))
        if len(cards) == BLOCK:
            blocks.append(_packed(cards))
            cards = []
    facets, rewards, texts, hits = zip(*table, strict=True)
    names = list(facets[0])
    data = {"names": names, "facets": {name: [row[name] for row in facets] for name in names}, "reward": rewards}
    data |= {"texts": texts, "hits": hits, "passages": list(passages), "blocks": [*blocks, _packed(cards)]}
    script, style = (JINJA.loader.get_source(JINJA, f"report.{kind}")[0] for kind in ("js", "css"))
    shell = {"title": title, "script": Markup(script), "style": Markup(style)}
    shell["digest"] = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return clean(JINJA.get_template("report.html.j2").render(data=data | {"size": BLOCK}, **shell))


def _singles(run: Run) -> Iterable[tuple]:
    for labels, episode in run.rows:
        one = described(episode, run.weights, run.decode)
        facets = {
            "policy": str(labels.get("policy", "episodes")),
            "outcome": one["cause"],
            "kind": episode.question.kind if episode.question else "none",
            "searches": str(len(episode.searches)),
            "fault": _faults([episode]),
        }
        yield facets, [episode], one, MACROS.inside(one)


def _pairs(first: Run, second: Run) -> Iterable[tuple]:
    for id in common(first, second):
        pair = [first.latest[id], second.latest[id]]
        ones = [described(e, run.weights, run.decode) for e, run in zip(pair, (first, second), strict=True)]
        facets = {
            "outcome": SIDES[tuple(one["cause"] == "right" for one in ones)],
            f"outcome of {first.name}": ones[0]["cause"],
            f"outcome of {second.name}": ones[1]["cause"],
            "kind": pair[0].question.kind,
            "searches": f"{len(pair[0].searches)} → {len(pair[1].searches)}",
            "fault": _faults(pair),
        }
        names = (first.name, second.name)
        yield facets, pair, ones[1], MACROS.side_by_side(names, ones, parting(*pair))


def _faults(episodes: list[Episode]) -> list[str]:
    turns = [turn for episode in episodes for turn in episode.turns]
    named = "+".join(turn.fault or "error" for turn in turns if turn.fault or turn.error)
    return sorted(set(named.split("+"))) if named else ["none"]


def _packed(cards: list[str]) -> str:
    return base64.b64encode(gzip.compress(json.dumps(cards).encode(), 6, mtime=0)).decode()


def run_traces(runs: list[str], out: str, form: str) -> None:
    """Write the page of one or two runs, or the traces of each as logs for other viewers, and print where."""
    read = two_runs(runs)
    if form == "html":
        paths = [write_text(out or read[-1].folder / "report.html", report(*read))]
    elif form == "inspect":
        places = [(run, resolve(out or run.folder / "inspect")) for run in read]
        paths = [path for run, to in places for path in logs.write_inspect(run.name, run.rows, run.weights, to)]
    else:
        paths = [path for run in read for path in logs.write_trackio(run.name, run.rows, run.weights, out or "rezero")]
    print("\n".join(f"written: {path}" for path in paths))
