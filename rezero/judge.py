"""Is an answer correct? Exact match and F1 over normalized text (SQuAD, Rajpurkar et al. 2016; numbers, dates, units).

`extras.model_judge` judges by meaning; data/judge/agreement.py measures how well each judge agrees with people.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache, partial

from rezero.text import fold, pieces

_SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen""".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_VALUES = {word: i for i, word in enumerate(_SMALL)} | {word: 10 * i for i, word in enumerate(_TENS, start=2)}
MONTHS = """january february march april may june july august september october november december""".split()

# The first name of a unit stands for all its names and for their plurals.
_UNITS = """kilogram kilo kg, gram g, milligram mg, tonne t, pound lb, kilometre kilometer km, metre meter m,
centimetre centimeter cm, millimetre millimeter mm, mile, foot feet ft, inch inches, year yr, week wk, day d, hour hr h,
minute min, second sec s, millisecond ms, newton n, kilonewton kn, pascal pa, kilopascal kpa, bar, millibar mbar, psi,
degree deg °, celsius c °c deg_c degree_c degrees_c degree_celsius degrees_celsius, volt v, watt w, kilowatt kw,
hertz hz, litre liter l, percent pct, am, pm"""
_UNIT = {name.replace("_", " "): names.split()[0] for names in _UNITS.split(",") for name in names.split()}
_UNIT |= {f"{name}s": unit for name, unit in _UNIT.items() if len(name) > 1 and f"{name}s" not in _UNIT}


def _any(words: Iterable[str]) -> str:
    return f"(?:{'|'.join(sorted(map(re.escape, words), key=len, reverse=True))})"  # the longest first


def _scaled(scale: int, match: re.Match) -> str:
    return str(int(match[1]) * scale + int(match[2] or 0))


def _date(match: re.Match) -> str:
    year, number, last, day, name, name_first, day_second = match.groups()
    if year:
        return f"{int(last)} {MONTHS[int(number) - 1]} {year}"
    month = next(month for month in MONTHS if month.startswith((name or name_first)[:3]))
    return f"{int(day or day_second)} {month} "


_QUOTES = "‘’‚‛“”„‟«»‹›「」『』《》〈〉【】。、・·…¿¡،؛؟।"  # and the punctuation of other scripts
_SIGNS = str.maketrans({**dict.fromkeys("‐‑‒–—−", "-"), **dict.fromkeys(_QUOTES, "'"), "%": " percent"})
_SIGNED = re.compile(r"[a-z]{1,3}(?:[+-]{1,2}|#)")
_MONTH = _any([*MONTHS, *(month[:3] for month in MONTHS), "sept"])
_DAY = r"(0?[1-9]|[12][0-9]|3[01])(?:st|nd|rd|th)?"
_ALONE, _ENDS = r"(?<![\w.,:/-])", r"(?![\w.,:/-])"  # before and after a number that is not part of a longer one

