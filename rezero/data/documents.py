"""Documents as passages: Markdown, plain text, HTML and PDF."""

import logging
import re
from html.parser import HTMLParser
from pathlib import Path

import pypdf

from rezero.data.chunking import FENCE, Cut, chunk_document
from rezero.data.records import Dropped, Items, Source
from rezero.data.shapes import open_text
from rezero.files import cached, digest
from rezero.text import clean

try:
    import liteparse  # extra "docs": keeps headings and tables
except ImportError:
    liteparse = None

LARGEST = 512 * 2**20  # bytes of a text, which is read at once
FRONT = r"\A---\n.*?\n---\n"
NOISE = re.compile(FRONT + r"|<!--.*?-->|!\[[^\]\n]*\]\([^)\n]*\)|```\w*\s*```", re.DOTALL)  # comments, images, no code
# A line that goes on: not at a blank line, a heading, a list, a table, a quotation or in code.
WRAPPED = re.compile(rf"{FENCE}|(?<=[^\s|>=-])[ \t]*\n(?=[^\s#>|=+*•~`-])(?!\d+[.)]\s)", re.DOTALL | re.MULTILINE)


def read_documents(source: Source, cut: Cut) -> Items:
    """The passages of documents, which are named by their place in the folder; what cannot be read is dropped."""
    for path in source.documents:
        name = path.relative_to(source.path).as_posix() if path != source.path else path.name
        suffix = path.suffix.lower()
        is_pdf = suffix == ".pdf"
        try:
            pages = DOCUMENTS[suffix](path)
        except Exception as error:  # a parser of PDF raises whatever it likes for a damaged one
            why = " ".join(str(error).split()).removeprefix(f"{path}:").strip()[:150]
            yield str(path), Dropped(f"cannot be read: {why or type(error).__name__}")
            continue
        empty = [number for number, page in enumerate(pages, start=1) if not page.strip()]
        if len(empty) == len(pages):
            yield str(path), Dropped("no text; is it scanned?" if is_pdf else "no text")
            continue
        for number in empty:
            yield f"{path}, page {number}", Dropped("a page without text; is it scanned or damaged?")
        pages = [WRAPPED.sub(lambda match: match[0] if match["fence"] else " ", page) for page in pages]
        markdown = suffix not in PLAIN and (liteparse or not is_pdf)
        for chunk in chunk_document(pages, name, cut, numbered=is_pdf, headings=bool(markdown)):
            yield str(path), chunk


def read_plain(path: Path) -> list[str]:
    if path.stat().st_size > LARGEST:
        raise ValueError(f"larger than {LARGEST:,} bytes; want it in several files")
    with open_text(path) as file:
        text = file.read()
    if "\0" in text:
        raise ValueError("not text but binary")
    return [text]


def read_markdown(path: Path) -> list[str]:
    return [NOISE.sub("", text) for text in read_plain(path)]


class _Markdown(HTMLParser):
    """HTML as Markdown: headings, lists, rows of tables and paragraphs; no scripts, styles and menus."""

    SKIPPED = set("script style noscript template nav svg title".split())
    BLOCKS = set("h1 h2 h3 h4 h5 h6 p div section article br hr blockquote ul ol dl dt dd table figcaption".split())
    STARTS = {f"h{level}": f"\n\n{'#' * level} " for level in range(1, 7)}
    STARTS |= {"li": "\n- ", "tr": "\n|", "td": " ", "th": " ", "pre": "\n\n```\n"}

    def __init__(self):
        super().__init__()
        self.parts, self.skipping, self.in_row, self.in_code = [], 0, False, False

    def handle_starttag(self, tag, attrs):
        self.skipping += tag in self.SKIPPED
        block = " " if self.in_row else "\n\n"
        self.in_code = self.in_code or tag == "pre"
        self.in_row = tag == "tr" or (self.in_row and tag != "table")
        self.parts.append(self.STARTS.get(tag, block if tag in self.BLOCKS else ""))

    def handle_endtag(self, tag):
        self.skipping = max(0, self.skipping - (tag in self.SKIPPED))
        self.in_row = self.in_row and tag not in ("tr", "table")
        self.in_code = self.in_code and tag != "pre"
        end = "\n\n" if tag in self.BLOCKS and not self.in_row else "\n```\n\n" * (tag == "pre")
        self.parts.append(" |" if tag in ("td", "th") else end)

    def handle_data(self, data):
        if not self.skipping:
            self.parts.append(data if self.in_code else re.sub(r"\s+", " ", data))


def read_html(path: Path) -> list[str]:
    parser = _Markdown()
    parser.feed(read_plain(path)[0])
    parser.close()
    text = re.sub(r" *\n *", "\n", re.sub(r"  +", " ", "".join(parser.parts)))
    return [re.sub(r"\n{3,}", "\n\n", text)]


def read_pdf(path: Path) -> list[str]:
    """The text of each page: as Markdown by liteparse if it is installed, else plain by pypdf."""
    data, parser = path.read_bytes(), _by_liteparse if liteparse else _by_pypdf
    # Kept, so that an import that was stopped goes on where it was.
    rows = cached("pages", [digest(data), parser.__name__], lambda: ({"text": page} for page in parser(path)))
    return [clean(re.sub(r"(?<=[a-z])-\n(?=[a-z])", "", NOISE.sub("", row["text"]))) for row in rows]  # divided words


def _by_liteparse(path: Path) -> list[str]:
    parsed = liteparse.LiteParse(output_format="markdown", ocr_enabled=False, quiet=True).parse(path)
    return [(page.markdown or page.text).replace("**", "") for page in parsed.pages]  # bold is no part of the text


def _by_pypdf(path: Path) -> list[str]:
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns of each oddity that it mended
    pages = []
    for page in pypdf.PdfReader(path).pages:
        try:
            pages.append(re.sub(r"\n[ \t]+(?=\n)", "", page.extract_text()))
        except Exception:  # one damaged page; the others may be sound
            pages.append("")
    return pages


DOCUMENTS = {  # ending, in lower case -> its reader, which returns pages
    ".md": read_markdown, ".markdown": read_markdown, ".txt": read_plain, ".text": read_plain,
    ".html": read_html, ".htm": read_html, ".pdf": read_pdf,
}  # fmt: skip
PLAIN = (".txt", ".text")
