"""`python -m rezero data split` and `data cloze`: a corpus whose questions are divided anew into splits.

Splits share neither a passage nor a text and, if so wished, no section or document.
"""

from collections import Counter
from collections.abc import Hashable

from rezero.corpus import Chunk, find_chunks, load_chunks, save_chunks
from rezero.data.cloze import cloze_questions
from rezero.files import resolve, shown
from rezero.questions import SPLITS, Question, load_questions, save_questions, split_by_chunk
from rezero.text import near_groups

BY = ("chunk", "section", "document")


def part_of(chunk: Chunk, by: str) -> Hashable:
    """The section or document of a passage: the document is its source up to the first comma, else its title."""
    document = chunk.source.split(", ")[0] or chunk.title or chunk.id
    return document if by == "document" else (document, chunk.title)


def checked_shares(dev: float, test: float) -> dict[str, float]:
    if min(dev, test) < 0 or dev + test >= 1:
        raise ValueError(f"--dev {dev} and --test {test}; want shares from 0 that add up to less than 1")
    return {"dev": dev, "test": test}


def divide(
    questions: list[Question], shares: dict[str, float], by: str, chunks: list[Chunk], seed: int
) -> list[Question]:
    """Questions with "dev" and "test" as their `shares` say, the rest "train", split by one of `BY`.

    ValueError if a split that has a share gets no question, because too many questions depend on each other.
    """
    if not questions:
        raise ValueError("there are no questions to divide; `python -m rezero data cloze` makes some without a model")
    parts = {} if by == "chunk" else {chunk.id: part_of(chunk, by) for chunk in chunks}
    made = split_by_chunk(questions, {"train": 1 - sum(shares.values())} | shares, seed, parts)
    empty = {name for name, share in shares.items() if share} - {question.split for question in made}
    if empty:
        few = f"too few of the {len(questions)} questions share no passage or text"
        few += f" and no {by}; want --by chunk, " * (by != "chunk") or "; want "
        raise ValueError(f"no question for {' and '.join(sorted(empty))}: {few}more questions, or a share of 0")
    return made


def write_corpus(out: str, chunks: list[Chunk], questions: list[Question]) -> None:
    """Write a corpus folder and print what is in it."""
    folder = resolve(out)
    save_chunks(folder / "chunks.jsonl", chunks)
    save_questions(folder / "questions.jsonl", questions)
    counts = Counter(question.split for question in questions)
    named = ", ".join(f"{counts[split]} {split}" for split in SPLITS)
    print(f"{shown(folder)}: {len(chunks)} chunks, questions: {named}")


def split_corpus(corpus: str, out: str, dev: float, test: float, by: str, seed: int, cloze: int = 0) -> None:
    """Copy a corpus with its questions split anew and at most `cloze` cloze questions more, for training.

    No passage that is gold in dev or test, or nearly equal to one that is, gets a cloze question, and with `by` none of
    their sections or documents. Without questions, the cloze questions are those that are split.
    """
    shares, asked = checked_shares(dev, test), find_chunks(corpus).parent / "questions.jsonl"
    chunks = load_chunks(corpus)
    questions = load_questions(asked, chunks) if asked.is_file() else []
    made = divide(questions or cloze_questions(chunks, cloze, seed), shares, by, chunks, seed)
    if questions and cloze:
        held_out = {gold for question in made if question.split != "train" for gold in question.gold_chunk_ids}
        keys = [{("text", group)} for group in near_groups([chunk.text for chunk in chunks])]
        for chunk, key in zip(chunks, keys, strict=True):
            key |= {chunk.id} if by == "chunk" else {part_of(chunk, by)}
        closed = set().union(*(key for chunk, key in zip(chunks, keys, strict=True) if chunk.id in held_out))
        made += cloze_questions([c for c, key in zip(chunks, keys, strict=True) if closed.isdisjoint(key)], cloze, seed)
    write_corpus(out, chunks, made)
