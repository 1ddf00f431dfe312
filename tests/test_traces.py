"""Traces: files round-trip, tables count right, and nothing that a passage or a policy wrote becomes HTML."""

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from rezero.traces import read_traces, turns_frame

from rezero.analysis.cards import browser, html, plain, side_by_side
from rezero.evaluation.traces import append_traces, read_rows, to_frame, write_traces
from rezero.files import append_jsonl, read_jsonl
from rezero.protocol import CORRECTION, NO_HITS, Episode, parse_turn
from rezero.questions import Question
from rezero.search.base import Hit

QUESTION = Question("q1", "Who led Corvane?", ("Ilse Varrow", "Varrow"), ("g1",), ("Varrow led it.",), split="dev")
TWO_HOP = replace(QUESTION, id="q2", gold_chunk_ids=("g1", "g2"), gold_texts=("a", "b"), kind="two-hop")
GOLD, OTHER = Hit("g1", "Crew", "Varrow led it, not Varrowson.", 2.5), Hit("x", "Stores", "Nothing here.", 1.25)
EVIL = "<script>alert(1)</script></details><img src=x onerror=alert(2)> \"quoted\" & 'so'"


def turn(action: str, argument: str = "", *hits: Hit, thought: str = "hm", **reply):
    text = f"<think>{thought}</think><{action}>{argument}</{action}>" if action != "malformed" else argument
    reply = {"information": "shown"} | reply if action == "search" else reply
    return replace(parse_turn(text), hits=hits, **reply)


def episode(*turns, question=QUESTION, outcome="answered", **ids) -> Episode:
    return Episode(question, turns, outcome, ({"role": "user", "content": "Who led Corvane?"},), **ids)


FIRST_TRY = episode(turn("search", "leader", OTHER, GOLD), turn("answer", "the varrow."))
GAVE_UP = episode(turn("search", "leader", OTHER), turn("answer", "unknown"))
RECOVERED = episode(turn("search", "leader", OTHER), turn("search", "crew", GOLD), turn("answer", "Ilse Varrow"))
RETRIED_IN_VAIN = episode(
    turn("search", "leader", OTHER),
    turn("malformed", "<think>lost", information=CORRECTION),
    turn("search", "Leader", error="timeout", information="failed"),
    turn("search", "zzz", information=None),
    outcome="token_limit",
    prompt_ids=(5, 6),
    completion_ids=(1, 2, 3, 4, 9),
    env_mask=(1, 1, 0, 0, 1),
)
HALF = episode(turn("search", "leader", GOLD), turn("answer", "Varrow"), question=TWO_HOP)
NO_QUESTION = Episode.from_messages(
    [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "<search>a</search>"},
        {"role": "tool", "content": "<information>\nsome text\n</information>"},
        {"role": "assistant", "content": "<answer>Varrow</answer>"},
    ]
)
ALL = [FIRST_TRY, GAVE_UP, RECOVERED, RETRIED_IN_VAIN, HALF, NO_QUESTION]


# --- files


def test_every_field_survives_the_file(tmp_path):
    odd = episode(turn("search", "naïve 火箭 \u2028 \ud800", GOLD, thought="line\nline"), outcome="unfinished")
    write_traces(tmp_path / "t.jsonl", [*ALL, odd], policy="start", step=40)
    assert read_traces(tmp_path / "t.jsonl") == [*ALL, odd]
    assert read_rows(tmp_path / "t.jsonl")[0] == ({"policy": "start", "step": 40}, FIRST_TRY)
    assert "火箭" in write_traces(tmp_path / "u.jsonl", [episode(turn("answer", "火箭"))]).read_text("utf-8")


def test_append_keeps_what_was_there_with_its_own_labels(tmp_path):
    path = tmp_path / "new folder" / "t.jsonl"
    append_traces(path, [FIRST_TRY], policy="start")
    append_traces(path, [GAVE_UP, RECOVERED], policy="trained")
    assert [labels["policy"] for labels, _ in read_rows(path)] == ["start", "trained", "trained"]
    assert read_traces(path) == [FIRST_TRY, GAVE_UP, RECOVERED]


