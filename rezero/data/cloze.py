"""Questions for any corpus, by blanking out a name or a number of a sentence (Taylor 1953).

    python -m rezero.cloze FOLDER --out FOLDER

They teach a language model to find a passage again and to copy out of it, where a corpus has few questions or none.
"""

import argparse
import random
import re
from collections import Counter
from collections.abc import Iterable

from rezero.corpus import Chunk, chunks_file, load_chunks, save_chunks
from rezero.files import resolve
from rezero.questions import SPLITS, Question, load_questions, save_questions, split_by_chunk
from rezero.text import STOP_WORDS

ASK = "Fill in the blank: {}"

BLANK = "____"

WORDS, PROSE = range(8, 31), 0.5  # words of a sentence that is taken; share of them in small letters: no tables

# A number with what stands beside it (2:35:46.4, 5.0 psia, 33 percent), or capitalised words (Indian Ocean).
_NUMBER, _NAME = r"[-+]?\d(?:[\d.,:]*\d)?(?: [a-z]{3,12})?", r"[A-Z][\w-]+(?: [A-Z][\w-]+)*"

_SPAN = re.compile(rf"(?<![\w.$/-])(?:{_NUMBER}|{_NAME})(?![\w/$-]|\.\w)")


def cloze_questions(chunks: Iterable[Chunk], n: int, seed: int = 0) -> list[Question]:
    """At most `n` questions of kind "direct" and split "train", one a sentence, dealt evenly over the chunks.

    The first word of a sentence is never blanked, and an answer stands once in its passage.
    """
    rng = random.Random(seed)
    piles = [rng.sample(found, len(found)) for chunk in chunks if (found := [*_blanks(chunk, rng)])]
    rng.shuffle(piles)
    dealt = [pile[depth] for depth in range(max(map(len, piles), default=0)) for pile in piles if depth < len(pile)]
    return dealt[:n]


def _blanks(chunk: Chunk, rng: random.Random) -> Iterable[Question]:
    for number, sentence in enumerate(re.split(r"(?<=[.!?])\s+|\n+", chunk.text)):
        said = sentence.split()
        if len(said) not in WORDS or sum(word.isalpha() and word.islower() for word in said) < PROSE * len(said):
            continue
        spans = [m for m in _SPAN.finditer(sentence) if m.start() and chunk.text.count(m.group()) == 1]
        spans = [m for m in spans if m.group().split()[-1].lower() not in STOP_WORDS]
        if spans:
            span = rng.choice(spans)
            blanked = sentence[: span.start()] + BLANK + sentence[span.end() :]
            name = f"cloze-{chunk.id}.{number}"
            yield Question(name, ASK.format(blanked), (span.group(),), (chunk.id,), (chunk.text,))


def with_cloze(
    chunks: list[Chunk], questions: list[Question], n: int, shares: dict[str, float], seed: int = 0
) -> list[Question]:
    """`questions` split anew by chunk, and at most `n` cloze questions of the passages that are gold in train only.

    Raises:
        ValueError: `shares` names a split that there is not.
    """
    split = split_by_chunk(questions, shares, seed)
    held_out = {gold for question in split if question.split != "train" for gold in question.gold_chunk_ids}
    return [*split, *cloze_questions([chunk for chunk in chunks if chunk.id not in held_out], n, seed)]


def main(argv: list[str] | None = None) -> None:
    """Copy a corpus, its questions split anew by chunk and joined by cloze questions for training."""
    parser = argparse.ArgumentParser(prog="python -m rezero.cloze", description=main.__doc__)
    parser.add_argument("corpus", help="folder with chunks and questions, ours or AutoDidact's")
    parser.add_argument("--out", required=True, help="folder to write chunks.jsonl and questions.jsonl to")
    parser.add_argument("-n", type=int, default=400, help="cloze questions, at most (default: %(default)s)")
    parser.add_argument("--dev", type=float, default=0.1, help="share of the questions (default: %(default)s)")
    parser.add_argument("--test", type=float, default=0.2, help="share of the questions (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if min(args.dev, args.test) < 0 or args.dev + args.test >= 1:
        parser.error(f"--dev {args.dev} and --test {args.test}: want shares from 0 whose sum is below 1")
    chunks = load_chunks(chunks_file(args.corpus))
    questions = load_questions(resolve(args.corpus) / "questions.jsonl", chunks)
    shares = {"train": 1 - args.dev - args.test, "dev": args.dev, "test": args.test}
    made = with_cloze(chunks, questions, args.n, shares, args.seed)
    save_chunks(resolve(args.out) / "chunks.jsonl", chunks)
    save_questions(resolve(args.out) / "questions.jsonl", made)
    counts = Counter(question.split for question in made)
    print(f"{resolve(args.out)}: {len(chunks)} chunks, questions: {', '.join(f'{counts[s]} {s}' for s in SPLITS)}")


if __name__ == "__main__":
    main()
