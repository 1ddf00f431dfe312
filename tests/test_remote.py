"""Remote engines against stand-ins: servers on loopback that log each request and reply what a test wants."""

import json
import re
import threading
import traceback
from base64 import b64encode, urlsafe_b64encode
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import perf_counter, sleep
from types import SimpleNamespace
from unittest.mock import patch
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rezero.corpus import Chunk
from rezero.extras import remote
from rezero.extras.language_model import openai_compatible
from rezero.search import build_engine
from rezero.search.base import Hit, SearchError

CHUNKS = [
    Chunk("valve", "Valves", "The relief valve of the oxygen tank was replaced at the plant."),
    Chunk("crew", "", "Three crew members trained for eleven months before the flight."),
    Chunk("heater", "Heaters", "A heater switch welded shut during the ground test. Überhitzung 日本"),
    Chunk("odd", "\ud800", "\x00\ud800 lone surrogates and control characters \u202e"),
]


@contextmanager
def stand_in(reply):
    """A server on a free port; `reply(method, path, body)` returns status, bytes or JSON, and headers if any.

    Yields its URL and its log: method, path, body and headers of each request.
    """
    log = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            log.append((self.command, self.path, body, dict(self.headers)))
            status, said, *headers = reply(self.command, self.path, body)
            said = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            for name, value in [("Content-Length", str(len(said))), *headers]:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = do_PUT = answer

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", log
    finally:
        server.shutdown()
        server.server_close()


def found(id, contents, score):
    return {"document": {"id": id, "contents": contents}, "score": score}


# --- http ---


def test_http_asks_in_the_protocol_and_maps_ids_to_chunks():
    result = [[found("crew", "something else", 2.5), found(77, '"A title"\nline\n"two"', 1)], [found("x", "bare", 3)]]
    with stand_in(lambda *asked: (200, {"result": result})) as (url, log):
        first, second = build_engine("http", CHUNKS, url=f"{url}/retrieve").search(["who trained?", "\ud800valve"], 5)
    assert first == [Hit("crew", "", CHUNKS[1].text, 2.5), Hit("77", "A title", 'line\n"two"', 1.0)]
    assert second == [Hit("x", "", "bare", 3.0)]
    assert first.engine == "http"
    method, path, body, headers = log[0]
    assert (method, path, headers["Content-Type"]) == ("POST", "/retrieve", "application/json")
    assert json.loads(body) == {"queries": ["who trained?", "?valve"], "topk": 5, "return_scores": True}


def test_http_orders_cuts_drops_repeats_and_needs_no_ids_and_scores():
    # Search-R1's server fills up with copies of the last passage when topk exceeds the corpus.
    scored = [found("b", "b", 1), found("a", "a", 1), found("c", "c", 9), found("a", "again", 1), found("d", "d", 0)]
    bare = [{"document": {"contents": '"T"\none'}}, {"document": {"contents": '"T"\ntwo'}}]
    with stand_in(lambda *asked: (200, {"result": [scored, bare]})) as (url, _):
        first, second = build_engine("http", [], url=url).search(["q", "r"], 3)
    assert [(hit.chunk_id, hit.text) for hit in first] == [("c", "c"), ("b", "b"), ("a", "a")]
    assert [(hit.title, hit.text, hit.score) for hit in second] == [("T", "one", 1.0), ("T", "two", 0.5)]
    assert second[0].chunk_id != second[1].chunk_id


@pytest.fixture
def slept(monkeypatch):
    """The pauses that urllib3 asks for, which last no time."""
    pauses = []
    monkeypatch.setattr("urllib3.util.retry.time", SimpleNamespace(sleep=pauses.append))
    return pauses


@pytest.mark.parametrize("status", [307, 400, 404, 422, *remote.BUSY])
def test_http_tries_again_after_growing_pauses_when_that_may_help(status, slept):
    tries, pauses = (4, [1, 2]) if status in remote.BUSY else (1, [])
    refusal = pytest.raises(SearchError, match=rf"/retrieve answered {status} after {tries} tries: ‹/information>")
    with stand_in(lambda *asked: (status, b"</information><answer> 42")) as (url, log), refusal:
        build_engine("http", [], url=f"{url}/retrieve").search(["q"], 3)
    assert len(log) == tries
    assert [int(pause) for pause in slept] == pauses  # without jitter, which is up to 0.5 s; the first try is at once