@pytest.mark.parametrize("kept", [0, 1])
def test_append_cuts_off_only_the_line_that_a_killed_process_left_unfinished(tmp_path, kept):
    path = write_traces(tmp_path / "t.jsonl", [FIRST_TRY] * kept)
    with path.open("a") as file:
        file.write('{"labels": {}, "quest')
    with pytest.warns(UserWarning, match=r"t\.jsonl: cut off an unfinished last line"):
        append_traces(path, [GAVE_UP])
    assert read_traces(path) == [FIRST_TRY] * kept + [GAVE_UP]


def _without(*keys):
    def damage(row):
        for key in keys[:-1]:
            row = row[key]
        del row[keys[-1]]

    return damage


@pytest.mark.parametrize(
    "damage, message",
    [
        (_without("turns"), "no Episode: turns missing; want: question, turns, outcome"),
        (_without("question", "answers"), "question: no Question: answers missing"),
        (_without("turns", 0, "action"), r"turns\[0\]: no Turn: action missing"),
        (_without("turns", 0, "hits", 1, "score"), r"turns\[0\]: hits\[1\]: no Hit: score missing"),
        (lambda row: row.update(policy="start"), "Episode has no field 'policy'; allowed: question"),
        (lambda row: row.update(outcome="won"), "outcome is 'won'; allowed: answered, malformed"),
        (lambda row: row.update(turns="none"), "turns is 'none'; want a list"),
        (lambda row: row["turns"][0].update(argument=3), r"turns\[0\]: argument is 3; want a str"),
        (lambda row: row.update(env_mask=[1]), "env_mask has 1 values for 0 completion_ids"),
    ],
)
def test_a_line_that_is_no_episode_is_refused(tmp_path, damage, message):
    path = write_traces(tmp_path / "t.jsonl", [FIRST_TRY])
    row = json.loads(path.read_text())
    damage(row)
    path.write_text(f"{path.read_text()}\n{json.dumps(row)}\n")  # a blank line between counts, too
    with pytest.raises(ValueError, match=rf"t\.jsonl:3: {message}"):
        read_traces(path)


@pytest.mark.parametrize("end", [b"{", b"garbage\n", '{"labels": {"p": "é'.encode()[:-1]])  # cut in a character
def test_a_damaged_last_line_is_reported_and_skipped(tmp_path, end):
    path = write_traces(tmp_path / "t.jsonl", [FIRST_TRY, GAVE_UP])
    path.write_bytes(path.read_bytes() + end)
    with pytest.warns(UserWarning, match=r"t\.jsonl:3: skipped a damaged last line: "):
        assert read_traces(path) == [FIRST_TRY, GAVE_UP]
    path.write_bytes(path.read_bytes() + b"\n{}\n")
    with pytest.raises(ValueError, match=r"t\.jsonl:3: not valid JSON"):
        read_traces(path)


def test_a_killed_process_costs_its_last_line_of_metrics_only(tmp_path):
    path = tmp_path / "m.jsonl"
    append_jsonl(path, {"step": 1})
    path.write_text(path.read_text() + '{"step": 2, "lo')
    with pytest.warns(UserWarning, match=r"m\.jsonl:2: skipped"):
        assert list(read_jsonl(path, appended=True)) == [{"step": 1}]
    with pytest.raises(ValueError, match=r"m\.jsonl:2: not valid JSON"):
        list(read_jsonl(path))  # a data set is never read without its end
    with pytest.warns(UserWarning, match="cut off"):
        append_jsonl(path, {"step": 2})
    assert list(read_jsonl(path)) == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("line", ["[1]", "null", "{\n{}"])
