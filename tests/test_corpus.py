import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rezero.corpus import Chunk, chunk_text, load_autodidact_questions, load_chunks, load_documents, save_chunks

OURS = [Chunk("a", "Valves", "A valve.\nTwo lines.", "report.md"), Chunk("b", "", "日本 “quotes”")]
SQUAD = {"data": [{"title": "Crew", "paragraphs": [{"context": "One."}, {"context": "Two.", "qas": []}]}]}


def put(folder, name, content):
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


def test_what_was_saved_is_loaded(tmp_path):
    assert load_chunks(save_chunks(tmp_path / "chunks.jsonl", OURS)) == OURS


@pytest.mark.parametrize(
    ("name", "content", "want"),
    [
        # ours without a source, and with a number as id
        ("c.jsonl", '{"id": 7, "title": "T", "text": "x"}\n\n', Chunk("7", "T", "x")),
        # BEIR, with the metadata field that some of its corpora have
        ("c.jsonl", '{"_id": "d1", "title": "T", "text": "x", "metadata": {}}', Chunk("d1", "T", "x")),
        # Search-R1: the title is the quoted first line
        ("c.jsonl", json.dumps({"id": "0", "contents": '"A "B"\none\ntwo'}), Chunk("0", 'A "B', "one\ntwo")),
        # Search-R1 without a title
        ("c.jsonl", json.dumps({"id": "0", "contents": "body\nmore"}), Chunk("0", "", "body\nmore")),
        # SQuAD: the article's title; ids count articles and paragraphs
        ("c.json", json.dumps(SQUAD), Chunk("0.0", "Crew", "One.", "Crew")),
        # AutoDidact: the content spans lines
        ("c.csv", 'chunk_id,content,metadata\n1,"one\n\ntwo",{}\n', Chunk("1", "", "one\n\ntwo", "{}")),
    ],
)
def test_formats(tmp_path, name, content, want):
    assert load_chunks(put(tmp_path, name, content))[0] == want


def test_limit(tmp_path):
    path = save_chunks(tmp_path / "chunks.jsonl", OURS)
    assert load_chunks(path, limit=1) == OURS[:1]
    assert load_chunks(path, limit=99) == OURS
    with pytest.raises(ValueError, match="limit is 0"):
        load_chunks(path, limit=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.parquet", "", r"c\.parquet: cannot read chunks from '\.parquet'; have: \.jsonl, \.json, \.csv"),
        ("c.jsonl", '{"id": "a", "body": "x"}', r"c\.jsonl: record 1: has the fields id, body; want id,"),
        ("c.jsonl", '{"text": "x"}', r"record 1: has the fields text"),
        ("c.jsonl", '{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}', r"record 2: the id 'a' was used"),
        ("c.jsonl", '{"id": "a", "text": " \\n"}', r"c\.jsonl: record 1: chunk 'a' has no text"),
        ("c.jsonl", '{"id": "a", "text": ["x"]}', r"record 1: text is \['x'\], a list; want text"),
        ("c.jsonl", '{"id": "a", "text": "x", "title": null}', r"record 1: title is None"),
        ("c.jsonl", '{"id": "a"', r"c\.jsonl:1: not valid JSON"),
        ("c.jsonl", "", r"c\.jsonl: holds no chunk"),
        ("c.json", '{"data": [{"paragraphs": [{"text": "x"}]}]}', r"c\.json: not SQuAD-shaped.*context"),
        ("c.json", '[{"context": "x"}]', r"c\.json: not SQuAD-shaped"),
        ("c.json", '{"data": [{"paragraphs": [{"context": ""}]}]}', r"data.0..paragraphs.0.: chunk '0\.0'"),
        ("c.json", "{", r"c\.json: not valid JSON"),
        ("c.csv", "id,text\n1,x\n", r"c\.csv: has the columns id, text; want chunk_id, content, metadata"),
        ("c.csv", "chunk_id,content\n1,x\n1,y\n", r"c\.csv: row 2: the id '1' was used before"),
        ("c.csv", "chunk_id,content\n1\n", r"c\.csv: row 1: ends before the column content"),
        ("c.csv", "chunk_id,content\n1,x\n2,\n", r"c\.csv: row 2: chunk '2' has no text"),
    ],
)
def test_refusals_name_the_file_and_the_place(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        load_chunks(put(tmp_path, name, content))


def test_a_missing_file_is_not_an_empty_corpus(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_chunks(tmp_path / "none.jsonl")


# --- cutting documents ---


def test_boundaries_are_tried_from_coarse_to_fine():
    assert chunk_text("One a.\n\nTwo b.\n\nThree c.", 16) == ["One a.\n\nTwo b.", "Three c."]  # paragraphs
    assert chunk_text("First one. Second. Third.", 10) == ["First one.", "Second.", "Third."]  # sentences
    assert chunk_text("aaa bbb ccc", 7) == ["aaa bbb", "ccc"]  # words
    assert chunk_text("abcdefgh", 3) == ["abc", "def", "gh"]  # characters
    assert chunk_text("short", 100) == ["short"]
    assert chunk_text(" \n\n ", 100) == []


def test_overlap_repeats_whole_units_only():
    assert chunk_text("aa bb cc dd", 6, overlap=3) == ["aa bb", "bb cc", "cc dd"]
    assert chunk_text("aa bb cc dd", 6, overlap=2) == ["aa bb", "cc dd"]  # "bb " has three characters


@given(text=st.text(alphabet="ab. \n", max_size=300), size=st.integers(1, 40), overlap=st.integers(0, 39))
@settings(max_examples=200, deadline=None)
def test_pieces_fit_and_nothing_is_lost(text, size, overlap):
    pieces = chunk_text(text, size, min(overlap, size - 1))
    assert all(0 < len(piece) <= size for piece in pieces)
    squeezed = "".join(text.split())
    if overlap == 0:
        assert "".join("".join(pieces).split()) == squeezed
    else:
        assert len("".join("".join(pieces).split())) >= len(squeezed)


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (10, 10), (10, -1)])
def test_sizes_are_checked(size, overlap):
    with pytest.raises(ValueError, match=f"size is {size} and overlap {overlap}"):
        chunk_text("x", size, overlap)


