"""Files: whole or not there, whatever kills the writer or fills the disk; and one writer a folder."""

import os
import resource
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from rezero.files import ROOT, append_jsonl, append_text, locked, read_jsonl, write_jsonl, write_text


@contextmanager
def disk_for(size):
    """No file may grow beyond `size` bytes: writing fails in the middle, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")
    with disk_for(1000), pytest.raises(OSError, match=r"File too large: '.*/a\.txt'"):
        write_text(path, "new" * 1000)
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


def test_a_text_that_is_no_text_leaves_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.txt", "\ud800")
    assert not os.listdir(tmp_path)


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


def test_a_folder_has_one_writer(tmp_path):
    taken = pytest.raises(ValueError, match=f"is being written by process {os.getpid()}$")
    with locked(tmp_path), taken, locked(tmp_path):
        pass
    with locked(tmp_path):  # free again
        pass


def test_the_lock_waits_for_what_a_killed_process_left(tmp_path):
    """The holder is killed; its child, which inherited the lock, goes on for a second."""
    child = "import time; time.sleep(1); open(sys.argv[1] + '/late', 'w').close()"
    holder = f"""
import pathlib, subprocess, sys, time
from rezero.files import locked
with locked(pathlib.Path(sys.argv[1])) as lock:
    subprocess.Popen([sys.executable, "-c", "import sys; {child}", sys.argv[1]], pass_fds=(lock,))
    print("go", flush=True)
    time.sleep(100)
"""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", holder, str(tmp_path)], env=env, stdout=subprocess.PIPE)
    process.stdout.readline()
    process.kill()
    process.wait()
    with locked(tmp_path):
        assert (tmp_path / "late").exists()
