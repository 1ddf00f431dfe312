"""Files: a file or a line is whole or not there, whatever kills the writer or fills the disk."""

import os
import re
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pypdf import PdfWriter

from rezero import files
from rezero.corpus import load_chunks
from rezero.data.documents import read_pdf
from rezero.extras import smollm
from rezero.extras.model_judge import model_judge
from rezero.files import (
    ROOT,
    append_jsonl,
    append_text,
    numbered_rows,
    open_text,
    read_json,
    read_jsonl,
    read_records,
    resolve,
    shown,
    write_jsonl,
    write_text,
)
from rezero.runner.parameters import parse_yaml, read_params_file
from rezero.search.dense import embed


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


def first(path):
    return next(numbered_rows(path))


def point(path):
    return next(read_records(path, Point))


DEEP = "[" * 100_000
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 9))


@pytest.mark.parametrize(("read", "content", "message"), [
    (read_json, '{"a": 1,\n\n"b": }', "{path}:3: not valid JSON: Expecting value"),
    (read_json, "", "{path}:1: not valid JSON: Expecting value"),
    (read_json, "[]", "{path}: want a JSON object with fields, got []"),
    (read_json, "{}", "{path}: want a JSON object with fields, got {}"),  # all of a Config's fields have defaults
    (read_json, '"x"', "{path}: want a JSON object with fields, got str"),
    (read_json, DEEP, "{path}: not valid JSON: maximum recursion depth"),
    (read_json, '{"a": ' + "1" * 9999 + "}", "{path}: not valid JSON: Exceeds the limit"),
    (read_json, b'{"a": "\xff"}', "{path}: not valid JSON: 'utf-8' codec can't decode byte 0xff"),
    (first, "\n\n \n" + DEEP, "{path}:4: not valid JSON: maximum recursion depth"),  # blank lines count
    (first, "\n[]\n", "{path}:2: want one JSON object per line, got list"),
    (point, "\n\n{}\n", "{path}:3: x is missing"),
    (point, '{"x": "' + "9" * 10_000_000 + '"}', "{path}:1: x is '" + "9" * 79 + "; want a valid integer"),
    (point, '{"x": ' + '{"y": ' * 900 + "1" + "}" * 901, "{path}:1: "),
    (point, '{"x": 1, "\\u001b[2J": 1}', "{path}:1: unknown field '\\x1b[2J'; allowed: x, tags"),
    (read_params_file, "a: 1\nb: [\n", "{path}, line 3: not YAML: expected"),
    (read_params_file, BOMB, "{path}: not YAML: its aliases stand for more than 1,000,000 characters"),
    (read_params_file, "a: &a [*a]", "{path}: not YAML: Circular reference detected"),
    (read_params_file, MERGED, "{path}, line 2: not YAML: could not determine a constructor for the tag"),
    (read_params_file, DEEP, "{path}: not YAML: maximum recursion depth"),
    (read_params_file, "a: 2024-99-99", "{path}: not YAML: month must be in 1..12"),
    (read_params_file, "a: !!bool x", "{path}: not YAML: 'x'"),
    (read_params_file, "[]", "{path}: want `name: value` lines, got list"),
])  # fmt: skip
def test_what_cannot_be_read_is_one_short_line_with_file_and_line(tmp_path, read, content, message):
    path = tmp_path / "a.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    started = time.perf_counter()
    with pytest.raises(ValueError, match=re.escape(message.replace("{path}", str(path)))) as refusal:
        read(path)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 500 + len(str(path))
    assert time.perf_counter() - started < 5


def test_aliases_that_a_dump_wrote_are_read():
    assert parse_yaml("a: &id001 {x: 1}\nb: *id001", "here") == {"a": {"x": 1}, "b": {"x": 1}}


