"""Questions over a corpus: the record, reading and writing it, and splits that do not leak."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from rezero.corpus import Chunk, read_id
from rezero.files import numbered_rows, parse_record, resolve, write_jsonl
from rezero.text import near_groups, normalized

Kind = Literal["direct", "reworded", "alias", "two-hop"]
Split = Literal["train", "dev", "test"]
KINDS, SPLITS = get_args(Kind), get_args(Split)
SHARES = {"train": 0.7, "dev": 0.1, "test": 0.2}  # of a file that names no splits


@dataclass(frozen=True)
class Question:
    """One question with everything needed to judge an answer and to tell whether the evidence was seen."""

    id: str
    text: str
    answers: tuple[str, ...]  # accepted answers; the first stands verbatim in the last gold chunk
    gold_chunk_ids: tuple[str, ...]  # every chunk that must be seen to answer, in the order of the hops
    gold_texts: tuple[str, ...] = ()  # their texts, filled in when loading, for transcripts that carry no hits
    kind: Kind = "direct"
    split: Split = "train"
    # Queries that a careful searcher could write, in order, after a first query made of the question's words missed.
    # They measure the room to retry and feed the scripted searcher; no policy ever sees them.
    rewrites: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """ValueError for a gold chunk that is named twice: its evidence would never be complete."""
        if len(set(self.gold_chunk_ids)) < len(self.gold_chunk_ids):
            raise ValueError(f"gold_chunk_ids is {list(self.gold_chunk_ids)!r:.80}; want each id once")


def load_questions(path: str | Path, chunks: Iterable[Chunk] | None = None) -> list[Question]:
    """Read questions from JSON Lines; with `chunks`, fill in `gold_texts`.

    The fields are ours or AutoDidact's: {"id": chunk id, "question", "answer"}. There the second question of chunk 17
    gets the id "17.2". ValueError for a wrong field, a repeated id, or a gold chunk that does not exist, names file and
    line; FileNotFoundError for no file says how questions are made.
    """
    if not resolve(path).is_file():
        made = "`python -m rezero data questions` or `data cloze` makes questions for a corpus"
        raise FileNotFoundError(f"{resolve(path)}: no such file; {made}")
    texts = None if chunks is None else {chunk.id: chunk.text for chunk in chunks}
    counts: Counter = Counter()
    questions: dict[str, Question] = {}
    for where, row in numbered_rows(path):
        if "question" in row:
            gold = read_id(row.get("id"), where)
            counts[gold] += 1
            row = {"text": row["question"], "answers": [row.get("answer")], "gold_chunk_ids": [gold]}
            row["id"] = f"{gold}.{counts[gold]}"
        try:
            question = _with_gold_texts(parse_record(row, Question), texts)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if question.id in questions:  # two questions would count as one wherever episodes are paired by id
            raise ValueError(f"{where}: the id {question.id!r:.80} was used before")
        questions[question.id] = question
    return list(questions.values())


def _with_gold_texts(question: Question, texts: dict[str, str] | None) -> Question:
    parts = {"id": (question.id,), "text": (question.text,)}
    parts |= {name: getattr(question, name) for name in ("answers", "gold_chunk_ids")}
    for name, values in parts.items():
        if not values or not all(map(str.strip, values)):
            raise ValueError(f"{name} is {list(values)!r:.80}; want at least one, none of them blank")
    if texts is None:
        return question
    for gold in question.gold_chunk_ids:
        if gold not in texts:
            raise ValueError(f"gold chunk {gold!r:.80} is none of the {len(texts)} chunks of the corpus")
    return replace(question, gold_texts=tuple(texts[gold] for gold in question.gold_chunk_ids))


def save_questions(path: str | Path, questions: Iterable[Question]) -> Path:
    """Write questions as JSON Lines, without the gold texts, which are in the chunks."""
    rows = [asdict(question) for question in questions]
    for row in rows:
        del row["gold_texts"]
    return write_jsonl(path, rows)


def assign_splits(questions: list[Question], how: str = "disjoint") -> list[Question]:
    """Questions with the splits that they are used in.

    "disjoint", "given": the splits of the file or, where all are "train" because it names none, `split_by_chunk` with
    `SHARES`; what differs is how `load_task` takes it if they leak.
    "by_row": as in the published code, `train_test_split(test_size=0.1, seed=42)` of the library datasets: a tenth of
    the rows is test, even if it shares a chunk with train, and there is no dev.
    """
    if how == "by_row":
        order = np.random.default_rng(42).permutation(len(questions))
        test = set(order[: math.ceil(0.1 * len(questions))].tolist())
        return [replace(q, split="test" if row in test else "train") for row, q in enumerate(questions)]
    unsplit = all(question.split == "train" for question in questions)
    return split_by_chunk(questions, SHARES) if unsplit else questions


def split_by_chunk(
    questions: list[Question], shares: dict[str, float], seed: int = 0, part_of: Mapping[str, Hashable] | None = None
) -> list[Question]:
    """Assign splits so that no chunk is gold in two of them, and no text stands in two, for any corpus.

    Questions form a group if, directly or through others, they share a gold chunk or the `part_of` a gold chunk, such
    as its document. Groups are assigned, the largest first, to the split that is furthest below its share; the seed
    decides among groups of the same size. `shares` has the share of each split; they need not add up to 1. Groups that
    share a question's text or a nearly equal gold text (`near_groups`) then all get the split that most of them have.
    """
    for name in shares:
        if name not in SPLITS:
            raise ValueError(f"split {name!r} is unknown; allowed: {', '.join(SPLITS)}")
    near, parts = _passage_groups(questions), part_of or {}
    golds, texts = [], []
    for question in questions:
        ids = question.gold_chunk_ids
        golds.append([("gold", id) for id in ids] + [("part", parts[id]) for id in ids if id in parts])
        texts.append([("text", normalized(question.text)), *(("near", near[id]) for id in ids if id in near)])
    split_of = _filled(_connected(golds), shares, seed)
    used, groups = {*split_of.values()}, _connected([*map(list.__add__, golds, texts)])
    for group in groups:
        ((split, _),) = Counter(split_of[index] for index in sorted(group)).most_common(1)
        split_of |= dict.fromkeys(group, split)
    if {*split_of.values()} != used:  # so few groups that one split lost its only one
        split_of = _filled(groups, shares, seed)
    return [replace(question, split=split_of[index]) for index, question in enumerate(questions)]


def _filled(groups: list[list[int]], shares: dict[str, float], seed: int) -> dict[int, str]:
    """The split of each index, whole groups together."""
    random.Random(seed).shuffle(groups)
    groups.sort(key=len, reverse=True)
    total, filled = sum(shares.values()) or 1, Counter()
    wanted = {name: share / total * sum(map(len, groups)) for name, share in shares.items()}
    split_of = {}
    for group in groups:
        split = max(shares, key=lambda name: wanted[name] - filled[name])
        filled[split] += len(group)
        split_of |= dict.fromkeys(group, split)
    return split_of


def _connected(keys: list[list[Hashable]]) -> list[list[int]]:
    """The indices of `keys` in groups that share a key, directly or through others."""
    from scipy.cluster.hierarchy import DisjointSet  # here, because most commands need questions and not scipy

    joined = DisjointSet(range(len(keys)))
    for index, some in enumerate(keys):
        for key in some:
            joined.add(key)
            joined.merge(index, key)
    return [[one for one in group if isinstance(one, int)] for group in joined.subsets()]


def _passage_groups(questions: Iterable[Question]) -> dict[str, int]:
    """Gold chunk -> the number of its group of nearly equal texts, of the chunks whose texts are filled in."""
    pairs = (zip(q.gold_chunk_ids, q.gold_texts, strict=False) for q in questions)
    texts = dict(pair for some in pairs for pair in some)
    return dict(zip(texts, near_groups(list(texts.values())), strict=True))


def leakage(questions: Iterable[Question]) -> list[dict]:
    """How much two splits share, as a row per pair of splits with a column per kind; 0 if nothing leaks.

    `passages` are groups of equal or nearly equal gold texts, `chains` whole lists of gold chunks.
    """
    questions = list(questions)
    group_of, held = _passage_groups(questions), defaultdict(lambda: defaultdict(set))
    for question in questions:
        golds, text = question.gold_chunk_ids, normalized(question.text)
        found = {"gold_chunks": golds, "chains": [golds] * (len(golds) > 1), "same_text": [text]}
        found |= {"same_words": [frozenset(text.split())]}
        found |= {"passages": [group_of[gold] for gold in golds if gold in group_of]}
        for column, parts in found.items():
            held[column][question.split].update(parts)
    rows = []
    for a, b in combinations(SPLITS, 2):
        rows.append({"splits": f"{a}/{b}"} | {column: len(parts[a] & parts[b]) for column, parts in held.items()})
    return rows


def spread(questions: list[Question], n: int, seed: int = 0) -> list[Question]:
    """`n` of `questions` in their order, drawn so that each kind keeps its share; all if `n` is 0 or too large."""
    if n < 0:
        raise ValueError(f"{n} questions are asked for; want at least 1, or 0 for all")
    if not n or n >= len(questions):
        return list(questions)
    by_kind = defaultdict(list)
    for index in random.Random(seed).sample(range(len(questions)), len(questions)):
        by_kind[questions[index].kind].append(index)
    ranked = []  # (place of the question in its kind's random order, from 0 to 1; its index)
    for indices in by_kind.values():
        ranked += [((place + 0.5) / len(indices), index) for place, index in enumerate(indices)]
    return [questions[index] for index in sorted(index for _, index in sorted(ranked)[:n])]
