"""Tables of a corpus and its questions, and whether its passages fit what a policy may read in an episode."""

from math import nan

import pandas as pd

from rezero.corpus import Chunk
from rezero.policy.base import Policy
from rezero.protocol import Sampling, Turn
from rezero.questions import Question
from rezero.search.base import Engine
from rezero.search_env import respond
from rezero.text import keywords


def question_frame(questions: list[Question], chunks: list[Chunk]) -> pd.DataFrame:
    """A row per question; `place` is where in its last gold passage the answer begins, from 0 to 1, NaN if nowhere."""
    texts = {chunk.id: chunk.text for chunk in chunks}
    rows = []
    for question in questions:
        text = texts[question.gold_chunk_ids[-1]]
        row = {"id": question.id, "kind": question.kind, "split": question.split, "question": question.text}
        row |= {"answer": question.answers[0], "words": len(question.text.split()), "passage": text}
        found = text.find(question.answers[0])
        rows.append(row | {"place": nan if found < 0 else found / len(text)})
    return pd.DataFrame(rows)


def answered_searches(policy: Policy, engine: Engine, questions: list[Question], sampling: Sampling) -> pd.DataFrame:
    """Per question, the tokens of what the first search brings, and how many such searches an episode has room for.

    Each turn is taken to use all its `turn_tokens`, and every search to bring as much as one for the question's words
    does. An episode with `searches` 0 ends at its first search, and its policy never reads a passage.
    """
    most, left = sampling.max_turns - 1, sampling.episode_tokens - sampling.turn_tokens  # the last turn answers
    rows = []
    for start in range(0, len(questions), 256):
        some = questions[start : start + 256]
        turns = [Turn("", "", "search", keywords(question.text) or question.text) for question in some]
        for question, turn in zip(some, respond(turns, engine, sampling.k), strict=True):
            tokens = len(policy.information_ids(turn.information, []))
            fitting = max(0, min(most, left // (sampling.turn_tokens + tokens)))
            rows.append({"id": question.id, "tokens": tokens, "searches": fitting})
    return pd.DataFrame(rows)
