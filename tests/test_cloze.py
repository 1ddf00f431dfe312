"""Any corpus: cloze questions, splits by section and document, noise, and what notebook 01 shows of it."""

from dataclasses import replace

import pytest

from rezero.__main__ import main
from rezero.analysis.corpus import answered_searches, question_frame, read_corpus
from rezero.corpus import Chunk, load_chunks, save_chunks
from rezero.data import noise
from rezero.data.cloze import ASK, BLANK, cloze_questions
from rezero.data.leaks import leakage
from rezero.data.splits import part_of
from rezero.files import read_jsonl
from rezero.protocol import Sampling
from rezero.questions import Question, load_questions, save_questions
from rezero.search import build_engine

TEXT = """On that day the heater of tank Larch was switched on for 40 minutes without any harm.
It was seen by the crew of the Second Harbour Watch from the eastern pier."""
CHUNKS = [
    Chunk("a", "", TEXT),
    Chunk("b", "", "Too short: 12 kg. Nobody in the whole long history of this place ever wrote a number down here."),
    Chunk("c", "", "The pump of the upper deck ran for 7 hours and then for 7 hours more after a pause at noon."),
]
MANY = [Chunk(f"d{i}", "", TEXT.replace("40", str(i)).replace(" the ", f" the {chr(77 + i)} ")) for i in range(20, 40)]


def test_a_filled_blank_is_a_sentence_of_its_passage():
    found = cloze_questions(CHUNKS, 10)
    assert {question.gold_chunk_ids for question in found} == {("a",)}  # b has nothing to blank out, c has it twice
    assert len({question.id for question in found}) == len(found) == 2
    for question in found:
        before, after = question.text.removeprefix(ASK.format("")).split(BLANK)
        assert before + question.answers[0] + after in question.gold_texts[0]
        assert question.split == "train"


def test_a_question_that_two_passages_answer_differently_is_not_asked():
    copies = [Chunk("a2", "", TEXT), Chunk("d", "", TEXT.replace("Larch", "Birch"))]  # as a does; not as a does
    for seed in range(20):
        found = {(q.gold_chunk_ids[0], q.answers[0]) for q in cloze_questions([*CHUNKS, *copies], 10, seed)}
        assert {pair for pair in found if pair[1] in ("Larch", "Birch")} < {
            ("a", "Larch"),
            ("a2", "Larch"),
            ("d", "Birch"),
        }


def test_names_and_numbers_are_blanked_out_whole_and_follow_the_seed():
    answers = {question.answers[0] for seed in range(20) for question in cloze_questions(CHUNKS, 10, seed)}
    assert answers == {"40 minutes", "Larch", "Second Harbour Watch"}
    assert len({question.gold_chunk_ids for question in cloze_questions(MANY, 20)}) == 20  # spread over the chunks
    assert cloze_questions(MANY, 30, seed=1) == cloze_questions(MANY, 30, seed=1) != cloze_questions(MANY, 30, seed=2)
    assert cloze_questions([], 3) == []


