"""Asking: what is printed, which settings are used, what a claim's verdict rests on, and how often it is wrong."""

import json
import re
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from conftest import QUESTIONS, answer, search

from rezero.__main__ import main
from rezero.config import load_config
from rezero.corpus import save_chunks
from rezero.extras import ask
from rezero.files import write_text
from rezero.policy.load import load_policy
from rezero.protocol import Episode, Turn
from rezero.questions import Question
from rezero.rollout import rollout
from rezero.search.base import Hit
from rezero.task import load_task


def test_an_episode_is_printed_turn_by_turn():
    bad = Hit("c\x1b[2J", "t\rx", "a\x07\u202e\ud800 b\n\nc", 2.345)  # nothing retrieved controls the terminal
    turns = (
        Turn("", "look this up", "search", "pilot Corvane", (bad,), "…"),
        Turn("", "", "search", "nothing", (), "No passage"),
        Turn("", "", "search", "failed", (), "…", error="timeout"),
        Turn("gibberish", "", "malformed", "", information="…"),
        Turn("", "found", "answer", "Keld"),
    )
    done = Episode(QUESTIONS[0], turns, "answered")
    lines = [line for line in ask.show(done).splitlines() if line]
    assert lines[0] == "question  Who was the commander of Corvane?" and lines[-1] == "answer    Keld"
    assert lines[1:6] == [
        "turn 1",
        "  thought   look this up",
        "  search    pilot Corvane",
        "    [1] t x (c\ufffd[2J, score 2.35)",
        "        a\ufffd\ufffd\ufffd b c",
    ]
    assert lines[8:] == [
        *("    no passage", "turn 3", "  search    failed", "  engine    failed: timeout"),
        *("turn 4", "  malformed gibberish", "turn 5", "  thought   found", "  answer    Keld", "answer    Keld"),
    ]
    assert ask.show(replace(done, outcome="turn_limit")).endswith("answer    none: no turns left")


MASKED = {
    "The commander of Corvane was Ilse Varrow.": ("What was the commander of Corvane?", "Ilse Varrow"),
    "Corvane was launched from Port Kelsey": ("Corvane was launched from what?", "Port Kelsey"),
    "The lowest reading was -40 degrees": ("What was the lowest reading?", "-40 degrees"),
    "The launch was on 16 June 2061.": ("the launch was on what?", "16 June 2061"),
    "The ship was the Ondine.": ("What was the ship?", "Ondine"),
    "The cause was a poor weld.": ("What was the cause?", "a poor weld"),
    "The tank was made of titanium.": ("the tank was made of what?", "titanium"),
}
UNCHECKED = """Corvane flew, It was not Keld, It wasn't Keld, No pilot was Keld, The flight took more than 12 days,
It lasted about 12 days, The crew were Keld and Varrow, It flew. The pilot was Keld, It took at least 3 days,
The pilot of Corvane was, The pilot of Corvane was the, The pilot of Corvane was —, The pilot of Corvane WAS ???"""


def test_a_claim_becomes_a_question_for_what_it_ends_with():
    assert {claim: ask.masked(claim) for claim in MASKED} == MASKED


@pytest.mark.parametrize("claim", ["", *UNCHECKED.replace("\n", " ").split(", ")])
def test_a_claim_whose_truth_no_answer_tells_is_refused(claim):
    with pytest.raises(
        ValueError, match=r"cannot check .*; want (one sentence of three words or more|a name, number or)"
    ):
        ask.masked(claim)


KELD = "The pilot of Corvane was Bram Keld, for 12 days in June."


@pytest.mark.parametrize(
    ("claim", "said", "texts", "verdict"),
    [
        ("The pilot of Corvane was Keld.", "Bram Keld", [KELD], "supported"),
        ("Corvane flew for 12 d.", "12 days", [KELD], "supported"),
        ("The tank of Corvane was in the port wall.", "port wall", ["Corvane: in the port wall."], "supported"),
        ("The pilot of Corvane was Ilse Varrow.", "Bram Keld", [KELD], "refuted"),
        ("Corvane flew for 13 days.", "12 days", [KELD], "refuted"),
        ("Corvane was launched on 9 May.", "3 June", ["Corvane: launched on 3 June."], "refuted"),
        # not found: there is no answer, no passage, or the passage is about something else
        ("The pilot of Corvane was Bram Keld.", "", [KELD], "not found"),
        ("The pilot of Corvane was Bram Keld.", "Bram Keld", [], "not found"),
        ("The pilot of Tarnel was Ilse Varrow.", "Bram Keld", [KELD], "not found"),
        ("The pilot of Corvane was Bram Keld.", "Bram Keld", ["Corvane flew.", "Bram Keld rests."], "not found"),
        ("The pilot of Corvane was Ilse Varrow.", "Corvane", [KELD], "not found"),  # words of the question
        # not found: the answer is of another kind, or only part of the claim, or passages have both
        ("Corvane flew for 86 minutes.", "12 days", [KELD], "not found"),
        ("The pilot of Corvane was Ilse Varrow.", "Bram Keld", [KELD, "On Corvane flew Ilse Varrow."], "not found"),
    ],
)
def test_the_verdict_on_a_claim(claim, said, texts, verdict):
    question, value = ask.masked(claim)
    ids = [f"c{i}" for i in range(len(texts))]
    turns = (search(*ids, texts=tuple(texts)), answer(said))
    name, _, hits = ask.verify(Episode(Question("asked", question, (), ()), turns, "answered"), claim, value)
    assert name == verdict
    assert verdict == "not found" or [hit.text for hit in hits] == texts[:1]


