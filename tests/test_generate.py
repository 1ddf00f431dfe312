"""Questions that a language model writes: what is asked, what is refused and why, and that a stopped run goes on."""

import json
import re
from dataclasses import replace

import pytest
from test_remote import stand_in

from rezero.__main__ import main
from rezero.corpus import Chunk, load_chunks, save_chunks
from rezero.data import generate
from rezero.data.generate import linked_pairs, no_json, read_reply
from rezero.data.validation import Candidate, Known, check, difficulty, rule_table
from rezero.files import read_jsonl
from rezero.policy.hub import SMOLLM
from rezero.questions import Question, leakage, load_questions, save_questions

SUBJECTS = "Alba Brell Corin Doma Elgar Fenn Gorse Hollin Ibex Jarn".split()
PASSAGES = [
    Chunk(f"c{i}", name, f"The pump of {name} is grey. In spring the Kettle {name} was built by Orrin{name} Works.")
    for i, name in enumerate(SUBJECTS)
]
KETTLE = Question("q2", "Who made the Kettle?", ("OrrinBrell Works",), ("c1",))
GOOD = Question("q1", "Who built the pump of Alba?", ("OrrinAlba Works", "OrrinAlba"), ("c0",))
SUPPORT = "In spring the Kettle Alba was built by OrrinAlba Works."


@pytest.mark.parametrize(
    ("candidate", "rule"),
    [
        (Candidate(GOOD, SUPPORT), None),
        (Candidate(GOOD, "In spring  the\nKettle Alba was built by OrrinAlba Works."), None),  # up to white space
        (Candidate(GOOD), None),  # nobody named a sentence
        (Candidate(GOOD, "OrrinAlba Works built it."), "support_not_verbatim"),
        (Candidate(GOOD, "The pump of Alba is grey."), "support_not_verbatim"),  # it lacks the answer
        (Candidate(GOOD, ""), "support_not_verbatim"),
        (Candidate(GOOD, SUPPORT, bridge="alba"), "bridge_named"),
        (Candidate(replace(GOOD, id="q0")), "id_repeated"),
        (Candidate(replace(KETTLE, text="who made  the Kettle")), "same_text"),
        (Candidate(replace(KETTLE, text="By whom was the grey old Kettle of Brell once made?")), "near_duplicate"),
        (Candidate(replace(GOOD, answers=("OrrinAlba Works+",))), "answers_collide"),
        (Candidate(replace(GOOD, answers=(" ",))), "empty_answer"),
    ],
)  # fmt: skip
def test_a_candidate_breaks_a_rule_or_becomes_known(candidate, rule):
    first = replace(KETTLE, id="q0")
    second = replace(KETTLE, id="q9", text="By whom was the grey old Kettle of Brell made?")
    third = Question("q8", "What is it?", ("OrrinAlba Works",), ("c0",))
    known = Known([*PASSAGES, Chunk("c99", "", "OrrinAlba Works+")])
    for question in (first, second, third):
        known.add(question)
    ((_, broken),) = check([candidate], known)
    assert [name for name in broken if name != "answer_not_in_gold"] == ([rule] if rule else [])
    assert (candidate.question.id == known.by_text.get("who built the pump of alba")) is not bool(broken)
    counted = rule_table([broken])["questions"]
    assert counted.sum() == len(broken) and (rule is None or counted[rule.replace("_", " ")] == 1)


def test_difficulty_is_the_rank_of_the_gold_passage_found_last():
    asked = [
        replace(GOOD, text="pump of Alba Kettle OrrinAlba"),
        replace(GOOD, id="q2", text="Alba Brell", answers=("pump",), gold_chunk_ids=("c1", "c0")),
        replace(GOOD, id="q3", text="Zzyzx"),
    ]
    rows = difficulty(asked, PASSAGES, engines=["bm25"])
    assert [row["ranks"] for row in rows] == [{"bm25": 1}, {"bm25": 2}, {"bm25": None}]
    assert [row["marks"] for row in rows] == [["trivial"], ["ambiguous", "trivial"], ["impossible"]]
    assert [row["passages_with_answer"] for row in rows] == [1, 10, 1]


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ('Sure!\n```json\n{"question": "Q?", "answer": "A.", "support": "S"}\n```', [("Q?", "A", "S")]),
        ('[{"Question": "Q?", "ANSWER": 7}, {"question": "R?", "answer": "B"}]', [("Q?", "7", ""), ("R?", "B", "")]),
        ('{"questions": [{"question": "Q?", "answer": "A"}]}', [("Q?", "A", "")]),
        ('{ not this, but {"question": "Q?", "answer": "A"} {"question": "cut', [("Q?", "A", "")]),
        ('{"question": "Q?", "answer": null}', "no question"),
        ("I'm sorry, but as an AI I cannot do that.", "a refusal"),
        ('{"question": "Who', "cut off"),
        ("[" * 50_000, "no question"),
        ("", "no question"),
    ],
)
def test_questions_are_found_in_a_reply_or_it_is_said_why_not(reply, found):
    got = [(c.question.text, c.question.answers[0], c.support) for c in read_reply(reply, (PASSAGES[0],), "")]
    assert (got or no_json(reply)) == found


