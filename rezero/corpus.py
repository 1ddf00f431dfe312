"""The passages of a corpus, and the files that they are read from and written to."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from pkgutil import resolve_name

from rezero.files import read_records, readable, write_jsonl


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

    A line has the fields of `Chunk`; `data.shapes` reads a file whose first line has not. ValueError for other fields,
    an empty text, a blank or a repeated id names the file and the line.
    """
    path = find_chunks(path)
    try:
        next(read_records(path, Chunk), None)
        found = read_records(path, Chunk)
    except ValueError:
        found = resolve_name("rezero.data.shapes:read_chunks")(path)
    chunks: dict[str, Chunk] = {}
    for where, chunk in found:
        if not chunk.id.strip() or not chunk.text.strip():
            raise ValueError(f"{where}: chunk {chunk.id!r:.80} has no text or a blank id")
        if chunk.id in chunks:
            raise ValueError(f"{where}: the id {chunk.id!r:.80} was used before")
        chunks[chunk.id] = chunk
    if not chunks:
        raise ValueError(f"{path}: holds no chunk")
    return list(chunks.values())


def find_chunks(path: str | Path) -> Path:
    """The file of chunks that `path` is or, as a corpus folder, holds. An error names the corpora one level below."""
    path, names = readable(path), ("chunks.jsonl", "chunks.csv")
    if path.is_file():
        return path
    here = [path / name for name in names if (path / name).is_file()]
    if not here:
        below = ", ".join(str(file.parent) for name in names for file in sorted(path.glob(f"*/{name}"))[:5])
        hint = f"; did you mean {below}?" if below else ""
        raise FileNotFoundError(f"{path}: holds no corpus; want one of {', '.join(names)}{hint}")
    return here[0]


def split_contents(contents: str) -> tuple[str, str]:
    """(title, text) of Search-R1's `"Title"\\ntext`. If the first line is not quoted, all of it is text."""
    first, newline, text = contents.partition("\n")
    quoted = len(first) >= 2 and first.startswith('"') and first.endswith('"')
    return (first[1:-1], text) if newline and quoted else ("", contents)
