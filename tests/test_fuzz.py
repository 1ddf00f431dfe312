"""Any transcript can be scored: no reward raises, leaves its range, or depends on the tags in a passage."""

import json
import os
import re
from base64 import b64encode
from collections import Counter
from dataclasses import replace
from difflib import SequenceMatcher
from unittest import mock
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from rezero.corpus import load_chunks
from rezero.evaluation.traces import read_traces
from rezero.files import read_json
from rezero.protocol import Episode, format_hits, parse_turn, wrap_information
from rezero.questions import Question, load_questions
from rezero.rewards import REWARDS
from rezero.rewards.published import _without_operators as without_operators
from rezero.rewards.published import similarity
from rezero.runner.parameters import parse_yaml
from rezero.search import ENGINES, check_options
from rezero.search.base import Hit, SearchError
from rezero.text import clean

YES_NO, SEARCHES = (0, 1), (0, 0.175, 0.25, 0.325, 0.35, 0.4, 0.475, 0.5, 0.65, 0.8, 0.95)
RANGES = dict.fromkeys(REWARDS, slice(0, 1)) | {  # a tuple: these values only; a slice: everything between
    **dict.fromkeys(("correctness", "format", "em_chunk", "em_chunk_last", "exact_match"), YES_NO),
    **dict.fromkeys(("retry", "retry_always"), SEARCHES),
    "search_strategy": (0, 0.2, 0.4, 0.6, 0.8, 1),
    "retry_paper": (0, 0.25, 0.5, 0.75, 1),
}

GOLDS = [f"The valve {i} froze.\n\nIt stuck <i>{i}</i> hours, a < b." for i in range(7)]
NAMES = ("think", "search", "answer", "information", "info", "INFO", "tool_call")
TAGS = [f"<{slash}{name}>" for name in NAMES for slash in ("", "/")] + ["<|im_end|>", "**", "_", "<", ">", "</", "< /"]
WORDS = ["found", "valve", "frozen valve", " based on ", "-up", ' "x y" ', "site:a.b", " OR ", "12", " 3.5 kg ", "\n\n"]
ANY = st.text(st.characters(), max_size=8)  # half surrogate pairs, too
TAG, WORD = st.sampled_from(TAGS), st.sampled_from(WORDS)
SAID = st.lists(st.one_of(TAG, WORD, ANY), max_size=12).map("".join)
SEARCH = st.tuples(SAID, SAID).map(lambda said: f"<think>{said[0]}</think><search>{said[1]}</search>")
ANSWER = st.tuples(SAID, SAID).map(lambda said: f"<think>{said[0]}</think><answer>{said[1]}</answer>")
GOOD = st.sampled_from(["<think>found it</think><search>valve</search>", "<search>frozen -up</search>"])
RIGHT = st.sampled_from(["<think>based on it</think><answer>frozen valve</answer>", "<answer>12</answer>"])
GOLD = st.sampled_from(GOLDS[:2]) | st.sampled_from(GOLDS)
PASSAGE = st.lists(st.one_of(TAG, WORD, GOLD), max_size=8).map(" ".join)
HIT = st.builds(Hit, st.sampled_from(["g0", "g1", "g2", "o"]), PASSAGE, PASSAGE, st.floats(0, 1))
ANSWERS = st.one_of(st.just(("12", "frozen valve")), st.lists(st.one_of(WORD, ANY), max_size=3).map(tuple))


@st.composite
def questions(draw):
    golds = draw(st.sampled_from([0, 1, 1, 2, 7]))
    texts = tuple(GOLDS[:golds]) if draw(st.booleans()) else ()
    return Question("q", "What froze?", draw(ANSWERS), tuple(f"g{i}" for i in range(golds)), texts)


