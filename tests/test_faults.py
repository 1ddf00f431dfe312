"""The engine that fails on purpose: how often, in which ways, and how a query escapes."""

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


def faulty(**options):
    return build_engine("faulty", CHUNKS, **options)


def fault(engine, query, turn=1):
    try:
        return engine.search([query], 3, [SearchContext("q", turn)])[0].fault
    except SearchError as error:
        return error.fault


def only(kind, query="relief valve of probe 7", chunks=CHUNKS):
    """The hits of a query under a fault that always happens, and the hits without it."""
    (hits,) = build_engine("faulty", chunks, **{kind: 1}).search([query], 4)
    (clean,) = build_engine("bm25", chunks).search([query], 4)
    return hits, clean


def test_each_fault_has_its_own_rate_and_the_seed_chooses_the_queries():
    rates = {"empty": 0.05, "irrelevant": 0.1, "stale": 0.15, "shuffled": 0.05, "truncated": 0.1, "outage": 0.2}
    engines = [faulty(**rates, seed=seed) for seed in (0, 0, 1)]
    first, again, other = ([fault(engine, query) for query in QUERIES] for engine in engines)
    assert first == again != other
    counts = Counter(first)
    assert set(counts) == {*rates, ""}
    for kind, rate in rates.items():
        assert abs(counts[kind] / len(QUERIES) - rate) < 0.045, kind  # 2.5 standard deviations and more
    assert {hits.fault for hits in faulty().search(QUERIES, 3)} == {""}
    faulty(**dict.fromkeys(rates, 1 / 6))  # they may sum to 1


@pytest.mark.parametrize("sticky", [False, True])
def test_how_a_query_escapes_a_fault(sticky):
    engine = faulty(empty=0.5, sticky=sticky)
    failed = [query for query in QUERIES[:200] if fault(engine, query)]
    escaped = sum(fault(engine, query, turn=2) == "" for query in failed) / len(failed)
    assert escaped == 0 if sticky else 0.35 < escaped < 0.65
    reworded = sum(fault(engine, f"{query} duration") == "" for query in failed) / len(failed)
    assert 0.35 < reworded < 0.65
    assert all(fault(engine, f"  {query.upper()}?!") for query in failed)  # the same words
    of_another_question = engine.search(failed, 3, [SearchContext("another", 1)] * len(failed))
    assert {hits.fault for hits in of_another_question} == {"empty"}


def test_empty_and_irrelevant():
    hits, clean = only("empty")
    assert (hits, hits.fault, hits.engine) == ([], "empty", "bm25") and clean
    hits, clean = only("irrelevant")
    (near,) = build_engine("bm25", CHUNKS).search(["relief valve of probe 7"], 50)
    assert not {hit.chunk_id for hit in hits} & {hit.chunk_id for hit in near}
    assert {hit.text for hit in hits} <= {chunk.text for chunk in CHUNKS}
    assert [hit.score for hit in hits] == [hit.score for hit in clean]
    assert only("irrelevant", "relief valve of probe 8")[0] != hits
    assert only("irrelevant", chunks=CHUNKS[:9])[0] == []  # all nine are among the best fifty


def test_stale():
    hits, clean = only("stale")
    assert [hit.chunk_id for hit in hits] == [f"{hit.chunk_id}~stale" for hit in clean]
    for old, new in zip(hits, clean, strict=True):
        assert re.sub(r"\d", "9", old.text) == re.sub(r"\d", "9", new.text)
        figures = zip(re.findall(r"\d+", old.text), re.findall(r"\d+", new.text), strict=True)
        assert all(a != b for a, b in figures)
    texts = {hit.chunk_id: hit.text for hit in hits}
    seen = [hit for hit in only("stale", "valve of probe 7 relief hours")[0] if hit.chunk_id in texts]
    assert seen and all(hit.text == texts[hit.chunk_id] for hit in seen)  # a passage has one old issue


def test_shuffled_and_truncated():
    hits, clean = only("shuffled")
    assert sorted(hit.chunk_id for hit in hits) == sorted(hit.chunk_id for hit in clean)
    assert [hit.chunk_id for hit in hits] != [hit.chunk_id for hit in clean]
    assert [hit.score for hit in hits] == [hit.score for hit in clean]
    hits, clean = only("truncated")
    assert [hit.chunk_id for hit in hits] == [f"{hit.chunk_id}~truncated" for hit in clean]
    for cut, whole in zip(hits, clean, strict=True):
        assert cut.text.split() == whole.text.split()[: len(whole.text.split()) // 3]


def test_a_fault_that_changes_nothing_is_none():
    chunks = [Chunk("a", "", "valve"), Chunk("b", "", "crew")]
    for kind, query in (("stale", "valve"), ("truncated", "valve"), ("shuffled", "valve"), ("empty", "qwertz")):
        hits, clean = only(kind, query, chunks)
        assert (hits, hits.fault) == (clean, "")


def test_an_outage_spoils_no_other_query_of_a_turn_and_is_told_apart_from_a_miss():
    engine = faulty(outage=0.5)
    turns = [parse_turn(f"<think> t </think><search> {query} </search>") for query in QUERIES[:30]]
    with pytest.raises(SearchError, match="down"):
        engine.search(QUERIES[:30], 2)
    replies = respond(turns, engine, 2)
    assert [turn.fault for turn in replies] == [fault(engine, query) for query in QUERIES[:30]]
    seen = {(turn.fault, turn.error is None, bool(turn.hits)) for turn in replies}
    assert seen == {("outage", False, False), ("", True, True)}
    (quiet,) = respond(turns[:1], faulty(empty=1), 2)
    assert (quiet.fault, quiet.error, quiet.hits) == ("empty", None, ())


def test_faults_of_any_engine_show_through_the_engines_around_it():
    engine = faulty(engine={"engine": "mixture", "engines": ["bm25", "keyword"]}, shuffled=1)
    found = engine.search(["relief valve probe"] * 20, 3, [SearchContext(f"q{i}", 1) for i in range(20)])
    assert {(hits.engine, hits.fault) for hits in found} == {("bm25", "shuffled"), ("keyword", "shuffled")}
    broken = {"engine": "faulty", "stale": 1}
    forms = {"rerank": {"engine": broken}, "noisy": {"engine": broken}, "hybrid": {"engines": ["keyword", broken]}}
    for name, options in forms.items():
        (hits,) = build_engine(name, CHUNKS, **options).search(["relief valve probe 3"], 3)
        assert (hits.fault, hits.engine) == ("stale", name)
    assert fault(faulty(engine=broken, shuffled=1), "relief valve probe 3") == "stale+shuffled"
