"""How often a question's own words miss, and what recovers it: rewrites, or another engine."""

from dataclasses import replace

import pytest

from rezero.analysis.retrieval import hits_by_engine, pick_missed, recovered_by, room_to_retry
from rezero.search.base import Engine, Hit, Hits
from rezero.search_env import first_search_misses

NAN = float("nan")


@pytest.fixture
def asked(questions):
    """Questions that are found at once, by their first rewrite, by their second rewrite, and not at all."""
    one, two = questions
    reworded = replace(one, id="q3", text="Who led it?", kind="reworded")
    return [one, two, replace(reworded, rewrites=("cabbage", "Corvane commander")), replace(reworded, id="q4")]


def test_room_to_retry(asked, engine):
    rows = {row.pop("kind"): row for row in room_to_retry(asked, engine, k=1)}
    assert list(rows) == ["direct", "reworded", "two-hop", "all"]
    direct = {"k": 1, "questions": 1, "missed": 0.0, "recovered": NAN, "searches": NAN}
    assert rows["direct"] == pytest.approx(direct, nan_ok=True)
    assert rows["two-hop"] == {"k": 1, "questions": 1, "missed": 1.0, "recovered": 1.0, "searches": 1.0}
    assert rows["reworded"] == {"k": 1, "questions": 2, "missed": 1.0, "recovered": 0.5, "searches": 2.0}
    assert rows["all"] == {"k": 1, "questions": 4, "missed": 0.75, "recovered": 2 / 3, "searches": 1.5}
    assert first_search_misses(asked, engine, k=1) == [False, True, True, True]  # the same definition


def test_another_engine_recovers_what_the_first_missed(asked, chunks, engine):
    hits = [Hit(chunk.id, chunk.title, chunk.text, 1.0) for chunk in chunks]
    engines = {
        "bm25": engine,
        "c2": Engine("c2", lambda queries, k, contexts: [Hits(hits[1:2]) for _ in queries]),
        "all": Engine("all", lambda queries, k, contexts: [Hits(hits) for _ in queries]),
    }
    rows = {row.pop("first engine"): row for row in recovered_by(asked, engines, k=1)}
    assert rows["bm25"] == {"missed": 0.75, "c2": 1 / 3, "all": 1.0}  # of the second question, bm25 lacks only c2
    assert rows["c2"] == {"missed": 1.0, "bm25": 0.5, "all": 1.0}
    assert rows["all"] == pytest.approx({"missed": 0.0, "bm25": NAN, "c2": NAN}, nan_ok=True)
    table = hits_by_engine(asked[0], "commander Ilse", engines, k=4)
    assert table[0] == {"bm25": "★ Corvane: section 1", "c2": "Corvane: section 2", "all": "★ Corvane: section 1"}
    assert len(table) == 4 and table[1]["c2"] == ""


def test_pick_missed(task, asked):
    task = replace(task, questions={"dev": asked}, sampling=replace(task.sampling, k=1))
    assert pick_missed(task) == asked[2]  # the only reworded one that its last rewrite finds
    assert pick_missed(task, "q1") == asked[0]
    with pytest.raises(ValueError, match="question 'q9999' is not in the dev split"):
        pick_missed(task, "q9999")
    with pytest.raises(ValueError, match="no reworded dev question is missed by its own words"):
        pick_missed(replace(task, questions={"dev": asked[:2]}))
