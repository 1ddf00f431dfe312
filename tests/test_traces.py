"""Traces: every field survives the file, what is not an episode is refused, and the frame counts right."""

import json
from dataclasses import replace

import pytest

from rezero.evaluation.traces import facts, read_traces, to_frame, write_traces
from rezero.protocol import CORRECTION, Episode, parse_turn
from rezero.questions import Question
from rezero.search.base import Hit

QUESTION = Question("q1", "Who led Corvane?", ("Ilse Varrow", "Varrow"), ("g1",), ("Varrow led it.",), split="dev")
TWO_HOP = replace(QUESTION, id="q2", gold_chunk_ids=("g1", "g2"), gold_texts=("a", "b"), kind="two-hop")
GOLD, OTHER = Hit("g1", "Crew", "Varrow led it, not Varrowson.", 2.5), Hit("x", "Stores", "Nothing here.", 1.25)


def turn(action: str, argument: str = "", *hits: Hit, thought: str = "hm", **reply):
    text = f"<think>{thought}</think><{action}>{argument}</{action}>" if action != "malformed" else argument
    reply = {"information": "shown"} | reply if action == "search" else reply
    return replace(parse_turn(text), hits=hits, **reply)


def episode(*turns, question=QUESTION, outcome="answered", **ids) -> Episode:
    return Episode(question, turns, outcome, ({"role": "user", "content": "Who led Corvane?"},), **ids)


FIRST_TRY = episode(turn("search", "leader", OTHER, GOLD), turn("answer", "the varrow."))
GAVE_UP = episode(turn("search", "leader", OTHER), turn("answer", "unknown"))
RECOVERED = episode(turn("search", "leader", OTHER), turn("search", "crew", GOLD), turn("answer", "Ilse Varrow"))
RETRIED_IN_VAIN = episode(
    turn("search", "leader", OTHER),
    turn("malformed", "<think>lost", information=CORRECTION),
    turn("search", "Leader", error="timeout", information="failed"),
    turn("search", "zzz", information=None),
    outcome="token_limit",
    prompt_ids=(5, 6),
    completion_ids=(1, 2, 3, 4, 9),
    env_mask=(1, 1, 0, 0, 1),
)
HALF = episode(turn("search", "leader", GOLD), turn("answer", "Varrow"), question=TWO_HOP)
NO_QUESTION = episode(turn("search", "a", information="some text"), turn("answer", "Varrow"), question=None)
ALL = [FIRST_TRY, GAVE_UP, RECOVERED, RETRIED_IN_VAIN, HALF, NO_QUESTION]


def test_every_field_survives_the_file(tmp_path):
    odd = episode(turn("search", "naïve 火箭 \u2028", GOLD, thought="line\nline"), outcome="unfinished")
    rows = [({"policy": "start", "step": 40}, one) for one in [*ALL, odd]] + [({}, FIRST_TRY)]
    path = write_traces(tmp_path / "new folder" / "t.jsonl", rows)
    assert read_traces(path) == rows and "火箭" in path.read_text("utf-8")
    half = episode(turn("search", "a\ud800"), turn("answer", "b\ud800"))  # half a surrogate pair cannot be encoded
    assert read_traces(write_traces(path, [({}, half)]))[0][1].queries == ("a?",)
    assert to_frame([half]).answer[0] == "b?"


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda row: row.pop("turns"), "turns is missing"),
        (lambda row: row["turns"][0]["hits"][1].pop("score"), r"turns.0.hits.1.score is missing"),
        (lambda row: row.update(policy="start"), "unknown field 'policy'; allowed: question"),
        (lambda row: row.update(outcome="won"), "outcome is 'won'; want 'answered', 'malformed'"),
        (lambda row: row["turns"][0].update(argument=3), r"turns.0.argument is 3; want a valid string"),
        (lambda row: row.update(env_mask=[1]), "env_mask has 1 values for 0 completion_ids"),
    ],
)
def test_a_line_that_is_not_an_episode_is_refused(tmp_path, damage, message):
    path = write_traces(tmp_path / "t.jsonl", [({}, FIRST_TRY)])
    row = json.loads(path.read_text())
    damage(row)
    path.write_text(f"{path.read_text()}\n{json.dumps(row)}\n")  # the blank line between them counts
    with pytest.raises(ValueError, match=rf"t\.jsonl:3: {message}"):
        read_traces(path)


def test_only_a_damaged_last_line_is_skipped(tmp_path):
    path = write_traces(tmp_path / "t.jsonl", [({}, FIRST_TRY), ({}, GAVE_UP)])
    path.write_bytes(path.read_bytes() + '{"labels": {"p": "é'.encode()[:-1])  # cut in the middle of a character
    with pytest.warns(UserWarning, match=r"t\.jsonl:3: skipped a damaged last line: "):
        assert read_traces(path) == [({}, FIRST_TRY), ({}, GAVE_UP)]
    path.write_bytes(path.read_bytes() + b"\n{}\n")
    with pytest.raises(ValueError, match=r"t\.jsonl:3: not valid JSON"):
        read_traces(path)


def test_to_frame_counts_what_the_figures_are_made_of():
    frame = to_frame(ALL)
    assert frame.correct.tolist()[:5] == [True, False, True, False, True] and frame.correct.isna()[5]
    assert frame.searches.tolist() == [1, 1, 2, 3, 1, 1]
    assert frame.evidence.tolist()[:5] == [1, 0, 1, 0, 0.5] and frame.evidence.isna()[5]
    assert frame.evidence_search.fillna(-1).tolist() == [1, -1, 2, -1, -1, -1]
    assert frame.missed.tolist() == [False, True, True, True, True, False]
    assert frame.retried.tolist() == [False, False, True, True, False, False]
    assert frame.recovered.tolist() == [False, False, True, False, False, False]
    assert frame.unsupported.tolist() == [False, True, False, False, True, False]
    assert frame.malformed_turns.tolist() == [0, 0, 0, 1, 0, 0] and frame.faults.tolist() == [0, 0, 0, 1, 0, 0]
    assert frame.completion_tokens.fillna(-1).tolist() == [-1, -1, -1, 5, -1, -1] and frame.policy_tokens[3] == 3
    assert frame.answer.tolist()[:2] == ["the varrow.", "unknown"] and frame.outcome[3] == "token_limit"
    assert frame.kind.tolist()[3:5] == ["direct", "two-hop"] and frame.split[0] == "dev"

    assert facts(replace(FIRST_TRY, turns=(*FIRST_TRY.turns[:1] * 3, *FIRST_TRY.turns[1:])))["wasted"] == 2
    assert not facts(episode(turn("answer", "Varrow")))["missed"]  # it never searched
    assert to_frame([({"policy": "start"}, FIRST_TRY)]).policy.tolist() == ["start"]
    with pytest.raises(ValueError, match="no episodes"):
        to_frame([])
