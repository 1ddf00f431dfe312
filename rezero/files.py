"""Files: where the project lives, JSON Lines in and out, writes that never leave half a file, and a folder's lock.

What was written is on the disk when a function returns: it outlives a crash of the machine, too.
"""

import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # the clone: data/, notebooks/ and papermill_runs/ live here


def resolve(path: str | Path) -> Path:
    """An absolute path; a relative one counts from the project's root, never from the working directory."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else ROOT / path


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` to a temporary file beside `path` and rename it, so that readers see all of it or none.

    OSError, also that of a full disk, names the file; the temporary one is gone then.
    """
    path = resolve(path)
    with _named(path):
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
def _named(path: Path) -> Iterator[None]:
    """Give an OSError the name of the file: that of a full disk has none."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


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
    """Append in one write; first cuts off, with a warning, a last line that a killed process left unfinished.

    OSError, also that of a full disk, names the file, to which nothing was added then.
    """
    path, left = resolve(path), memoryview(lines.encode())
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            if file.tell() and (file.seek(-1, 2), file.read())[1] != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
                warnings.warn(f"{path}: cut off an unfinished last line", stacklevel=2)
            size = file.seek(0, 2)
            try:
                while left:  # more than once only where a disk is almost full, or for gigabytes
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(size)
                raise
    return path


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the lock of an existing `folder`, so that no two processes write there; yields the lock's file descriptor.

    The system drops it when the last process ends that has the descriptor: whoever writes on our behalf, as a kernel,
    must inherit it. Whom a killed process leaves is given ten seconds to notice.

    Raises:
        ValueError: naming the process that holds it.
    """
    import fcntl

    with (folder / "lock").open("a+") as file:
        for attempt in range(101):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                file.seek(0)
                holder = file.read().strip()
                if _alive(holder) or attempt == 100:
                    left = "" if _alive(holder) else f", or rather by what it left (`fuser {file.name}` tells)"
                    raise ValueError(f"{folder} is being written by process {holder}{left}") from None
                time.sleep(0.1)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield file.fileno()


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # somebody else's
        pass
    return True
