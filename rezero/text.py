"""Small helpers for text that every layer needs."""

import re

# Words that ask or connect and say nothing about the subject. A query is a question without them.
_WORDS = """a about after an and any are as at be been before by can could did do does during far for from gave give
given had has have how i in into is it its long many me much of on or out that the their then there these
they this those to was were what when where which who whom whose why will with would""".split()
STOP_WORDS = frozenset(_WORDS)


def normalized(text: str) -> str:
    """Lower case, without punctuation, single spaces. Two queries or questions with the same form count as equal."""
    return " ".join(re.findall(r"\w+", text.lower()))


def keywords(text: str) -> str:
    """The words of `text` without `STOP_WORDS`, in their order, with case and hyphens kept: a question as a query."""
    found = re.findall(r"\w+(?:[-.']\w+)*", text)
    return " ".join(word for word in found if word.lower() not in STOP_WORDS)


def printable(text: str) -> str:
    """`text` in one line, without characters that could control a terminal: passages and policies are not trusted."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


def clean(text: str) -> str:
    """`text` with lone surrogates replaced, because neither UTF-8 nor a Rust tokenizer can hold them."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
