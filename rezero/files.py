"""Where the project lives; JSON Lines in and out; writes that never leave half a file, and survive a crash after."""

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

ROOT = Path(__file__).resolve().parents[1]  # the clone: data/, notebooks/ and papermill_runs/ live here


def resolve(path: str | Path) -> Path:
    """An absolute path. A relative one counts from the project's root, never from the working directory."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else ROOT / path


def shown(path: Path) -> str:
    """`path` relative to the project's root if it is inside, so that a record does not name somebody's machine."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` to a temporary file beside `path` and rename it. An OSError (a full disk) names the file."""
    path = resolve(path)
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(handle)
            os.chmod(name, 0o644)  # mkstemp's 0600 would hide a shared run folder from its other readers
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    return path


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the file's name to an OSError that has none, as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> Path:
    """Write one JSON object per line, atomically. The same rows give the same bytes."""
    return write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def append_jsonl(path: str | Path, row: dict) -> Path:
    """Append one object. A killed process loses at most the line that it was writing."""
    return append_text(path, json.dumps(row, ensure_ascii=False) + "\n")


def append_text(path: str | Path, lines: str) -> Path:
    """Append `lines` in one write, or nothing (on an OSError, which names the file).

    A last line that a killed process left unfinished is first cut off, with a warning.
    """
    path, left = resolve(path), memoryview(lines.encode())
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            size = _cut_unfinished_line(file, path)
            try:
                while left:  # more than one write happens only on an almost full disk, or for gigabytes
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(size)
                raise
    return path


def _cut_unfinished_line(file, path: Path) -> int:
    """Truncate `file` after its last line end; returns the size that is left."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return 0
    file.seek(-1, os.SEEK_END)
    if file.read() == b"\n":
        return size
    file.seek(0)
    kept = file.read().rfind(b"\n") + 1
    file.truncate(kept)
    warnings.warn(f"{path}: cut off an unfinished last line", stacklevel=3)
    return kept


def read_jsonl(path: str | Path, appended: bool = False) -> Iterator[dict]:
    """The objects of a JSON Lines file, in order; blank lines are skipped.

    Args:
        appended: the file grew line by line, so a damaged last line is what a killed process left behind. It is
            skipped with a warning. Any other damage is an error, as it is in a file that was written at once.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not a JSON object. The message names file and line.
    """
    return (row for _, row in numbered_rows(path, appended))


def numbered_rows(path: str | Path, appended: bool = False) -> Iterator[tuple[str, dict]]:
    """`read_jsonl` with the place of each object, "file:line", for error messages."""
    for where, row in _parse_lines(path, appended, json.loads):
        if not isinstance(row, dict):
            raise ValueError(f"{where}: want one JSON object per line, got {type(row).__name__}")
        yield where, row


def read_records(path: str | Path, kind: type, appended: bool = False) -> Iterator[tuple[str, object]]:
    """Pairs (file:line, record) of a JSON Lines file whose lines hold the fields of the dataclass `kind`.

    Raises as `read_jsonl`, and as `parse_record` with file and line.
    """
    yield from _parse_lines(path, appended, lambda line: parse_record(line, kind))


def parse_record(text: str | bytes, kind: type):
    """A JSON object as the dataclass `kind`: lists become tuples, nested objects dataclasses, as the fields' types say.

    Raises:
        ValueError: a field is missing, unknown or of another type. One line with the field, its value, what is allowed.
    """
    try:
        return _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] in ("missing", "missing_argument"):
        raise ValueError(f"{place} is missing")
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        for name in first["loc"][:-1]:
            kind = {one.name: one.type for one in fields(kind)}.get(name, kind)
        raise ValueError(f"unknown field {place!r}; allowed: {', '.join(one.name for one in fields(kind))}")
    wanted = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    raise ValueError(f"{place} is {first['input']!r:.80}; want {wanted}" if place else wanted)


@cache
def _adapter(kind: type) -> TypeAdapter:
    return TypeAdapter(kind)


def _parse_lines(path: str | Path, appended: bool, parse: Callable[[bytes], object]) -> Iterator[tuple[str, object]]:
    """Pairs (file:line, what `parse` makes of the line)."""
    path = resolve(path)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                parsed = parse(line)
            except ValueError as error:
                if _is_json(line):
                    raise ValueError(f"{path}:{number}: {error}") from None
                if not appended or file.read().strip():
                    raise ValueError(f"{path}:{number}: not valid JSON: {error}") from None
                warnings.warn(f"{path}:{number}: skipped a damaged last line: {error}", stacklevel=3)
                return
            yield f"{path}:{number}", parsed


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:  # not JSON, or a character that was cut in two
        return False
    return True
