"""Cards: what they show, and that nothing that a passage or a policy wrote becomes HTML."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest
from test_traces import FIRST_TRY, GAVE_UP, HALF, NO_QUESTION, RECOVERED, RETRIED_IN_VAIN, episode, turn

from rezero.analysis.cards import FILTERS, browser, card, side_by_side
from rezero.protocol import NO_HITS, Episode
from rezero.questions import Question
from rezero.search.base import Hit

EVIL = "<script>alert(1)</script></details><img src=x onerror=alert(2)> \"quoted\" & 'so'"


class Tags(HTMLParser):
    """The tags and attributes of a page, its text, and whether every tag is closed in order."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes, self.open, self.text, self.marked = [], [], [], "", []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.open += [] if tag in ("input", "meta") else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += "" if "style" in self.open else data
        self.marked += [data] if "mark" in self.open else []


def shown(one: Episode) -> Tags:
    return Tags(card(one)._repr_html_())


def test_nothing_untrusted_becomes_html(tmp_path):
    hit = Hit(EVIL, EVIL, f"before {EVIL} after", 1.0)
    turns = (
        turn("search", EVIL, hit, replace(hit, chunk_id="g1"), thought=EVIL),
        turn("search", EVIL, error=EVIL),
        turn("search", EVIL, information=EVIL),
        turn("malformed", f"<think>{EVIL}"),
        turn("answer", EVIL, thought=EVIL),
    )
    question = Question(EVIL, EVIL, (EVIL,), ("g1",), kind="direct")
    bad = Episode(question, turns, "answered", completion_ids=(1, 2), env_mask=(1, 0))
    pages = [card(bad, lambda ids: EVIL), side_by_side(bad, bad, (EVIL, EVIL)), browser([bad], EVIL)]
    for page in [*(page._repr_html_() for page in pages), pages[2].save(tmp_path / "b.html").read_text("utf-8")]:
        found = Tags(page)
        assert not {"script", "img", "link", "iframe"} & set(found.tags)
        assert not [name for name, _ in found.attributes if name.startswith("on") or name in ("src", "href")]
        assert "url(" not in page and "@import" not in page  # nothing is loaded from elsewhere
        assert found.text.count(EVIL) >= 12  # question, thoughts, queries, titles, texts, errors, answer: all readable


def test_a_card_shows_each_turn_and_what_was_gold():
    found = shown(RECOVERED)
    assert found.tags.count("li") == 3 and ("class", "passage gold") in found.attributes
    assert "✓ correct, missed, recovered" in found.text and "(direct, searches: 2)" in found.text
    assert "gold seen so far: 0 of 1" in found.text and "gold seen so far: 1 of 1" in found.text
    assert "★ gold Crew" in found.text and found.text.count("★") == 1
    assert shown(FIRST_TRY).marked == ["Ilse Varrow / Varrow", "Varrow", "varrow"]  # whole words: not in Varrowson


def test_what_went_wrong_is_flagged():
    text = shown(RETRIED_IN_VAIN).text
    assert "✗ not correct, malformed turn, no answer (token_limit)" in text  # cut off, which is not giving up
    assert "⚠ malformed turn<think>lost" in text
    assert "⚠ the search engine failed: timeout" in text and "⚠ no reply: the episode ended here" in text
    assert "passages: 0" in shown(episode(turn("search", "zzz", information=NO_HITS), outcome="turn_limit")).text
    text = shown(NO_QUESTION).text  # a transcript from elsewhere, without question and hits
    assert "not judged: no question · Who led Corvane?" in text and "some text" in text


def test_the_loss_mask_tells_sampled_tokens_from_the_environments():
    page = card(RETRIED_IN_VAIN, lambda ids: "" if ids == [9] else f"<{ids[0]}>")._repr_html_()
    assert '<details class="tokens" open><summary>tokens: <b>3 sampled by the policy</b>, <i>2 from the' in page
    assert '&lt;2&gt;</b><i title="3">&lt;3&gt;</i><i title="4">&lt;4&gt;</i><b title="9">‹9›</b></p>' in page
    assert "sampled by" not in card(RETRIED_IN_VAIN)._repr_html_()
    with pytest.raises(ValueError, match="no token ids"):
        card(GAVE_UP, str)


def test_browser_filters_counts_and_limits(tmp_path):
    page = browser([FIRST_TRY, GAVE_UP, RECOVERED, RETRIED_IN_VAIN], "dev", limit=3)
    found = Tags(page._repr_html_())
    buttons = [value for name, value in found.attributes if name == "aria-label"]
    assert buttons[:3] == ["all (4)", "✓ correct (2)", "✗ not correct (2)"]
    assert buttons[3:] == ["missed, did not retry (1)", "missed, recovered (1)", "malformed turn (1)"]
    classes = [value for name, value in found.attributes if name == "class" and value.startswith("episode")]
    assert classes == ["episode correct", "episode wrong gave-up", "episode correct recovered"]
    assert "and 1 more" in found.text
    assert page.save(tmp_path / "b.html").read_text("utf-8").count('<details class="episode ') == 4
    assert all(f":has([value={name}]:checked) .episode:not(.{name})" in page._repr_html_() for name in FILTERS)
    assert repr(page).startswith("dev: 4 episodes\n[✓ correct] 1 searches: Who led Corvane? -> the varrow.\n[✗ not")
    assert len(repr(page).splitlines()) == 4


def test_side_by_side_wants_the_same_question():
    page = side_by_side(GAVE_UP, RECOVERED, ("start", "trained"))
    assert Tags(page._repr_html_()).tags.count("td") == 2
    assert repr(page) == f"{card(GAVE_UP)}\n{card(RECOVERED)}"
    with pytest.raises(ValueError, match="question 'q1' beside 'q2'"):
        side_by_side(GAVE_UP, HALF)


def test_a_line_for_a_terminal():
    assert repr(card(GAVE_UP)) == "[✗ not correct, missed, did not retry] 1 searches: Who led Corvane? -> unknown"
    half = episode(turn("answer", "b\ud800"))  # of a surrogate pair, which no terminal can show
    assert repr(card(half)).endswith("-> b?")
    evil = replace(episode(turn("answer", "a\x1b[2J\nb\u202e")), question=Question("q", "Who\r\x07?", ("b",), ("c",)))
    assert repr(browser([evil], "\x1b[31m")).splitlines() == [
        "\ufffd[31m: 1 episodes",
        "[✗ not correct] 0 searches: Who \ufffd? -> a\ufffd[2J b\ufffd",
    ]