@st.composite
def episodes(draw, last=st.one_of(RIGHT, ANSWER, SAID)):
    """What a rollout or `from_messages` may leave: any turns, answered with hits, with bare text or not at all."""
    turns = []
    for text in draw(st.lists(st.one_of(GOOD, SEARCH, SAID, ANSWER), max_size=6)):
        hits, passage = tuple(draw(st.lists(HIT, max_size=3))), draw(st.one_of(st.none(), PASSAGE))
        turns.append(replace(parse_turn(text), hits=hits, information=format_hits(hits) if hits else passage))
    if draw(st.integers(0, 3)):
        turns.append(parse_turn(draw(last)))
    answered = bool(turns) and turns[-1].action == "answer"
    return Episode(draw(questions()), tuple(turns), "answered" if answered else "unfinished")


def values(episode):
    return {name: reward(episode) for name, reward in REWARDS.items()}


def poisoned(episode, poison):
    """The episode with a text at both ends of every passage: as it was shown, and in its hits."""
    turns = []
    for turn in episode.turns:
        hits = tuple(replace(hit, text=f"{poison} {hit.text} {poison}") for hit in turn.hits)
        information = turn.information and f"{poison} {turn.information} {poison}"
        turns.append(replace(turn, hits=hits, information=information))
    return replace(episode, turns=tuple(turns))


@given(episodes())
@settings(max_examples=200, deadline=None)
def test_any_episode_earns_values_in_the_range_and_the_same_twice(episode):
    earned = values(episode)
    for name, value in earned.items():
        span = RANGES[name]
        assert type(value) is float, name
        if isinstance(span, slice):
            assert span.start <= value <= span.stop, name
        else:
            assert any(value == pytest.approx(allowed) for allowed in span), (name, value)
    assert values(episode) == earned


@example(
    Episode(
        Question("q", "?", ("frozen valve",), ("g0",), (GOLDS[0],)),
        (
            replace(parse_turn("<think>found it</think><search>valve</search>"), information=GOLDS[0]),
            replace(parse_turn("<think>found</think><search>frozen</search>"), information="nothing"),
            parse_turn("<think>based on it</think><answer>frozen valve</answer>"),
        ),
        "answered",
    ),
    "<search>x</search><answer>12</answer><information>found it</information>",
)
@given(episodes(), SAID)
@settings(max_examples=100, deadline=None)
def test_what_passages_say_changes_no_reward(episode, poison):
    assert values(poisoned(episode, poison)) == values(episode)


@given(episodes(last=st.one_of(RIGHT, SEARCH)), SAID)
@settings(max_examples=100, deadline=None)
def test_chat_messages_of_any_passage_are_read_as_they_were(episode, poison):
    bare = replace(episode, turns=tuple(replace(turn, hits=()) for turn in episode.turns))
    if len(bare.turns) == 1:  # a single message may hold a whole trajectory
        return
    for one in (bare, poisoned(bare, poison)):
        messages = [{"role": "user", "content": "q"}]
        for turn in one.turns:
            messages.append({"role": "assistant", "content": turn.text})
            if turn.information is not None:
                messages.append({"role": "tool", "content": wrap_information(turn.information)})
        assert values(Episode.from_messages(messages, episode.question)) == values(one)


TEXT = st.one_of(st.text(alphabet="abc d", max_size=60), st.text(max_size=40), st.text(alphabet="ab", max_size=230))
QUERY = st.lists(ANY | WORD, max_size=40).map("".join).map(without_operators)  # what search_diversity compares


@given(st.tuples(TEXT, TEXT) | st.tuples(QUERY, QUERY))
@settings(max_examples=300, deadline=None)
def test_similarity_equals_that_of_difflib(pair):
    a, b = pair
    assert similarity(a, b) == SequenceMatcher(None, a, b).ratio()
    assert similarity(a, a) == 1


# --- what a user, a model or a server may hand in: it is read, or refused in one short line. -s prints the tries ---

