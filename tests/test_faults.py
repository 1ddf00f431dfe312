"""The engine that fails on purpose: how often, what exactly, and how a query escapes."""

import re
from collections import Counter

import pytest

from rezero.corpus import Chunk
from rezero.protocol import parse_turn
from rezero.search import build_engine
from rezero.search.base import SearchContext, SearchError
from rezero.search_env import respond

TEXT = "Probe {} of the relief valve took {} days and 3.5 hours."
CHUNKS = [Chunk(f"c{i}", f"Note {i}", TEXT.format(i, i + 10)) for i in range(80)]
QUERIES = [f"relief valve probe {i} {word}" for i in range(80) for word in "abcdefghij"]
KINDS = ("empty", "irrelevant", "stale", "shuffled", "truncated", "outage")


def faulty(**options):
    return build_engine("faulty", CHUNKS, **options)


def fault(engine, query, attempt=1, k=3):
    try:
        return engine.search([query], k, [SearchContext("q", attempt)])[0].fault
    except SearchError as error:
        return error.fault


def only(kind, query="relief valve of probe 7", k=4, chunks=CHUNKS):
    """What a fault that always happens makes of a query, and what the engine found."""
    (hits,) = build_engine("faulty", chunks, **{kind: 1}).search([query], k)
    (clean,) = build_engine("bm25", chunks).search([query], k)
    return hits, clean


def test_each_fault_has_its_own_rate():
    rates = {"empty": 0.05, "irrelevant": 0.1, "stale": 0.15, "shuffled": 0.05, "truncated": 0.1, "outage": 0.2}
    engine = faulty(**rates)
    counts = Counter(fault(engine, query) for query in QUERIES)
    for kind, rate in rates.items():
        assert abs(counts[kind] / len(QUERIES) - rate) < 0.045, kind  # 2.5 standard deviations and more
    assert set(counts) == {*rates, ""}
    assert {fault(faulty(), query) for query in QUERIES[:99]} == {""}


def test_the_seed_chooses_the_queries_that_fail():
    engines = [faulty(empty=0.3, seed=seed) for seed in (0, 0, 1)]
    failed = [{query for query in QUERIES if fault(engine, query)} for engine in engines]
    assert failed[0] == failed[1] != failed[2]


@pytest.mark.parametrize("sticky", [False, True])
def test_who_escapes_a_fault(sticky):
    engine, again = faulty(empty=0.5, sticky=sticky), faulty(empty=0.5, sticky=sticky)
    failed = [query for query in QUERIES[:200] if fault(engine, query)]
    assert failed == [query for query in QUERIES[:200] if fault(again, query)]  # the same at the same attempt
    escaped = sum(fault(engine, query, attempt=2) == "" for query in failed) / len(failed)
    assert escaped == 0 if sticky else 0.35 < escaped < 0.65
    reworded = sum(fault(engine, f"{query} duration") == "" for query in failed) / len(failed)
    assert 0.35 < reworded < 0.65
    assert all(fault(engine, f"  {query.upper()}?!") for query in failed)  # no other words
    asked_by_others = [engine.search([query], 3, [SearchContext("another", 1)])[0].fault for query in failed]
    assert set(asked_by_others) == {"empty"}


def test_empty():
    hits, clean = only("empty")
    assert (hits, hits.fault, hits.engine) == ([], "empty", "bm25")
    assert clean


def test_irrelevant():
    hits, clean = only("irrelevant")
    (near,) = build_engine("bm25", CHUNKS).search(["relief valve of probe 7"], 50)
    assert not {hit.chunk_id for hit in hits} & {hit.chunk_id for hit in near}
    assert {hit.text for hit in hits} <= {chunk.text for chunk in CHUNKS}
    assert [hit.score for hit in hits] == [hit.score for hit in clean]
    other, _ = only("irrelevant", "relief valve of probe 8")
    assert other != hits
    assert only("irrelevant", chunks=CHUNKS[:9])[0] == []  # nine are all among the best fifty