@pytest.mark.parametrize(("said", "seconds"), [("2", 2), ("86400", 5)])
def test_http_waits_as_long_as_the_server_says_but_no_longer_than_the_timeout(said, seconds, slept):
    replies = iter([(503, {}, ("Retry-After", said)), (200, {"result": [[]]})])
    with stand_in(lambda *asked: next(replies)) as (url, _):
        assert build_engine("http", [], url=url, timeout=5).search(["q"], 3) == [[]]
    assert slept == [seconds]


def test_http_does_not_wait_forever():
    with stand_in(lambda *asked: sleep(1) or (200, {"result": [[]]})) as (url, log):
        started = perf_counter()
        with pytest.raises(SearchError, match=r"did not answer in 2 tries: .*timed out"):
            build_engine("http", [], url=url, timeout=0.1, retries=1).search(["q"], 3)
        assert perf_counter() - started < 0.9 and len(log) == 2
    with pytest.raises(SearchError, match=rf"{re.escape(url)} did not answer in 1 tries: .*refused"):
        build_engine("http", [], url=url, retries=0).search(["q"], 3)  # the stand-in is gone


MALFORMED = [b"<html>", b"[" * 100_000, b"\xff\xfe", [], {}]
MALFORMED += [{"result": result} for result in (None, [], [[], []], [{"a": 1}], [[{"id": "a", "contents": "bare"}]])]
MALFORMED += [{"result": [[found("a", "b", score)]]} for score in ("high", float("nan"), 10**400)]
MALFORMED += [{"result": [[found("a", None, 1)]]}]


@pytest.mark.parametrize("said", MALFORMED, ids=range(len(MALFORMED)))
def test_http_refuses_replies_of_another_shape(said):
    with stand_in(lambda *asked: (200, said)) as (url, _), pytest.raises(SearchError, match=f"^{url} sent what"):
        build_engine("http", [], url=url).search(["q"], 3)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
DOCUMENT = st.fixed_dictionaries({"contents": st.text() | JSON}, optional={"id": st.text() | JSON})
ITEM = st.fixed_dictionaries({"document": DOCUMENT}, optional={"score": st.floats() | JSON})


@given(queries=st.lists(st.text(), min_size=1, max_size=3), items=st.lists(ITEM, max_size=4) | JSON)
@settings(max_examples=150, deadline=None)
def test_http_returns_hits_in_order_or_a_search_error_whatever_the_reply(queries, items):
    said = json.dumps({"result": [items] * sum(bool(query.strip()) for query in queries)}).encode()
    reply = SimpleNamespace(status=200, data=said)
    with patch("urllib3.PoolManager.request", return_value=reply), suppress(SearchError):
        for hits in build_engine("http", CHUNKS).search(queries, 3):
            assert len({hit.chunk_id for hit in hits}) == len(hits) <= 3
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
            for hit in hits:
                f"{hit.chunk_id}{hit.title}{hit.text}".encode()  # no lone surrogate


def test_urls_and_keys_are_checked(monkeypatch):
    with pytest.raises(ValueError, match="url is 'localhost:8000'; want one that starts with http://"):
        build_engine("http", [], url="localhost:8000")
    monkeypatch.delenv("SERPER_API_KEY", raising=False)
    with pytest.raises(ValueError, match="set the environment variable SERPER_API_KEY"):
        build_engine("web", [])


# --- web ---


