"""Documents in, `Chunk`s out."""

import csv
import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rezero.files import read_jsonl, resolve, write_jsonl

if TYPE_CHECKING:
    from rezero.questions import Question


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


def load_chunks(path: str | Path, limit: int | None = None) -> list[Chunk]:
    """The chunks of one file, at most `limit`; the format is told by the file's ending and its fields.

    `.jsonl`: ours (id, title, text, source), BEIR's (_id, title, text) or Search-R1's (id, contents);
    `.json`: SQuAD's (data, paragraphs, context); `.csv`: AutoDidact's (chunk_id, content, metadata).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: unknown ending or fields, an empty text, a repeated id; names the file and the place.
    """
    path = resolve(path)
    if path.suffix not in READERS:
        raise ValueError(f"{path}: cannot read chunks from {path.suffix!r}; have: {', '.join(READERS)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; want at least 1, or None for all chunks")
    chunks: dict[str, Chunk] = {}
    for place, chunk in READERS[path.suffix](path):
        if not chunk.text.strip():
            raise ValueError(f"{path}: {place}: chunk {chunk.id!r} has no text")
        if chunk.id in chunks:
            raise ValueError(f"{path}: {place}: the id {chunk.id!r} was used before")
        chunks[chunk.id] = chunk
        if len(chunks) == limit:
            break
    if not chunks:
        raise ValueError(f"{path}: holds no chunk")
    return list(chunks.values())


def read_corpus(path: str | Path) -> list[Chunk]:
    """The chunks of a file, of a folder's `chunks_file`, or of the documents below a folder without one."""
    place = resolve(path)
    if not place.is_dir():
        return load_chunks(place)
    try:
        file = chunks_file(place)
    except FileNotFoundError:
        return load_documents(place)
    return load_chunks(file)


def chunks_file(folder: str | Path) -> Path:
    """The file of chunks in a corpus folder: chunks.jsonl, or chunks.json or chunks.csv where there is none."""
    paths = [resolve(folder) / f"chunks{ending}" for ending in READERS]
    if found := next(filter(Path.is_file, paths), None):
        return found
    raise FileNotFoundError(f"{resolve(folder)}: no corpus; want one of {', '.join(path.name for path in paths)}")


def load_documents(folder: str | Path, size: int = 1000, overlap: int = 0) -> list[Chunk]:
    """Every .txt and .md file below `folder`, in the order of their paths, cut by `chunk_text`.

    A chunk's id is the file's relative path, "#" and a number from 1; its title is the first
    Markdown heading, or the file's name.

    Raises:
        ValueError: no such file holds any text, or one is not UTF-8; names it.
    """
    folder = resolve(folder)
    chunks = []
    for path in sorted(path for ending in ("txt", "md") for path in folder.rglob(f"*.{ending}")):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 text: {error}") from None
        name = path.relative_to(folder).as_posix()
        headings = (line.strip("# ") for line in text.splitlines() if line.startswith("#"))
        title = next(filter(None, headings), path.stem) if path.suffix == ".md" else path.stem
        pieces = enumerate(chunk_text(text, size, overlap), start=1)
        chunks += [Chunk(f"{name}#{i}", title, piece, name) for i, piece in pieces]
    if not chunks:
        raise ValueError(f"{folder}: no .txt or .md file with any text in it")
    return chunks


SEPARATORS = ("\n\n", "\n", ". ", " ", "")


def chunk_text(text: str, size: int = 1000, overlap: int = 0) -> list[str]:
    """Cut `text` into pieces of at most `size` characters, at the coarsest boundary that makes them fit.

    Boundaries are tried in the order of `SEPARATORS`: paragraphs, lines, sentences, words, characters. With
    `overlap`, a piece starts with up to that many of the last characters before it, whole units only.
    """
    if size < 1 or not 0 <= overlap < size:
        raise ValueError(f"size is {size} and overlap {overlap}; want size >= 1 and 0 <= overlap < size")
    pieces, window, length = [], deque(), 0  # window: consecutive units, together of `length` <= size
    for unit in _units(text, size, SEPARATORS):
        if length + len(unit.rstrip()) > size:
            pieces.append("".join(window))
            while window and (length > overlap or length + len(unit.rstrip()) > size):
                length -= len(window.popleft())
        window.append(unit)
        length += len(unit)
    pieces.append("".join(window))
    return [piece.strip() for piece in pieces if piece.strip()]


def _units(text: str, size: int, separators: tuple[str, ...]) -> Iterator[str]:
    """Units of at most `size` characters, not counting white space at the end; they join to `text`."""
    if len(text.rstrip()) <= size:
        yield text
        return
    first, *rest = separators
    if not first:
        yield from (text[i : i + size] for i in range(0, len(text), size))
        return
    parts = text.split(first)
    for part in [*(part + first for part in parts[:-1]), parts[-1]]:
        yield from _units(part, size, tuple(rest))


