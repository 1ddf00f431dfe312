import pytest
from hypothesis import given
from hypothesis import strategies as st

from rezero.judge import exact_match, f1, normalize


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("The  Relief-Valve.", "reliefvalve"),  # SQuAD drops the hyphen without a space
        ("a theory of an apple", "theory of apple"),  # articles only as whole words
        ("  April 11,\n1970 ", "april 11 1970"),
        ("9.5 psi", "95 psi"),  # the price of dropping punctuation
        ("the", ""),
        ("Überhitzung „日本“", "überhitzung „日本“"),  # only ASCII punctuation goes, as in SQuAD's script
    ],
)
def test_normalize(text, want):
    assert normalize(text) == want


@pytest.mark.parametrize(
    ("prediction", "answers", "match", "overlap"),
    [
        ("the relief valve", ["Relief valve"], True, 1.0),  # articles and case do not count
        ("valve", ["pump", "valve"], True, 1.0),  # any accepted answer
        ("relief valve", ["valve"], False, 2 / 3),  # precision 1/2, recall 1
        ("valve valve", ["valve"], False, 2 / 3),  # a repeated word counts once
        ("valve relief", ["relief valve"], False, 1.0),  # F1 ignores order, exact match does not
        ("pump", ["valve"], False, 0.0),
        ("not the valve", ["valve"], False, 2 / 3),  # F1 does not see a negation
        ("13", ["12"], False, 0.0),
        ("", ["valve"], False, 0.0),
        (None, ["valve"], False, 0.0),  # an episode that ended without an answer
        ("the", ["a"], False, 0.0),  # nothing is left of either: not a match
        ("valve", [], False, 0.0),
    ],
)
def test_exact_match_and_f1(prediction, answers, match, overlap):
    assert exact_match(prediction, answers) is match
    assert f1(prediction, answers) == pytest.approx(overlap)


@given(prediction=st.text(), answer=st.text())
def test_f1_is_a_share_and_1_for_every_match(prediction, answer):
    assert 0 <= f1(prediction, [answer]) <= 1
    if exact_match(prediction, [answer]):
        assert f1(prediction, [answer]) == 1


def test_one_answer_must_still_be_a_list():
    for judge in (exact_match, f1):
        with pytest.raises(TypeError, match="answers is a string, 'valve'"):
            judge("v", "valve")