def test_pairs_share_a_name_that_few_others_mention():
    texts = [
        "It went to the Orrin Works, and to Alba.",
        "Later the Orrin Works burnt, and Alba, too.",
        "They saw Alba.",
    ]
    texts += ["By the sea of Alba.", "Then of Alba.", "More of Alba.", "The Orrin Mill."]
    pairs = list(linked_pairs([Chunk(str(i), "", text) for i, text in enumerate(texts)]))
    assert [(a.id, b.id, name) for a, b, name in pairs] == [("0", "1", "Orrin Works"), ("1", "0", "Orrin Works")]


def writer(said: str) -> str:
    """What a stand-in says: it writes well about most passages, and reads what it is given."""
    name = re.search(r"Kettle (\w+) was", said)
    if "Reply with JSON" in said:
        name = re.findall(r"Kettle (\w+) was", said)[-1]
        row = {"question": f"Who built the pump of {name}?", "answer": f"Orrin{name} Works"}
        row["support"] = f"In spring the Kettle {name} was built by Orrin{name} Works."
        if "Both passages" in said:
            row["question"] = f"Who built what is {len(name)} grey in {name}?"
        odd = {"Alba": "I cannot do that.", "Brell": json.dumps(row | {"question": "What does this passage say?"})}
        return odd.get(name, json.dumps(row))
    if "Turn this sentence" in said:
        answer = re.findall('by "(.*)"', said)[-1]
        return f"Question: What belongs to {len(said)} and {answer[::-1]}?\n\nmore"
    if "Corin" in said:  # known without its passage
        return "OrrinCorin Works"
    return "unknown" if not name or name[1] == "Doma" else f"Orrin{name[1]} Works, I think"


