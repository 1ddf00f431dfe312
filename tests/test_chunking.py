"""Passages of texts: sizes, boundaries, overlap, tables, headings, pages, and ids that last."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rezero.data.chunking import Cut, chunk_document, spans

PROSE = (
    "The pump ran dry. Dr. Orenyard saw it at 5 p.m. on the pier! It was never told? See Fig. 3 of J. Malz. The end."
)
FOUR = "One is here. Two is here. Three is here. Four is here."
LONG = "and so on " * 6 + "it went."
TABLE = "| valve | kg |\n| --- | --- |\n| north | 3 |\n| south | 5 |"
CODE = "```\n# a comment\nvalve = 3\n```"
REPORT = f"""Opening words.

# Corvane

A word before.

## Hull #

The hull was green. It was sound.

{TABLE}

### Welds

{CODE}

Deck
----

Two decks.
"""


def pieces(text, size, overlap=0, length=len):
    return [text[a:b] for a, b in spans(text, Cut(size, overlap, length))]


@pytest.mark.parametrize(
    ("text", "size", "overlap", "wanted"),
    [
        (PROSE, 1000, 0, [PROSE]),
        (PROSE, 60, 0, [PROSE[:60], PROSE[61:]]),
        (PROSE, 29, 0, ["The pump ran dry.", "Dr. Orenyard saw it at 5 p.m.", "on the pier!", "It was never told?",
                        "See Fig. 3 of J. Malz.", "The end."]),
        (FOUR, 30, 15, ["One is here. Two is here.", "Two is here. Three is here.", "Three is here. Four is here."]),
        (FOUR, 26, 13, ["One is here. Two is here.", "Three is here.", "Four is here."]),  # a repeat would not fit
        ("aaaa bbbb cccc", 10, 0, ["aaaa bbbb", "cccc"]),  # longer than the size: between words, or anywhere
        ("x" * 25, 10, 0, ["x" * 10, "x" * 10, "x" * 5]),
        ("春天来了。花开了。鸟唱歌。", 9, 0, ["春天来了。花开了。", "鸟唱歌。"]),
        (f"Before, {LONG}\n\n{TABLE}\n\nAfter.", 80, 0, [f"Before, {LONG}", f"{TABLE}\n\nAfter."]),
        (TABLE, 40, 0, ["| valve | kg |\n| --- | --- |", "| north | 3 |\n| south | 5 |"]),  # too long: between rows
        (" \n ", 10, 0, []),
    ],
)  # fmt: skip
def test_sentences_and_tables_stand_together_up_to_the_size(text, size, overlap, wanted):
    assert pieces(text, size, overlap) == wanted


@given(st.text(alphabet="aB.! \n|#。-1", max_size=200), st.integers(1, 40), st.integers(0, 39))
def test_nothing_is_lost_and_nothing_is_too_long(text, size, overlap):
    places = list(spans(text, Cut(size, min(overlap, size - 1))))
    assert all(0 < b - a <= size for a, b in places)
    covered = {place for a, b in places for place in range(a, b)}
    assert {place for place, character in enumerate(text) if not character.isspace()} <= covered
    assert places == sorted(places) and len(set(places)) == len(places)


def test_a_size_in_tokens():
    def words(text):
        return len(text.split())

    assert pieces(FOUR, 6, length=words) == ["One is here. Two is here.", "Three is here. Four is here."]
    long = "word " * 500
    assert max(map(words, pieces(long, 7, length=words))) <= 7
    assert " ".join(pieces(long, 7, length=words)) == long.strip()


def test_a_passage_has_its_heading_and_its_source():
    found = list(chunk_document([REPORT], "logs/corvane.md", Cut(), numbered=False, headings=True))
    assert [(chunk.title, chunk.source) for chunk in found] == [
        ("corvane", "logs/corvane.md"),
        ("Corvane", "logs/corvane.md, Corvane"),
        ("Hull", "logs/corvane.md, Corvane > Hull"),
        ("Welds", "logs/corvane.md, Corvane > Hull > Welds"),
        ("Deck", "logs/corvane.md, Corvane > Deck"),
    ]
    assert [chunk.text for chunk in found][2:] == [f"The hull was green. It was sound.\n\n{TABLE}", CODE, "Two decks."]


def test_a_passage_names_its_pages():
    pages = ["One is here.", "Two is here. Three", "is here. Four is here."]
    found = list(chunk_document(pages, "a.pdf", Cut(26), numbered=True, headings=False))
    assert [(chunk.text, chunk.source) for chunk in found] == [
        ("One is here.\nTwo is here.", "a.pdf, pages 1-2"),
        ("Three\nis here.", "a.pdf, pages 2-3"),
        ("Four is here.", "a.pdf, page 3"),
    ]


def test_an_id_depends_on_the_document_and_the_text_alone():
    def ids(text, name="a.md"):
        return [chunk.id for chunk in chunk_document([text], name, Cut(), numbered=False, headings=True)]

    assert ids(REPORT) == ids(REPORT)
    assert ids(f"# New\n\nA part in front.\n\n# Old\n\n{REPORT}")[1:] == ids(REPORT)
    assert not set(ids(REPORT)) & set(ids(REPORT, "b.md"))


@pytest.mark.parametrize("numbers", [(0, 0), (10, 10), (10, -1)])
def test_a_size_that_cannot_be(numbers):
    with pytest.raises(ValueError, match=r"size is \d+ and overlap -?\d+; want size >= 1 and 0 <= overlap < size"):
        Cut(*numbers)
