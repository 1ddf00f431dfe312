"""The passages of a corpus, and the files that they are read from and written to."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rezero.files import numbered_rows, readable, write_jsonl
from rezero.text import printable


@dataclass(frozen=True)
class Chunk:
    """One passage of a corpus: the unit that is indexed, retrieved and cited as gold evidence."""

    id: str
    title: str
    text: str
    source: str = ""


def save_chunks(path: str | Path, chunks: Iterable[Chunk]) -> Path:
    """Write `chunks` as JSON Lines (id, title, text, source), atomically."""
    return write_jsonl(path, (asdict(chunk) for chunk in chunks))


def load_chunks(path: str | Path) -> list[Chunk]:
    """The chunks of a file, or of the chunks.jsonl or chunks.csv in a corpus folder.

    A line of a .jsonl file has our fields (id, title, text, source), those of BEIR (_id, title, text) or those of
    Search-R1 (id, contents). A .csv file has the columns of AutoDidact (chunk_id, content, metadata).
    ValueError for other fields, an empty text, a blank or a repeated id names the file and the line.
    """
    path = readable(path)
    if path.is_dir():
        files = [path / f"chunks{ending}" for ending in READERS]
        found = next(filter(Path.is_file, files), None)
        if not found:
            raise FileNotFoundError(f"{path}: holds no corpus; want one of {', '.join(file.name for file in files)}")
        path = found
    if path.suffix not in READERS:
        raise ValueError(f"{path}: cannot read chunks from {path.suffix!r}; allowed: {', '.join(READERS)}")
    chunks: dict[str, Chunk] = {}
    for where, chunk in READERS[path.suffix](path):
        if not chunk.text.strip():
            raise ValueError(f"{where}: chunk {chunk.id!r:.80} has no text")
        if chunk.id in chunks:
            raise ValueError(f"{where}: the id {chunk.id!r:.80} was used before")
        chunks[chunk.id] = chunk
    if not chunks:
        raise ValueError(f"{path}: holds no chunk")
    return list(chunks.values())


def _read_jsonl(path: Path) -> Iterator[tuple[str, Chunk]]:
    for where, row in numbered_rows(path):
        id = row.get("_id") if row.get("id") is None else row["id"]
        texts = {name: row[name] for name in ("title", "text", "source", "contents") if name in row}
        for name, text in texts.items():
            if not isinstance(text, str):
                raise ValueError(f"{where}: {name} is {text!r:.80}, a {type(text).__name__}; want text")
        if row.keys().isdisjoint(("id", "_id")) or texts.keys().isdisjoint(("text", "contents")):
            want = "id, title, text, source, or _id, title, text (BEIR), or id, contents (Search-R1)"
            raise ValueError(f"{where}: has the fields {printable(', '.join(row)):.200}; want {want}")
        if "contents" in texts:
            texts = dict(zip(("title", "text"), split_contents(texts["contents"]), strict=True))
        yield where, Chunk(read_id(id, where), **{"title": "", **texts})


def read_id(id, where: str) -> str:
    """An id as text; ValueError for one that is neither text nor an integer, or blank: no question could name it."""
    if isinstance(id, bool) or not isinstance(id, str | int) or not str(id).strip():
        raise ValueError(f"{where}: the id is {id!r:.80}; want text or an integer, not blank")
    return str(id)


def split_contents(contents: str) -> tuple[str, str]:
    """(title, text) of Search-R1's `"Title"\\ntext`. If the first line is not quoted, all of it is text."""
    first, newline, text = contents.partition("\n")
    quoted = len(first) >= 2 and first.startswith('"') and first.endswith('"')
    return (first[1:-1], text) if newline and quoted else ("", contents)


def _read_csv(path: Path) -> Iterator[tuple[str, Chunk]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        columns = rows.fieldnames or ()
        if not {"chunk_id", "content"} <= set(columns):
            raise ValueError(
                f"{path}: has the columns {printable(', '.join(columns)):.200}; want chunk_id, content, metadata"
            )
        for row in rows:
            where = f"{path}:{rows.line_num}"
            if row["content"] is None:
                raise ValueError(f"{where}: ends before the column content")
            yield where, Chunk(read_id(row["chunk_id"], where), "", row["content"], row.get("metadata") or "")


READERS = {".jsonl": _read_jsonl, ".csv": _read_csv}  # ending -> (path -> pairs of file:line and chunk)