def test_stale():
    hits, clean = only("stale")
    assert [hit.chunk_id for hit in hits] == [f"{hit.chunk_id}~stale" for hit in clean]
    for old, new in zip(hits, clean, strict=True):
        shape = [re.sub(r"\d", "9", hit.text) for hit in (old, new)]
        assert shape[0] == shape[1]
        figures = [re.findall(r"\d+", hit.text) for hit in (old, new)]
        assert all(a != b for a, b in zip(*figures, strict=True))
    texts = {hit.chunk_id: hit.text for hit in hits}
    seen = [hit for hit in only("stale", "valve of probe 7 relief hours")[0] if hit.chunk_id in texts]
    assert seen and all(hit.text == texts[hit.chunk_id] for hit in seen)  # one old issue a passage


def test_shuffled():
    hits, clean = only("shuffled")
    assert sorted(hit.chunk_id for hit in hits) == sorted(hit.chunk_id for hit in clean)
    assert [hit.chunk_id for hit in hits] != [hit.chunk_id for hit in clean]
    assert [hit.score for hit in hits] == [hit.score for hit in clean]


def test_truncated():
    hits, clean = only("truncated")
    assert [hit.chunk_id for hit in hits] == [f"{hit.chunk_id}~truncated" for hit in clean]
    for cut, whole in zip(hits, clean, strict=True):
        assert whole.text.startswith(cut.text)
        assert len(cut.text.split()) == len(whole.text.split()) // 3


def test_a_fault_that_changes_nothing_is_none():
    wordy = [Chunk("a", "", "valve"), Chunk("b", "", "crew")]
    for kind in ("stale", "truncated", "shuffled"):
        hits, clean = only(kind, "valve", chunks=wordy)
        assert (hits, hits.fault) == (clean, "")
    hits, clean = only("empty", "qwertz")
    assert (hits, hits.fault) == (clean, "") == ([], "")


def test_an_outage_spoils_no_other_query_of_a_turn_and_is_told_apart_from_a_miss():
    engine = faulty(outage=0.5)
    turns = [parse_turn(f"<think> t </think><search> {query} </search>") for query in QUERIES[:30]]
    with pytest.raises(SearchError, match="down"):
        engine.search(QUERIES[:30], 2)
    replies = respond(turns, engine, 2)
    assert [turn.fault for turn in replies] == [fault(engine, query) for query in QUERIES[:30]]
    assert {(turn.fault, turn.error is None, bool(turn.hits)) for turn in replies} == {
        ("outage", False, False), ("", True, True),
    }  # fmt: skip
    quiet = respond(turns[:1], faulty(empty=1), 2)
    assert (quiet[0].fault, quiet[0].error, quiet[0].hits) == ("empty", None, ())


def test_faults_of_any_engine():
    engine = faulty(engine={"engine": "mixture", "engines": ["bm25", "keyword"]}, shuffled=1)
    contexts = [SearchContext(f"q{i}", 1) for i in range(20)]
    found = engine.search(["relief valve probe"] * 20, 3, contexts)
    assert {hits.engine for hits in found} == {"bm25", "keyword"}
    assert {hits.fault for hits in found} == {"shuffled"}


def test_a_fault_shows_through_the_engines_around_it():
    broken = {"engine": "faulty", "stale": 1}
    forms = {"rerank": {"engine": broken}, "noisy": {"engine": broken}, "hybrid": {"engines": ["keyword", broken]}}
    for name, options in forms.items():
        (hits,) = build_engine(name, CHUNKS, **options).search(["relief valve probe 3"], 3)
        assert (hits.fault, hits.engine) == ("stale", name)
    twice = faulty(engine=broken, shuffled=1).search(["relief valve probe 3"], 3)[0]
    assert twice.fault == "stale+shuffled"


def test_rates_are_checked():
    for rate in (-0.1, 1.5, "half", float("nan"), None):
        with pytest.raises(ValueError, match=rf"the rate of stale faults is {re.escape(repr(rate))}; want a number"):
            faulty(stale=rate)
    with pytest.raises(ValueError, match=r"sum to 1\.2; want at most 1"):
        faulty(stale=0.6, outage=0.6)
    faulty(**dict.fromkeys(KINDS, 1 / 6))
    with pytest.raises(ValueError, match="unknown option 'lost' for engine 'faulty'; have: engine, empty"):
        faulty(lost=0.1)