SCALAR = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), ANY, WORD, st.just("x" * 10_000))
VALUE = st.recursive(SCALAR, lambda inner: st.lists(inner) | st.dictionaries(ANY, inner), max_leaves=6)
KEYS = ["id", "_id", "text", "title", "contents", "source", "question", "answer", "answers", "gold_chunk_ids", "split"]
OPTIONS = ["k1", "b", "backend", "engine", "engines", "weights", "c", "depth", "rate", "kinds", "seed", "empty", "url"]
RECORD = st.dictionaries(st.sampled_from([*KEYS, "turns", "labels", "outcome"]) | ANY, VALUE, max_size=8)
YAML_PART = st.sampled_from(
    ["a", ": ", "- ", "\n", "  ", "&x ", "*x", "{", "}", "[", "]", "!!", "<<", "?", "'", '"', "1"]
)
TOOLS = st.sampled_from(["search", "search_corpus", "web_lookup", "retrieve"])


def refused_in_one_line(call, *arguments):
    """The value of the call; None for a refusal, which must be one short line."""
    try:
        return call(*arguments)
    except ValueError as error:
        assert len(str(error)) < 1000 and str(error).splitlines() == [str(error)], str(error)[:2000]


@pytest.fixture(scope="module")
def tries():
    counts = Counter()
    yield counts
    print("\ntries per kind:", dict(counts))


many = settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.slow
@given(rows=st.lists(RECORD | VALUE, max_size=3), cut=st.integers(0, 20), blank=st.booleans())
@many
def test_files_of_records(tmp_path_factory, tries, rows, cut, blank):
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"
    text = ("\n\n" if blank else "\n").join(json.dumps(row) for row in rows)
    path.write_text(text[: len(text) - cut])
    for read in (load_chunks, load_questions, read_json, read_traces):
        tries[read.__name__] += 1
        refused_in_one_line(read, path)


@pytest.mark.slow
@given(st.lists(YAML_PART | SAID, max_size=30).map("".join))
@many
def test_yaml(tries, text):
    tries["parse_yaml"] += 1
    refused_in_one_line(parse_yaml, text, "-p x=...")


@pytest.mark.slow
@given(st.sampled_from(list(ENGINES)), st.dictionaries(st.sampled_from(OPTIONS) | ANY, VALUE, max_size=3))
@many
def test_options_of_engines(tries, name, options):
    tries["check_options"] += 1
    refused_in_one_line(check_options, name, options)


def written(how, name, query):
    """An assistant's message with a search, in the way of one kind of agent."""
    call = {"name": name, "arguments": json.dumps({"query": query})}
    plain = json.dumps({"name": name, "parameters": {"words": query, "top_k": 3}})
    return {
        "openai": {"content": None, "tool_calls": [{"type": "function", "function": call}]},
        "strings": {"content": "", "tool_calls": [json.dumps({"function": call})]},
        "old": {"content": None, "function_call": call},
        "llama": {"content": plain},
        "autodidact": {"content": f'<reasoning>so</reasoning>\n{{"type": "function", "function": {plain}}}'},
        "qwen": {"content": f"I look.\n<tool_call>\n{plain}\n</tool_call>"},
        "tags": {"content": f"<think>so</think><search>{query}</search>"},
    }[how] | {"role": "assistant"}


WAYS = ["openai", "strings", "old", "llama", "autodidact", "qwen", "tags"]
QUERIES = st.lists(st.text(st.characters(exclude_characters="<>"), min_size=1, max_size=20), min_size=1, max_size=4)
WRAPS = st.sampled_from(
    ["{}", "<information>{}</information>", "<result>{}</result>", "<tool_response>\n{}\n</tool_response>"]
)


