"""Files: where the project lives, JSON Lines in and out, and writes that never leave half a file."""

import json
import os
import tempfile
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


def read_jsonl(path: str | Path) -> Iterator[dict]:
    """Yield the objects of a JSON Lines file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not a JSON object; names the file and the line.
    """
    path = resolve(path)
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: not valid JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"{path}:{number}: want one JSON object a line, got {type(row).__name__}")
            yield row


def append_jsonl(path: str | Path, row: dict) -> None:
    """Append one object and flush it: a killed process loses at most the line it was writing."""
    path = resolve(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
