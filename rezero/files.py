"""Files: where the project lives, JSON Lines in and out, and writes that never leave half a file."""

import json
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # the clone: data/, notebooks/ and papermill_runs/ live here


def resolve(path: str | Path) -> Path:
    """An absolute path; a relative one counts from the project's root, never from the working directory."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else ROOT / path


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` to a temporary file beside `path` and rename it, so that readers see all of it or none."""
    path = resolve(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(name, 0o644)  # mkstemp's 0600 would hide a shared run folder from its other readers
    os.replace(name, path)
    return path


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> Path:
    """Write one JSON object a line, atomically. Same rows, same bytes."""
    return write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path: str | Path, appended: bool = False) -> Iterator[dict]:
    """Yield the objects of a JSON Lines file; raises as `numbered_rows`."""
    return (row for _, row in numbered_rows(path, appended))


def numbered_rows(path: str | Path, appended: bool = False) -> Iterator[tuple[str, dict]]:
    """Yield (file:line, object) for each line of a JSON Lines file that is not blank.

    `appended`: the file grew line by line, so that a damaged last line is what a killed process left behind: it is
    skipped with a warning. Everywhere else damage is an error, and so it is in a file that was written at once.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not a JSON object; names the file and the line.
    """
    path = resolve(path)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:  # not JSON, or a character cut in two
                if not appended or file.read().strip():
                    raise ValueError(f"{path}:{number}: not valid JSON: {error}") from None
                warnings.warn(f"{path}:{number}: skipped a damaged last line: {error}", stacklevel=2)
                return
            if not isinstance(row, dict):
                raise ValueError(f"{path}:{number}: want one JSON object a line, got {type(row).__name__}")
            yield f"{path}:{number}", row


def append_jsonl(path: str | Path, row: dict) -> None:
    """Append one object: a killed process loses at most the line it was writing."""
    append_text(path, json.dumps(row, ensure_ascii=False) + "\n")


def append_text(path: str | Path, lines: str) -> Path:
    """Append in one write; first cuts off, with a warning, a last line that a killed process left unfinished."""
    path = resolve(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.tell() and (file.seek(-1, 2), file.read())[1] != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            warnings.warn(f"{path}: cut off an unfinished last line", stacklevel=2)
        file.write(lines.encode())
    return path
