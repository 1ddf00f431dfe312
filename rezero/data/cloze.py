"""Training questions for any corpus, made by blanking out a name or a number in a sentence (Taylor 1953).

They teach a model to find a passage again and to copy from it, when a corpus has few questions or none.
"""

import argparse
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import zip_longest

from rezero.corpus import Chunk, load_chunks, save_chunks
from rezero.files import resolve
from rezero.questions import SPLITS, Question, load_questions, save_questions, split_by_chunk
from rezero.text import STOP_WORDS

ASK = "Fill in the blank: {}"
BLANK = "____"
WORDS = range(8, 31)  # how many words a sentence may have
PROSE = 0.5  # smallest share of words in lower case; tables have less
NUMBER = r"[-+]?\d(?:[\d.,:]*\d)?(?: [a-z]{3,12})?"  # with its unit, such as 2:35:46.4, 5.0 psia, 33 percent
NAME = r"[A-Z][\w-]+(?: [A-Z][\w-]+)*"  # capitalised words, such as Indian Ocean
SPAN = re.compile(rf"(?<![\w.$/-])(?:{NUMBER}|{NAME})(?![\w/$-]|\.\w)")


def cloze_questions(chunks: Iterable[Chunk], n: int, seed: int = 0) -> list[Question]:
    """At most `n` questions of kind "direct" and split "train", one per sentence, spread evenly over the chunks.

    The first word of a sentence is never blanked out, and an answer occurs only once in its passage.
    """
    rng = random.Random(seed)
    piles = []
    for chunk in chunks:
        made = list(_blanked_sentences(chunk, rng))
        if made:
            piles.append(rng.sample(made, len(made)))
    rng.shuffle(piles)
    rounds = zip_longest(*piles)  # each round takes one question of every pile that still has one
    return [question for row in rounds for question in row if question][:n]


def _blanked_sentences(chunk: Chunk, rng: random.Random) -> Iterator[Question]:
    for number, sentence in enumerate(re.split(r"(?<=[.!?])\s+|\n+", chunk.text)):
        words = sentence.split()
        lower_case = sum(word.isalpha() and word.islower() for word in words)
        if len(words) not in WORDS or lower_case < PROSE * len(words):
            continue
        spans = [span for span in SPAN.finditer(sentence) if _may_be_blanked(span, chunk.text)]
        if spans:
            span = rng.choice(spans)
            text = ASK.format(sentence[: span.start()] + BLANK + sentence[span.end() :])
            yield Question(f"cloze-{chunk.id}.{number}", text, (span.group(),), (chunk.id,), (chunk.text,))


def _may_be_blanked(span: re.Match, passage: str) -> bool:
    ends_in_stop_word = span.group().split()[-1].lower() in STOP_WORDS
    return span.start() > 0 and passage.count(span.group()) == 1 and not ends_in_stop_word


def main(argv: list[str] | None = None) -> None:
    """Copy a corpus. Its questions are split anew by chunk; cloze questions are added, for training.

    No passage that is gold in dev or test gets a cloze question. Without questions, these are split by chunk.
    """
    parser = argparse.ArgumentParser(prog="python -m rezero.data.cloze", description=main.__doc__.splitlines()[0])
    parser.add_argument("corpus", help="folder with chunks.jsonl or chunks.csv and perhaps questions.jsonl")
    parser.add_argument("--out", required=True, help="folder for the new chunks.jsonl and questions.jsonl")
    parser.add_argument("-n", type=int, default=400, help="most cloze questions (default: %(default)s)")
    parser.add_argument("--dev", type=float, default=0.1, help="share of the questions (default: %(default)s)")
    parser.add_argument("--test", type=float, default=0.2, help="share of the questions (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if min(args.dev, args.test) < 0 or args.dev + args.test >= 1:
        parser.error(f"--dev {args.dev} and --test {args.test}; want shares from 0 that add up to less than 1")
    source, out = resolve(args.corpus), resolve(args.out)
    try:
        chunks = load_chunks(source)
        asked = source / "questions.jsonl"
        questions = load_questions(asked, chunks) if asked.is_file() else []
    except (OSError, ValueError) as error:
        parser.error(str(error))
    shares = {"train": 1 - args.dev - args.test, "dev": args.dev, "test": args.test}
    made = split_by_chunk(questions or cloze_questions(chunks, args.n, args.seed), shares, args.seed)
    if questions:
        held_out = {gold for question in made if question.split != "train" for gold in question.gold_chunk_ids}
        made += cloze_questions([chunk for chunk in chunks if chunk.id not in held_out], args.n, args.seed)
    save_chunks(out / "chunks.jsonl", chunks)
    save_questions(out / "questions.jsonl", made)
    counts = Counter(question.split for question in made)
    print(f"{out}: {len(chunks)} chunks, questions: {', '.join(f'{counts[split]} {split}' for split in SPLITS)}")


if __name__ == "__main__":
    main()