@pytest.mark.parametrize(
    ("asked", "printed"),
    [(20, "27 train, 2 dev, 6 test"), (0, "9 train, 2 dev, 4 test")],  # a corpus without questions gets cloze ones
)
def test_a_corpus_is_copied_and_no_held_out_passage_has_a_cloze_question(tmp_path, capsys, asked, printed):
    save_chunks(tmp_path / "in" / "chunks.jsonl", MANY)
    if asked:
        own = [Question(f"q{c.id}", f"How long {c.id}?", (c.id[1:],), (c.id,)) for c in MANY[:asked]]
        save_questions(tmp_path / "in" / "questions.jsonl", own)
    folders = [str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main(["data", "cloze", *folders, "-n", "15", "--dev", "0.1", "--test", "0.3"]) == 0
    assert f"20 chunks, questions: {printed}" in capsys.readouterr().out
    assert load_chunks(tmp_path / "out") == MANY
    made = load_questions(tmp_path / "out" / "questions.jsonl", MANY)
    assert sum(question.id.startswith("cloze") for question in made) == 15
    assert {row["gold_chunks"] for row in leakage(made)} == {0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dev", "0.5", "--test", "0.5"), "--dev 0.5 and --test 0.5; want shares from 0 that add up to less than 1"),
        ((), "holds no corpus; want one of chunks.jsonl, chunks.csv"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, options, message):
    assert main(["data", "cloze", str(tmp_path), "--out", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


REPORT = [  # two documents of two sections each
    Chunk(f"{i}{name}", f"Part {i % 2}", f"Page {i} of {name} says what no other says.", f"{name}.pdf, page {i}, Part")
    for name in ("one", "two")
    for i in range(6)
]


@pytest.mark.parametrize(("by", "parts"), [("section", 4), ("document", 2)])
def test_splits_and_cloze_questions_keep_sections_or_documents_apart(tmp_path, capsys, by, parts):
    save_chunks(tmp_path / "chunks.jsonl", REPORT)
    save_questions(tmp_path / "questions.jsonl", [Question(f"q{c.id}", c.id, ("Page",), (c.id,)) for c in REPORT])
    command = ["data", "cloze", str(tmp_path), "--out", str(tmp_path / "out"), "--by", by, "--test", "0.3"]
    assert main([*command, "--dev", "0"]) == 0
    part, held = {chunk.id: part_of(chunk, by) for chunk in REPORT}, {"train": set(), "test": set()}
    for question in load_questions(tmp_path / "out" / "questions.jsonl"):
        held[question.split].add(part[question.gold_chunk_ids[0]])
    assert len({*part.values()}) == parts and all(held.values()) and held["train"].isdisjoint(held["test"])
    assert main([*command, "--dev", "0.3"]) == (2 if by == "document" else 0)
    assert by == "section" or "no question for test: too few" in capsys.readouterr().err


def test_a_copy_of_a_held_out_passage_gets_no_cloze_question(tmp_path):
    copies = [*MANY, *(Chunk(f"copy{c.id}", "", c.text.upper().replace(".", "!") + " " + c.text) for c in MANY[:1])]
    copies += [Chunk(f"again{c.id}", "", f"{c.text}\n") for c in MANY]
    save_chunks(tmp_path / "chunks.jsonl", copies)
    save_questions(tmp_path / "questions.jsonl", [Question(f"q{c.id}", c.id, (c.id[1:],), (c.id,)) for c in MANY])
    assert main(["data", "cloze", str(tmp_path), "--out", str(tmp_path / "out"), "--test", "0.4"]) == 0
    made = load_questions(tmp_path / "out" / "questions.jsonl", copies)
    closed = {q.gold_chunk_ids[0] for q in made if q.split != "train"}
    asked = {q.gold_chunk_ids[0] for q in made if q.id.startswith("cloze")}
    assert asked and asked.isdisjoint(closed | {f"again{id}" for id in closed})


# Noise


def test_noise_by_rules_is_labelled_and_the_engine_noisy_reads_it(tmp_path, capsys):
    save_chunks(tmp_path / "chunks.jsonl", [Chunk("a", "Larch", TEXT), Chunk("b", "", TEXT)])
    assert main(["data", "noise", str(tmp_path), "--keep", "paraphrase", "truncated", "heading-only"]) == 0
    assert "5 rows; 2 paraphrase, 2 truncated, 1 heading-only" in capsys.readouterr().out
    rows = {row["id"]: row["text"] for row in read_jsonl(tmp_path / "noise.jsonl")}
    assert rows["a-heading-only"] == "Larch" and TEXT.startswith(rows["a-truncated"]) and rows["a-truncated"] != TEXT
    assert sorted(rows["a-paraphrase"].split()) == sorted(TEXT.split())
    engine = build_engine("noisy", load_chunks(tmp_path), noise=str(tmp_path / "noise.jsonl"))
    assert {hit.chunk_id for hit in engine.search(["heater of tank Larch"], 9)[0]} > {"a", "b", "a-truncated"}
    assert main(["data", "noise", str(tmp_path), "--share", "0"]) == 2


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (TEXT.replace("seen", "watched"), "paraphrase"),
        (TEXT[:40], "truncated"),
        ("It was switched on.", "truncated"),  # it ends, but most is missing
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("Larch.", "heading-only"),
    ],
)
def test_what_a_model_says_is_labelled(tmp_path, monkeypatch, reply, kind):
    monkeypatch.setattr(noise, "ask_model", lambda model, tokens: lambda prompts: [reply for _ in prompts])
    save_chunks(tmp_path / "chunks.jsonl", [Chunk("a", "Larch", TEXT)])
    assert main(["data", "noise", str(tmp_path), "--model", "m", "--keep", kind]) == 0
    assert [(row["kind"], row["text"]) for row in read_jsonl(tmp_path / "noise.jsonl")] == [(kind, reply)]
    (tmp_path / "noise.jsonl").unlink()
    others = [one for one in ("paraphrase", "refusal") if one != kind]
    assert main(["data", "noise", str(tmp_path), "--model", "m", "--keep", *others]) == 2


# What notebook 01 shows


def test_the_searches_that_an_episode_has_room_for(policy, engine, questions):
    few, more = (answered_searches(policy, engine, questions, Sampling(2, 4, 8, n, "short")) for n in (40, 4000))
    assert few.searches.tolist() == [0, 0] and more.searches.tolist() == [3, 3]
    assert (few.tokens == more.tokens).all() and (few.tokens > 40).all()
    exact = Sampling(2, 4, 8, int(8 + 2 * (8 + few.tokens[0])), "short")
    assert answered_searches(policy, engine, questions[:1], exact).searches.tolist() == [2]


def test_any_corpus_is_read_with_the_places_of_its_answers(tmp_path):
    save_chunks(tmp_path / "chunks.jsonl", MANY)
    save_questions(tmp_path / "questions.jsonl", [Question(f"q{c.id}", c.id, ("On", "that"), (c.id,)) for c in MANY])
    chunks, asked, rows = read_corpus(str(tmp_path))
    assert chunks == MANY and not rows and {q.split for q in asked} == {"train", "dev", "test"}
    asked[0] = replace(asked[0], answers=("nowhere",))
    assert question_frame(asked, chunks).place.fillna(-1).tolist() == [-1] + [0] * 19