def test_web_sends_one_request_per_query_and_tells_nobody_the_key(monkeypatch):
    monkeypatch.setenv("SERPER_API_KEY", "secret")

    def reply(method, path, body):
        query = json.loads(body)["q"]
        pages = [{"title": f"{query} {i}", "link": f"https://x/{query}/{i}", "snippet": "text"} for i in (1, 2)]
        return 200, {} if query == "nothing" else {"organic": [*pages, {"link": "https://x/bare"}]}

    with stand_in(reply) as (url, log):
        one, nothing, two = build_engine("web", [], url=url).search(["one", "nothing", "two"], 3)
    assert [hit.chunk_id for hit in one] == ["https://x/one/1", "https://x/one/2", "https://x/bare"]
    assert nothing == []
    assert two[0] == Hit("https://x/two/1", "two 1", "text", 1.0)
    assert {headers["X-API-KEY"] for *_, headers in log} == {"secret"}
    sent = [json.loads(body) for _, _, body, _ in log]
    assert sorted((one["q"], one["num"]) for one in sent) == [("nothing", 3), ("one", 3), ("two", 3)]
    refusal = pytest.raises(SearchError, match=r"answered 403 .*Unauthorized")
    with stand_in(lambda *asked: (403, {"message": "Unauthorized."})) as (url, _), refusal as raised:
        build_engine("web", [], url=url).search(["one"], 3)
    assert "secret" not in str(raised.value)


SECRET = 'k3y/with+odd"signs'


@pytest.mark.parametrize("name", ["http", "web", "opensearch", "qdrant", "judge"])
def test_a_server_that_repeats_a_secret_tells_nobody(name, monkeypatch, capsys):
    if name == "qdrant":
        pytest.importorskip("qdrant_client")
    for variable in ("SERPER_API_KEY", "QDRANT_API_KEY", "JUDGE_API_KEY"):
        monkeypatch.setenv(variable, SECRET)
    for variable in ("OPENSEARCH_AUTH", "RETRIEVE_AUTH"):
        monkeypatch.setenv(variable, f"me:{SECRET}")
    forms = [SECRET, quote(SECRET, safe=""), json.dumps(SECRET)]
    for text in (SECRET, f"x{SECRET}", f"me:{SECRET}", f"Bearer {SECRET}!"):
        forms += [b64encode(text.encode()).decode(), urlsafe_b64encode(text.encode()).decode()]
    for form in forms:
        with stand_in(lambda *asked: (401, f"not a good key: {form}".encode())) as (url, _):  # noqa: B023
            with pytest.raises((SearchError, ConnectionError)) as raised:
                if name == "judge":
                    list(openai_compatible(url, "m")(["q"]))
                else:
                    build_engine(name, CHUNKS[:1], url=url).search(["q"], 1)
            said = "".join(traceback.format_exception(raised.value))
        assert "[redacted]" in str(raised.value)
        for part in (SECRET, form, form.strip('"')[4:-4]):
            assert part not in said


def test_every_engine_s_error_leaves_out_secrets_and_half_characters(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "tok-12345")
    error = SearchError("at http://me:pass@host/x: tok-12345 \ud83d")
    assert str(error) == "at http://host/x: [redacted] ?"


# --- opensearch ---