def test_half_a_surrogate_pair_is_replaced_where_text_enters(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a", "text": "x \\ud83d y \\ud83d\\ude00"}\n')
    assert load_chunks(path)[0].text == "x ? y \N{GRINNING FACE}"
    assert list(read_jsonl(write_jsonl(path, [{"\ud83d": "\ud83d"}]))) == [{"?": "?"}]
    assert list(read_jsonl(append_jsonl(path, {"a": "\ud83d"})))[1] == {"a": "?"}


@pytest.mark.parametrize("read", [read_json, first, load_chunks, read_params_file])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, read):
    pipe = tmp_path / "chunks.jsonl"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match=r"chunks\.jsonl: is a pipe or a device; want a file"):
        read(pipe)
    with pytest.raises(ValueError, match="~nosuchuser: there is no such user"):
        resolve("~nosuchuser")


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


@pytest.mark.parametrize(("key", "spoil", "made"), [
    ([1, "a"], "", 1),
    ([1, "b"], "", 2),
    (None, "", 2),  # not known what the rows depend on
    ([1, "a"], "other code", 2),
    ([1, "a"], "half a line", 2),
    ([1, "a"], "no folder", 2),
])  # fmt: skip
def test_what_was_made_before_is_not_made_again(cache, monkeypatch, key, spoil, made):
    """... unless what it depends on has changed; a damaged file or a folder that cannot be written costs only time."""
    calls = []

    def make():
        calls.append(0)
        return [{"n": 1, "text": "ö"}, {"n": 2, "list": [0.1]}]

    first = files.cached("kind", [1, "a"], make)
    (path,) = (cache / "kind").glob("*.jsonl")
    if spoil == "other code":
        monkeypatch.setattr(files, "_code", lambda: "other")
    if spoil == "half a line":
        path.write_bytes(path.read_bytes()[:-9])
    if spoil == "no folder":
        monkeypatch.setattr(files, "CACHE", path)  # a file
    again = files.cached("kind", key, make)
    assert first == again == [{"n": 1, "text": "ö"}, {"n": 2, "list": [0.1]}]
    assert len(calls) == made


def test_a_process_waits_for_the_one_that_makes_the_rows(cache):
    """Four threads stand for four processes: each has a lock of its own."""
    calls = []

    def make():
        calls.append(0)
        time.sleep(0.2)
        return [{"n": 1}]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: files.cached("kind", 1, make), range(4)))
    assert found == [[{"n": 1}]] * 4 and len(calls) == 1


def embeddings(cache):
    assert embed(["ab"], "toy", lambda texts: np.ones((1, 2), np.float32), cache / "embeddings").tolist() == [[1, 1]]


def pages(cache):
    file = PdfWriter()
    file.add_blank_page(9, 9)
    file.write(cache.parent / "a.pdf")
    assert read_pdf(cache.parent / "a.pdf") == [""]


def replies(cache):
    judge = model_judge(lambda prompts: ["yes"] * len(prompts), "toy", cache / "judge" / "replies.jsonl")
    assert judge([("q", ["a"], "a")]) == ["right"]


def models(cache):
    folder = Path(smollm.unpack())
    assert (folder / "saved").is_file() and not folder.is_relative_to(ROOT)


@pytest.mark.parametrize("use", [embeddings, pages, replies, models])
def test_a_cache_that_cannot_be_written_is_done_without(use, cache, monkeypatch):
    """What stands in its place makes every write fail, also root's, who may write into a read-only folder."""
    cache.write_text("a file")
    package = write_text(cache.parent / "package" / "a.gguf", "")
    model = SimpleNamespace(config=SimpleNamespace(quantization_config=1), hf_quantizer=1)
    model.save_pretrained = lambda folder: write_text(folder / "saved", "")
    loads = SimpleNamespace(from_pretrained=lambda *_, **__: model)
    for name in ("AutoModelForCausalLM", "AutoTokenizer"):
        monkeypatch.setattr(smollm, name, loads)
    monkeypatch.setattr(smollm, "mend", lambda tokenizer: tokenizer)
    monkeypatch.setattr(smollm, "CACHE", cache)
    monkeypatch.setattr(smollm.importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(package)))
    smollm.unpack.cache_clear()
    use(cache)
    assert cache.read_text() == "a file"
