"""Causes, reports, comparisons, exports: each episode is counted once and can be found in what is written."""

import base64
import gzip
import json
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from test_cards import EVIL, Tags
from test_traces import (
    FIRST_TRY,
    GAVE_UP,
    GOLD,
    HALF,
    NO_QUESTION,
    OTHER,
    QUESTION,
    RECOVERED,
    RETRIED_IN_VAIN,
    TWO_HOP,
    episode,
    turn,
)

from rezero.__main__ import main
from rezero.analysis import outcomes
from rezero.analysis.cards import parting
from rezero.analysis.causes import CAUSES, cause, causes_table
from rezero.analysis.compare import compare
from rezero.analysis.report import Run, read_run, report, two_runs
from rezero.config import load_config
from rezero.evaluation.traces import write_traces
from rezero.files import ROOT, write_jsonl
from rezero.protocol import Episode
from rezero.questions import Question
from rezero.search.base import Hit

WEIGHTS = {"correctness": 4, "recovery": 2, "efficiency": 0}
VAIN = episode(turn("search", "a", OTHER), turn("search", "b", OTHER), turn("answer", "unknown"))
PROGRESS = episode(turn("search", "a", OTHER), turn("search", "b", GOLD), turn("answer", "no"), question=TWO_HOP)
NO_GOLD = episode(turn("search", "a", OTHER), turn("answer", "x"), question=replace(QUESTION, gold_chunk_ids=()))
BROKEN = episode(*[turn("malformed", "<think>")] * 2, outcome="malformed")
FAILURES = [
    ("right", FIRST_TRY),
    ("right", HALF),  # though it saw half of the evidence
    ("never searched", episode(turn("answer", "unknown"))),
    ("wrong query", VAIN),
    ("found but not read", episode(turn("search", "a", GOLD), turn("answer", "unknown"))),
    ("read but wrong", episode(turn("search", "a", GOLD), turn("answer", "the Varrowson"))),
    ("stopped early", GAVE_UP),
    ("stopped early", PROGRESS),
    ("malformed", BROKEN),
    ("budget", RETRIED_IN_VAIN),
    ("budget", replace(VAIN, turns=VAIN.turns[:2], outcome="turn_limit")),
    ("budget", replace(VAIN, turns=VAIN.turns[:2], outcome="unfinished")),
    ("not judged", NO_QUESTION),
    ("not judged", NO_GOLD),
]


@pytest.fixture(autouse=True)
def own_style():
    with plt.rc_context():  # `compare` sets the style of all figures
        yield


def hostile_run() -> Run:
    hit = Hit("g1", EVIL, f"before {EVIL} after", 1.0)
    turns = (turn("search", EVIL, hit, thought=EVIL), turn("search", EVIL, error=EVIL), turn("answer", EVIL))
    bad = Episode(Question(EVIL, EVIL, (EVIL,), ("g1",)), turns, "answered")
    return Run(EVIL, ROOT, [({"policy": EVIL}, one) for one in (bad, GAVE_UP, RECOVERED)], WEIGHTS)


def only_long(episode: Episode) -> float | None:
    """A reward that cannot score an episode with one search."""
    return 0.5 if len(episode.searches) > 1 else None


def many(count: int) -> Run:
    """Generated episodes of 1 to 3 searches over 3,000 passages, half of them "after training"."""
    rows = []
    for i in range(count):
        hits = [
            Hit(f"c{n}", f"Mission {n} file", f"Mission {n} landed at {n * 7919 % 997}. " * 9, 1.0)
            for n in (i % 3000, 7)
        ]
        question = Question(f"q{i}", f"Where did mission {i} land?", (str(i),), (f"c{i % 3000}",))
        searches = [turn("search", f"mission {i} try {n}", *hits[n % 2 :]) for n in range(1 + i % 3)]
        ended = episode(*searches, turn("answer", str(i - i % 2)), question=question)
        rows.append(({"policy": ("before training", "after training")[i % 2]}, ended))
    return Run("many", ROOT, rows, WEIGHTS)


@pytest.mark.parametrize("name, one", FAILURES)
def test_each_episode_has_one_cause(name, one):
    assert cause(one) == name


