"""Questions for any corpus, by blanking out a name or a number of a sentence (Taylor 1953).

They teach a language model to find a passage again and to copy out of it, where a corpus has few questions or none.
"""

import random
import re
from collections.abc import Iterable

from rezero.corpus import Chunk
from rezero.questions import STOP_WORDS, Question

ASK = "Fill in the blank: {}"
BLANK = "____"
WORDS = range(8, 31)  # words of a sentence that is taken
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
        if len(sentence.split()) not in WORDS:
            continue
        spans = [m for m in _SPAN.finditer(sentence) if m.start() and chunk.text.count(m.group()) == 1]
        spans = [m for m in spans if m.group().split()[-1].lower() not in STOP_WORDS]
        if spans:
            span = rng.choice(spans)
            blanked = sentence[: span.start()] + BLANK + sentence[span.end() :]
            name = f"cloze-{chunk.id}.{number}"
            yield Question(name, ASK.format(blanked), (span.group(),), (chunk.id,), (chunk.text,))
