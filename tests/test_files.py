"""Files: a file or a line is whole or not there, whatever kills the writer or fills the disk."""

import os
import re
import resource
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from rezero.files import (
    ROOT,
    append_jsonl,
    append_text,
    open_text,
    read_jsonl,
    read_records,
    shown,
    write_jsonl,
    write_text,
)


@contextmanager
def disk_for(size):
    """No file may grow beyond `size` bytes: writing fails in the middle, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")
    with disk_for(1000), pytest.raises(OSError, match=r"File too large: '.*/a\.txt'"):
        write_text(path, "new" * 1000)
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]
    assert write_text(path, "new" * 1000).read_text() == "new" * 1000  # once there is room


def test_a_full_disk_adds_no_part_of_a_line(tmp_path):
    path = tmp_path / "a.jsonl"
    append_jsonl(path, {"n": 1})
    with disk_for(1000), pytest.raises(OSError, match=r"File too large: '.*/a\.jsonl'"):
        append_jsonl(path, {"n": "2" * 1000})
    append_jsonl(path, {"n": 3})
    assert list(read_jsonl(path)) == [{"n": 1}, {"n": 3}]


@pytest.mark.parametrize("end", ['{"n": 3', '{"n": 3}garbage\n', "\x00\x00\x00"])
def test_only_the_last_line_of_what_grew_may_be_damaged(tmp_path, end):
    path = write_jsonl(tmp_path / "a.jsonl", [{"n": 1}, {"n": 2}])
    with path.open("a") as file:
        file.write(end)
    with pytest.warns(UserWarning, match=r"a\.jsonl:3: skipped a damaged last line"):
        assert list(read_jsonl(path, appended=True)) == [{"n": 1}, {"n": 2}]
    with pytest.raises(ValueError, match=r"a\.jsonl:3: not valid JSON"):
        list(read_jsonl(path))  # a file that was written at once
    with path.open("a") as file:
        file.write('\n{"n": 4}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:3: not valid JSON"):
        list(read_jsonl(path, appended=True))


@dataclass(frozen=True)
class Point:
    __pydantic_config__ = {"extra": "forbid"}
    x: int
    tags: tuple[str, ...] = ()


@pytest.mark.parametrize(("line", "message"), [
    ('{"tags": []}', "x is missing"),
    ('{"x": 1, "y": 2}', "unknown field 'y'; allowed: x, tags"),
    ('{"x": 1, "tags": ["a", 2]}', "tags.1 is 2; want a valid string"),
    ('{"x": 1', "not valid JSON"),
])  # fmt: skip
def test_a_record_that_does_not_fit_is_named_by_line_and_field(tmp_path, line, message):
    path = write_text(tmp_path / "a.jsonl", f'{{"x": 1, "tags": ["a"]}}\n\n{line}\n')
    rows = read_records(path, Point)
    assert next(rows) == (f"{path}:1", Point(1, ("a",)))
    with pytest.raises(ValueError, match=re.escape(f"{path}:3: {message}")):
        next(rows)


@pytest.mark.parametrize(("content", "wanted"), [
    ("grün".encode("utf-8-sig"), "grün"),
    ("grün".encode("utf-16"), "grün"),
    ("grün".encode("cp1252"), "grün"),
    ("x" * (2**20 - 1) + "ü", None),  # a character on the border of two blocks
    (b"x" * 2**20 + b"\xfc", "x" * 2**20 + "ü"),
    ("ü\n".encode() * 2**19 + b"\xfc", f"a.txt:{2**19 + 1}: not UTF-8, as the text around it is: invalid start byte"),
    ("“Grün”\n".encode() * 9 + b"\xff", "a.txt:10: not UTF-8, as the text around it is: invalid start byte"),
])  # fmt: skip
def test_a_text_is_read_in_its_encoding(tmp_path, content, wanted):
    path = tmp_path / "a.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    try:
        with open_text(path) as file:
            assert file.read() == (wanted or content)
    except ValueError as error:
        assert str(error) == f"{tmp_path}/{wanted}"


def test_a_line_without_end_is_refused_and_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("rezero.files.LONGEST", 100)
    path = write_text(tmp_path / "a.jsonl", '{"n": 1}\n' + "x" * 200)
    with pytest.raises(ValueError, match=r"a\.jsonl:2: the line is over 100 characters long; want one record per line"):
        list(read_jsonl(path))


def test_a_record_names_no_machine_s_paths(tmp_path):
    assert shown(ROOT / "papermill_runs" / "a") == "papermill_runs/a"
    assert shown(tmp_path) == str(tmp_path)


WRITER = """
import sys
from rezero.files import append_jsonl, write_text
folder = sys.argv[1]
print("go", flush=True)
for n in range(10**9):
    write_text(folder + "/whole.txt", str(n % 10) * 300_000)
    append_jsonl(folder + "/lines.jsonl", {"n": n, "text": "x" * 3000})
"""


def test_a_killed_writer_leaves_whole_files_and_every_line_but_the_last(tmp_path):
    for delay in (0.02, 0.05, 0.11):
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
        process.wait()
        if (tmp_path / "whole.txt").exists():
            text = (tmp_path / "whole.txt").read_text()
            assert text == text[0] * 300_000
    append_text(tmp_path / "lines.jsonl", "")  # cuts off what is unfinished
    numbers = [row["n"] for row in read_jsonl(tmp_path / "lines.jsonl")]
    runs = [i for i, n in enumerate(numbers) if n == 0]
    assert runs
    assert numbers == [n for a, b in zip(runs, [*runs[1:], len(numbers)], strict=True) for n in range(b - a)]