def test_causes_are_counted_per_policy_and_drawn():
    rows = [({"policy": "start"}, one) for _, one in FAILURES] + [({"policy": "end"}, FIRST_TRY)] * 3
    table = causes_table(rows)
    assert list(table) == ["start", "end"] and list(table.index) == list(CAUSES) and table.sum().tolist() == [14, 3]
    assert table.start.to_dict() == pd.Series([name for name, _ in FAILURES]).value_counts().to_dict()
    assert "not judged" not in causes_table(rows[:-5]).index and causes_table(rows[-3:]).loc["budget", "end"] == 0
    ax = outcomes.stacked(table.T)
    lengths = np.sum([[bar.get_width() for bar in bars] for bars in ax.containers], axis=0)
    assert lengths == pytest.approx([1, 1])
    assert [text.get_text() for text in ax.figure.legends[0].texts] == list(table.index[table.any(axis=1)])
    plt.close("all")
    with pytest.raises(ValueError, match="no episodes"):
        causes_table([])


@pytest.mark.parametrize(
    "a, b, number",
    [
        (GAVE_UP, RECOVERED, 2),
        (RECOVERED, RECOVERED, None),
        (RECOVERED, VAIN, 1),
        (GAVE_UP, replace(GAVE_UP, turns=GAVE_UP.turns[:1]), 2),
    ],
)
def test_where_two_episodes_part(a, b, number):
    assert parting(a, b) == parting(b, a) == number


def unpacked(page: str) -> dict:
    """The data of a report, with its cards."""
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    blocks = [json.loads(gzip.decompress(base64.b64decode(block))) for block in data["blocks"]]
    return data | {"cards": [card for block in blocks for card in block]}


