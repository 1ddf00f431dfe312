"""Documents as passages: Markdown, plain text, HTML and PDF."""

import json
import logging
import re
from hashlib import blake2b
from html.parser import HTMLParser
from pathlib import Path

import pypdf

from rezero.data.chunking import FENCE, Cut, chunk_document
from rezero.data.records import Dropped, Items, Source
from rezero.files import open_text, resolve, write_text
from rezero.text import clean

try:
    import liteparse  # extra "docs": keeps headings and tables
except ImportError:
    liteparse = None

CACHE = ".cache/pages"  # what PDFs hold, so that an import that was stopped goes on where it was
NOISE = re.compile(
    r"\A---\n.*?\n---\n|<!--.*?-->|!\[[^\]\n]*\]\([^)\n]*\)", re.DOTALL
)  # front matter, comments, images
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
            why = " ".join(str(error).split()).removeprefix(f"{path}:")[:150]
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
    with open_text(path) as file:
        text = file.read()
    if "\0" in text:
        raise ValueError(f"{path}: not text but binary")
    return [text]


def read_markdown(path: Path) -> list[str]:
    return [NOISE.sub("", text) for text in read_plain(path)]


class _Markdown(HTMLParser):
    """HTML as Markdown: headings, lists, rows of tables and paragraphs; no scripts, styles and menus."""

    BLOCKS = set("p div section article main br hr pre blockquote ul ol dl dt dd table figcaption title".split())
    SKIPPED = set("script style noscript template nav svg head".split())

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.skipping, self.row = 0, False

    def handle_starttag(self, tag, attrs):
        self.skipping += tag in self.SKIPPED
        if re.fullmatch(r"h[1-6]", tag):
            self.parts.append("\n\n" + "#" * int(tag[1]) + " ")
        elif tag == "tr":
            self.parts.append("\n|")
            self.row = True
        elif tag == "li":
            self.parts.append("\n- ")
        elif tag in self.BLOCKS and not self.row:
            self.parts.append("\n\n")

    def handle_endtag(self, tag):
        self.skipping = max(0, self.skipping - (tag in self.SKIPPED))
        if tag in ("td", "th"):
            self.parts.append(" |")
        elif tag == "table" or re.fullmatch(r"h[1-6]|p", tag):
            self.parts.append(" " if self.row and tag != "table" else "\n\n")
        self.row = self.row and tag not in ("tr", "table")

    def handle_data(self, data):
        if not self.skipping:
            self.parts.append(re.sub(r"\s+", " ", data))


def read_html(path: Path) -> list[str]:
    parser = _Markdown()
    parser.feed(read_plain(path)[0])
    parser.close()
    return [re.sub(r" *\n *", "\n", "".join(parser.parts))]


def read_pdf(path: Path) -> list[str]:
    """The text of each page: as Markdown by liteparse if it is installed, else plain by pypdf."""
    data = path.read_bytes()
    kept = resolve(CACHE) / f"{blake2b(data, digest_size=12).hexdigest()}-{'liteparse' if liteparse else 'pypdf'}.json"
    if kept.is_file():
        return json.loads(kept.read_text("utf-8"))
    pages = _pages_by_liteparse(data) if liteparse else _pages_by_pypdf(path)
    pages = [clean(re.sub(r"(?<=[a-z])-\n(?=[a-z])", "", page)) for page in pages]  # words that were divided
    write_text(kept, json.dumps(pages))
    return pages


def _pages_by_liteparse(data: bytes) -> list[str]:
    parsed = liteparse.LiteParse(output_format="markdown", ocr_enabled=False, quiet=True).parse(data)
    return [NOISE.sub("", page.markdown or page.text) for page in parsed.pages]


def _pages_by_pypdf(path: Path) -> list[str]:
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