def _from_jsonl(path: Path) -> Iterator[tuple[str, Chunk]]:
    for number, row in enumerate(read_jsonl(path), start=1):
        place = f"record {number}"
        where = f"{path}: {place}"
        if "contents" in row and "id" in row:
            title, text = split_contents(_text(row, "contents", where))
            yield place, Chunk(str(row["id"]), title, text)
        elif "text" in row and ("id" in row or "_id" in row):
            texts = {name: _text(row, name, where) for name in ("title", "text", "source") if name in row}
            yield place, Chunk(str(row.get("id", row.get("_id"))), **{"title": "", **texts})
        else:
            want = "id,title,text,source or _id,title,text (BEIR) or id,contents (Search-R1)"
            raise ValueError(f"{where}: has the fields {', '.join(row)}; want {want}")


def _text(row: dict, name: str, where: str) -> str:
    if not isinstance(row[name], str):
        raise ValueError(f"{where}: {name} is {row[name]!r}, a {type(row[name]).__name__}; want text")
    return row[name]


def split_contents(contents: str) -> tuple[str, str]:
    """Search-R1's `"Title"\\nbody` → (title, body); what has no quoted first line is all body."""
    first, newline, body = contents.partition("\n")
    quoted = len(first) >= 2 and first.startswith('"') and first.endswith('"')
    return (first[1:-1], body) if newline and quoted else ("", contents)


def _from_squad(path: Path) -> Iterator[tuple[str, Chunk]]:
    """One chunk a paragraph; ids are the article's number and the paragraph's, from 0, as in "3.12"."""
    try:
        articles = json.loads(path.read_text(encoding="utf-8"))["data"]
        for i, article in enumerate(articles):
            title = article.get("title", "")
            for j, paragraph in enumerate(article["paragraphs"]):
                yield f"data[{i}].paragraphs[{j}]", Chunk(f"{i}.{j}", title, paragraph["context"], title)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not SQuAD-shaped, want data, paragraphs, context: {error!r}") from None


def _from_csv(path: Path) -> Iterator[tuple[str, Chunk]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        columns = rows.fieldnames or ()
        if not {"chunk_id", "content"} <= set(columns):
            raise ValueError(f"{path}: has the columns {', '.join(columns)}; want chunk_id, content, metadata")
        for number, row in enumerate(rows, start=1):
            if row["content"] is None:
                raise ValueError(f"{path}: row {number}: ends before the column content")
            yield f"row {number}", Chunk(row["chunk_id"], "", row["content"], row.get("metadata") or "")


def load_autodidact_questions(path: str | Path, chunks: Iterable[Chunk]) -> list["Question"]:
    """Questions as AutoDidact and ReZero publish them: one {"id": chunk id, "question", "answer"} a line.

    Ids are the chunk's with a running number, "17.2". All are kind "direct" and split "train", because the file says
    nothing of splits: see `questions.assign_splits`.

    Raises:
        ValueError: a field is missing or empty, or the chunk is not in `chunks`; names file and place.
    """
    from rezero.questions import Question

    texts, counts, questions = {chunk.id: chunk.text for chunk in chunks}, Counter(), []
    for number, row in enumerate(read_jsonl(path), start=1):
        where = f"{resolve(path)}: record {number}"
        if missing := [name for name in ("id", "question", "answer") if not str(row.get(name) or "").strip()]:
            raise ValueError(f"{where}: no {missing[0]}; want id, question, answer")
        gold = str(row["id"])
        if gold not in texts:
            raise ValueError(f"{where}: the chunk {gold!r} is not in the corpus")
        counts[gold] += 1
        text, answer = _text(row, "question", where), _text(row, "answer", where)
        questions.append(Question(f"{gold}.{counts[gold]}", text, (answer,), (gold,), (texts[gold],)))
    return questions


def load_noise(path: str | Path) -> list[tuple[str, Chunk]]:
    """Spoilt passages, each with its kind; they have ids of their own, because they are nobody's gold evidence.

    `.jsonl`: ours (id, kind, title, text); `.csv`: ReZero's paraphrases (chunk_id, paraphrased_text), of which a chunk
    has several, all of kind "paraphrase".

    Raises:
        ValueError: a field is missing; names file and place.
    """
    path = resolve(path)
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                {"id": f"{row.get('chunk_id')}-paraphrase-{number}", "kind": "paraphrase", "title": "",
                 "text": row.get("paraphrased_text")}
                for number, row in enumerate(csv.DictReader(file), start=1)
            ]  # fmt: skip
    else:
        rows = read_jsonl(path)
    noise = []
    for number, row in enumerate(rows, start=1):
        where = f"{path}: record {number}"
        if missing := [name for name in ("id", "kind", "title", "text") if row.get(name) is None]:
            raise ValueError(f"{where}: no {missing[0]}; want id, kind, title, text")
        noise.append((row["kind"], Chunk(*(_text(row, name, where) for name in ("id", "title", "text")))))
    return noise


# ending -> (path -> pairs of a place to name in errors and a chunk)
READERS: dict[str, Callable[[Path], Iterator[tuple[str, Chunk]]]] = {
    ".jsonl": _from_jsonl,
    ".json": _from_squad,
    ".csv": _from_csv,
}