@pytest.fixture
def run(config, tmp_path):
    """A run's folder, with an export, whose settings no profile has."""
    made = tmp_path / "run"
    for name in ("config.json", "export/rezero.json"):
        write_text(made / name, json.dumps(config.to_dict() | {"k": 7, "engine_options": {"k1": 1.3}}))
    for name in ("best", "warm", "export/adapter"):
        (made / name).mkdir()
    return made


def test_settings_come_from_the_run_the_export_or_the_profile(run):
    places = {"": "best", "best": "best", "warm": "warm", "export": "export", "export/adapter": "export/adapter"}
    for place, policy in places.items():
        config = ask.find_settings(str(run / place), "", "", None)
        assert (config.k, config.policy) == (7, str(run / policy)), place
    assert ask.find_settings(str(run), "smollm", "", None) == replace(load_config("smollm"), policy=str(run / "best"))
    assert ask.find_settings("", "", "", None) == load_config()
    assert ask.find_settings("owner/name", "smollm", "", None).policy == "owner/name"
    for engine, given, options in (("bm25", None, {"k1": 1.3}), ("dense", None, {}), ("dense", {"a": 1}, {"a": 1})):
        assert ask.find_settings(str(run), "", engine, given).engine_options == options  # {k1: 1.3} is bm25's


def test_a_remote_engine_gets_no_passages(config, monkeypatch):
    given = []
    monkeypatch.setattr(ask, "build_engine", lambda name, chunks, **options: given.append(len(chunks)) or 1 / 0)
    for corpus in ("", "data/larkspur"):
        with pytest.raises(ZeroDivisionError):
            ask.ask("Who?", replace(config, engine="opensearch"), corpus)
    assert given[0] == 0 < given[1]


def test_the_command_prints_the_same_episode_as_a_rollout(config, chunks, engine, sampling, tmp_path, capsys):
    corpus = save_chunks(tmp_path / "chunks.jsonl", chunks)
    write_text(tmp_path / "start" / "rezero.json", json.dumps(config.to_dict()))
    asked = ["--policy", config.policy, "--corpus", str(corpus)]
    assert main(["ask", " Who was the commander of Corvane?", *asked]) == 0
    question = Question("asked", "Who was the commander of Corvane?", (), ())
    (played,) = rollout(load_policy(config.policy), engine, [question], replace(sampling, temperature=0.0))
    assert capsys.readouterr().out == ask.show(played) + "\n"
    assert main(["ask", "--verify", "The commander of Corvane was Keld.", *asked]) == 0
    out = capsys.readouterr().out
    assert "question  What was the commander of Corvane?" in out
    assert "\nclaim     The commander of Corvane was Keld.\nnot found: no passage has" in out


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["  "], "the question is empty"),
        (["--verify", ""], "cannot check ''"),
        (["Who?", "--engine", "bm52"], "unknown engine 'bm52'; allowed: bm25"),
        (["Who?", "--options", "{k9: 1}"], "unknown option 'k9' for engine 'bm25'"),
        (["Who?", "--corpus", "no/such"], "no/such"),
        (["Who?", "--corpus", "no/\x1b[2J\nx"], "no/\ufffd[2J x"),  # nothing named controls the terminal
        (["Who?", "--options", "{k1: x}"], "engine 'bm25': k1 is 'x'; want a valid number"),
        (["Who?", "--corpus", "data"], "holds no corpus; want one of chunks.jsonl, chunks.csv; did you mean"),
        (["Who?", "--policy", "no-such"], "no-such"),
        (["Who? " * 2000], "do not fit the 2048 tokens"),
    ],
)
def test_the_command_refuses_in_one_line(args, reason, capsys):
    assert main(["ask", *args]) == 2
    said = capsys.readouterr()
    assert reason in said.err and said.err.startswith("error: ") and said.err.count("\n") == 1 and not said.out


FORMS = {  # of a question -> of the claim that answers it
    r"(?:Who|What|Which \w+) was (the .+)\?": "{} was {}",
    r"Where was (.+ (?:mounted|installed|fitted))\?": "{} in {}",
    r"How long was (.+)\?": "{} was {}",
    r"On which date was (.+)\?": "{} was on {}",
}


@pytest.mark.slow
def test_how_often_a_verdict_is_wrong():
    """Of claims made from training questions that neither the policy nor the rule was made on; -s prints the counts.

    A question of one of the forms gives a true claim, and a false one with the answer of a similar question.
    """
    config = load_config()
    task = load_task(config)
    groups = defaultdict(list)
    for question in task.questions["train"][250:550]:
        for form, made in FORMS.items():
            match = re.fullmatch(form, question.text)
            if match:
                groups[made, match[1].split(" of ")[0].split()[-1]].append((match[1], question.answers[0]))
    claims = []
    for (made, _), group in groups.items():
        for place, (subject, right) in enumerate(group):
            claims.append((made.format(subject, right), True))
            others = [other for _, other in group[place:] + group[:place] if other != right]
            claims += [(made.format(subject, other), False) for other in others[:1]]
    asked = [Question(str(i), ask.masked(claim)[0], (), ()) for i, (claim, _) in enumerate(claims)]
    played = rollout(load_policy(config.policy), task.engine, asked, replace(task.sampling, temperature=0.0))
    counts = Counter()
    for episode, (claim, true) in zip(played, claims, strict=True):
        counts[true, ask.verify(episode, claim, ask.masked(claim)[1])[0]] += 1
    print("\n", counts)
    assert counts[True, "supported"] + counts[False, "refuted"] > 0.4 * len(claims)
    assert counts[True, "refuted"] + counts[False, "supported"] <= 3