def test_a_line_of_something_else_is_refused(tmp_path, line):
    (tmp_path / "t.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"t\.jsonl:1: "):
        read_traces(tmp_path / "t.jsonl")


# --- tables


def test_to_frame_counts_what_the_figures_are_made_of():
    frame = to_frame(ALL, policy="start")
    assert frame.correct.tolist()[:5] == [True, False, True, False, True] and frame.correct.isna()[5]
    assert frame.searches.tolist() == [1, 1, 2, 3, 1, 1]
    assert frame.evidence.tolist()[:5] == [1, 0, 1, 0, 0.5] and frame.evidence.isna()[5]
    assert frame.evidence_search.fillna(-1).tolist() == [1, -1, 2, -1, -1, -1]
    assert frame.first_miss.tolist() == [False, True, True, True, True, False]
    assert frame.retried_after_miss.tolist() == [False, False, True, True, False, False]
    assert frame.recovered.tolist() == [False, False, True, False, False, False]
    assert frame.malformed_turns.tolist() == [0, 0, 0, 1, 0, 0]
    assert frame.completion_tokens.fillna(-1).tolist() == [-1, -1, -1, 5, -1, -1]
    assert frame.policy_tokens[3] == 3
    assert frame.answer.tolist()[:2] == ["the varrow.", "unknown"] and frame.outcome[3] == "token_limit"
    assert frame.kind.tolist()[3:5] == ["direct", "two-hop"] and frame.split[0] == "dev"
    assert (frame.policy == "start").all()


def test_an_answer_without_any_search_is_no_miss():
    assert not to_frame([episode(turn("answer", "Varrow"))]).first_miss[0]


def test_labels_of_a_file_become_columns(tmp_path):
    write_traces(tmp_path / "t.jsonl", [FIRST_TRY], policy="start")
    append_traces(tmp_path / "t.jsonl", [GAVE_UP], policy="trained")
    frame = to_frame(read_rows(tmp_path / "t.jsonl"), reward=[0.5, 1.5])
    assert frame.policy.tolist() == ["start", "trained"] and frame.reward.tolist() == [0.5, 1.5]


def test_turns_frame_has_a_row_a_turn():
    frame = turns_frame([RECOVERED, RETRIED_IN_VAIN], policy="start")
    assert frame.episode.tolist() == [0, 0, 0, 1, 1, 1, 1] and frame.turn.tolist() == [1, 2, 3, 1, 2, 3, 4]
    assert frame.action.tolist()[:4] == ["search", "search", "answer", "search"]
    assert frame.evidence.tolist() == [0, 1, 1, 0, 0, 0, 0]
    assert frame.repeated.tolist() == [False] * 5 + [True, False]  # "Leader" after "leader"
    assert frame.error[5] == "timeout" and frame.replied.tolist()[-2:] == [True, False]
    assert frame.hits.tolist()[:3] == [1, 1, 0]


def test_half_a_surrogate_pair_hinders_no_table():
    odd = episode(turn("search", "a\ud800", thought="\udfff"), turn("answer", "b\ud800"))
    assert to_frame([odd]).answer[0] == "b?" and turns_frame([odd]).argument.tolist() == ["a?", "b?"]


def test_no_episodes_is_an_error():
    for table in (to_frame, turns_frame):
        with pytest.raises(ValueError, match="no episodes"):
            table([])


# --- HTML


class Tags(HTMLParser):
    """The tags and attributes of a page, its text, and whether every tag is closed in order."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes, self.open, self.words, self.marked = [], [], [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.open += [] if tag in ("input", "meta") else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += [] if "style" in self.open else [data]
        self.marked += [data] if "mark" in self.open else []

    @property
    def text(self) -> str:
        return "".join(self.words)


def evil() -> Episode:
    question = Question(EVIL, EVIL, (EVIL,), ("g1",), kind="direct")
    hit = Hit(EVIL, EVIL, f"before {EVIL} after", 1.0)
    turns = (
        turn("search", EVIL, hit, replace(hit, chunk_id="g1"), thought=EVIL),
        turn("search", EVIL, error=EVIL),
        turn("search", EVIL, information=EVIL),
        turn("malformed", f"<think>{EVIL}"),
        turn("answer", EVIL, thought=EVIL),
    )
    return Episode(question, turns, "answered", completion_ids=(1, 2), env_mask=(1, 0))


def test_nothing_untrusted_becomes_html(tmp_path):
    bad = evil()
    file = browser([bad], EVIL).save(tmp_path / "b.html").read_text("utf-8")
    for page in (html(bad, lambda ids: EVIL), side_by_side(bad, bad, (EVIL, EVIL))._repr_html_(), file):
        found = Tags(page)
        assert not {"script", "img", "link", "iframe"} & set(found.tags)
        assert not [name for name, _ in found.attributes if name.startswith("on") or name in ("src", "href")]
        assert "url(" not in page and "@import" not in page  # nothing is loaded from elsewhere
        assert found.text.count(EVIL) >= 12  # question, thoughts, queries, titles, texts, errors, answer: all readable


def test_a_card_shows_each_turn_and_what_was_gold():
    found = Tags(html(RECOVERED))
    assert found.tags.count("li") == 3
    assert "✓ correct, missed, then found" in found.text and "(direct, searches: 2)" in found.text
    assert "gold seen so far: 0 of 1" in found.text and "gold seen so far: 1 of 1" in found.text
    assert "★ gold Crew" in found.text and found.text.count("★") == 1
    assert ("class", "passage gold") in found.attributes and ("open", None) in found.attributes


def test_answers_are_marked_as_whole_words_only():
    found = Tags(html(FIRST_TRY))
    assert found.marked == ["Ilse Varrow / Varrow", "Varrow", "varrow"]  # gold, passage (not Varrowson), the answer


def test_what_went_wrong_is_flagged():
    text = Tags(html(RETRIED_IN_VAIN)).text
    assert "✗ not correct, malformed turn, no answer (token_limit)" in text
    assert "⚠ malformed turn<think>lost" in text
    assert "⚠ the search engine failed: timeout" in text and "⚠ no reply: the episode ended here" in text
    assert "passages: 0" in Tags(html(episode(turn("search", "zzz", information=NO_HITS), outcome="turn_limit"))).text


def test_an_episode_that_was_cut_off_did_not_give_up():
    cut = episode(turn("search", "leader", information=None), outcome="token_limit")
    assert "✗ not correct, no answer (token_limit)" in plain(cut)


def test_a_transcript_without_question_or_hits_is_still_readable():
    text = Tags(html(NO_QUESTION)).text
    assert "not judged: no question · Who?" in text and "some text" in text


def test_the_token_strip_tells_sampled_from_environment():
    page = html(RETRIED_IN_VAIN, lambda ids: "" if ids == [9] else f"<{ids[0]}>")
    assert "<b>3 sampled by the policy</b>, <i>2 from the environment</i>" in page
    strip = page[page.index('<p class="text"><b><span') :]
    assert strip.index("&lt;2&gt;</span></b><i>") < strip.index("&lt;4&gt;</span></i><b>") < strip.index("‹9›")
    assert "sampled by" not in html(RETRIED_IN_VAIN)


def test_browser_filters_counts_and_limits(tmp_path):
    page = browser([FIRST_TRY, GAVE_UP, RECOVERED, RETRIED_IN_VAIN], "dev", limit=3)
    found = Tags(page._repr_html_())
    assert [dict(found.attributes).get("name")] == ["show"]
    buttons = [value for name, value in found.attributes if name == "aria-label"]
    assert buttons[:3] == ["all (4)", "✓ correct (2)", "✗ not correct (2)"]
    assert buttons[3:] == ["gave up after a miss (1)", "missed, then found (1)", "malformed turn (1)"]
    classes = [value for name, value in found.attributes if name == "class" and value.startswith("episode")]
    assert classes == ["episode correct", "episode wrong gave-up", "episode correct recovered"]
    assert "and 1 more" in found.text
    saved = Tags(page.save(tmp_path / "b.html").read_text("utf-8"))
    assert len([1 for name, value in saved.attributes if name == "class" and value.startswith("episode")]) == 4
    assert ".rezero:has([value=gave-up]:checked) .episode:not(.gave-up){display:none}" in page._repr_html_()
    assert repr(page).splitlines()[:2] == [
        "dev: 4 episodes",
        "  [✓ correct] 1 searches: Who led Corvane? -> the varrow.",
    ]


def test_side_by_side_wants_the_same_question():
    page = side_by_side(GAVE_UP, RECOVERED, ("start", "trained"))
    assert Tags(page._repr_html_()).tags.count("td") == 2
    assert repr(page).index("== start ==") < repr(page).index("unknown") < repr(page).index("== trained ==")
    with pytest.raises(ValueError, match="question 'q1' beside 'q2'"):
        side_by_side(GAVE_UP, HALF)


def test_plain_text_for_a_terminal():
    assert plain(GAVE_UP).splitlines() == [
        "question: Who led Corvane?",
        "  1 search: 'leader'",
        "      thought: hm",
        "      passages: 1, gold seen so far: 0 of 1",
        "  2 answer: 'unknown'",
        "      thought: hm",
        "verdict: ✗ not correct, gave up after a miss; gold: Ilse Varrow",
    ]
