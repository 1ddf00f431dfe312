"""Any transcript can be scored: no reward raises, leaves its range, or depends on the tags in a passage."""

from dataclasses import replace
from difflib import SequenceMatcher

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rezero.protocol import Episode, format_hits, parse_turn, wrap_information
from rezero.questions import Question
from rezero.rewards import REWARDS
from rezero.rewards.published import _without_operators as without_operators
from rezero.rewards.published import similarity
from rezero.search.base import Hit

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
