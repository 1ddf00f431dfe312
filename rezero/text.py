"""Small helpers for text that every layer needs."""

import json
import os
import re
import unicodedata
from base64 import b64encode
from collections.abc import Iterator
from urllib.parse import quote

# Words that ask or connect and say nothing about the subject. A query is a question without them.
_WORDS = """a about after an and any are as at be been before by can could did do does during far for from gave give
given had has have how i in into is it its long many me much of on or out that the their then there these
they this those to was were what when where which who whom whose why will with would""".split()
STOP_WORDS = frozenset(_WORDS)

_MOST = "".join(map(chr, range(0x80, 0x10000)))  # the characters of nearly all scripts
_SIGNS = {char: unicodedata.category(char) for char in re.findall(r"[^\w\s\ud800-\uf8ff]", _MOST)}
_MARKS = "".join(char for char, kind in _SIGNS.items() if kind in ("Mn", "Mc"))
LETTER = rf"[\w{_MARKS}]"  # of a word, also of a word in Thai or Hindi, which `\w+` would cut at its vowel signs
WORD, _WITH_MARKS = re.compile(f"{LETTER}+"), re.compile(f".[{_MARKS}]*")
_QUERY_WORD = re.compile(rf"{LETTER}+(?:[-.']{LETTER}+)*")
# Thai, Lao, Myanmar, Khmer, kana and Han are written without spaces, and Korean particles stick to their word.
_UNSPACED = re.compile(
    r"[\u0e01-\u0e4e\u0e81-\u0ecd\u1000-\u103f\u1780-\u17d3\u3005-\u3007\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    r"\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_FORMS = [0x2103, *range(0x2F00, 0x2FD6), *range(0xFB00, 0xFE00), *range(0xFE20, 0xFFEF)]  # ℃, ligatures, widths
_FOLDED = {chr(code): unicodedata.normalize("NFKC", chr(code)) for code in _FORMS}
_FOLDED |= {char: str(unicodedata.decimal(char)) for char in re.findall(r"\d", _MOST)}
_FOLDED |= {char: "" for char, kind in _SIGNS.items() if kind == "Cf"}  # they cannot be seen
_FOLD = re.compile(f"[{''.join(_FOLDED)}]")


def fold(text: str) -> str:
    """`text` in one spelling: NFC, digits 0-9, usual widths, no ligatures, nothing invisible. Case and signs stay."""
    return text if text.isascii() else unicodedata.normalize("NFC", _FOLD.sub(lambda match: _FOLDED[match[0]], text))


def pieces(text: str, size: int) -> str:
    """`fold(text)` with scripts that are written without spaces cut into overlapping pieces of `size` characters."""

    def cut(run: re.Match) -> str:
        parts = _WITH_MARKS.findall(run[0])
        return "".join(f" {''.join(parts[i : i + size])} " for i in range(max(1, len(parts) - size + 1)))

    return text if text.isascii() else _UNSPACED.sub(cut, fold(text))


def normalized(text: str) -> str:
    """Lower case, without punctuation, single spaces. Two queries or questions with the same form count as equal."""
    return " ".join(WORD.findall(pieces(text, 1).lower()))


def keywords(text: str) -> str:
    """The words of `text` without `STOP_WORDS`, in their order, with case and hyphens kept: a question as a query."""
    return " ".join(word for word in _QUERY_WORD.findall(fold(text)) if word.lower() not in STOP_WORDS)


def printable(text: str) -> str:
    """`text` in one line, without characters that could control a terminal: files, passages, policies are untrusted."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


def clean(text: str) -> str:
    """`text` with lone surrogates replaced, because neither UTF-8 nor a Rust tokenizer can hold them."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


_SECRET = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|AUTH)$")  # names of environment variables


def redact(text: str) -> str:
    """`text`, such as a server's error, without user and password in URLs and without secrets, however encoded.

    Secrets have at least 4 characters and stand in environment variables (`_SECRET`), perhaps as "user:password".
    """
    secrets = [value for name, value in os.environ.items() if _SECRET.search(name.upper())]
    secrets += [value.partition(":")[2] for value in secrets]
    forms = {form for secret in secrets if len(secret) >= 4 for form in _forms(secret)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, "[redacted]")
    return re.sub(r"(?<=://)[^/\s]*@", "", text)


def _forms(secret: str) -> Iterator[str]:
    raw, escaped = os.fsencode(secret), json.dumps(secret)[1:-1]
    yield from (secret, quote(raw, safe=""), escaped, escaped.replace("\\", "\\\\"))
    for before in range(3):  # bytes in front of it in a group of three, which decide how base64 writes it
        coded = b64encode(b"\0" * before + raw).decode()[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        yield from (coded, coded.translate(str.maketrans("+/", "-_")))
