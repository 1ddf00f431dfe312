"""Episodes on disk and as tables; `rezero.cards` shows them.

A trace file holds one episode a line of JSON, with every field of `Episode` and the labels it was written under.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path

import pandas as pd

from rezero.files import append_text, numbered_rows, write_text
from rezero.judge import exact_match, f1
from rezero.protocol import OUTCOMES, Episode, Turn
from rezero.questions import Question
from rezero.search import Hit, clean

Row = tuple[dict, Episode]  # labels, episode
RECORDS = {"question": Question, "turns": Turn, "hits": Hit}  # the fields that hold records


def write_traces(path: str | Path, episodes: Iterable[Episode], **labels) -> Path:
    """Write episodes as JSON Lines, all or nothing; `labels` (policy="start", step=40) stand in every row."""
    return write_text(path, "".join(_line(episode, labels) for episode in episodes))


def append_traces(path: str | Path, episodes: Iterable[Episode], **labels) -> Path:
    """Append in one write; cuts off, with a warning, a last line that a killed process left unfinished."""
    return append_text(path, "".join(_line(episode, labels) for episode in episodes))


def read_traces(path: str | Path) -> list[Episode]:
    """The episodes of a trace file; raises as `read_rows`."""
    return [episode for _, episode in read_rows(path)]


def read_rows(path: str | Path) -> list[Row]:
    """The (labels, episode) pairs of a trace file; ValueError names file:line and field of what is no episode.

    A damaged last line is skipped with a warning that names it.
    """
    return [_row(row, where) for where, row in numbered_rows(path, appended=True)]


def _line(episode: Episode, labels: dict) -> str:
    row = {"labels": labels, **vars(episode)}
    line = json.dumps(row, default=vars, ensure_ascii=False)
    # Half a surrogate pair is valid in a string and in JSON's escapes, but not in UTF-8.
    return (line if clean(line) == line else json.dumps(row, default=vars)) + "\n"


def _row(row: dict, where: str) -> Row:
    labels = row.pop("labels", {})
    episode = _record(Episode, row, where)
    if episode.outcome not in OUTCOMES:
        raise ValueError(f"{where}: outcome is {episode.outcome!r}; allowed: {', '.join(OUTCOMES)}")
    if (ids := len(episode.completion_ids)) != (mask := len(episode.env_mask)):
        raise ValueError(f"{where}: env_mask has {mask} values for {ids} completion_ids; want one each")
    return labels, episode


def _record(cls: type, value: object, where: str):
    """A JSON object as the frozen record `cls`, what is nested in it included; lists become tuples."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: want an object, the fields of {cls.__name__}, got {type(value).__name__}")
    known, needed = _fields(cls)
    if missing := [name for name in needed if name not in value]:
        raise ValueError(f"{where}: no {cls.__name__}: {', '.join(missing)} missing; want: {', '.join(needed)}")
    if unknown := [name for name in value if name not in known]:
        raise ValueError(f"{where}: {cls.__name__} has no field {unknown[0]!r}; allowed: {', '.join(known)}")
    return cls(**{name: _value(*known[name], v, f"{where}: {name}") for name, v in value.items()})


@cache
def _fields(cls: type) -> tuple[dict, list[str]]:
    """name -> (the record that the field holds or None, list or str where only that will do); names without default."""
    known = {f.name: (RECORDS.get(f.name), list if str(f.type).startswith("tuple") else f.type) for f in fields(cls)}
    return known, [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]


def _value(record: type | None, wanted: type, value: object, where: str):
    if wanted in (list, str) and not isinstance(value, wanted):
        raise ValueError(f"{where} is {value!r}; want a {wanted.__name__}")
    if not record or value is None:
        return tuple(value) if wanted is list else value
    if wanted is list:
        return tuple([_record(record, v, f"{where}[{i}]") for i, v in enumerate(value)])
    return _record(record, value, where)


def to_frame(episodes: Iterable[Episode | Row], **labels) -> pd.DataFrame:
    """One row an episode (or pair of `read_rows`, whose labels become columns); `labels` are further columns.

    `correct`: exact match, NA without a question. `evidence`: share of gold chunks seen by the end, NaN without
    gold. `first_miss`: the first search did not bring all gold (the rule for two-hop questions);
    `retried_after_miss` and `recovered` (all gold seen later) need one. `wasted`: searches after all gold was seen;
    `unsupported`: answered before; `faults`: searches that the engine failed. Token counts are NA without token ids.
    """
    counts = ("evidence_search", "completion_tokens", "policy_tokens")  # NA where they are unknown
    frame = pd.DataFrame([own | facts(e) for own, e in _pairs(episodes)])
    return frame.astype({"correct": "boolean"} | dict.fromkeys(counts, "Int64")).assign(**labels)


def turns_frame(episodes: Iterable[Episode | Row], **labels) -> pd.DataFrame:
    """One row a turn: `episode` counts from 0, `turn` from 1; `evidence` is the share of gold seen by then.

    `repeated`: the same query was sent before in this episode. `replied`: the environment answered this turn.
    """
    pairs = enumerate(_pairs(episodes))
    return pd.DataFrame([own | {"episode": i} | turn for i, (own, e) in pairs for turn in _turns(e)]).assign(**labels)


def facts(episode: Episode) -> dict:
    """The row of `to_frame` about one episode."""
    question, shares, found = episode.question, episode.evidence(), episode.evidence_search
    judged = bool(question and question.gold_chunk_ids)
    missed = judged and bool(shares) and shares[0] < 1
    return {
        "question_id": question.id if question else None,
        "kind": question.kind if question else None,
        "split": question.split if question else None,
        "outcome": episode.outcome,
        "answer": episode.answer and clean(episode.answer),
        "correct": exact_match(episode.answer, question.answers) if question else None,
        "f1": f1(episode.answer, question.answers) if question else None,
        "searches": len(shares),
        "evidence": (shares[-1] if shares else 0.0) if judged else float("nan"),
        "evidence_search": found,
        "first_miss": missed,
        "retried_after_miss": missed and len(shares) > 1,
        "recovered": missed and found is not None,
        "wasted": len(shares) - (found or len(shares)),
        "unsupported": judged and episode.outcome == "answered" and found is None,
        "faults": sum(bool(turn.fault or turn.error) for turn in episode.turns),
        "malformed_turns": episode.malformed_turns,
        "completion_tokens": len(episode.completion_ids) or None,
        "policy_tokens": sum(episode.env_mask) if episode.env_mask else None,
    }


def _turns(episode: Episode) -> Iterator[dict]:
    shares, share, sent = iter(episode.evidence()), 0.0, set()
    for number, turn in enumerate(episode.turns, start=1):
        query = turn.argument.lower() if turn.action == "search" else None
        share = share if query is None else next(shares)
        yield {
            "question_id": episode.question.id if episode.question else None,
            "turn": number,
            "action": turn.action,
            "argument": clean(turn.argument),
            "thought": clean(turn.thought),
            "hits": len(turn.hits),
            "evidence": share,
            "repeated": query is not None and query in sent,
            "replied": turn.information is not None,
            "error": turn.error,
        }
        sent.add(query)


def _pairs(episodes: Iterable[Episode | Row]) -> list[Row]:
    pairs = [({}, item) if isinstance(item, Episode) else item for item in episodes]
    if not pairs:
        raise ValueError("no episodes; want at least one")
    return pairs
