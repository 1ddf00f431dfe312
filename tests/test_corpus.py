"""Passages: every format that is read, and messages that name the file and the line."""

import json

import pytest

from rezero.corpus import Chunk, load_chunks, save_chunks

OURS = [Chunk("a", "Valves", "A valve.\nTwo lines.", "report.md"), Chunk("b", "", "日本 “quotes”")]


def test_what_was_saved_is_loaded(tmp_path):
    path = save_chunks(tmp_path / "chunks.jsonl", OURS)
    assert load_chunks(path) == load_chunks(tmp_path) == OURS


@pytest.mark.parametrize(
    ("name", "content", "want"),
    [
        # ours without a source, and with a number as id; BEIR, with the metadata that some of its corpora have
        ("chunks.jsonl", '{"id": 7, "title": "T", "text": "x"}\n\n', Chunk("7", "T", "x")),
        ("chunks.jsonl", '{"_id": "d1", "title": "T", "text": "x", "metadata": {}}', Chunk("d1", "T", "x")),
        # Search-R1, whose title is a quoted first line, with and without one
        ("chunks.jsonl", json.dumps({"id": "0", "contents": '"A "B"\none\ntwo'}), Chunk("0", 'A "B', "one\ntwo")),
        ("chunks.jsonl", json.dumps({"id": "0", "contents": "body\nmore"}), Chunk("0", "", "body\nmore")),
        # AutoDidact, whose content spans lines
        ("chunks.csv", 'chunk_id,content,metadata\n1,"one\n\ntwo",{}\n', Chunk("1", "", "one\n\ntwo", "{}")),
        # as Excel writes it: a byte-order mark and semicolons; a long field; a null title; the id 0
        ("chunks.csv", "\ufeffchunk_id;content\n0;one, two\n", Chunk("0", "", "one, two")),
        ("chunks.csv", f"chunk_id,content\n1,{'x' * 200_000}\n", Chunk("1", "", "x" * 200_000)),
        ("chunks.jsonl", '{"id": 0, "title": null, "text": "x"}', Chunk("0", "", "x")),
    ],
)
def test_formats(tmp_path, name, content, want):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert load_chunks(tmp_path / name) == load_chunks(tmp_path) == [want]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.parquet", "PAR1", r"c\.parquet: cannot read chunks from '\.parquet'; allowed: \.jsonl, \.csv"),
        ("c.jsonl", '{"id": "a", "body": "x"}', r"c\.jsonl:1: has the fields id, body; want id,"),
        ("c.jsonl", '{"id": "a", "text": "x"}\n\n{"id": "a", "text": "y"}', r":3: the id 'a' was used"),
        ("c.jsonl", '{"id": "a", "text": " \\n"}', r"c\.jsonl:1: chunk 'a' has no text"),
        ("c.jsonl", '{"id": "a", "text": ["x"]}', r":1: text is \['x'\], a list; want text"),
        ("c.jsonl", '{"id": "a"', r"c\.jsonl:1: not valid JSON"),
        ("c.jsonl", "", r"c\.jsonl: holds no chunk"),
        *[
            (
                "c.jsonl",
                json.dumps({"id": id, "text": "x"}),
                r"c\.jsonl:1: the id is .*; want text or an integer, not blank",
            )
            for id in (None, {}, "", " ", [], True, 1.5)
        ],
        ("c.csv", "chunk_id,content\n1,x\n,y\n", r"c\.csv:3: the id is ''; want text"),
        ("c.jsonl", '{"\\u001b[2J": 1}', "has the fields \ufffd\\[2J; want id"),
        ("c.csv", "id,text\n1,x\n", r"c\.csv:2: has the columns id, text; want chunk_id, content, metadata"),
        ("c.csv", "chunk_id,content\n1,x\n1,y\n", r"c\.csv:3: the id '1' was used before"),
        (
            "c.csv",
            "chunk_id,content\n1,one, two\n",
            r"c\.csv:2: 1 fields too many; a field with ',' in it wants quotes",
        ),
        ("c.csv", 'chunk_id,content\n1,"one\n', r"c\.csv:2: not valid CSV: unexpected end of data"),
        ("c.csv", "chunk_id,content\n1\n", r"c\.csv:2: ends before the column content"),
    ],
)
def test_refusals_name_the_file_and_the_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_chunks(tmp_path / name)


def test_a_missing_corpus_is_not_an_empty_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no corpus; want one of chunks\.jsonl, chunks\.csv$"):
        load_chunks(tmp_path)
    save_chunks(tmp_path / "below" / "chunks.jsonl", OURS)
    with pytest.raises(FileNotFoundError, match=r"chunks\.csv; did you mean .*/below\?"):
        load_chunks(tmp_path)
