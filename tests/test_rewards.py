"""The rewards, the published ones and ours, on episodes whose value is known; test_fuzz.py takes any episode."""

from dataclasses import replace
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rezero.analysis.reward_lab import rewards_of
from rezero.config import load_config
from rezero.protocol import Episode, neutralize, parse_turn
from rezero.questions import Question
from rezero.rewards import REWARD_SETS, REWARDS, load_reward, ours, published, reward_weights, score
from rezero.search.base import Hit

GOLD, GOLD2, OTHER = "7.1 Tanks\n\nThe relief valve froze.", "The crew came home.", "A heater welded shut."
ONE = Question("q1", "What froze?", ("relief valve", "valve"), ("g1",), (GOLD,))
TWO = Question("q2", "Who came home after what froze?", ("crew",), ("g1", "g2"), (GOLD, GOLD2), kind="two-hop")
THINK = "<think>hm</think>"
RIGHT, WRONG = f"{THINK}<answer>The relief valve</answer>", f"{THINK}<answer>a heater</answer>"


def query(*words, think=THINK):
    return think + "".join(f"<search>{word}</search>" for word in words)


def episode(*parts, question=ONE):
    """An episode of assistant texts; a pair is such a text and the passages that came back for it."""
    messages = [{"role": "user", "content": question.text}]
    for part in parts:
        text, *back = part if isinstance(part, tuple) else (part,)
        messages.append({"role": "assistant", "content": text})
        messages += [{"role": "user", "content": f"<information>\n{b}\n</information>"} for b in back]
    return Episode.from_messages(messages, question)


def searched(*found, answer="relief valve", question=ONE):
    """An episode as a rollout records it, whose n-th search brought the chunks with the ids `found[n]`."""
    turns = []
    for i, ids in enumerate(found):
        hits = tuple(Hit(name, "", {"g1": GOLD, "g2": GOLD2}.get(name, OTHER), 1.0) for name in ids)
        turns.append(replace(parse_turn(query(f"words {i}")), hits=hits, information="passages"))
    if answer is not None:
        turns.append(parse_turn(f"{THINK}<answer>{answer}</answer>"))
    return Episode(question, tuple(turns), "turn_limit" if answer is None else "answered")


MISS, HIT = ("o",), ("g1", "o")  # what a search brings: ids of its hits


@pytest.mark.parametrize(
    ("one", "want"),
    [
        (episode(RIGHT), 1),  # right, though nothing was searched
        (episode((query("x"), GOLD), WRONG), 0),
        (episode("<think>Say yes, it is correct.</think><answer>no idea</answer>"), 0),  # no judge to persuade
        (episode((RIGHT, "")), 0),  # the last message is not the assistant's
        (episode("<think><search>x</search></think><answer>valve</answer>"), 0),  # a search pair, if only in a thought
        (episode(f"<information>x</information>{RIGHT}"), 0),  # invented information
        (episode("<think><answer>valve</answer></think>"), 0),  # an answer in a thought is none
        (episode("<think>hm<answer>valve</answer>"), 0),  # ours: nor is one in a thought that never closes
        (episode(), 0),
        (episode("<answer>valve</answer>"), 1),  # no thought: that concerns the reward "format"
        (searched(MISS, HIT), 1),
    ],
)
def test_correctness(one, want):
    assert published.correctness(one) == want


@pytest.mark.parametrize(
    ("last", "want"),
    [
        (RIGHT, 1),
        (WRONG, 1),  # the format of a wrong answer is as good
        (query("x"), 1),  # ending on a search is paid, too
        (query("x", "y"), 1),  # several searches as well
        (f"{RIGHT}\n ", 1),  # white space at the end
        ("<answer>valve</answer>", 0),  # no thought
        (THINK, 0),  # no action
        (f"{query('x')}<answer>y</answer>", 0),  # both actions
        (f"{RIGHT}<answer>again</answer>", 0),  # two answers
        (f"{query('x')}<answer>y</answer><answer>z</answer>", 1),  # quirk: two answers beside a search pass
        (f"<answer>valve</answer>{THINK}", 0),  # thought after the action, and the end is no action
        (f"{RIGHT}{THINK}<answer>", 0),
        (f"{RIGHT} done", 0),  # text after the action
        (f"<information>x</information>{RIGHT}", 0),
        (f"<Information_2>x</InfoBox>{RIGHT}", 0),  # any case, any ending
        (f"<information>{RIGHT}", 1),  # no pair
        (f"**<think>**hm</think>{RIGHT}", 0),
        (f"_</think>_{RIGHT}", 0),
        ("", 0),
    ],
)
def test_format(last, want):
    assert published.keeps_format(episode(last)) == want
    assert published.keeps_format(episode(("broken", OTHER), last)) == want  # quirk: only the last message counts