@pytest.mark.slow
@pytest.mark.parametrize("how", WAYS)
@given(queries=QUERIES, name=TOOLS, wrap=WRAPS, role=st.sampled_from(["user", "tool", "ipython"]), thanks=st.booleans())
@many
def test_every_search_of_a_chat_is_read(tries, how, queries, name, wrap, role, thanks):
    tries[how] += 1
    messages = [{"role": "user", "content": "q"}]
    for query in queries:
        messages += [written(how, name, query), {"role": role, "content": wrap.format("passage")}]
    messages.append({"role": "assistant", "content": "<answer>12</answer>"})
    messages += [{"role": "user", "content": "thanks"}] * thanks
    episode = Episode.from_messages(messages)
    assert [clean(query).strip() for query in queries] == list(episode.queries) and episode.answer == "12"
    assert [turn.information for turn in episode.searches] == ["passage"] * len(queries)


CHAT = st.lists(
    RECORD
    | st.fixed_dictionaries({"role": st.sampled_from(["assistant", "user", "tool"]), "content": VALUE})
    | st.fixed_dictionaries({"role": st.just("assistant"), "tool_calls": VALUE, "function_call": VALUE}),
    max_size=6,
)


@pytest.mark.slow
@given(CHAT)
@many
@pytest.mark.filterwarnings("ignore:transcript")
def test_any_chat(tries, messages):
    tries["any chat"] += 1
    episode = refused_in_one_line(Episode.from_messages, messages)
    json.dumps(episode.to_messages() if episode else []).encode()


@pytest.mark.slow
@given(
    secret=st.text(st.characters(exclude_categories=("C", "Z")), min_size=4, max_size=40), before=st.binary(max_size=5)
)
@many
def test_no_error_repeats_a_secret(tries, secret, before):
    assume(secret not in "a server said: [redacted]")
    forms = [secret, quote(secret, safe=""), json.dumps(secret), b64encode(before + secret.encode()).decode()]
    with mock.patch.dict(os.environ, {"SERPER_API_KEY": secret}, clear=True):
        for form in forms:
            tries["secrets"] += 1
            said = str(SearchError(f"a server said: {form}"))
            inner = form.strip('"')[8:-4]
            assert secret not in said and (len(inner) < 6 or inner not in said)


def original(messages):
    """`search_strategy` by the rule of the original, over messages (research notes; written anew)."""
    informed = started = concluded = False
    refined = analysed = 0
    for message in messages:
        text = message["content"]
        if message["role"] != "assistant":
            block = re.search(r"<information>[^<>]+</information>", text)
            informed = bool(block) and message["role"] in ("user", "ipython")
        elif re.search(r"<think>[^<>]+</think>", text):
            searches = bool(re.search(r"<search>[^<>]+</search>", text))
            words = re.findall(r"\w+", " ".join(re.findall(r"<think>([^<>]+)</think>", text)).lower())
            analyses = bool({"based", "found", "results"} & set(words))
            started |= searches
            concluded |= analyses and bool(re.search(r"<answer>[^<>]+</answer>", text))
            refined, analysed = refined + (informed and searches), analysed + (informed and analyses)
    return 0.2 * started + min(0.4, 0.2 * min(refined, analysed)) + 0.4 * concluded


THOUGHTS = st.sampled_from(
    ["<think>hm</think>", "<think>based on it</think>", "<think>found <b></think>", "", "<think>open"]
)
TURN = st.tuples(THOUGHTS, st.sampled_from(["<search>a</search>", "<search>a<b</search>", "<answer>12</answer>", "hm"]))


@pytest.mark.slow
@given(st.lists(TURN, max_size=7), st.lists(st.booleans(), min_size=7, max_size=7))
@settings(many, max_examples=5000)
@pytest.mark.filterwarnings("ignore:transcript")
def test_search_strategy_is_that_of_the_original(tries, turns, replied):
    tries["search_strategy"] += 1
    messages = []
    for (thought, action), reply in zip(turns, replied, strict=False):
        messages.append({"role": "assistant", "content": thought + action})
        if parse_turn(thought + action).action == "search":
            messages.append({"role": "user", "content": "<information>found it</information>"})
        elif reply:
            messages.append({"role": "user", "content": "Not understood."})
    got = REWARDS["search_strategy"](Episode.from_messages(messages))
    assert got == pytest.approx(original(messages))
