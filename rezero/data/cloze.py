"""Training questions for any corpus, made by blanking out a name or a number in a sentence (Taylor 1953).

They teach a model to find a passage again and to copy from it, when a corpus has few questions or none.
"""

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest

from rezero.corpus import Chunk
from rezero.questions import Question
from rezero.text import STOP_WORDS

ASK = "Fill in the blank: {}"
BLANK = "____"
WORDS = range(8, 31)  # how many words a sentence may have
NUMBER = r"[-+]?\d(?:[\d.,:]*\d)?(?: [a-z]{3,12})?"  # with its unit, such as 2:35:46.4, 5.0 psia, 33 percent
NAME = r"[A-Z][\w-]+(?: [A-Z][\w-]+)*"  # capitalised words, such as Indian Ocean
SPAN = re.compile(rf"(?<![\w.$/-])(?:{NUMBER}|{NAME})(?![\w/$-]|\.\w)")


def cloze_questions(chunks: Iterable[Chunk], n: int, seed: int = 0) -> list[Question]:
    """At most `n` questions of kind "direct" and split "train", one per sentence, spread evenly over the chunks.

    The first word of a sentence is never blanked out, and an answer occurs only once in its passage. A question
    that two passages answer differently is left out.
    """
    rng, piles = random.Random(seed), []
    for chunk in chunks:
        made = list(_blanked_sentences(chunk, rng))
        piles += [rng.sample(made, len(made))] if made else []
    rng.shuffle(piles)
    answers = defaultdict(set)
    for question in chain(*piles):
        answers[question.text].add(question.answers)
    rounds = zip_longest(*piles)  # each round takes one question of every pile that still has one
    return [question for row in rounds for question in row if question and len(answers[question.text]) == 1][:n]


def _blanked_sentences(chunk: Chunk, rng: random.Random) -> Iterator[Question]:
    for number, sentence in enumerate(re.split(r"(?<=[.!?])\s+|\n+", chunk.text)):
        words = sentence.split()
        lower_case = sum(word.isalpha() and word.islower() for word in words)
        if len(words) not in WORDS or 2 * lower_case < len(words):  # half of the words of prose are in lower case
            continue
        spans = [span for span in SPAN.finditer(sentence) if span.start() > 0 and chunk.text.count(span[0]) == 1]
        spans = [span for span in spans if span[0].split()[-1].lower() not in STOP_WORDS]
        if spans:
            span = rng.choice(spans)
            text = ASK.format(sentence[: span.start()] + BLANK + sentence[span.end() :])
            yield Question(f"cloze-{chunk.id}.{number}", text, (span[0],), (chunk.id,), (chunk.text,))
