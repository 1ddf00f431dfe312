"""Splits that share nothing, and what splits share: gold passages, questions, texts that are nearly equal."""

import random
import warnings
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import ceil
from pathlib import Path

import numpy as np

from rezero.questions import SPLITS, Question
from rezero.text import normalized

SHARES = {"train": 0.7, "dev": 0.1, "test": 0.2}  # of a file that names no splits


def assign_splits(questions: list[Question], how: str = "disjoint") -> list[Question]:
    """Questions with the splits that they are used in.

    "disjoint", "given": the splits of the file or, where all are "train" because it names none, by chunk with
    `SHARES`; what differs is how `check_splits` takes it if they leak.
    "by_row": as in the published code, `train_test_split(test_size=0.1, seed=42)` of the library datasets: a tenth of
    the rows is test, even if it shares a chunk with train, and there is no dev.
    """
    if how == "by_row":
        order = np.random.default_rng(42).permutation(len(questions))
        test = set(order[: ceil(0.1 * len(questions))].tolist())
        return [replace(q, split="test" if row in test else "train") for row, q in enumerate(questions)]
    unsplit = all(question.split == "train" for question in questions)
    return split_by_chunk(questions, SHARES) if unsplit else questions


def check_splits(splits: dict[str, list[Question]], file: Path, how: str) -> None:
    """ValueError for an empty split, or for splits that share something.

    With `how` "given", both that and an empty test split are only warned about; with "by_row", what splits share.
    """
    counts = ", ".join(f"{len(questions)} {name}" for name, questions in splits.items())
    empty = [name for name in SPLITS if not splits[name] and (how, name) != ("by_row", "dev")]
    rows = leakage(question for questions in splits.values() for question in questions)
    shared = [f"{n} {name} ({row['splits']})" for row in rows for name, n in row.items() if name != "splits" and n]
    said = [f"{counts} questions; want some in every split"] * bool(empty)
    said += [f"its splits share {', '.join(shared)}"] * bool(shared)
    if said and (how == "disjoint" or (empty and empty != ["test"])):
        anew = "`python -m rezero data split` divides the questions anew, split='given' takes the splits as they are"
        raise ValueError(f"{file}: {'; '.join(said)}; {anew}")
    if said:
        warnings.warn(f"{file}: {'; '.join(said)}", stacklevel=3)


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
    from scipy.cluster.hierarchy import DisjointSet  # here, because a task with its own splits does not need it

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


def near_groups(texts: Sequence[str], share: float = 0.8, run: int = 5) -> list[int]:
    """A number per text, which texts have in common that are equal or nearly so, directly or through others.

    Two texts are nearly equal if they share `share` of all the runs of `run` words that one of them has (Jaccard); for
    the deduplication of training sets, see Lee et al. 2022. Case and punctuation do not count.
    """
    firsts: dict[str, int] = {}  # text -> where it first stands
    same = [firsts.setdefault(normalized(text), index) for index, text in enumerate(texts)]
    runs = {}  # place of a text -> its runs
    for text, index in firsts.items():
        words = text.split()
        runs[index] = {hash(tuple(words[i : i + run])) for i in range(max(1, len(words) - run + 1))}
    frequent = Counter(one for some in runs.values() for one in some)
    group, holders = {index: index for index in runs}, defaultdict(list)  # a group is a chain to its first text

    def first(index: int) -> int:
        while group[index] != index:
            index = group[index]
        return index

    for index, some in runs.items():
        # Of two texts that share so much, each has a shared run among its rarest ones (Chaudhuri et al. 2006).
        rarest = sorted(some, key=lambda one: (frequent[one], one))[: len(some) - ceil(share * len(some)) + 1]
        for other in {other for one in rarest for other in holders[one]}:
            if len(some & runs[other]) >= share * len(some | runs[other]):
                group[max(first(index), first(other))] = min(first(index), first(other))
        for one in rarest:
            holders[one].append(index)
    return [first(index) for index in same]
