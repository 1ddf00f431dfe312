"""Files that the core does not read: other encodings, CSV, and the passages and questions of other projects."""

import csv
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, getincrementaldecoder
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TextIO

from rezero.corpus import Chunk, split_contents
from rezero.files import LONGEST, numbered_lines, numbered_rows, readable
from rezero.text import printable

MARKS = {BOM_UTF8: "utf-8-sig", BOM_UTF16_LE: "utf-16", BOM_UTF16_BE: "utf-16"}  # byte-order marks


def open_text(path: Path, newline: str | None = None) -> TextIO:
    """Open a text file in the encoding of its byte-order mark; without one in UTF-8, else in Windows' cp1252.

    ValueError, with the line, for UTF-8 that is damaged somewhere: taken for cp1252, all of the file would be garbled.
    """
    decoder, line, valid = getincrementaldecoder("utf-8")(), 1, False  # valid: characters of several bytes were read
    with path.open("rb") as file:
        block = file.read(2**20)
        encoding = next((name for mark, name in MARKS.items() if block.startswith(mark)), "")
        while block and not encoding:
            try:
                valid |= len(decoder.decode(block, final=len(block) < 2**20)) < len(block) - 3
            except UnicodeDecodeError as error:
                text = block.decode("utf-8", "replace")
                if valid or sum(character > "\x7f" for character in text) > 2 * text.count("\ufffd"):
                    line += error.object[: error.start].count(b"\n")
                    raise ValueError(f"{path}:{line}: not UTF-8, as the text around it is: {error.reason}") from None
                encoding = "cp1252"
            line += block.count(b"\n")
            block = file.read(2**20)
    return path.open(encoding=encoding or "utf-8", errors="replace", newline=newline)


def csv_rows(path: str | Path) -> Iterator[tuple[str, dict]]:
    """The rows of a CSV file as `numbered_rows` gives those of JSON Lines. Its header tells the delimiter: , ; tab |"""
    path = readable(path)
    csv.field_size_limit(LONGEST)
    with open_text(path, newline="") as file:
        header = file.readline(LONGEST)
        delimiter = max(",;\t|", key=header.count)
        file.seek(0)
        lines = (line for _, line in numbered_lines(file, path))
        rows = csv.DictReader(lines, delimiter=delimiter, strict=True)
        try:
            for row in rows:
                where, extra = f"{path}:{rows.line_num}", len(row.pop(None, ()))
                if extra:
                    raise ValueError(f"{where}: {extra} fields too many; a field with {delimiter!r} in it wants quotes")
                yield where, row
        except csv.Error as error:
            raise ValueError(f"{path}:{rows.reader.line_num}: not valid CSV: {error}") from None


jsonl_rows = partial(numbered_rows, opened=partial(open_text, newline="\n"))


def read_chunks(path: Path) -> Iterator[tuple[str, Chunk]]:
    """Pairs (file:line, chunk) of JSON Lines (`parse_chunk`) or of a CSV file with AutoDidact's columns."""
    rows = {".jsonl": jsonl_rows, ".csv": csv_rows}
    if path.suffix not in rows:
        raise ValueError(f"{path}: cannot read chunks from {path.suffix!r}; allowed: {', '.join(rows)}")
    for where, row in rows[path.suffix](path):
        try:
            yield where, parse_chunk(row) if path.suffix == ".jsonl" else parse_columns(row)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None


def parse_chunk(row: dict) -> Chunk:
    """A chunk from our fields, BEIR's (_id, title, text) or Search-R1's (id, contents); null counts as empty."""
    id = row.get("_id") if row.get("id") is None else row["id"]
    texts = {name: row[name] for name in ("title", "text", "source", "contents") if row.get(name) is not None}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"{name} is {text!r:.80}, a {type(text).__name__}; want text")
    if row.keys().isdisjoint(("id", "_id")) or texts.keys().isdisjoint(("text", "contents")):
        want = "id, title, text, source, or _id, title, text (BEIR), or id, contents (Search-R1)"
        raise ValueError(f"has the fields {printable(', '.join(row)):.200}; want {want}")
    if "contents" in texts:
        texts = dict(zip(("title", "text"), split_contents(texts["contents"]), strict=True))
    return Chunk(read_id(id), **{"title": "", **texts})


def read_id(id) -> str:
    """An id as text; ValueError for one that is neither text nor an integer, or blank: no question could name it."""
    if isinstance(id, bool) or not isinstance(id, str | int) or not str(id).strip():
        raise ValueError(f"the id is {id!r:.80}; want text or an integer, not blank")
    return str(id)


def parse_columns(row: dict) -> Chunk:
    """A chunk from AutoDidact's columns chunk_id, content and, perhaps, metadata."""
    if not {"chunk_id", "content"} <= row.keys():
        raise ValueError(f"has the columns {printable(', '.join(row)):.200}; want chunk_id, content, metadata")
    if row["content"] is None:
        raise ValueError("ends before the column content")
    return Chunk(read_id(row["chunk_id"]), "", row["content"], row.get("metadata") or "")


def autodidact_questions(path: str | Path) -> Iterator[tuple[str, dict]]:
    """AutoDidact's {"id": chunk id, "question", "answer"} in our fields; question 2 on chunk 17 gets the id "17.2"."""
    counts: Counter = Counter()
    for where, row in jsonl_rows(path):
        try:
            gold = read_id(row.get("id"))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        counts[gold] += 1
        fields = {"text": row.get("question"), "answers": [row.get("answer")], "gold_chunk_ids": [gold]}
        yield where, {"id": f"{gold}.{counts[gold]}"} | fields