def test_a_report_holds_every_episode_and_nothing_untrusted_as_html():
    page = report(hostile_run())
    data, found = unpacked(page), Tags(page.replace("<button", "<b").replace("</button", "</b"))
    assert found.tags.count("script") == 2 and not {"img", "link", "iframe"} & set(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on") or name in ("src", "href")]
    assert "default-src 'none'" in page and "url(" not in page and "@import" not in page
    for card in data["cards"]:
        inside = Tags(card)
        assert not {"script", "img"} & set(inside.tags)
        assert not [name for name, _ in inside.attributes if name.startswith("on")]
    assert data["cards"][0].count("&lt;script&gt;") >= 7 and len(data["cards"]) == len(data["reward"]) == 3
    assert data["facets"]["outcome"] == ["right", "stopped early", "right"] and data["reward"] == [6, 0, 6]
    assert data["facets"]["fault"] == [["error"], ["none"], ["none"]] and data["texts"][0][0] == EVIL


def test_a_report_of_many_keeps_their_order():
    run = many(120)
    data = unpacked(report(run))
    for i in (0, 49, 50, 119):
        assert f"mission {i} try 0" in data["cards"][i] and f"mission {i} " in data["texts"][i][0]
    assert len(data["passages"]) == 121 - 1  # each text once


@pytest.fixture
def runs(tmp_path):
    """Folders of two runs that share one question: the first lost it, the second won it."""
    other = replace(GAVE_UP, question=replace(QUESTION, id="q9"))
    fault = replace(RECOVERED, turns=(replace(RECOVERED.turns[0], fault="stale"), *RECOVERED.turns[1:]))
    for name, last in (("one", [GAVE_UP, other, NO_QUESTION]), ("two", [fault, GAVE_UP, HALF])):
        rows = [({"policy": "start"}, VAIN), *(({"policy": "trained"}, each) for each in last)]
        write_traces(tmp_path / name / "traces.jsonl", rows)
        (tmp_path / name / "config.json").write_text(json.dumps(load_config("laptop").to_dict()))
        steps = [
            {"kind": "eval", "step": step, "accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6}
            for step in (0, 5)
        ]
        write_jsonl(tmp_path / name / "metrics.jsonl", steps)
    return str(tmp_path / "one"), str(tmp_path / "two")


def test_two_runs_are_compared_on_common_questions(runs, capsys, tmp_path):
    page = compare(*two_runs(runs))
    assert page.text.startswith("compared on 1 common questions (asked were one: 2, two: 2)")
    assert "won: 1, lost: 0, both right: 0, both wrong: 0" in page.text
    found = Tags(page._repr_html_())
    assert "◆ here they part" in found.text and "it returned old issues" in found.text and "img" not in found.tags
    assert main(["compare", *runs]) == 0 and "img" in (tmp_path / "two" / "compare.html").read_text("utf-8")
    assert "P(retried | missed)" in capsys.readouterr().out
    assert main(["traces", *runs, "--out", str(tmp_path / "r.html")]) == 0
    data = unpacked((tmp_path / "r.html").read_text("utf-8"))
    assert data["facets"]["outcome"] == ["won"] and data["facets"]["searches"] == ["1 → 2"]
    assert [run.name for run in two_runs([runs[0]] * 2)] == [runs[0]] * 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["traces", "nowhere"], "nowhere is missing; want a folder with traces.jsonl, or such a file"),
        (["traces", "ONE", "ONE", "TWO"], "3 runs; want one or two"),
        (["traces", "EMPTY"], "has no episodes; want at least one"),
        (["compare", "ONE", "OTHER"], "have no question in common (2 and 1 questions)"),
        (["compare", "ONE", "ONE", "--out", "."], ""),
    ],
)
def test_mistakes_are_one_line(runs, capsys, tmp_path, arguments, message):
    write_traces(tmp_path / "empty" / "traces.jsonl", [])
    write_traces(tmp_path / "other" / "traces.jsonl", [({}, HALF)])
    folders = {name.upper(): str(tmp_path / name) for name in ("one", "two", "empty", "other")}
    assert main([folders.get(word, word) for word in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


@pytest.mark.parametrize(
    "change, why",
    [
        ({"reward_weights": {"__main__:mine": 1}}, "reward '__main__:mine'"),  # it was a function of a notebook's cell
        ({"former": 1}, ".*unknown field"),
    ],
)
def test_rewards_that_cannot_be_loaded_are_left_out(runs, change, why):
    (ROOT / runs[0] / "config.json").write_text(json.dumps(load_config("laptop").to_dict() | change))
    with pytest.warns(UserWarning, match=f"rewards are not shown: {why}"):
        assert read_run(runs[0]).weights is None


def test_what_a_reward_cannot_score_is_said_and_counts_nothing(runs, tmp_path):
    config = load_config("laptop").to_dict() | {"reward_weights": {"correctness": 4, "test_report:only_long": 2}}
    (tmp_path / "two" / "config.json").write_text(json.dumps(config))
    assert main(["traces", runs[1]]) == main(["traces", runs[1], "--to", "inspect"]) == 0
    data = unpacked((tmp_path / "two" / "report.html").read_text("utf-8"))
    assert data["reward"] == [1, 5, 0, 4] and "2 × not scored" in data["cards"][2] and "2 × 0.50" in data["cards"][1]
    log = json.loads((tmp_path / "two" / "inspect" / "two-trained.json").read_text("utf-8"))
    assert ["test_report:only_long" in sample["scores"] for sample in log["samples"]] == [True, False, False]


def test_logs_for_inspect(runs, tmp_path):
    assert main(["traces", runs[1], "--to", "inspect", "--out", str(tmp_path / "logs")]) == 0
    log = json.loads((tmp_path / "logs" / "two-trained.json").read_text("utf-8"))
    first, *others = log["samples"]
    assert [sample["id"] for sample in log["samples"]] == ["q1", "q1", "q2"]
    assert [sample["epoch"] for sample in log["samples"]] == [1, 2, 1]
    assert first["scores"]["exact_match"]["value"] == "C" and first["scores"]["recovery"] == {"value": 1.0}
    assert others[0]["scores"]["exact_match"]["explanation"].startswith("stopped early: ")
    assert first["messages"] == RECOVERED.to_messages() and first["target"] == ["Ilse Varrow", "Varrow"]
    assert log["results"]["scores"][0]["metrics"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert "NaN" not in json.dumps(log)
    inspect_log = pytest.importorskip("inspect_ai.log")
    assert len(inspect_log.read_eval_log(str(tmp_path / "logs" / "two-trained.json")).samples) == 3


def test_traces_for_trackio(runs, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    assert main(["traces", runs[1], "--to", "trackio"]) == 2 and "rezero" not in capsys.readouterr().out
    calls = []
    stand_in = SimpleNamespace(
        init=lambda project, **options: calls.append((project, options["name"])),
        Trace=lambda messages, metadata: (messages, metadata["cause"]),
        log=lambda row, step: calls.append((step, row["episode"])),
        finish=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "trackio", stand_in)
    assert main(["traces", runs[1], "--to", "trackio", "--out", "mine"]) == 0
    assert calls[0] == ("mine", "two start") and calls[2] == ("mine", "two trained") and len(calls) == 6
    assert calls[3] == (0, (RECOVERED.to_messages(), "right"))
