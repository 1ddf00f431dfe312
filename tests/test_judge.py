"""Exact match and F1: what counts as the same answer, and what never does."""

from random import Random
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rezero.judge import exact_match, f1, normalize

NORMAL = {
    "The  Relief-Valve.": "reliefvalve",  # SQuAD drops the hyphen without a space
    "a theory of an apple": "theory of apple",  # articles only as whole words
    "9.5 psi": "9.5 psi",  # SQuAD's own makes 95 of it
    "the": "the",  # nothing would be left
    "Norvack’s": "norvacks",
    "u\u0308ber": "\u00fcber",  # composed
    "section 7.1.6": "section 7.1.6",
    "11/7/1971": "11/7/1971",  # ambiguous: November or July
    "second feed": "second feed",  # no ordinal words, and no unit without a number
}


def test_normalize():
    assert {text: normalize(text) for text in NORMAL} == NORMAL


SAME = [  # ways to write one answer
    ["1,200", "1200", "twelve hundred", "one thousand two hundred", "one thousand and two hundred"],
    ["21", "twenty-one", "Twenty One", "21.0"],
    ["341 bar", "341 bars", "three hundred and forty-one bar", "341bar"],
    ["-4", "−4", "minus four"],
    ["5 July", "July 5", "5th of July", "July the 5th", "Jul. 5th", "05 July", "5-Jul"],
    ["11 July 1971", "July 11, 1971", "the 11th of July, 1971", "1971-07-11", "11-Jul-1971", "11 July, 1971"],
    ["57.5 kg", "57.5kg", "57.50 kilograms", "57.5 kilogram", "57.5-kilogram"],
    ["16 days", "16 d", "sixteen days", "16-day", "sixteen-day"],
    ["20 °C", "20°C", "20 degrees Celsius", "20 degrees C", "20℃"],
    ["25 km/h", "25 kilometres per hour", "25 km per hour"],
    ["5%", "5 percent", "five percent", "5.0 %", "５％", "٥ percent"],
    ["the final flow", "The \ufb01nal \ufb02ow", "ﬁnal\u200b \ufeffflow", "ｆｉｎａｌ　ｆｌｏｗ", "fi\u00adnal flow"],
    ["Le Monde", "«Le Monde»", "“Le Monde”", "„Le Monde‟", "‹ Le Monde ›", "Le Monde…"],
    ["東京タワー", "東京 タワー", "「東京ﾀﾜｰ」。"],
    ["이순신 장군", "이순신 장군。", "이순신\u2060 장군"],
]
NOT = [  # answers of which no two are the same
    ["16", "1.6", "160", "-16", "16 days", "16 hours", "16-17", "1/6", "1:6", "17", "116", "60"],
    ["57.5 kg", "57.5", "58.5 kg", "57.5 pounds", "57.5 g", "575 kg", "57.5 kg per day"],
    ["11 July", "11 June", "12 July", "11 July 1971", "11 July 1970", "1 July", "July", "July 1971", "1971"],
    ["5 m", "5 mm", "5 m/s", "5 ms", "5 min", "5 m²", "5"],
    ["ที่", "ทำ", "ท", "ที"],
    ["北京", "南京", "京北", "北京市"],
    ["A", "A+", "A-", "AA+", "AA-", "B+", "B-", "b", "C", "C#", "C++", "F#", "Cl-", "Cl", "+", "-", "the"],
    ["Malzan", "not Malzan", "Malzan or Torvek", "Malzans", "no"],
]


@pytest.mark.parametrize("same", SAME, ids=lambda same: same[0])
def test_other_ways_to_write_an_answer_are_exact_matches(same):
    assert {normalize(text) for text in same} == {normalize(same[0])}
    assert all(exact_match(said, [wanted]) and f1(said, [wanted]) == 1 for said in same for wanted in same)


@pytest.mark.parametrize("differ", [*NOT, [same[0] for same in SAME]], ids=lambda differ: differ[0])
def test_other_numbers_units_dates_and_negations_are_not(differ):
    assert len({normalize(text) for text in differ}) == len(differ)


@pytest.mark.parametrize(
    ("prediction", "answers", "match", "overlap"),
    [
        ("the relief valve", ["Relief valve"], True, 1.0),  # articles and case do not count
        ("valve", ["pump", "valve"], True, 1.0),  # any accepted answer
        ("57.5", ["57.5 kg"], False, 2 / 3),  # a missing unit counts
        ("relief valve", ["valve"], False, 2 / 3),  # precision 1/2, recall 1
        ("valve valve", ["valve"], False, 2 / 3),  # a repeated word counts once
        ("valve relief", ["relief valve"], False, 1.0),  # F1 ignores order, exact match does not
        ("not the valve", ["valve"], False, 2 / 3),  # F1 does not see a negation
        ("北京市", ["北京"], False, 0.8),  # characters where no spaces divide words
        (None, ["valve"], False, 0.0),  # an episode that ended without an answer
        ("the", ["a"], False, 0.0),  # nothing is left of either: not a match
        ("valve", [], False, 0.0),
        ("a+.", ["A+"], True, 1.0),  # an answer that is half a sign keeps it
        ("B−", ["b-"], True, 1.0),
        ("A", ["a"], True, 1.0),  # and one that is an article stays
    ],
)
def test_exact_match_and_f1(prediction, answers, match, overlap):
    assert exact_match(prediction, answers) is match
    assert f1(prediction, answers) == pytest.approx(overlap)


PIECES = """a the one two twenty thirty hundred thousand and minus - 5 11 1971 1,200 57.50 kg kilogram per h / may july
jul 11th 1971-07-11 of . , : 0 .5 ° c % m/s -7 07 ( ' x""".split()
SOUP = st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(["", " ", "-", ","])), max_size=8)
TEXT = st.one_of(st.text(st.characters(), max_size=60), SOUP.map(lambda pairs: "".join(map("".join, pairs))))


@given(a=TEXT, b=TEXT)
@settings(max_examples=500, deadline=None)
def test_any_text_has_one_normal_form_equals_itself_and_matches_are_mutual(a, b):
    for text in (a, b):
        assert normalize(normalize(text)) == normalize(text)
        assert exact_match(text, [text]) is bool(normalize(text))
    assert exact_match(a, [b]) is exact_match(b, [a])
    assert f1(a, [b]) == f1(b, [a]) and 0 <= f1(a, [b]) <= 1
    assert f1(a, [b]) == 1 or not exact_match(a, [b])


def test_one_answer_must_still_be_a_list():
    for judge in (exact_match, f1):
        with pytest.raises(TypeError, match="answers is a string, 'valve'"):
            judge("v", "valve")


def test_it_is_fast_enough_for_every_episode_of_a_training():
    rng, clock = Random(0), perf_counter()
    for _ in range(2000):
        exact_match(f"the {rng.random() * 1000:.2f} kilograms of July {rng.randint(1, 28)}th", ["57.5 kg", "57.5"])
    exact_match("1-" * 5000 + "0." + "0" * 9999 + "1", ["5"])  # an endless answer
    assert perf_counter() - clock < 2
