"""`data import`: each shape of a set equals its conversion by hand, documents become passages, bad input is named."""

import csv
import io
import json
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from functools import wraps
from random import Random

import matplotlib.pyplot as plt
import pandas
import pypdf
import pytest
from datasets import Dataset, DatasetDict
from matplotlib.backends.backend_pdf import PdfPages
from test_search import APOLLO
from tokenizers import Tokenizer

from rezero.__main__ import main
from rezero.analysis.retrieval import room_to_retry
from rezero.corpus import load_chunks
from rezero.data import documents
from rezero.data.importing import FORMATS, import_data
from rezero.files import ROOT, read_jsonl, write_jsonl, write_text
from rezero.questions import SPLITS, load_questions
from rezero.search import build_engine

LARKSPUR = ROOT / "data" / "larkspur"
CHUNKS = load_chunks(LARKSPUR)
QUESTIONS = load_questions(LARKSPUR / "questions.jsonl", CHUNKS)
BY_ID = {chunk.id: chunk for chunk in CHUNKS}
ONE_HOP = [question for question in QUESTIONS if len(question.gold_chunk_ids) == 1][:300]
TWO_HOPS = [q for q in QUESTIONS if len({BY_ID[gold].title for gold in q.gold_chunk_ids}) == 2][:300]


# --- sets: the shipped corpus, written in each shape ---


def squad(folder):
    asked = defaultdict(list)
    for q in ONE_HOP:
        start = q.gold_texts[0].index(q.answers[0])
        asked[q.gold_chunk_ids[0]].append(
            {"id": q.id, "question": q.text, "answers": [{"text": q.answers[0], "answer_start": start}]}
        )
    data = [{"title": c.title, "paragraphs": [{"context": c.text, "qas": asked[c.id]}]} for c in CHUNKS]
    return write_text(folder / "squad.json", json.dumps({"version": "1.1", "data": data}))


def squad_rows(questions):
    for q in questions:
        chunk = BY_ID[q.gold_chunk_ids[0]]
        place = {"text": [q.answers[0]], "answer_start": [chunk.text.index(q.answers[0])]}
        yield {"id": q.id, "title": chunk.title, "context": chunk.text, "question": q.text, "answers": place}


def squad_on_the_hub(folder):
    parts = {"train": "train", "validation": "dev", "test": "test"}
    rows = {part: list(squad_rows(q for q in ONE_HOP if q.split == split)) for part, split in parts.items()}
    DatasetDict({part: Dataset.from_list(some) for part, some in rows.items()}).save_to_disk(folder / "saved")
    return folder / "saved"


def among_others(question, seed):
    """The gold passages of a question and some more, none of them with the same title."""
    rng, found = Random(seed), {BY_ID[gold].title: BY_ID[gold] for gold in question.gold_chunk_ids}
    for chunk in rng.sample(CHUNKS, 8):
        found.setdefault(chunk.title, chunk)
    return rng.sample(list(found.values()), len(found))


def hotpot(folder):
    for split in SPLITS:
        rows = []
        for seed, q in enumerate(q for q in TWO_HOPS if q.split == split):
            context = [
                [c.title, [f" {part}." for part in c.text.rstrip(".").split(". ")]] for c in among_others(q, seed)
            ]
            facts = [[BY_ID[gold].title, 0] for gold in q.gold_chunk_ids]
            rows.append({"_id": q.id, "question": q.text, "answer": q.answers[0], "context": context,
                         "supporting_facts": facts})  # fmt: skip
        write_text(folder / f"hotpot_{split}_v1.json", json.dumps(rows, indent=1))
    write_text(folder / "README.md", "What this set is.")
    return folder


def musique(folder):
    rows = []
    for seed, q in enumerate(TWO_HOPS):
        around = among_others(q, seed)
        paragraphs = [{"idx": i, "title": c.title, "paragraph_text": c.text} for i, c in enumerate(around)]
        hops = [{"paragraph_support_idx": around.index(BY_ID[gold])} for gold in q.gold_chunk_ids]
        rows.append({"id": q.id, "paragraphs": paragraphs, "question": q.text, "question_decomposition": hops,
                     "answer": q.answers[0], "answer_aliases": list(q.answers[1:]), "answerable": True})  # fmt: skip
    return write_jsonl(folder / "musique.jsonl", rows)