@pytest.mark.parametrize(
    ("one", "want", "always"),  # `retry`, and `retry_always`, which asks for no answer
    [
        (episode(RIGHT), 0, 0),  # no search
        (episode("neither"), 0, 0),
        (episode(), 0, 0),
        (episode(query("a"), RIGHT), 0.35, 0.35),  # quirk: the first search is paid
        (episode((query("a"), GOLD), (query("b"), OTHER), RIGHT), 0.5, 0.5),  # quirk: even after the evidence was there
        (episode(query("a"), query("a"), query("a"), WRONG), 0.65, 0.65),  # quirk: the same query, a wrong answer
        (episode(*[query("a")] * 4, RIGHT), 0.8, 0.8),
        (episode(*[query("a")] * 5, RIGHT), 0.95, 0.95),
        (episode(query("a"), query("b")), 0, 0.5),  # no answer
        (episode(RIGHT, query("b")), 0, 0.35),  # an answer before the last message does not count
        (episode(*[query("a")] * 10), 0, 0.95),  # ten turns of searches: as much as it can pay
        (episode(query("a", "b"), RIGHT), 0.25, 0.25),  # two in one message: half
        (episode(query("a", "b"), query("c"), query("d"), query("e"), RIGHT), 0.475, 0.475),
        (episode("<think><search>a</search></think><answer>b</answer>"), 0.35, 0.35),  # quirk: tags in a thought count
    ],
)
def test_retry(one, want, always):
    assert (published.retry(one), published.retry_always(one)) == (want, always)


@pytest.mark.parametrize(
    ("one", "whole", "last"),
    [
        (episode((query("a"), f"[1] x | {GOLD}")), 1, 1),  # quirk: paid without an answer
        (episode((query("a"), OTHER), (query("b"), f"{GOLD}\n{OTHER}"), WRONG), 1, 1),
        (episode((query("a"), "The relief valve froze."), RIGHT), 0, 1),  # its last paragraph alone
        (episode(f"<think>{GOLD}</think><answer>valve</answer>"), 0, 0),  # said by the policy, not retrieved
        (episode(f"<information>{GOLD}</information>{RIGHT}"), 0, 0),  # invented information
        (searched(MISS, HIT), 1, 1),
        (searched(HIT, question=TWO), 0, 0),  # two-hop: one of two chunks; the last is the other one
        (searched(("g2",), question=TWO), 0, 1),
        (searched(HIT, ("g2",), question=TWO), 1, 1),
        (episode(), 0, 0),
    ],
)
def test_em_chunk(one, whole, last):
    assert (published.em_chunk(one), published.em_chunk_last(one)) == (whole, last)


def test_em_chunk_wants_the_whole_text_and_falls_back_on_ids():
    turn = replace(parse_turn(query("a")), hits=(Hit("g1", "", GOLD[:-5], 1.0),), information="passages")
    assert published.em_chunk(Episode(ONE, (turn,), "unfinished")) == 0  # a truncated passage
    bare = Question("q", "?", ("x",), ("g1",))  # texts were not filled in
    assert published.em_chunk(Episode(bare, (turn,), "unfinished")) == 1
    assert published.em_chunk(episode((query("a"), neutralize("<b>x</b> " + GOLD)), RIGHT)) == 1


FOUND = "<think>I found it</think>"


@pytest.mark.parametrize(
    ("one", "want"),
    [
        (episode(), 0),
        (episode("<search>a</search>"), 0),  # a search without a thought
        (episode(query("a")), 0.2),
        (episode((query("a"), OTHER), (query("b", think=FOUND), OTHER)), 0.4),
        (episode((query("a", think=FOUND), OTHER), query("b")), 0.2),  # analysis before any information
        (episode(query("a"), query("b", think=FOUND)), 0.2),  # no information came
        (episode((query("a"), OTHER), *[(query("b", think=FOUND), OTHER)] * 3), 0.6),  # at most 0.4
        (episode((query("a"), OTHER), f"{FOUND}<answer>x</answer>"), 0.6),  # min(0 searches, 1 analysis) = 0
        (episode((query("a"), OTHER), (query("b", think=FOUND), OTHER), f"{FOUND}<answer>x</answer>"), 0.8),
        # After a correction no turn is informed, until the next information
        (episode((query("a"), OTHER), ("hm", "Not understood."), query("b", think=FOUND)), 0.2),
        (episode((query("a"), OTHER), ("hm", "Not."), (query("b"), OTHER), query("c", think=FOUND)), 0.4),
        (episode(f"{FOUND}<answer>x</answer>"), 0.4),  # quirk: a filler word, nothing searched
        (episode("<think>foundation</think><answer>x</answer>"), 0),  # whole words only
        (episode("<think>found a < b</think><answer>x</answer>"), 0),  # quirk: "<" voids a thought
        (episode((query("a"), "1 < 2"), (query("b", think=FOUND), OTHER)), 0.4),  # a passage's "<" voids nothing here
    ],
)
def test_search_strategy(one, want):
    assert published.search_strategy(one) == pytest.approx(want)


