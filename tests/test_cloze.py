"""Cloze questions: blanks of sentences, as training questions for any corpus."""

import pytest

from rezero.corpus import Chunk, load_chunks, save_chunks
from rezero.data.cloze import ASK, BLANK, cloze_questions, main
from rezero.data.validation import leakage
from rezero.judge import exact_match
from rezero.questions import Question, load_questions, save_questions

CHUNKS = [
    Chunk(
        "a",
        "",
        "On that day the heater of tank Larch was switched on for 40 minutes without any harm. "
        "It was seen by the crew of the Second Harbour Watch from the eastern pier.",
    ),
    Chunk("b", "", "Too short: 12 kg. Nobody in the whole long history of this place ever wrote a number down here."),
    Chunk("c", "", "The pump of the upper deck ran for 7 hours and then for 7 hours more after a pause at noon."),
]


def test_a_blank_put_back_is_a_sentence_of_its_passage():
    found = cloze_questions(CHUNKS, 10)
    assert {question.gold_chunk_ids for question in found} == {("a",)}  # b has nothing to blank, c says it twice
    assert len(found) == 2 and len({question.id for question in found}) == 2
    for question in found:
        before, after = question.text.removeprefix(ASK.format("")).split(BLANK)
        assert before + question.answers[0] + after in question.gold_texts[0]
        assert question.split == "train" and exact_match(question.answers[0], question.answers)


def test_names_and_numbers_are_blanked_whole():
    answers = {question.answers[0] for seed in range(20) for question in cloze_questions(CHUNKS, 10, seed)}
    assert answers == {"40 minutes", "Larch", "Second Harbour Watch"}


def test_questions_are_dealt_over_the_chunks_and_do_not_depend_on_chance():
    more = [Chunk(f"d{i}", "", CHUNKS[0].text) for i in range(5)]
    assert len({question.gold_chunk_ids for question in cloze_questions(more, 5)}) == 5
    assert cloze_questions(more, 7, seed=1) == cloze_questions(more, 7, seed=1) != cloze_questions(more, 7, seed=2)
    assert cloze_questions([], 3) == []


def test_a_corpus_is_copied_with_cloze_questions_that_give_no_held_out_passage_away(tmp_path, capsys):
    chunks = [Chunk(f"d{i}", "", CHUNKS[0].text.replace("40", str(i))) for i in range(20, 40)]
    asked = [Question(f"q{chunk.id}", f"How long {chunk.id}?", (chunk.id[1:],), (chunk.id,)) for chunk in chunks]
    save_chunks(tmp_path / "in" / "chunks.jsonl", chunks)
    save_questions(tmp_path / "in" / "questions.jsonl", asked)
    main([str(tmp_path / "in"), "--out", str(tmp_path / "out"), "-n", "15", "--dev", "0.1", "--test", "0.3"])
    assert "20 chunks, questions: 27 train, 2 dev, 6 test" in capsys.readouterr().out
    assert load_chunks(tmp_path / "out" / "chunks.jsonl") == chunks
    made = load_questions(tmp_path / "out" / "questions.jsonl", chunks)
    assert not any(value for row in leakage(made) for value in list(row.values())[1:])
    assert sum(question.id.startswith("cloze") for question in made) == 15


def test_shares_that_leave_nothing_to_train_on_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--out", str(tmp_path / "out"), "--dev", "0.5", "--test", "0.5"])
    assert "--dev 0.5 and --test 0.5: want shares from 0 whose sum is below 1" in capsys.readouterr().err
