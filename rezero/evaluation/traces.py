"""Episodes as tables, and on disk: per line of JSON every field of an `Episode`, and the labels it was written with."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

import pandas as pd

from rezero.files import read_records, write_text
from rezero.judge import exact_match, f1
from rezero.protocol import Episode
from rezero.text import clean, printable

Row = tuple[dict, Episode]  # labels such as {"policy": "after training"}, and an episode


@dataclass(frozen=True)
class _Line(Episode):
    labels: dict = field(default_factory=dict)


def write_traces(path: str | Path, rows: Iterable[Row]) -> Path:
    """Write labelled episodes as JSON Lines, all of them or nothing."""
    lines = [json.dumps({"labels": own, **vars(one)}, default=vars, ensure_ascii=False) for own, one in rows]
    return write_text(path, "".join(clean(line) + "\n" for line in lines))


def read_traces(path: str | Path) -> list[Row]:
    """The labelled episodes of a trace file. ValueError names file and line; a damaged last line is only a warning."""
    rows = []
    for where, line in read_records(path, _Line, appended=True):
        if len(line.completion_ids) != len(line.env_mask):
            counts = f"{len(line.env_mask)} values for {len(line.completion_ids)} completion_ids"
            raise ValueError(f"{where}: env_mask has {counts}; want one each")
        labels = {printable(name): printable(v) if isinstance(v, str) else v for name, v in line.labels.items()}
        rows.append((labels, Episode(**{one.name: getattr(line, one.name) for one in fields(Episode)})))
    return rows


def to_frame(episodes: Iterable[Episode | Row]) -> pd.DataFrame:
    """One row per episode, with the columns of `facts` and, of `read_traces`' rows, the labels.

    `correct` is NA without a question, counts of tokens without token ids, `evidence_search` without the evidence.
    """
    pairs = [({}, item) if isinstance(item, Episode) else item for item in episodes]
    if not pairs:
        raise ValueError("no episodes; want at least one")
    integers = dict.fromkeys(("evidence_search", "completion_tokens", "policy_tokens"), "Int64")
    return pd.DataFrame([own | facts(episode) for own, episode in pairs]).astype({"correct": "boolean"} | integers)


def facts(episode: Episode) -> dict:
    """What can be said of an episode, as a flat dict.

    correct: exact match, None without a question. evidence: share of the gold chunks seen by the end, NaN without gold.
    missed, retried, recovered: see `Episode`. wasted: searches after all gold was seen. unsupported: answered without
    having seen all gold. faults: searches that the engine failed, or failed on purpose.
    """
    question, shares, found = episode.question, episode.evidence(), episode.evidence_search
    has_gold = bool(question and question.gold_chunk_ids)
    return {
        "question_id": question and question.id,
        "kind": question and question.kind,
        "split": question and question.split,
        "outcome": episode.outcome,
        "answer": episode.answer and clean(episode.answer),
        "correct": question and exact_match(episode.answer, question.answers),
        "f1": question and f1(episode.answer, question.answers),
        "searches": len(shares),
        "evidence": max(shares, default=0.0) if has_gold else float("nan"),
        "evidence_search": found,
        **{name: getattr(episode, name) for name in ("missed", "retried", "recovered", "malformed_turns")},
        "wasted": len(shares) - (found or len(shares)),
        "unsupported": has_gold and episode.outcome == "answered" and found is None,
        "faults": sum(bool(turn.fault or turn.error) for turn in episode.turns),
        "completion_tokens": len(episode.completion_ids) or None,
        "policy_tokens": sum(episode.env_mask) if episode.env_mask else None,
    }