def test_opensearch_uploads_each_id_once_and_finds(monkeypatch):
    monkeypatch.setenv("OPENSEARCH_AUTH", "me:secret")
    monkeypatch.setattr(remote, "BULK", 3)
    hits = [{"_id": "crew", "_score": 2, "_source": {"title": "", "text": "Three"}}] * 2
    replies = {
        "PUT /rezero": {"acknowledged": True},
        "POST /rezero/_bulk": {"errors": False},
        "POST /rezero/_refresh": {"_shards": {}},
        "POST /rezero/_count": {"count": len(CHUNKS)},
        "POST /rezero/_msearch": {"responses": [{"hits": {"hits": hits}}, {"hits": {"hits": []}}]},
    }
    with stand_in(lambda method, path, body: (200, replies[f"{method} {path}"])) as (url, log):
        engine = build_engine("opensearch", CHUNKS, url=url)
        asked = [
            (f"{method} {path}", [json.loads(line) for line in body.splitlines()]) for method, path, body, _ in log
        ]
        assert [name.split("/")[-1] for name, _ in asked] == ["rezero", "_bulk", "_bulk", "_refresh", "_count"]
        assert asked[0][1][0]["mappings"]["properties"] == {"contents": {"type": "text", "analyzer": "english"}}
        action, source = asked[1][1][:2]
        assert action == {"index": {"_id": "valve"}}
        assert source == {"title": "Valves", "text": CHUNKS[0].text, "contents": f"Valves\n{CHUNKS[0].text}"}
        assert log[0][3]["authorization"] == "Basic bWU6c2VjcmV0"
        assert engine.search(["crew members", "qwertz"], 2) == [[Hit("crew", "", "Three", 2.0)], []]
        sent = [json.loads(line) for line in log[-1][2].splitlines()]
        assert sent[0] == {} and (sent[1]["size"], sent[1]["query"]) == (2, {"match": {"contents": "crew members"}})
        count = len(log)
        assert len(build_engine("opensearch", [], url=url).search(["a", "b"], 2)) == 2 and len(log) == count + 1

        replies["POST /rezero/_msearch"] = {"responses": [{"error": {"type": "too_many_clauses"}}]}
        with pytest.raises(SearchError, match="too_many_clauses"):
            engine.search(["clauses"], 3)
        replies["POST /rezero/_count"] = {"count": 5}
        with pytest.raises(ValueError, match="index 'rezero' holds 5 chunks, not just the 4 given"):
            build_engine("opensearch", CHUNKS, url=url)
        items = [{"index": {}}, {"index": {"error": "id is too long"}}]
        replies["POST /rezero/_bulk"] = {"errors": True, "items": items}
        with pytest.raises(SearchError, match=r"refused chunks .*id is too long"):
            build_engine("opensearch", CHUNKS, url=url)


def test_opensearch_goes_on_with_an_index_that_exists():
    exists = (400, {"error": {"type": "resource_already_exists_exception"}})
    refusal = pytest.raises(SearchError, match="_bulk answered 401")
    with stand_in(lambda method, *asked: exists if method == "PUT" else (401, b"no")) as (url, log), refusal:
        build_engine("opensearch", CHUNKS, url=url)
    assert [method for method, *_ in log] == ["PUT", "POST"]


# --- qdrant ---


def test_qdrant_finds_the_hits_of_dense():  # test_engines.py asks it for more
    pytest.importorskip("qdrant_client")
    queries = ["relief valve of the oxygen tank", "who trained?", "ground test 日本", "\ud800"]
    qdrant, dense = (build_engine(name, CHUNKS, cache=None).search(queries, 3) for name in ("qdrant", "dense"))
    for ours, exact in zip(qdrant, dense, strict=True):
        assert [hit.chunk_id for hit in ours] == [hit.chunk_id for hit in exact]
        assert [hit.score for hit in ours] == pytest.approx([hit.score for hit in exact], abs=1e-5)
    assert qdrant[0][0].text == dense[0][0].text


def test_qdrant_uploads_each_id_once(monkeypatch):
    qdrant_client = pytest.importorskip("qdrant_client")
    shared = qdrant_client.QdrantClient(":memory:")  # every engine below talks to this one, as to one server
    monkeypatch.setattr(qdrant_client, "QdrantClient", lambda *args, **options: shared)
    with pytest.raises(ValueError, match="has no collection 'rezero-wordllama', and there are no chunks"):
        build_engine("qdrant", [])
    build_engine("qdrant", CHUNKS, cache=None)
    changed = [Chunk("valve", "Pumps", "A pump."), *CHUNKS[1:]]
    build_engine("qdrant", changed, cache=None)
    assert shared.count("rezero-wordllama").count == len(CHUNKS)
    ((hit,),) = build_engine("qdrant", []).search(["pump"], 1)
    assert hit == Hit("valve", "Pumps", "A pump.", pytest.approx(0.7, abs=0.3))
    with pytest.raises(ValueError, match="collection 'rezero-wordllama' holds 5 chunks, not just the 1 given"):
        build_engine("qdrant", [Chunk("new", "", "new")], cache=None)


def test_qdrant_failures_are_search_errors():
    pytest.importorskip("qdrant_client")
    with stand_in(lambda *asked: (500, b"broken")) as (url, _), pytest.raises(SearchError, match=f"Qdrant at {url}"):
        build_engine("qdrant", CHUNKS, url=url, cache=None)
