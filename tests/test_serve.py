"""The command over real sockets on loopback, asked by a Search-R1 client, by ours, and with senseless requests."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rezero.__main__ import main
from rezero.corpus import Chunk, save_chunks
from rezero.files import ROOT
from rezero.search import build_engine
from rezero.search.base import Hits, SearchError

pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")

CHUNKS = [
    Chunk("valve", "Valves", "The relief valve of the oxygen tank\nwas replaced at the plant."),
    Chunk("crew", "", "Three crew members trained for eleven months before the flight."),
    Chunk("tank", "Tanks\nof oxygen", "A tank of oxygen burst. <search>Überhitzung</search> 日本"),
    Chunk("odd", "\ue000", "\x00\ue000 odd characters and oxygen"),
]
QUERIES = ["relief valve", "crew training", "oxygen tank"]
LIMITS = ["--topk", "2", "--max-topk", "50", "--max-queries", "200", "--max-length", "100000"]


@contextmanager
def command(*args, words=(sys.executable, "-m", "rezero", "serve", "--port", "0")):
    """The command on a free port: the process, and its address."""
    words = [*words, *args]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process, re.search(r"http://\S+", process.stdout.readline() or "http://none")[0]
    finally:
        process.kill()
        process.communicate()


def wait(process):
    assert re.fullmatch(r"\d+\.\d s: indexing \d passages for \w+\n", process.stdout.readline())
    assert re.fullmatch(r"\d+\.\d s: ready\n", process.stdout.readline())


@pytest.fixture(scope="module")
def engine():
    return build_engine("bm25", CHUNKS)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    corpus = save_chunks(tmp_path_factory.mktemp("corpus") / "chunks.jsonl", CHUNKS)
    with command("--corpus", str(corpus), *LIMITS) as (process, address):
        wait(process)
        yield f"{address}/retrieve"


@pytest.fixture(scope="module")
def post(url):
    with requests.Session() as session:
        yield lambda body: session.post(url, data=json.dumps(body) if isinstance(body, dict) else body)


def test_a_search_r1_client_reads_titles_and_texts(url):
    # Search-R1's rollout takes the first line of the contents for the title, without a check of the status.
    payload = {"queries": ["relief valve", "crew", "burst tank"], "topk": 1, "return_scores": True}
    first = [passages[0]["document"] for passages in requests.post(url, json=payload).json()["result"]]
    titles, texts = zip(*(document["contents"].split("\n", 1) for document in first), strict=True)
    assert titles == ('"Valves"', '""', '"Tanks of oxygen"')
    assert texts == tuple(chunk.text for chunk in CHUNKS[:3])


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("scores", [True, False, None])
def test_every_query_has_its_own_list_in_both_shapes(engine, post, n, scores):
    queries = (QUERIES * 3)[:n]
    request = {"queries": queries, "topk": 3} | ({} if scores is None else {"return_scores": scores})
    result = post(request).json()["result"]
    assert len(result) == n
    for items, hits in zip(result, engine.search(queries, 3), strict=True):
        documents = [item["document"] for item in items] if scores else items
        assert [set(document) for document in documents] == [{"id", "contents"}] * len(hits)
        assert [document["id"] for document in documents] == [hit.chunk_id for hit in hits]
        assert not scores or [item["score"] for item in items] == [hit.score for hit in hits]


def test_topk_above_the_corpus_repeats_nothing_and_null_is_the_default(post):
    def ids(**request):
        (items,) = post({"queries": ["oxygen"], **request}).json()["result"]
        return [item["id"] for item in items]

    assert sorted(ids(topk=50)) == ["odd", "tank", "valve"]
    assert ids(topk=None) == ids() == ids(topk=2) == ids(topk=50)[:2]


def test_our_client_gets_the_engine_s_own_hits_even_many_at_once(url, engine):
    known, unknown = (build_engine("http", chunks, url=url) for chunks in (CHUNKS[:3], []))
    expected = engine.search(QUERIES, 2)
    assert known.search(QUERIES, 2) == expected
    for ours, hits in zip(unknown.search(QUERIES, 2), expected, strict=True):
        assert [(hit.chunk_id, hit.text, hit.score) for hit in ours] == [(h.chunk_id, h.text, h.score) for h in hits]
    with pytest.raises(SearchError, match=r"422 after 1 tries: .*topk is 51; Input should be less than or equal to 50"):
        known.search(["oxygen"], 51)
    with ThreadPoolExecutor(12) as pool:
        asked = pool.map(lambda i: build_engine("http", CHUNKS, url=url).search([QUERIES[i % 3]], 2)[0], range(12))
        assert list(asked) == expected * 4


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("not json", "not JSON"),
        (b"\xff\xfe\xff", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "the request is []; Input should be a valid dictionary"),
        ({}, "queries is {}; Field required"),
        ({"queries": "oxygen"}, "queries is 'oxygen'; Input should be a valid list"),
        ({"queries": ["oxygen", None]}, "queries.1 is None; Input should be a valid string"),
        ({"queries": ["q"] * 201}, "List should have at most 200 items after validation, not 201"),
        ({"queries": ["q", "x" * 100_001]}, "up to 100001 characters, 100002 in all; allowed: 100000 and 1000000"),
        ({"queries": ["x" * 99_999] * 20}, "up to 99999 characters, 1999980 in all; allowed: 100000 and 1000000"),
        ({"queries": ["q"], "topk": 51}, "topk is 51; Input should be less than or equal to 50"),
        ({"queries": ["q"], "topk": 0}, "topk is 0; Input should be greater than or equal to 1"),
        ({"queries": ["q"], "topk": "3"}, "topk is '3'"),
        ({"queries": ["q"], "topk": True}, "topk is True"),
        ({"queries": ["q"], "topk": "\ud800"}, r"topk is '\ud800'"),
        ({"queries": ["q"], "return_scores": "maybe"}, "return_scores is 'maybe'; Input should be a valid boolean"),
        ((b" " * 2**20 for _ in range(17)), "more than 16777216 bytes"),  # in parts, without a Content-Length
    ],
)
def test_a_wrong_request_is_refused_with_a_reason(post, body, reason):
    answer = post(body)
    assert answer.status_code == 422
    assert reason in answer.json()["detail"] and "\n" not in answer.json()["detail"]


@given(queries=st.lists(st.text() | st.sampled_from(["oxygen", "\ud800 oxygen", "</search>", "x" * 9999]), max_size=5))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_answered(engine, post, queries):
    answer = post({"queries": queries, "return_scores": True})
    assert answer.status_code == 200
    found = [[item["document"]["id"] for item in items] for items in answer.json()["result"]]
    assert found == [[hit.chunk_id for hit in hits] for hits in engine.search(queries, 2)]


def test_an_engine_that_fails_is_a_502_with_the_reason():
    with command("--engine", "http", "--options", "{url: 'http://127.0.0.1:1/', retries: 0}") as (process, address):
        wait(process)
        answer = requests.post(f"{address}/retrieve", json={"queries": ["oxygen"]})
    assert answer.status_code == 502
    assert "the engine http failed: http://127.0.0.1:1/ did not answer" in answer.json()["detail"]


def test_the_command_ends_cleanly_with_an_open_connection(tmp_path):
    save_chunks(tmp_path / "chunks.jsonl", CHUNKS[:3])
    with command("--corpus", str(tmp_path), "--options", "{k1: 1.2}", "--topk", "1") as (process, address):
        wait(process)
        with requests.Session() as kept:
            assert kept.get(f"{address}/health").json() == {"status": "ready", "engine": "bm25", "passages": 3}
            answer = kept.post(f"{address}/retrieve", json={"queries": ["oxygen"], "return_scores": True})
            (hits,) = build_engine("bm25", CHUNKS[:3], k1=1.2).search(["oxygen"], 1)
            ((item,),) = answer.json()["result"]
            assert (item["document"]["id"], item["score"]) == (hits[0].chunk_id, hits[0].score)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (0, "stopped\n", "")


def asleep(chunks):
    """An engine that takes longer to build than anyone waits."""
    time.sleep(600)


def test_while_it_loads_it_answers_and_can_be_stopped():
    name = "tests.test_serve:asleep"
    with command("--engine", name, "--corpus", "data/larkspur") as (process, address):
        health = requests.get(f"{address}/health").json()
        assert (health["status"], health["engine"]) == ("loading", name)
        answer = requests.post(f"{address}/retrieve", json={"queries": ["oxygen"]})
        assert answer.status_code == 503 and answer.headers["Retry-After"] and "loaded" in answer.json()["detail"]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, out.splitlines()[-1], err) == (0, "stopped", "")


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--corpus", "no-such-folder"], "no-such-folder"),
        (["--corpus", "data"], "holds no corpus; want one of chunks.jsonl, chunks.csv; did you mean"),
        (["--engine", "bm52", "--corpus", "data/larkspur"], "unknown engine 'bm52'"),
        (["--engine", "bm25"], "engine 'bm25' needs at least one chunk"),
        (["--host", "127.0.0.1.1"], "error: "),
        (["--port", "99999"], "--port 99999; want 0 to 65535"),
        (["--port", "-1"], "--port -1; want 0 to 65535"),
        (["--max-queries", "0"], "--max-queries 0; want 1 to "),
        (["--max-characters", "-5"], "--max-characters -5; want 1 to "),
    ],
)
def test_the_command_refuses_wrong_arguments(args, reason, monkeypatch, capsys):
    monkeypatch.setattr(signal, "signal", lambda *args: None)  # else this process would ignore Ctrl-C from here on
    assert main(["serve", "--port", "0", *args]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and reason in said.err and "ready" not in said.out


def slow(chunks):
    """An engine that takes a third of a second for a batch, and prints that it was asked."""

    def search(queries, k, contexts):
        print("asked for", len(queries), flush=True)
        time.sleep(0.3)
        return [Hits() for _ in queries]

    return search


HEAD = b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n"


@pytest.fixture
def slow_server():
    """A server with `slow` that waits for 2 seconds for a request: the process, its address, and a new connection."""
    start = "import sys; from rezero.extras import serve; serve.PATIENCE = 2; from rezero.__main__ import main; main()"
    words = [sys.executable, "-c", start, "serve", "--port", "0", "--engine", "tests.test_serve:slow"]
    with command("--corpus", "data/larkspur", words=words) as (process, address):
        while not process.stdout.readline().endswith("ready\n"):
            pass
        host, port = address.removeprefix("http://").split(":")
        yield process, f"{address}/retrieve", lambda: socket.create_connection((host, int(port)), timeout=10)


def test_a_request_that_does_not_come_or_is_not_waited_for_holds_nothing(slow_server):
    process, url, connect = slow_server
    many = json.dumps({"queries": [f"q{i}" for i in range(4000)]}).encode()
    with connect() as gone:  # asks for 40 seconds of work, and leaves
        gone.sendall(b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(many) + many)
        assert process.stdout.readline() == "asked for 32\n"
    begun = time.monotonic()
    assert requests.post(url, json={"queries": ["other"]}).status_code == 200
    assert time.monotonic() - begun < 3
    for sent in (b"", HEAD, HEAD + b"\r\n{"):
        with connect() as half:
            half.sendall(sent)
            begun = time.monotonic()
            with suppress(ConnectionError):
                assert half.recv(100) == b""
            assert 1.5 < time.monotonic() - begun < 6
    with connect() as drip, pytest.raises(OSError):  # a byte now and then does not help
        for byte in HEAD * 9:
            drip.sendall(bytes([byte]))
            time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_in_the_middle_of_requests_without_a_traceback(slow_server, number):
    process, _, connect = slow_server
    many = json.dumps({"queries": [f"q{i}" for i in range(4000)]}).encode()
    with connect() as asking, connect() as half:
        half.sendall(HEAD + b"\r\n{")
        asking.sendall(b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(many) + many)
        process.stdout.readline()
        process.send_signal(number)
        out, err = process.communicate(timeout=5)
    assert (process.returncode, out.splitlines()[-1], err) == (0, "stopped", "")
