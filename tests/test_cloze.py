"""Cloze questions: blanks of sentences, as training questions for any corpus."""

from rezero.cloze import ASK, BLANK, cloze_questions
from rezero.corpus import Chunk
from rezero.judge import exact_match

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
