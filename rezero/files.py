"""Where the project lives; JSON Lines in and out; writes that never leave half a file, and survive a crash after."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import IO, get_args
from uuid import uuid4

from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from rezero.text import clean

ROOT = Path(__file__).resolve().parents[1]  # the clone: data/, notebooks/ and papermill_runs/ live here
CACHE = ROOT / ".cache"  # what can be made again; it may be deleted, and need not be writable
_adapter = cache(TypeAdapter)
_binary = partial(Path.open, mode="rb")
LONGEST = 64 * 2**20  # characters of a line or a field; without a limit, a damaged file would fill the memory


def resolve(path: str | Path) -> Path:
    """An absolute path. A relative one counts from the project's root, never from the working directory."""
    return ROOT / os.path.expanduser(path)  # ROOT is dropped before an absolute path


def writable(path: str | Path) -> Path:
    """The absolute path of what a command is to write; ValueError for one inside the curated run."""
    path = resolve(path)
    if path.resolve().is_relative_to(ROOT / "papermill_runs/reference"):
        raise ValueError(f"{path}: only tests/tools/keep_reference.py changes the curated run; want another name")
    return path


def shown(path: Path) -> str:
    """`path` relative to the project's root if it is inside, so that a record does not name somebody's machine."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def write_text(path: str | Path, text: str | Iterable[str]) -> Path:
    """Write `text`, or its parts, to a file beside `path` and rename it. An OSError (a full disk) names the file."""
    path = resolve(path)
    new = path.with_name(f".{path.name}.{uuid4().hex}")
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with new.open("w", encoding="utf-8") as file:
                file.writelines([text] if isinstance(text, str) else text)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
    return path


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the file's name to an OSError that has none, as that of a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> Path:
    """Write one JSON object per line, atomically, as `rows` come. The same rows give the same bytes."""
    return write_text(path, (clean(json.dumps(row, ensure_ascii=False)) + "\n" for row in rows))


def append_jsonl(path: str | Path, row: dict) -> Path:
    """Append one object. A killed process loses at most the line that it was writing."""
    return append_text(path, clean(json.dumps(row, ensure_ascii=False)) + "\n")


def append_text(path: str | Path, lines: str) -> Path:
    """Append `lines`, or nothing (OSError); a line that a killed process left unfinished is cut off, with a warning."""
    path, left = resolve(path), memoryview(lines.encode())
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            if file.read() not in (b"", b"\n"):
                file.seek(0)
                size = file.truncate(file.read().rfind(b"\n") + 1)
                warnings.warn(f"{path}: cut off an unfinished last line", stacklevel=2)
            try:
                while left:  # more than one write happens only on an almost full disk, or for gigabytes
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(size)
                raise
    return path


def read_jsonl(path: str | Path, appended: bool = False) -> Iterator[dict]:
    """The objects of a JSON Lines file, in order; blank lines are skipped. ValueError names file and line.

    `appended`: the file grew line by line, so a damaged last line is what a killed process left; a warning says so.
    """
    return (row for _, row in numbered_rows(path, appended))


def numbered_rows(path: str | Path, appended: bool = False, opened: Callable = _binary) -> Iterator[tuple[str, dict]]:
    """`read_jsonl` with the place of each object, "file:line", for error messages."""
    path = readable(path)
    with opened(path) as file:
        for where, line in numbered_lines(file, path):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except ValueError as error:  # not JSON, or a character that was cut in two
                if not appended or file.read().strip():
                    raise ValueError(f"{where}: not valid JSON: {error}") from None
                warnings.warn(f"{where}: skipped a damaged last line: {error}", stacklevel=2)
                return
            if not isinstance(row, dict):
                raise ValueError(f"{where}: want one JSON object per line, got {type(row).__name__}")
            yield where, row


def readable(path: str | Path) -> Path:
    """The absolute path of what is to be read; ValueError for a pipe or a device, which might never end."""
    path = resolve(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path}: is a pipe or a device; want a file")
    return path


def read_json(path: str | Path) -> dict:
    """The object of a JSON file; ValueError names file and line of what is no JSON, and the file of another value."""
    path = readable(path)
    try:
        value = parse_json(path.read_bytes())
    except ValueError as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"{path}{line}: not valid JSON: {error}") from None
    if not value or not isinstance(value, dict):
        raise ValueError(f"{path}: want a JSON object with fields, got {type(value).__name__ if value else value}")
    return value


def parse_json(data: bytes | str):
    """The value of a JSON text, with lone surrogates replaced; ValueError also for what is nested too deeply."""
    text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
    try:
        value = json.loads(text)
        return json.loads(clean(json.dumps(value, ensure_ascii=False))) if "\\u" in text else value
    except RecursionError as error:
        raise ValueError(str(error)) from None


def numbered_lines(file: IO, path: Path) -> Iterator[tuple[str, str | bytes]]:
    """The lines of an open file, each with its place, "file:line"; ValueError for one of `LONGEST` or more."""
    number, line = 1, file.readline(LONGEST)
    while line:
        if len(line) == LONGEST:
            raise ValueError(f"{path}:{number}: the line is over {LONGEST:,} characters long; want one record per line")
        yield f"{path}:{number}", line
        number, line = number + 1, file.readline(LONGEST)


def read_records(path: str | Path, kind: type, appended: bool = False) -> Iterator[tuple[str, object]]:
    """Pairs (file:line, record) of a JSON Lines file whose lines hold the fields of the dataclass `kind`."""
    for where, row in numbered_rows(path, appended):
        try:
            record = parse_record(row, kind)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        yield where, record


def parse_record(row: dict, kind: type):
    """Plain data as the dataclass `kind` and those inside it; ValueError in one line for what its types forbid."""
    try:
        return _adapter(kind).validate_json(json.dumps(row), strict=True, extra="forbid")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))[:80]
    if first["type"] == "unexpected_keyword_argument":
        for name in first["loc"][:-1]:
            kind = {one.name: one.type for one in fields(kind)}.get(name, kind)
            kind = next(filter(is_dataclass, (kind, *get_args(kind))))  # of a tuple or a union the dataclass inside
        raise ValueError(f"unknown field {place!r}; allowed: {', '.join(one.name for one in fields(kind))}")
    raise ValueError(refusal(place, first))


def refusal(place: str, error: dict) -> str:
    """One of pydantic's errors in our words: the value at `place`, and what is wanted there."""
    if error["type"] == "missing":
        return f"{place} is missing"
    wanted = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    own = not place or error["type"] == "value_error"  # a message of ours, which is complete
    return wanted if own else f"{place} is {error['input']!r:.80}; want {wanted}"


