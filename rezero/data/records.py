"""The records of files and of Hugging Face data sets, each with its place, for the importers."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import datasets
from pyarrow.parquet import ParquetFile

from rezero.corpus import Chunk
from rezero.data.shapes import csv_rows, jsonl_rows, open_text
from rezero.files import LONGEST
from rezero.questions import Question


@dataclass(frozen=True)
class Dropped:
    """What an import leaves out, and why."""

    why: str
    record: dict = field(default_factory=dict)


Items = Iterator[tuple[str, Chunk | Question | Dropped]]  # what an importer yields, each with its place: file:line


class Row(NamedTuple):
    where: str  # file:line
    split: str  # train, dev, test or, where neither file nor data set names one, ""
    fields: dict


@dataclass
class Source:
    """What an importer reads: a folder, the documents in it, or the rows of its files or of a data set on the hub."""

    path: Path
    documents: list[Path] = field(default_factory=list)
    rows: Callable[[], Iterator[Row]] = lambda: iter(())


def split_of(name: str) -> str:
    """The split that the name of a file or of a data set's part mentions, or ""."""
    names = r"(?<![a-z])(?:(train)|(dev|val(?:id(?:ation)?)?)|(test))(?![a-z])"
    match = re.search(names, name, re.IGNORECASE)
    return ("train", "dev", "test")[match.lastindex - 1] if match else ""


def json_rows(path: Path) -> Iterator[tuple[str, dict]]:
    """The objects of a JSON file: of its list, or of the list "data" of its object. Never in memory as a whole."""
    decoder, number = json.JSONDecoder(), 1
    with open_text(path) as file:
        text = file.read(2**20)
        start = re.match(r'\s*\[|\s*\{.*?"data"\s*:\s*\[', text, re.DOTALL)
        if not start:
            raise ValueError(f"{path}: neither a list nor an object with the list 'data'")
        end = start.end()
        while True:
            begin, where = re.compile(r"[\s,]*").match(text, end).end(), f"{path}: record {number}"
            if text[begin : begin + 1] == "]":
                return
            try:
                row, end = decoder.raw_decode(text, begin)
            except (ValueError, RecursionError) as error:  # perhaps it goes on in the next block
                text, end = text[begin:], 0
                if len(text) > LONGEST:
                    raise ValueError(f"{where}: longer than {LONGEST:,} characters") from None
                more = file.read(max(2**20, len(text)))
                if not more:
                    raise ValueError(f"{where}: not valid JSON: {error}") from None
                text += more
                continue
            if not isinstance(row, dict):
                raise ValueError(f"{where}: want an object, got {type(row).__name__}")
            yield where, row
            number += 1


def parquet_rows(path: Path) -> Iterator[tuple[str, dict]]:
    rows = (row for batch in ParquetFile(path).iter_batches(1000) for row in batch.to_pylist())
    return ((f"{path}:{number}", row) for number, row in enumerate(rows, start=1))


ROWS = {  # ending, in lower case -> reader of (file:line, record)
    ".jsonl": jsonl_rows, ".json": json_rows, ".parquet": parquet_rows, ".csv": csv_rows, ".tsv": csv_rows,
}  # fmt: skip


def file_rows(paths: list[Path]) -> Iterator[Row]:
    for path in paths:
        for where, fields in ROWS[path.suffix.lower()](path):
            yield Row(where, split_of(path.stem), fields)


def hub_rows(name: str, subset: str | None) -> Iterator[Row]:
    """The rows of a data set on the Hugging Face hub, or of a folder that the library `datasets` saved."""
    parts = datasets.load_from_disk(name) if Path(name).is_dir() else datasets.load_dataset(name, subset)
    for split, rows in parts.items() if isinstance(parts, dict) else [("", parts)]:
        for number, row in enumerate(rows, start=1):
            yield Row(f"{name}/{split}:{number}", split_of(split), row)