def test_documents(tmp_path):
    put(tmp_path, "b.txt", "# not a heading in a text file\n\n" + "word " * 40)
    (tmp_path / "a").mkdir()
    put(tmp_path / "a", "x.md", "Intro.\n\n## Tanks ##\n\nText.")
    put(tmp_path, "c.pdf", "ignored")
    chunks = load_documents(tmp_path, size=100)
    assert [chunk.id for chunk in chunks] == ["a/x.md#1", "b.txt#1", "b.txt#2", "b.txt#3"]
    assert [chunk.title for chunk in chunks[:2]] == ["Tanks", "b"]
    assert chunks[0].source == "a/x.md"


def test_documents_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no \.txt or \.md file"):
        load_documents(tmp_path)
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"x\.txt: not UTF-8"):
        load_documents(tmp_path)


# --- questions of the original ---


def test_autodidact_questions(tmp_path):
    rows = [{"id": "a", "question": "Q1?", "answer": "valve", "supporting_paragraphs": ["A valve."]}]
    rows.append({"id": "a", "question": "Q2?", "answer": "two", "supporting_paragraphs": []})
    path = put(tmp_path, "q.jsonl", "\n".join(map(json.dumps, rows)))
    one, two = load_autodidact_questions(path, OURS)
    assert (one.id, one.text, one.answers, one.kind) == ("a.1", "Q1?", ("valve",), "direct")
    assert (two.id, two.gold_chunk_ids, two.gold_texts) == ("a.2", ("a",), (OURS[0].text,))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "z", "question": "Q?", "answer": "x"}, r"q\.jsonl: record 1: the chunk 'z' is not in"),
        ({"id": "a", "question": "Q?"}, r"q\.jsonl: record 1: no answer; want id, question, answer"),
        ({"id": "a", "question": " ", "answer": "x"}, r"record 1: no question"),
        ({"id": "a", "question": "Q?", "answer": 5}, r"record 1: answer is 5, a int; want text"),
    ],
)
def test_autodidact_questions_refused(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        load_autodidact_questions(put(tmp_path, "q.jsonl", json.dumps(row)), OURS)
