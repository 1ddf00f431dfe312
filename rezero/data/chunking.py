"""Passages of a text: cut at headings and between sentences, to a size."""

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

from rezero.corpus import Chunk
from rezero.text import clean

# Where a text may be cut: after sentences (initials and common abbreviations end none), paragraphs, items of lists.
BREAK = re.compile(
    r"(?P<table>(?:^[ \t]*\|[^\n]*(?:\n|\Z)){2,})|(?<=[。！？])|\n[ \t]*\n\s*|\n(?=[ \t]*(?:[-*+•|]|\d+[.)])[ \t])"
    r"|(?<=[.!?…])(?<!\b[A-Z]\.)(?<!\b(?:Dr|Mr|Ms|No|St|al|ca|cf|vs)\.)(?<!\b(?:Fig|Mrs|e\.g|i\.e)\.)"
    r"[\"'”’)\]]*\s+(?=[^\sa-z])",
    re.MULTILINE,
)
FENCE = r"^(?P<fence>```|~~~)[^\n]*\n.*?^(?P=fence)[ \t]*$"  # code, in which "# a comment" is no heading
HEADING = re.compile(
    FENCE + r"|^(?P<marks>\#{1,6})[ \t]+(?P<title>[^\n]{1,200}?)[ \t]*\#*[ \t]*$"
    r"|^(?P<over>[^\s|>\#*-][^\n]{0,200})\n(?P<line>={3,}|-{3,})[ \t]*$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Cut:
    """How texts are cut: `size` and `overlap` in characters or, where `length` counts them, in tokens."""

    size: int = 1000
    overlap: int = 0
    length: Callable[[str], int] = len

    def __post_init__(self):
        if not 0 <= self.overlap < self.size:
            raise ValueError(f"size is {self.size} and overlap {self.overlap}; want size >= 1 and 0 <= overlap < size")


def stable_id(*texts: str) -> str:
    """Twelve hexadecimal digits that depend on the texts alone, so that a passage keeps its id in every run."""
    return blake2b(clean("\n".join(texts)).encode(), digest_size=6).hexdigest()


def chunk_document(pages: list[str], name: str, cut: Cut, numbered: bool, headings: bool) -> Iterator[Chunk]:
    """The passages of a document. A passage never crosses a heading, and may go on over the end of a page.

    Its title is the nearest heading, else the document's `name` without its ending; its source is the name with the
    pages, if these are `numbered`, and the headings above it. `headings` says whether the text is Markdown.
    """
    starts, text = [0], "\n".join(map(clean, pages))
    for page in pages:
        starts.append(starts[-1] + len(page) + 1)
    for start, end, path in _sections(text) if headings else [(0, len(text), ())]:
        for a, b in spans(text, cut, start, end):
            first, last = (bisect_right(starts, place) for place in (a, b - 1))
            page = f"page {first}" if first == last else f"pages {first}-{last}"
            source = ", ".join([name, *[page] * numbered, *[" > ".join(path)] * bool(path)])
            title = path[-1] if path else re.sub(r"\.\w+$", "", name.split("/")[-1])
            yield Chunk(f"{name}#{stable_id(text[a:b])}", title, text[a:b], source)


def _sections(text: str) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """(start, end, headings above it, outermost first) of each piece of Markdown between two headings."""
    path: dict[int, str] = {}  # level -> heading
    start = 0
    for match in HEADING.finditer(text):
        if match["fence"]:
            continue
        yield start, match.start(), tuple(path.values())
        level = len(match["marks"]) if match["marks"] else 1 + (match["line"][0] == "-")
        path = {above: title for above, title in path.items() if above < level}
        path[level] = (match["title"] or match["over"]).strip()
        start = match.end()
    yield start, len(text), tuple(path.values())


def spans(text: str, cut: Cut, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """(start, end) of the passages of text[start:end], each of at most `cut.size` and without white space around it.

    As many sentences as fit stand together. A passage repeats the last sentences of the one before it, up to
    `cut.overlap`. A table that fits is not cut; a sentence that does not fit is cut between words.
    """
    window: deque[tuple[int, int, int]] = deque()  # the sentences of a passage; length with the space before it
    total = 0
    for a, b in _sentences(text, start, len(text) if end is None else end, cut):
        length = cut.length(text[window[-1][1] if window else a : b])
        if window and total + length > cut.size:
            yield window[0][0], window[-1][1]
            while window and (total > cut.overlap or total + length > cut.size):
                total -= window.popleft()[2]
            length = length if window else cut.length(text[a:b])
        window.append((a, b, length))
        total += length
    if window:
        yield window[0][0], window[-1][1]


def _sentences(text: str, start: int, end: int, cut: Cut) -> Iterator[tuple[int, int]]:
    at = start
    for match in BREAK.finditer(text, start, end):
        yield from _fitting(text, at, match.start() if match["table"] else match.end(), cut)
        if match["table"]:
            yield from _fitting(text, *match.span(), cut)
        at = match.end()
    yield from _fitting(text, at, end, cut)


def _fitting(text: str, start: int, end: int, cut: Cut) -> Iterator[tuple[int, int]]:
    """The span itself if it fits, else pieces that end after a line, after a word or, without any, anywhere."""
    # What has 20 characters per token never fits, what has a byte per token always does: counting takes time.
    while end - start > 20 * cut.size or not _fits(text[start:end], cut):
        width = max(1, min(cut.size, end - start - 1))
        while width > 1 and cut.length(text[start : start + width]) > cut.size:
            width = width * 3 // 4
        places = (text.rfind(mark, start + width // 2, start + width + 1) for mark in "\n ")
        stop = next((place for place in places if place > start), start + width)
        yield from _stripped(text, start, stop)
        start = stop
    yield from _stripped(text, start, end)


def _fits(text: str, cut: Cut) -> bool:
    return len(text.encode()) <= cut.size or cut.length(text) <= cut.size


def _stripped(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    bare = text[start:end].strip()
    if bare:
        start = text.index(bare, start)
        yield start, start + len(bare)
