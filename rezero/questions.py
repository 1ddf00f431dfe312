"""Questions over a corpus: the record, its validation, and splits that do not leak."""

from dataclasses import dataclass

KINDS = ("direct", "reworded", "alias", "two-hop")
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Question:
    """One question with everything needed to score an answer and to tell whether the evidence was seen.

    `answers`: accepted answers, the first one stands verbatim in the last gold chunk.
    `gold_chunk_ids`: every chunk that must be seen to answer (two for a two-hop question, in hop order).
    `gold_texts`: their texts, filled in when loading, for transcripts that carry no hits.
    `rewrites`: queries that a careful searcher could write, in order, after a first query made of the question's
    words missed. They measure the room to retry and feed the scripted searcher; no policy is ever shown them.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    gold_chunk_ids: tuple[str, ...]
    gold_texts: tuple[str, ...] = ()
    kind: str = "direct"
    split: str = "train"
    rewrites: tuple[str, ...] = ()
