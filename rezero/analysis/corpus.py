"""Tables of a corpus and its questions, and whether its passages fit what a policy may read in an episode."""

from math import nan

import pandas as pd

from rezero.corpus import Chunk, find_chunks, load_chunks
from rezero.data.larkspur import load_generator
from rezero.files import read_jsonl
from rezero.policy.base import Policy
from rezero.protocol import Sampling, Turn
from rezero.questions import Question, assign_splits, load_questions
from rezero.search.base import Engine
from rezero.search_env import respond
from rezero.text import keywords


def read_corpus(corpus: str, seed: int = 0, missions: int = 40) -> tuple[list[Chunk], list[Question], list[dict]]:
    """Chunks, questions and rows of noise (perhaps none) of a folder; those of Larkspur come from its generator."""
    if corpus == "data/larkspur":
        return load_generator().build(seed=seed, missions=missions)
    folder, chunks = find_chunks(corpus).parent, load_chunks(corpus)
    noise = folder / "noise.jsonl"
    questions = assign_splits(load_questions(folder / "questions.jsonl", chunks))
    return chunks, questions, list(read_jsonl(noise)) if noise.is_file() else []


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