@pytest.mark.parametrize(
    ("queries", "want"),
    [
        ([], 0),
        (["relief valve"], 0.2),
        (["a<b"], 0),  # quirk: a query with "<" is none
        (["abcd", "wxyz"], 0.8),  # 0.4 for two queries, 0.4 for nothing in common
        (["abcd", "abcd", "abcd"], 0),  # clipped at 0: 0.2 - 0.4
        (["abcde", "abcdf"], 0.4 + 0.4 * 0.2),  # a similarity of 0.8 is not above 0.8: no penalty
        (["abcdef", "abcdeg"], 0.4 + 0.4 * (1 - 5 / 6) - 0.1),
        # One operator (0.05), in half of the queries (0.025); the similarity 0 stays 0
        (["abcd", "wxyz site:nasa.gov"], 0.4 + 0.4 + 0.05 + 0.025),
        # The same words, one operator apart: a duplicate, similarity 1 * 0.8
        (["abcd", "abcd site:x"], 0.2 + 0.4 * 0.2 + 0.05 + 0.025 - 0.2),
        # Two operators halve the penalty for similar pairs; similarity 5/6 * 0.6
        (["abcdef -x", 'abcdeg "y z"'], 0.4 + 0.4 * (1 - 5 / 6 * 0.6) + 0.1 + 0.05 - 0.05),
        (["wake-up", "bolt"], 0.8 + 0.05 + 0.025),  # quirk: "-up" is an operator
        (["abcd -p -q -r -s", "wxyz -t"], 1),  # clipped at 1
    ],
)
def test_search_diversity(queries, want):
    value = published.search_diversity(episode(*(query(q) for q in queries), RIGHT))
    assert value == pytest.approx(want, abs=1e-9)


CREW = dict(question=TWO, answer="crew")


@pytest.mark.parametrize(
    ("one", "retry_paper", "recovery", "evidence", "exact_match", "f1", "efficiency"),
    [
        (searched(), 0, 0, 0, 1, 1, 0),  # right by luck or by heart
        (searched(HIT), 0, 1, 1, 1, 1, 1),  # found at once
        (searched(MISS), 0, 0, 0, 1, 1, 0),  # missed and gave up
        (searched(MISS, HIT), 0.25, 1, 1, 1, 1, 1),  # the recovery is paid in full
        (searched(MISS, MISS), 0.25, 0, 0, 1, 1, 0),  # the paper pays the retry, not its success
        (searched(MISS, MISS, HIT), 0.5, 1, 1, 1, 1, 1),  # searches before the evidence cost nothing
        (searched(*[MISS] * 9), 1, 0, 0, 1, 1, 0),  # capped
        (searched(HIT, MISS), 0, 1, 1, 1, 1, 1 / 2),  # the first search did not fail
        (searched(MISS, HIT, answer="wrong"), 0.25, 1, 1, 0, 0, 0),  # about evidence, not the answer
        (searched(MISS, HIT, answer=None), 0, 0, 1, 0, 0, 0),  # only with an answer
        (searched(HIT, answer="the frozen valve"), 0, 1, 1, 0, 2 / 3, 0),
        (searched(HIT, **CREW), 0, 1 / 2, 1 / 2, 1, 1, 0),
        (searched(HIT, ("g2",), **CREW), 0, 1, 1, 1, 1, 1),  # the second hop is no retry
        (searched(HIT, MISS, ("g2",), **CREW), 0.25, 1, 1, 1, 1, 1),  # the third search follows a miss
        (searched(HIT, HIT, ("g2",), **CREW), 0.25, 1, 1, 1, 1, 1),  # the known chunk again is a miss as well
    ],
)
def test_our_rewards(one, retry_paper, recovery, evidence, exact_match, f1, efficiency):
    got = (ours.retry_paper(one), ours.recovery(one), ours.evidence(one))
    assert got == (retry_paper, recovery, evidence)
    assert (ours.exact_match(one), ours.f1(one), ours.efficiency(one)) == pytest.approx((exact_match, f1, efficiency))


SEARCHES = st.lists(st.sets(st.sampled_from(["g1", "g2", "o"])).map(tuple), max_size=6)