_RULES = [  # (pattern, replacement), applied in this order
    (r"(?<![\w.,])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?!,?[0-9])", lambda m: m[0].replace(",", "")),  # 1,200
    (r"(?<![\w.])\.(?=[0-9])", "0."),  # .5
    (r"([0-9] ?[a-z]{1,12})/(?=[a-z])", r"\1 per "),  # 5 km/h
    (rf"\b({_any(_TENS)})[ -]?({_any(_SMALL[1:10])})\b", lambda m: str(_VALUES[m[1]] + _VALUES[m[2]])),  # twenty-one
    (rf"\b{_any(_VALUES)}\b", lambda m: str(_VALUES[m[0]])),
    # SQuAD drops all punctuation. Within a number it has a meaning and stays: 9.5, 1/2, 10:30, 5-7, -40
    (rf"((?<=[0-9])[.,:/-](?=[0-9])|(?<!\S)-(?=[0-9]))|[{re.escape(string.punctuation)}]", r"\1"),
    (r"\b(a|an|the)\b", " "),
    (r"\s+", " "),
    (r"(?<![\w.])[0-9]+\.[0-9]+(?![0-9.])", lambda m: m[0].rstrip("0").rstrip(".")),  # 57.50
    (rf"{_ALONE}([0-9]{{1,9}}) hundred(?:(?: and)? ([0-9]{{1,2}}){_ENDS})?\b", partial(_scaled, 100)),
    (rf"{_ALONE}([0-9]{{1,9}}) thousand(?:(?: and)? ([0-9]{{1,3}}){_ENDS})?\b", partial(_scaled, 1000)),
    (r"\bminus (?=[0-9])", "-"),
    (  # 1971-07-11, 11th of July, July 11
        rf"{_ALONE}(?:([0-9]{{4}})-(0[1-9]|1[0-2])-([0-9]{{2}}){_ENDS}|{_DAY}(?: of)? ?({_MONTH})(?![a-z]))"
        rf"|\b({_MONTH}) ?{_DAY}{_ENDS}(?! ?{_MONTH}\b)",
        _date,
    ),
    # 57.5kg, per h
    (rf"(?<![^\s-])([0-9][0-9.,:/-]*+|per) ?({_any(_UNIT)})(?!\w)", lambda m: f"{m[1]} {_UNIT[m[2]]}"),
]
_RULES = [(re.compile(pattern), replacement) for pattern, replacement in _RULES]


@lru_cache(maxsize=100_000)  # the same accepted answers are compared over and over
def normalize(text: str) -> str:
    """SQuAD's normalization (lower case, no ASCII punctuation, no articles, single spaces), with one form for each of

    - numbers: "1,200", "twelve hundred" → "1200"; "57.50" → "57.5"; "twenty-one" → "21"; "minus 4" → "-4"
    - dates: "July 11th, 1971", "the 11th of July 1971", "1971-07-11" → "11 july 1971"
    - units after a number: "57.5kg", "57.5 kilograms" → "57.5 kilogram"; "5 km/h" → "5 kilometre per hour"

    A missing unit or year stays missing: "57.5" is correct for "57.5 kg" only if the question accepts it as well.
    What consists of a sign or an article ("B+", "C#", "AA-", "A") keeps it, since nothing else tells it from others.
    Limits: no conversion (4,500 g is not 4.5 kg), no "11/7/71", no ordinal words, and case is lost (mW becomes MW).
    """
    given = " ".join(fold(text.lower()).translate(_SIGNS).split())
    bare = given.strip("\"'.,;:!?()")
    if _SIGNED.fullmatch(bare):
        return bare
    before = None
    while text != before:  # one rule's output may match another rule: repeated until nothing changes
        before = text
        text = fold(text.lower()).translate(_SIGNS)
        for pattern, replacement in _RULES:
            text = pattern.sub(replacement, text)
        text = " ".join(pieces(text, 1).split())
    return text or given


def exact_match(prediction: str | None, answers: Iterable[str]) -> bool:
    """Whether the normalized prediction equals a normalized answer. A prediction of which nothing is left never does.

    TypeError if `answers` is a string: one accepted answer is still a list.
    """
    said, accepted = normalize(prediction or ""), _normalized(answers)
    return bool(said) and said in accepted


def f1(prediction: str | None, answers: Iterable[str]) -> float:
    """The word overlap with the closest answer, [0, 1]: the harmonic mean of precision and recall of words."""
    said, best = normalize(prediction or "").split(), 0.0
    for answer in _normalized(answers):
        wanted = answer.split()
        common = sum((Counter(said) & Counter(wanted)).values())
        if common:
            best = max(best, 2 * common / (len(said) + len(wanted)))
    return best


def _normalized(answers: Iterable[str]) -> list[str]:
    if isinstance(answers, str):
        raise TypeError(f"answers is a string, {answers[:40]!r}; want a list of accepted answers")
    return [normalize(answer) for answer in answers]
