"""Episodes on disk and as tables.

A trace file holds one episode per line of JSON: every field of `Episode`, and the labels that it was written with.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

import pandas as pd

from rezero.files import read_records, write_text
from rezero.judge import exact_match, f1
from rezero.protocol import Episode
from rezero.text import clean

Row = tuple[dict, Episode]  # labels such as {"policy": "after training"}, and an episode


@dataclass(frozen=True)
class _Line(Episode):
    """A line of a trace file: an episode and its labels."""

    labels: dict = field(default_factory=dict)


def write_traces(path: str | Path, rows: Iterable[Row]) -> Path:
    """Write labelled episodes as JSON Lines, all of them or nothing."""
    return write_text(path, "".join(_line(labels, episode) for labels, episode in rows))


def _line(labels: dict, episode: Episode) -> str:
    return clean(json.dumps({"labels": labels, **vars(episode)}, default=vars, ensure_ascii=False)) + "\n"


def read_traces(path: str | Path) -> list[Row]:
    """The labelled episodes of a trace file. A damaged last line is skipped with a warning.

    Raises:
        ValueError: a line is not an episode. The message names the file, the line and the field.
    """
    rows = []
    for where, line in read_records(path, _Line, appended=True):
        if len(line.completion_ids) != len(line.env_mask):
            counts = f"{len(line.env_mask)} values for {len(line.completion_ids)} completion_ids"
            raise ValueError(f"{where}: env_mask has {counts}; want one each")
        rows.append((line.labels, Episode(**{one.name: getattr(line, one.name) for one in fields(Episode)})))
    return rows


def to_frame(episodes: Iterable[Episode | Row], **labels) -> pd.DataFrame:
    """One row per episode, with the columns of `facts`; the labels of `read_traces`' rows become columns as well.

    `labels` are further columns: a value for all episodes, or a list with one per episode. `correct` is NA without a
    question, counts of tokens are NA without token ids, and `evidence_search` is NA if the evidence was never seen.
    """
    pairs = [({}, item) if isinstance(item, Episode) else item for item in episodes]
    if not pairs:
        raise ValueError("no episodes; want at least one")
    frame = pd.DataFrame([own | facts(episode) for own, episode in pairs])
    may_be_unknown = ("evidence_search", "completion_tokens", "policy_tokens")
    return frame.astype({"correct": "boolean"} | dict.fromkeys(may_be_unknown, "Int64")).assign(**labels)


def facts(episode: Episode) -> dict:
    """What can be said of an episode, as a flat dict.

    correct: exact match, None without a question. evidence: share of the gold chunks seen by the end, NaN without gold.
    missed, retried, recovered: see `Episode`. wasted: searches after all gold was seen. unsupported: answered without
    having seen all gold. faults: searches that the engine failed, or failed on purpose.
    """
    question, shares, found = episode.question, episode.evidence(), episode.evidence_search
    has_gold = bool(question and question.gold_chunk_ids)
    return {
        "question_id": question.id if question else None,
        "kind": question.kind if question else None,
        "split": question.split if question else None,
        "outcome": episode.outcome,
        "answer": episode.answer and clean(episode.answer),
        "correct": exact_match(episode.answer, question.answers) if question else None,
        "f1": f1(episode.answer, question.answers) if question else None,
        "searches": len(shares),
        "evidence": max(shares, default=0.0) if has_gold else float("nan"),
        "evidence_search": found,
        "missed": episode.missed,
        "retried": episode.retried,
        "recovered": episode.recovered,
        "wasted": len(shares) - (found or len(shares)),
        "unsupported": has_gold and episode.outcome == "answered" and found is None,
        "faults": sum(bool(turn.fault or turn.error) for turn in episode.turns),
        "malformed_turns": episode.malformed_turns,
        "completion_tokens": len(episode.completion_ids) or None,
        "policy_tokens": sum(episode.env_mask) if episode.env_mask else None,
    }
