"""Cloze questions: sentences with a blank, as training questions for any corpus."""

import pytest

from rezero.__main__ import main
from rezero.corpus import Chunk, load_chunks, save_chunks
from rezero.data.cloze import ASK, BLANK, cloze_questions
from rezero.questions import Question, leakage, load_questions, save_questions

TEXT = """On that day the heater of tank Larch was switched on for 40 minutes without any harm.
It was seen by the crew of the Second Harbour Watch from the eastern pier."""
CHUNKS = [
    Chunk("a", "", TEXT),
    Chunk("b", "", "Too short: 12 kg. Nobody in the whole long history of this place ever wrote a number down here."),
    Chunk("c", "", "The pump of the upper deck ran for 7 hours and then for 7 hours more after a pause at noon."),
]
MANY = [Chunk(f"d{i}", "", TEXT.replace("40", str(i))) for i in range(20, 40)]


def test_a_filled_blank_is_a_sentence_of_its_passage():
    found = cloze_questions(CHUNKS, 10)
    assert {question.gold_chunk_ids for question in found} == {("a",)}  # b has nothing to blank out, c has it twice
    assert len({question.id for question in found}) == len(found) == 2
    for question in found:
        before, after = question.text.removeprefix(ASK.format("")).split(BLANK)
        assert before + question.answers[0] + after in question.gold_texts[0]
        assert question.split == "train"


def test_names_and_numbers_are_blanked_out_whole_and_follow_the_seed():
    answers = {question.answers[0] for seed in range(20) for question in cloze_questions(CHUNKS, 10, seed)}
    assert answers == {"40 minutes", "Larch", "Second Harbour Watch"}
    assert len({question.gold_chunk_ids for question in cloze_questions(MANY, 20)}) == 20  # spread over the chunks
    assert cloze_questions(MANY, 30, seed=1) == cloze_questions(MANY, 30, seed=1) != cloze_questions(MANY, 30, seed=2)
    assert cloze_questions([], 3) == []


@pytest.mark.parametrize(
    ("asked", "printed"),
    [(20, "27 train, 2 dev, 6 test"), (0, "10 train, 1 dev, 4 test")],  # a corpus without questions gets cloze ones
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
