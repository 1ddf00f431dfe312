"""Write the Larkspur corpus: reports of an invented spaceflight programme, with questions and noise rows.

    python data/larkspur/generate.py [--seed 0] [--missions 40] [--partition train] [--out DIR] [--check]

The same arguments give the same bytes. Worlds of the partition "train" share no invented word with the shipped corpus,
so a policy can be trained on them before it meets the shipped one. `build` makes a world without writing it.
"""

import argparse
import importlib
import random
import sys
import types
from collections import Counter
from pathlib import Path
from statistics import median

import pandas

from rezero.analysis.retrieval import room_to_retry
from rezero.corpus import save_chunks
from rezero.data.leaks import leakage
from rezero.data.validation import validate
from rezero.files import write_jsonl
from rezero.questions import SPLITS, Question, save_questions
from rezero.search import build_engine

HERE = Path(__file__).resolve().parent
# This file is run as a script or loaded by its path, so the modules beside it need a package to be found in.
sys.modules.setdefault("larkspur", types.ModuleType("larkspur")).__path__ = [str(HERE)]
world, passages, quiz = (importlib.import_module(f"larkspur.{n}") for n in ("world", "passages", "quiz"))

SHARES = {"train": 0.7, "dev": 0.1, "test": 0.2}
POOLS = {"pads": 6, "vehicles": 5, "labs": 15}  # names that several missions share


def assign_splits(rng: random.Random, missions: int) -> list[str]:
    """A split per mission: whole dossiers, so that neither gold chunks nor chains are shared."""
    dev, test = max(1, round(missions * SHARES["dev"])), max(1, round(missions * SHARES["test"]))
    splits = ["dev"] * dev + ["test"] * test + ["train"] * (missions - dev - test)
    rng.shuffle(splits)
    return splits


def build(seed: int = 0, missions: int = 40, partition: str = "ship"):
    """A world as (chunks, questions, noise rows). The same arguments give the same world; no file is touched."""
    if partition not in ("ship", "train"):
        raise ValueError(f"unknown partition {partition!r}; allowed: ship, train")
    # Prose and questions draw from their own source, so that other wordings leave the world as it is.
    rng, prose = (random.Random(f"{use} {seed} {missions} {partition}") for use in ("larkspur", "prose"))
    names = world.words(rng, partition)
    shared = {pool: [next(names) for _ in range(count)] for pool, count in POOLS.items()}
    made, rows, seen = [], [], set()
    for number, split in enumerate(assign_splits(rng, missions), start=1):
        dossier = passages.dossier(prose, number, world.mission(rng, names, shared, 2061 + number // 4))
        rows += [{**row, "split": split} for row in quiz.inquire(prose, number, dossier, seen)]
        made += dossier
    made += passages.programme(prose, shared)
    texts = {passage.chunk.id: passage.chunk.text for passage in made}
    questions = [number_question(n, row, texts) for n, row in enumerate(rows, start=1)]
    noise = [row for passage in made for row in passages.spoil(prose, passage)]
    return [passage.chunk for passage in made], questions, noise


def number_question(number: int, row: dict, texts: dict[str, str]) -> Question:
    gold_texts = tuple(texts[gold] for gold in row["gold_chunk_ids"])
    return Question(id=f"q{number:04d}", gold_texts=gold_texts, **row)


def save(out: Path, chunks, questions, noise) -> None:
    save_chunks(out / "chunks.jsonl", chunks)
    save_questions(out / "questions.jsonl", questions)
    write_jsonl(out / "noise.jsonl", noise)


def check(chunks, questions, noise) -> None:
    """Print counts, lengths, problems, leaks between splits and how often questions miss and recover."""
    lengths = sorted(len(chunk.text) for chunk in chunks)
    words = sorted(len(question.text.split()) for question in questions)
    print(f"{len(chunks)} chunks of {lengths[0]} to {lengths[-1]} characters, median {median(lengths)}")
    print(f"{len(questions)} questions of {words[0]} to {words[-1]} words, median {median(words)}")
    print(f"{len(noise)} noise rows: {dict(Counter(row['kind'] for row in noise))}")
    for split in SPLITS:
        print(f"{split}: {dict(Counter(question.kind for question in questions if question.split == split))}")
    print("problems:", validate(questions, chunks) or "none")
    print(pandas.DataFrame(leakage(questions)).to_string(index=False))
    engine = build_engine("bm25", chunks)
    rows = [row for k in (1, 2, 3) for row in room_to_retry(questions, engine, k)]
    print(pandas.DataFrame(rows).to_string(index=False, float_format="{:.3f}".format))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--missions", type=int, default=40)
    parser.add_argument("--partition", choices=["ship", "train"], default="ship", help="train: no shipped name")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--check", action="store_true", help="also print counts, leaks and the room to retry")
    arguments = parser.parse_args(argv)
    made = build(arguments.seed, arguments.missions, arguments.partition)
    save(arguments.out.resolve(), *made)
    if arguments.check:
        check(*made)


if __name__ == "__main__":
    main()