def beir(folder):
    write_jsonl(folder / "corpus.jsonl", ({"_id": c.id, "title": c.title, "text": c.text} for c in CHUNKS))
    rows = [{"_id": q.id, "text": q.text, "metadata": {"answer": q.answers[0]}} for q in TWO_HOPS]
    write_jsonl(folder / "queries.jsonl", rows)
    for split in SPLITS:
        lines = [f"{q.id}\t{gold}\t1\n" for q in TWO_HOPS if q.split == split for gold in q.gold_chunk_ids]
        write_text(folder / "qrels" / f"{split}.tsv", "query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder


def autodidact(folder):
    text = io.StringIO()
    rows = csv.DictWriter(text, ["chunk_id", "content", "metadata"])
    rows.writeheader()
    rows.writerows({"chunk_id": c.id, "content": c.text, "metadata": c.source} for c in CHUNKS)
    write_text(folder / "chunks.csv", text.getvalue())
    asked = [{"id": q.gold_chunk_ids[0], "question": q.text, "answer": q.answers[0]} for q in ONE_HOP]
    write_jsonl(folder / "questions.jsonl", asked)
    return folder


def our_own(folder):
    return LARKSPUR


SHAPES = {  # writer -> (format, questions, whether titles, ids and splits survive)
    squad: ("squad", ONE_HOP, True, False),
    squad_on_the_hub: ("squad-rows", ONE_HOP, True, True),
    hotpot: ("hotpot", TWO_HOPS, True, True),
    musique: ("musique", TWO_HOPS, True, False),
    beir: ("beir", TWO_HOPS, True, True),
    autodidact: ("autodidact", ONE_HOP, False, False),
    our_own: ("rezero", QUESTIONS, True, True),
}


def recall(questions, chunks, k):
    return 1 - room_to_retry(questions, build_engine("bm25", chunks), k)[-1]["missed"]


@pytest.mark.parametrize("write", SHAPES)
def test_an_imported_set_equals_its_conversion_by_hand(tmp_path, capsys, write):
    shape, questions, titled, split = SHAPES[write]
    folder = import_data(str(write(tmp_path)), str(tmp_path / "out"))
    assert f"read as {shape}\n" in capsys.readouterr().out
    chunks = load_chunks(folder)
    found = {question.text: question for question in load_questions(folder / "questions.jsonl", chunks)}
    by_hand = {chunk.id: replace(chunk, title=chunk.title * titled) for chunk in CHUNKS}
    by_content = {(chunk.title, chunk.text): chunk for chunk in by_hand.values()}
    original = {chunk.id: by_content[chunk.title, chunk.text] for chunk in chunks}

    assert found.keys() == {question.text for question in questions}
    for question in questions:
        imported = found[question.text]
        golds = [original[gold] for gold in imported.gold_chunk_ids]
        assert golds == [by_hand[gold] for gold in question.gold_chunk_ids]
        assert imported.answers[0] == question.answers[0]
        assert imported.split == (question.split if split else "train")
    for k in (1, 5, 10):
        by_import = recall([found[question.text] for question in questions], chunks, k)
        assert by_import == recall(questions, [original[chunk.id] for chunk in chunks], k)
        assert by_import > 0.1 or k < 10


@pytest.mark.skipif(not APOLLO.exists(), reason="the published corpus is not beside the clone")
def test_the_published_corpus_is_imported_whole(tmp_path):
    folder = import_data(str(APOLLO), str(tmp_path / "apollo"))
    chunks = load_chunks(folder)
    assert chunks == load_chunks(APOLLO)
    assert load_questions(folder / "questions.jsonl") == load_questions(APOLLO / "questions.jsonl")


@pytest.mark.parametrize("shape", ["golden_answers", "reward_model"])
def test_questions_with_answers_only_get_the_best_passage_that_has_an_answer(tmp_path, capsys, shape):
    rows = [{"id": f"q{n}", "question": q.text, "golden_answers": list(q.answers)} for n, q in enumerate(ONE_HOP)]
    if shape == "reward_model":
        rows = [row | {"reward_model": {"ground_truth": {"target": row.pop("golden_answers")}}} for row in rows]
    pandas.DataFrame(rows).to_parquet(tmp_path / "train.parquet")
    contents = ({"id": str(n), "contents": f'"{c.title}"\n{c.text}'} for n, c in enumerate(CHUNKS))
    write_jsonl(tmp_path / "corpus" / "wiki.jsonl", contents)
    command = ["data", "import", str(tmp_path / "train.parquet"), "--name", str(tmp_path / "out")]
    assert main(command) == 2
    assert "holds no passage; name the corpus of its questions with --corpus" in capsys.readouterr().err
    assert main([*command, "--corpus", str(tmp_path / "corpus")]) == 0
    found = load_questions(tmp_path / "out" / "questions.jsonl", load_chunks(tmp_path / "out"))
    assert len(found) > 0.9 * len(ONE_HOP)
    assert all(any(a.lower() in q.gold_texts[0].lower() for a in q.answers) for q in found)
    by_hand = {q.text: q.gold_texts for q in ONE_HOP}
    assert sum(q.gold_texts == by_hand[q.text] for q in found) > 0.7 * len(found)


def test_a_set_of_the_hub_is_imported_by_name(tmp_path, monkeypatch, capsys):
    rows = {"train": Dataset.from_list(list(squad_rows(ONE_HOP[:20])))}
    asked = []
    monkeypatch.setattr("datasets.load_dataset", lambda *names: asked.append(names) or DatasetDict(rows))
    command = ["data", "import", "someone/some-set", "--subset", "plain", "--name", str(tmp_path / "out")]
    assert main(command) == 0
    assert set(asked) == {("someone/some-set", "plain")}
    assert len(load_questions(tmp_path / "out" / "questions.jsonl")) == 20

    def fails(*names):
        raise ConnectionError("no network\nand more")

    monkeypatch.setattr("datasets.load_dataset", fails)
    assert main(command) == 2
    message = "cannot be read; nor can 'someone/some-set' on the Hugging Face hub: no network\n"
    assert capsys.readouterr().err.endswith(message)


def test_long_passages_of_a_set_are_cut_and_offsets_find_the_piece(tmp_path, capsys):
    text = " ".join(f"Sentence {n} is about valve {n * 7}." for n in range(400))
    spots = {"at": "valve 700.", "moved": "valve 1400.", "cut": "valve 693. Sentence 100 is", "none": "valve 1."}
    asked = [
        {
            "id": name,
            "question": f"{name}?",
            "answers": [{"text": f" {part} ", "answer_start": max(text.find(part), 0) - 2}],
        }
        for name, part in spots.items()
    ]
    asked.append({"id": "no", "question": "Which?", "answers": [], "is_impossible": True})
    write_text(tmp_path / "covid.json", json.dumps({"data": [{"paragraphs": [{"context": text, "qas": asked}]}]}))
    sizes = ["--size", "50"]
    assert main(["data", "import", str(tmp_path / "covid.json"), "--name", str(tmp_path / "out"), *sizes]) == 0
    found = load_questions(tmp_path / "out" / "questions.jsonl", load_chunks(tmp_path / "out"))
    assert {q.id: spots[q.id] in q.gold_texts[0] for q in found} == {"at": True, "moved": True}
    dropped = {row["record"]["id"]: row["why"] for row in read_jsonl(tmp_path / "out" / "dropped.jsonl")}
    assert dropped == {
        "cut": "the answer goes over the end of a passage", "none": "the answer is not in its passage",
        "no": "unanswerable",
    }  # fmt: skip
    assert "1  unanswerable: covid.json: record 1" in capsys.readouterr().out


def test_a_set_without_answers_asks_for_a_title(tmp_path):
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": n, "title": f"T{n}", "text": f"text {n}"} for n in range(5)])
    write_jsonl(tmp_path / "queries.jsonl", [{"_id": "q", "text": "Which?"}, {"_id": "r", "text": "Unjudged?"}])
    write_text(tmp_path / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\nq\t1\t1\nq\t3\t2\nq\t4\t0\n")
    folder = import_data(str(tmp_path), str(tmp_path / "out"))
    (question,) = load_questions(folder / "questions.jsonl")
    assert (question.answers, question.gold_chunk_ids) == (("T3", "T1"), ("3",))
    assert [row["why"] for row in read_jsonl(folder / "dropped.jsonl")] == ["no passage is judged relevant"]


# --- documents ---


def pdf(path, *pages):
    """A PDF whose pages have these texts in large (# ...) and small letters; an empty one has a drawing only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({"pdf.use14corefonts": True, "pdf.compression": 0}), PdfPages(path) as file:
        for page in pages:
            figure = plt.figure(figsize=(6, 8))
            for number, line in enumerate(page.split("\n")):
                size = 24 if line.startswith("# ") else 10
                figure.text(
                    0.1,
                    0.9 - 0.05 * number,
                    line.removeprefix("# "),
                    fontsize=size,
                    weight="bold" if size > 10 else "medium",
                )
            if not page:
                figure.add_axes((0, 0, 1, 1)).plot([1, 2])
                plt.axis("off")
            file.savefig(figure)
            plt.close(figure)
    return path


def encrypted(path):
    writer = pypdf.PdfWriter(clone_from=pdf(path, "Secret."))
    writer.encrypt("a password", algorithm="RC4-128")
    writer.write(path)
    return path


PAGES = ("# Hull\nThe hull was green. It was a con-\ntainer of two decks.", "", "The deck was wide.")
WEB = """<html><head><title>T</title><style>p {}</style></head><body><nav>Menu</nav><h1>Corvane &amp; crew</h1>
<p>The hull<br>was <b>green</b>.</p><pre># no heading
b = 1</pre><script>var a = "<p>";</script><h2>Decks</h2><ul><li>one<li>two</ul>
<table><tr><th>valve</th><th>kg</th></tr><tr><td><p>north</p></td><td>3</td></tr></table></body></html>"""


@pytest.mark.parametrize("parser", ["pypdf", "liteparse"])
def test_a_folder_of_documents(tmp_path, monkeypatch, capsys, parser):
    if parser == "pypdf":
        monkeypatch.setattr(documents, "liteparse", None)
    elif not documents.liteparse:
        pytest.skip("liteparse is not installed")
    docs = tmp_path / "docs"
    pdf(docs / "b" / "hull.PDF", *PAGES)
    front = "---\ntitle: x\n---\n# Log\n\nA line\nthat goes on.\n\n```\nb = 1\n```\n<!-- no -->\n![a](b.png)"
    write_text(docs / "log.MD", front)
    write_text(docs / "web.html", WEB)
    write_text(docs / "plain.txt", "# no heading\n\nA plain\ntext.\n- item")
    for left_out in (".git/a.md", ".ipynb_checkpoints/log-checkpoint.md", "b/picture.png"):
        write_text(docs / left_out, "left out")
    folder = import_data(str(docs), str(tmp_path / "out"))
    found = [(chunk.source, chunk.title, chunk.text) for chunk in load_chunks(folder)]
    heading = ("", "hull", "Hull ") if parser == "pypdf" else (", Hull", "Hull", "")
    assert found == [
        (f"b/hull.PDF, pages 1-3{heading[0]}", heading[1],
         f"{heading[2]}The hull was green. It was a container of two decks.\n\nThe deck was wide."),
        ("log.MD, Log", "Log", "A line that goes on.\n\n```\nb = 1\n```"),
        ("plain.txt", "plain", "# no heading\n\nA plain text.\n- item"),
        ("web.html, Corvane & crew", "Corvane & crew", "The hull\n\nwas green.\n\n```\n# no heading\nb = 1\n```"),
        ("web.html, Corvane & crew > Decks", "Decks", "- one\n- two\n\n| valve | kg |\n| north | 3 |"),
    ]  # fmt: skip
    dropped = {row["where"]: row["why"] for row in read_jsonl(folder / "dropped.jsonl")}
    scanned = "a page without text; is it scanned or damaged?"
    assert dropped == {"docs/b/picture.png": "its ending is '.png'", "docs/b/hull.PDF, page 2": scanned}


# --- bad input ---

OURS = '{"id": "a", "title": "A", "text": "The hull was green."}\n'
BOOK = "# Log\n\nDer Rumpf war grün. “Gut”, sagte sie.\n"
SQUAD = {"title": None, "paragraphs": [{"context": BOOK, "qas": [
    {"id": 0, "question": "Farbe?", "answers": [{"text": "grün", "answer_start": 0}]}]}]}  # fmt: skip
ASKED = '{"id": "q", "text": "?", "answers": ["x"], "gold_chunk_ids": ["b"]}'
CSV = 'chunk_id,content,metadata\n0,"Wind, grün",m\n'


def damaged(path):
    pdf(path, "Secret.")
    path.write_bytes(path.read_bytes()[:300] + b"damaged")


def a_line_of(size, start, end):
    def write(path):
        path.write_bytes(start)
        with path.open("ab") as file:
            file.truncate(size)  # a sparse file: as long as it says, of zeros
        with path.open("ab") as file:
            file.write(end)

    return write


BAD = [  # (files, by name: text, bytes or a function that writes; exit status; passages; what is printed)
    # documents
    ({"a.pdf": encrypted}, 2, 0, "a.pdf: cannot be read: .*([Pp]assword|decrypt)"),
    ({"a.pdf": damaged}, 2, 0, "a.pdf: cannot be read: "),
    ({"a.pdf": b""}, 2, 0, "a.pdf: cannot be read: "),
    ({"a.pdf": damaged, "b.pdf": encrypted, "c.md": BOOK}, 0, 1, "cannot be read: .*: in/b.pdf"),
    ({"a.pdf": lambda path: pdf(path, "")}, 2, 0, "a.pdf: no text; is it scanned?"),
    ({"a.md": b""}, 2, 0, "a.md: no text"),
    ({"a.md": b"", "b.md": " \n", "c.md": BOOK}, 0, 1, "2  no text: in/a.md, in/b.md"),
    ({"a.md": BOOK.encode("utf-8-sig")}, 0, 1, ""),
    ({"a.md": BOOK.encode("utf-16")}, 0, 1, ""),
    ({"a.md": BOOK.encode("utf-16-le")}, 2, 0, "a.md: cannot be read: not text but binary"),
    ({"a.md": BOOK.encode("utf-32")}, 2, 0, "a.md: cannot be read: not text but binary"),
    ({"a.md": BOOK.encode("cp1252")}, 0, 1, ""),
    ({"a.md": BOOK.encode() + b"\xff."}, 2, 0, "a.md: cannot be read: 4: not UTF-8, as the text around it is"),
    ({"a.txt": bytes(range(256)) * 9}, 2, 0, "a.txt: cannot be read: "),
    ({"a.docx": b"PK"}, 2, 0, r"a.docx: its ending is '.docx'; want documents \(.md, "),
    ({}, 2, 0, "in: holds no file to import"),
    # sets
    ({"a.json": json.dumps({"data": [SQUAD]}).encode("utf-8-sig")}, 0, 1, "questions   1,"),
    ({"a.json": json.dumps([SQUAD], ensure_ascii=False).encode("utf-16")}, 0, 1, "questions   1,"),
    ({"a.json": json.dumps([SQUAD])[:-9]}, 2, 0, r"a.json: record 1: not valid JSON"),
    ({"a.json": "{}"}, 2, 0, "a.json: neither a list nor an object with the list 'data'"),
    ({"a.json": "[]"}, 2, 0, r"a.json: has the fields \(none\); want at least .* \(squad\); "),
    ({"a.json": b""}, 2, 0, "a.json: neither a list"),
    ({"a.json": json.dumps([SQUAD, SQUAD, {}], indent=1)}, 0, 1, "'context' is missing: a.json: record 3"),
    ({"a.json": json.dumps([SQUAD]).replace("Log", "Log \\ud800")}, 0, 1, "questions   1,"),
    ({"a.json": json.dumps([SQUAD, SQUAD])}, 0, 1, r"1  the question's id was used before: a.json: record 2"),
    ({"a.jsonl": OURS + '{"id": 0, "title": null, "text": "x"}'}, 0, 2, "passages    2"),
    ({"a.jsonl": OURS + '{"_id": "b", "text": "x"}\n{"id": "c", "contents": "y"}'}, 0, 3, "passages    3"),
    ({"a.jsonl": OURS + '{"id": "b", "body": "x"}'}, 0, 1, r"another shape: has the fields id, body; .*: a.jsonl:2"),
    ({"a.jsonl": OURS + '{"id": "b", "text": [1]}'}, 0, 1, r"another shape: text is \[1\], a list; .*: a.jsonl:2"),
    ({"a.jsonl": OURS + OURS}, 0, 1, "dropped     0"),
    ({"a.jsonl": OURS + OURS.replace("green", "red")}, 0, 1, r"its id was used before, .*: a.jsonl:2"),
    ({"a.jsonl": OURS + '{"id": "b"'}, 2, 0, "a.jsonl:2: not valid JSON"),
    ({"a.jsonl": OURS + "[" * 100_000}, 2, 0, "a.jsonl:2: not valid JSON"),
    ({"a.jsonl": OURS + '{"id": "b", "text": "\\ud800"}'}, 0, 2, "passages    2"),
    ({"a.jsonl": a_line_of(2**27, OURS.encode(), b"\n")}, 2, 0, "a.jsonl:2: the line is over 67,108,864 characters"),
    ({"a.json": a_line_of(2**27, b"[{\"", b"]")}, 2, 0, r"a.json: record 1: "),
    ({"a.md": a_line_of(2**30, b"# Log\n\nText.", b"\n")}, 2, 0, "a.md: cannot be read: larger than"),
    ({"a.parquet": b"PAR1"}, 2, 0, "a.parquet: Parquet "),
    # folders of passages and questions
    ({"chunks.csv": CSV}, 0, 1, ""),
    ({"chunks.csv": CSV.encode("utf-8-sig")}, 0, 1, ""),
    ({"chunks.csv": CSV.encode("utf-16")}, 0, 1, ""),
    ({"chunks.csv": CSV.encode("cp1252")}, 0, 1, ""),
    ({"chunks.csv": CSV.replace(",", ";").replace("Wind;", "Wind,")}, 0, 1, ""),
    ({"chunks.csv": CSV.replace(",", "\t").replace("Wind\t", "Wind,")}, 0, 1, ""),
    ({"chunks.csv": CSV.replace('"', "")}, 2, 0, "chunks.csv:2: 1 fields too many; a field with ','"),
    ({"chunks.csv": CSV + '1,"open'}, 2, 0, "chunks.csv:3: not valid CSV: unexpected end of data"),
    ({"chunks.csv": CSV.replace("grün", "grün " * 50_000)}, 0, 1, ""),
    ({"chunks.jsonl": OURS, "questions.jsonl": ASKED}, 0, 1,
     "1  a gold passage does not exist"),
    ({"chunks.jsonl": OURS, "questions.jsonl": ASKED.replace('"x"', '""')}, 2, 0, "questions.jsonl:1: answers"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "status", "passages", "message"), BAD, ids=lambda value: re.sub(" at 0x\\w+", "", str(value))[:60]
)
def test_bad_input_is_named_or_read_and_leaves_nothing_half_written(tmp_path, capsys, files, status, passages, message):
    (tmp_path / "in").mkdir()
    for name, content in files.items():
        path = tmp_path / "in" / name
        if callable(content):
            content(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    whole = len(files) != 1 or "chunks.csv" in files
    source = tmp_path / "in" if whole else path
    assert main(["data", "import", str(source), "--name", str(tmp_path / "out")]) == status
    out, err = capsys.readouterr()
    if status:
        assert re.fullmatch(f"error: .*{message}.*\n", err)
        assert {file.name for file in tmp_path.iterdir()} <= {"in", "cache"}
        return
    assert re.search(message, out), out
    chunks = load_chunks(tmp_path / "out")
    assert len(chunks) == passages
    assert "�" not in str(chunks) and "Ã" not in str(chunks)
    assert "grün" in chunks[0].text or "green" in chunks[0].text
    if (tmp_path / "out" / "questions.jsonl").exists():
        load_questions(tmp_path / "out" / "questions.jsonl", chunks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere"], "nowhere: no such file or folder; want documents, a data set, or OWNER/NAME on the hub"),
        (["data/judge", "--format", "squid"], f"unknown format 'squid'; allowed: {', '.join(FORMATS)}"),
        (["data/judge", "--size", "0"], "size is 0 and overlap 0; want size >= 1"),
        (["data/judge", "--tokenizer", "data/judge"], "No such file or directory: '"),
        (["data/judge", "--name", "larkspur"], "larkspur: holds files that no import wrote; want another --name"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, options, message):
    assert main(["data", "import", "--name", str(tmp_path / "out"), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_second_run_gives_the_same_files_and_keeps_questions_made_since(tmp_path):
    write_text(tmp_path / "in" / "a.md", BOOK)
    folder = import_data(str(tmp_path / "in"), str(tmp_path / "out"))
    first = (folder / "chunks.jsonl").read_bytes()
    write_text(folder / "questions.jsonl", "made since")
    import_data(str(tmp_path / "in"), str(tmp_path / "out"))
    assert (folder / "chunks.jsonl").read_bytes() == first
    assert (folder / "questions.jsonl").read_text() == "made since"


def test_a_run_that_was_stopped_leaves_nothing_and_the_next_one_goes_on(tmp_path, monkeypatch):
    parsed = []
    readers = [documents._by_liteparse, documents._by_pypdf]

    def counted(read):
        return wraps(read)(lambda path: parsed.append(1) or read(path))

    for read in readers:
        monkeypatch.setattr(documents, read.__name__, counted(read))
    for name in "ab":
        pdf(tmp_path / "in" / f"{name}.pdf", f"Report {name} is here.")
    stop = write_text(tmp_path / "in" / "c.md", "Stop.")
    monkeypatch.setitem(documents.DOCUMENTS, ".md", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        import_data(str(tmp_path / "in"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.part").exists()
    assert len(parsed) == 2
    stop.unlink()
    assert len(load_chunks(import_data(str(tmp_path / "in"), str(tmp_path / "out")))) == 2
    assert len(parsed) == 2


def test_sizes_in_tokens_and_the_format_can_be_chosen(tmp_path, capsys):
    write_text(tmp_path / "a.json", "Not JSON. " * 100)
    options = ["--size", "40", "--tokenizer", "data/policy", "--format", "documents"]
    command = ["data", "import", "--name", str(tmp_path / "out"), *options]
    assert main([*command, str(tmp_path / "a.json")]) == 2
    assert "want documents" in capsys.readouterr().err
    path = (tmp_path / "a.json").rename(tmp_path / "a.txt")
    assert main([*command, str(path)]) == 0
    tokenizer = Tokenizer.from_file(str(ROOT / "data" / "policy" / "tokenizer.json"))
    lengths = [len(tokenizer.encode(c.text, add_special_tokens=False).ids) for c in load_chunks(tmp_path / "out")]
    assert 30 < max(lengths) <= 42


@pytest.mark.slow
def test_100_mb_in_two_minutes_and_2_gb(tmp_path):
    script = """
import random, resource, sys, time
from pathlib import Path
from rezero.data.importing import import_data
rng, folder = random.Random(0), Path(sys.argv[1])
words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(20_000)]
with (folder / "book.md").open("w") as file:
    while file.tell() < 100e6:
        for _ in range(50):
            sentences = [" ".join(rng.choices(words, k=12)).capitalize() + "." for _ in range(6)]
            file.write(" ".join(sentences) + "\\n\\n")
        file.write("# " + rng.choice(words) + "\\n\\n")
start = time.perf_counter()
import_data(str(folder / "book.md"), str(folder / "out"))
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""
    found = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    seconds, gigabytes = map(float, found.stdout.splitlines()[-1].split())
    print(f"{seconds:.0f} s, {gigabytes:.2f} GB")
    assert seconds < 120 and gigabytes < 2