def cached(kind: str, key: object, make: Callable[[], Iterable[dict]]) -> list[dict]:
    """The rows of `make`, from .cache/<kind>/ if they were made before with an equal `key`; None: always made.

    `key` names all that the rows depend on, as plain data or dataclasses; the package's code is added here. Who wants
    rows that another process is making waits for it. A damaged file is made again; without room, nothing is kept.
    """
    if key is None:
        return list(make())
    path = CACHE / kind / f"{digest(json.dumps([key, _code()], default=vars, sort_keys=True))}.jsonl"
    with ExitStack() as stack:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.with_suffix(".lock")))
        with suppress(OSError, ValueError):
            return list(read_jsonl(path))
        rows = list(make())
        with suppress(OSError):
            write_jsonl(path, rows)
    return rows


def digest(*parts: str | bytes) -> str:
    """The same 32 characters for the same parts, and others for others."""
    made = hashlib.blake2b(digest_size=16)
    for part in parts:
        part = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        made.update(len(part).to_bytes(8) + part)
    return made.hexdigest()


@cache
def _code() -> str:
    """A digest of the package and of its pins, so that nothing is read that another version of it has made."""
    paths = [*ROOT.glob("rezero/**/*.py"), *ROOT.glob("rezero/**/*.yaml"), *ROOT.glob("pyproject.toml")]
    return digest(*(path.read_bytes() for path in sorted(paths)))