@pytest.fixture
def endpoint(tmp_path, monkeypatch):
    """(model, requests, state) of a stand-in that breaks after state["left"] replies; a corpus stands in tmp_path."""
    monkeypatch.setattr(generate, "CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("urllib3.util.Retry.sleep", lambda *_: None)
    save_chunks(tmp_path / "corpus" / "chunks.jsonl", PASSAGES)
    state = {"left": 10_000}

    def reply(method, path, body):
        state["left"] -= 1
        if state["left"] < 0:
            return 400, b"out of credit"
        return 200, {"choices": [{"message": {"content": writer(json.loads(body)["messages"][0]["content"])}}]}

    with stand_in(reply) as (url, log):
        yield f"{url}/v1 m", log, state


def test_questions_are_written_checked_split_and_a_stopped_run_goes_on(endpoint, tmp_path, capsys):
    model, log, state = endpoint
    corpus = tmp_path / "corpus"
    command = ["data", "questions", str(corpus), "--model", model, "--seed", "1"]
    state["left"] = 6
    assert main(command) == 2 and "out of credit" in capsys.readouterr().err
    assert not (corpus / "questions.jsonl").exists()
    state["left"], before = 10_000, len(log)
    assert main(command) == 0
    asked = len(log) - before
    assert asked < 10 + 2 * 8  # what had been answered before was not asked again
    shown = capsys.readouterr().out
    assert "6 of 9 questions kept, from 10 prompts" in shown and re.search(r"a refusal +1 +refused", shown)
    made = load_questions(corpus / "questions.jsonl", load_chunks(corpus))
    assert {question.gold_chunk_ids[0] for question in made} == {f"c{i}" for i in range(4, 10)}
    assert {question.split for question in made} == {"train", "dev", "test"}
    assert not any(count for row in leakage(made) for count in row.values() if isinstance(count, int))
    why = [name for row in read_jsonl(corpus / "refused.jsonl") for name in row["why"]]
    assert sorted(why) == sorted(
        ["a refusal", "deictic", "answered_without_the_passage", "not_answered_from_the_passage"]
    )
    details = list(read_jsonl(corpus / "written.jsonl"))
    assert [row["id"] for row in details] == sorted((q.id for q in made), key=[row["id"] for row in details].index)
    assert all(row["ranks"]["bm25"] and row["support"] for row in details)
    assert main(command) == 0 and len(log) == before + asked  # its own questions are replaced


def test_rules_may_choose_the_answers(endpoint, tmp_path, capsys):
    model, _, _ = endpoint
    text = "In the long spring of that year the Kettle {0} was built by Orrin{0} Works."
    save_chunks(tmp_path / "corpus" / "chunks.jsonl", [Chunk(n, "", text.format(n)) for n in SUBJECTS])
    command = ["data", "questions", str(tmp_path / "corpus"), "--model", model, "--spans", "--reader", "none"]
    assert main([*command, "--dev", "0", "--test", "0"]) == 0
    assert "10 of 10 questions kept, from 10 prompts" in capsys.readouterr().out
    for row in read_jsonl(tmp_path / "corpus" / "written.jsonl"):
        assert row["answers"][0] in row["support"] == text.format(row["gold_chunk_ids"][0])


def test_two_hop_questions_marks_and_questions_that_are_there_already(endpoint, tmp_path, capsys):
    model, _, _ = endpoint
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    text = "They met in the Harbour Watch hut. In spring the Kettle {0} was built by Orrin{0} Works."
    save_chunks(corpus / "chunks.jsonl", [*PASSAGES, *(Chunk(n, "", text.format(n)) for n in ("Xan", "Yul"))])
    save_questions(corpus / "questions.jsonl", [replace(GOOD, id="own", text="Who built the pump of Elgar?")])
    command = ["data", "questions", str(corpus), "--model", model, "--reader", "none", "--two-hop", "5"]
    assert (
        main(command) == 2 and "1 questions of its own, which stay as they are; want --out" in capsys.readouterr().err
    )
    assert main([*command, "--out", str(out), "--refuse", "trivial", "--dev", "0", "--test", "0"]) == 0
    made = load_questions(out / "questions.jsonl", load_chunks(out))
    assert {q.gold_chunk_ids for q in made if q.kind == "two-hop"} == {("Xan", "Yul"), ("Yul", "Xan")}
    why = [name for row in read_jsonl(out / "refused.jsonl") for name in row["why"]]
    assert "own" in {q.id for q in made} and {"same_text", "trivial"} <= {*why}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "http://127.0.0.1:9/v1"], "want a URL, a space and the model's name"),
        (["--model", "no/such folder"], "no/such"),
        (["--test", "0.95"], "--dev 0.1 and --test 0.95; want shares from 0 that add up to less than 1"),
        (["--by", "document", "--passages", "2", "--reader", "none"], "no question"),
    ],
)
def test_mistakes_are_one_line(endpoint, tmp_path, capsys, options, message):
    model, _, _ = endpoint
    assert main(["data", "questions", str(tmp_path / "corpus"), "--model", model, *options]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_a_small_local_model_writes_and_its_yield_is_printed(tmp_path, monkeypatch, capsys):
    """Each prompt's question is kept or refused. A model of 135 million parameters writes few good ones."""
    monkeypatch.setattr(generate, "CACHE", str(tmp_path / "cache"))
    save_chunks(tmp_path / "chunks.jsonl", load_chunks("data/larkspur")[:40])
    command = ["data", "questions", str(tmp_path), "--model", SMOLLM, "--spans", "--reader", "none"]
    assert main([*command, "--dev", "0", "--test", "0"]) == 0
    shown = capsys.readouterr().out
    with capsys.disabled():
        print(shown)
    kept, prompts = map(int, re.search(r"(\d+) of \d+ questions kept, from (\d+) prompts", shown).groups())
    refused = list(read_jsonl(tmp_path / "refused.jsonl"))
    assert kept >= 1 and kept + len(refused) == prompts and all(row["why"] for row in refused)