@given(searches=SEARCHES, misses=st.integers(0, 4), discount=st.floats(0, 1))
def test_no_deliberate_miss_is_worth_anything(searches, misses, discount):
    honest = searched(*searches, question=TWO)
    misser = searched(*[MISS] * misses, *searches, question=TWO)
    at_once = searched(("g1", "g2"), question=TWO)
    pay = [ours.recovery(one, discount) for one in (misser, honest, at_once)]
    assert 0 <= pay[0] <= pay[1] + 1e-12 and pay[1] <= pay[2] + 1e-12


def test_the_published_weightings_differ_in_what_a_retry_pays():
    for name, retry in {"original": "retry", "retry_always": "retry_always", "retry_paper": "retry_paper"}.items():
        assert REWARD_SETS[name] == REWARD_SETS["no_retry"] | {retry: 1}
    assert sum(REWARD_SETS["original"].values()) == 10  # in fact at most 9.95, because retry reaches 0.95
    sets = [REWARD_SETS[load_config(name).reward_set] for name in ("exp_01", "exp_02", "exp_03")]
    spam, solved = searched(*[MISS] * 9, answer=None), searched(MISS, HIT)
    first, second, third = (score(spam, weights)[0] for weights in sets)
    assert first == pytest.approx(second + 0.95) and second == third  # exp_01 alone pays for searches without an answer
    first, second, third = (score(solved, weights)[0] for weights in sets)
    assert first == second == pytest.approx(third + 0.5)


def half(one: Episode) -> float:
    """A reward of a user."""
    return 0.5


HALF = f"{__name__}:half"


def test_score_weighs_and_also_reports_what_has_no_weight():
    assert score(searched(HIT), {"correctness": 2, "evidence": 0}) == (2, {"correctness": 1, "evidence": 1})
    assert score(searched(HIT), {}) == (0, {})
    assert load_reward("format") is published.keeps_format and load_reward(HALF) is half
    assert score(searched(HIT), {"f1": 2, HALF: 1})[0] == 2.5
    assert reward_weights("no_retry", {HALF: 0}) == {HALF: 0}
    assert reward_weights("recovery") == reward_weights("recovery", {}) == REWARD_SETS["recovery"]
    rows = rewards_of({"found": searched(HIT), "lost": searched(MISS, answer=None)})
    assert list(rows.index) == [*REWARDS, *(f"set {name}" for name in REWARD_SETS)]
    assert rows.loc["correctness"].tolist() == [1, 0] and rows.loc["set recovery"].tolist() == [6, 0]


@pytest.mark.parametrize(
    ("reward_set", "weights", "message"),
    [
        ("original", {"corectness": 1}, r"unknown reward 'corectness'; allowed: correctness, .*, or 'module:function'"),
        ("original", {"retry": "1"}, r"the weight of reward 'retry' is '1'; want a number"),
        ("original", {"retry": True}, r"the weight of reward 'retry' is True; want a number"),
        ("recovry", {}, r"unknown reward set 'recovry'; allowed: original, .*, recovery"),
    ],
)
def test_unknown_rewards_and_bad_weights_are_refused_in_one_line(reward_set, weights, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        reward_weights(reward_set, weights)


def test_a_reward_that_needs_a_question_says_so():
    unasked = Episode.from_messages([{"role": "assistant", "content": RIGHT}])
    with pytest.raises(ValueError, match="the episode has no question"):
        published.correctness(unasked)
    assert published.retry(unasked) == ours.evidence(unasked) == 0


def test_graded_keeps_every_right_answer_above_every_wrong_one():
    right = searched(MISS, answer="relief valve")  # right by luck: no evidence
    near = searched(HIT, answer="the relief valve of tank two")  # evidence and most of the words
    none = searched(HIT, answer="no idea")
    assert ours.graded(right) == 1.0
    assert 0.5 >= ours.graded(near) > ours.graded(none) == 0.25
    assert ours.graded(replace(near, outcome="turn_limit")) == 0.0


def test_clipped_shaping_is_paid_only_beside_a_right_episode():
    right, wrong = searched(HIT, answer="relief valve"), searched(HIT, answer="no idea")
    other = replace(wrong, question=replace(ONE, id="q9"))
    assert ours.clip_to_solved([1.0, 0.5, 0.5], [right, wrong, other]) == [1.0, 0.5, 0.0]
    assert ours.clip_to_solved([-0.5], [other]) == [-0.5]  # a penalty stays


def test_a_thousand_episodes_are_scored_in_two_seconds():
    drawn = [searched(*[MISS] * (i % 5), HIT) for i in range(1000)]
    start = process_time()
    assert all(reward(one) >= 0 for one in drawn for reward in REWARDS.values())
    assert process_time() - start < 2
