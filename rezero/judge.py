"""Is an answer right? Exact match and F1 over normalised text (SQuAD, Rajpurkar et al. 2016)."""

import re
import string
from collections import Counter
from collections.abc import Iterable

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(text: str) -> str:
    """SQuAD's normalisation: lower case, no ASCII punctuation, no articles, single spaces.

    Its limits: "3" is not "three", "9.5" is "95" (punctuation goes), units and dates are only words.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str | None, answers: Iterable[str]) -> bool:
    """Whether the normalised prediction is one of the normalised answers; nothing said is never right."""
    said = normalize(prediction or "")
    return bool(said) and any(said == normalize(answer) for answer in _listed(answers))


def f1(prediction: str | None, answers: Iterable[str]) -> float:
    """The best word overlap with any answer, [0, 1]: the harmonic mean of precision and recall of words."""
    said = normalize(prediction or "")
    return max((_overlap(said, normalize(answer)) for answer in _listed(answers)), default=0.0)


def _overlap(said: str, wanted: str) -> float:
    said_words, wanted_words = said.split(), wanted.split()
    common = sum((Counter(said_words) & Counter(wanted_words)).values())
    return 2 * common / (len(said_words) + len(wanted_words)) if common else 0.0


def _listed(answers: Iterable[str]) -> Iterable[str]:
    if isinstance(answers, str):
        raise TypeError(f"answers is a string, {answers[:40]!r}; want a list of accepted answers")
    return answers
