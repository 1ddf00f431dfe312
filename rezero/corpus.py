"""The passages of a corpus, and the files that they are read from and written to."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rezero.files import csv_rows, numbered_rows, readable, write_jsonl
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
    path = find_chunks(path)
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


def find_chunks(path: str | Path) -> Path:
    """The file of chunks that `path` is or, as a corpus folder, holds. An error names the corpora one level below."""
    path = readable(path)
    if path.is_dir():
        names = [f"chunks{ending}" for ending in READERS]
        found = [file for name in names for file in sorted(path.glob(f"*/{name}"))]
        below = f"; did you mean {', '.join(str(file.parent) for file in found[:5])}?" if found else ""
        path = next((path / name for name in names if (path / name).is_file()), path)
        if path.is_dir():
            raise FileNotFoundError(f"{path}: holds no corpus; want one of {', '.join(names)}{below}")
    if path.suffix not in READERS:
        raise ValueError(f"{path}: cannot read chunks from {path.suffix!r}; allowed: {', '.join(READERS)}")
    return path


def _read_jsonl(path: Path) -> Iterator[tuple[str, Chunk]]:
    for where, row in numbered_rows(path):
        try:
            yield where, parse_chunk(row)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None


def parse_chunk(row: dict) -> Chunk:
    """A chunk from one of the records that `load_chunks` names. A title or a source that is null counts as empty."""
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


def read_id(id, where: str = "") -> str:
    """An id as text; ValueError for one that is neither text nor an integer, or blank: no question could name it."""
    if isinstance(id, bool) or not isinstance(id, str | int) or not str(id).strip():
        raise ValueError(f"{where}{': ' * bool(where)}the id is {id!r:.80}; want text or an integer, not blank")
    return str(id)


def split_contents(contents: str) -> tuple[str, str]:
    """(title, text) of Search-R1's `"Title"\\ntext`. If the first line is not quoted, all of it is text."""
    first, newline, text = contents.partition("\n")
    quoted = len(first) >= 2 and first.startswith('"') and first.endswith('"')
    return (first[1:-1], text) if newline and quoted else ("", contents)


def _read_csv(path: Path) -> Iterator[tuple[str, Chunk]]:
    for where, row in csv_rows(path):
        if not {"chunk_id", "content"} <= row.keys():
            has = printable(", ".join(row))
            raise ValueError(f"{path}: has the columns {has:.200}; want chunk_id, content, metadata")
        if row["content"] is None:
            raise ValueError(f"{where}: ends before the column content")
        yield where, Chunk(read_id(row["chunk_id"], where), "", row["content"], row.get("metadata") or "")


READERS = {".jsonl": _read_jsonl, ".csv": _read_csv}  # ending -> (path -> pairs of file:line and chunk)
