"""Cards: what they show, and that nothing that a passage or a policy wrote becomes HTML."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from test_traces import FIRST_TRY, GAVE_UP, HALF, NO_QUESTION, RECOVERED, RETRIED_IN_VAIN, episode, turn

from rezero.analysis.cards import browser, card, side_by_side
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
    assert found.tags.count("li") == 3 and found.tags.count("details") == 2
    assert "✓ right, missed, recovered" in found.text and "(direct, searches: 2)" in found.text
    assert "gold seen so far: 0 of 1" in found.text and "gold seen so far: 1 of 1" in found.text
    assert "★ gold Crew" in found.text and found.text.count("★") == 1
    assert shown(FIRST_TRY).marked == ["Ilse Varrow / Varrow", "Varrow", "varrow"]  # whole words: not in Varrowson


def test_what_went_wrong_is_flagged():
    text = shown(RETRIED_IN_VAIN).text
    assert "✗ budget, malformed turn, no answer (token_limit)" in text  # cut off, which is not giving up
    assert "⚠ malformed turn<think>lost" in text
    assert "⚠ the search engine failed: timeout" in text and "⚠ no reply: the episode ended here" in text
    assert "passages: 0" in shown(episode(turn("search", "zzz", information=NO_HITS), outcome="turn_limit")).text
    text = shown(NO_QUESTION).text  # a transcript from elsewhere, without question and hits
    assert "not judged: no question Who led Corvane?" in text and "some text" in text


def test_the_loss_mask_tells_sampled_tokens_from_the_environments():
    page = card(RETRIED_IN_VAIN, lambda ids: "" if ids == [9] else f"<{ids[0]}>")._repr_html_()
    found = Tags(page)
    assert "tokens: 3 sampled by the policy, which carry the loss, 2 only read" in " ".join(found.text.split())
    ids = [value for name, value in found.attributes if name == "title"]
    assert ids == ["1", "2", "3", "4", "9"] and "<1><2><3><4>‹9›" in found.text
    assert re.findall(r'<([bi]) [^>]*title="', page) == ["b", "b", "i", "i", "b"]
    assert "sampled by" not in card(RETRIED_IN_VAIN)._repr_html_()
    with pytest.raises(ValueError, match="no token ids"):
        card(GAVE_UP, str)


def test_a_card_shows_faults_rewards_and_the_words_of_the_query():
    first, *others = RECOVERED.turns
    second = replace(others[0], argument="crew of varrow led")
    one = replace(RECOVERED, turns=(replace(first, fault="stale+shuffled"), second, *others[1:]))
    page = card(one, weights={"correctness": 4, "recovery": 2, "efficiency": 0})._repr_html_()
    text = " ".join(Tags(page).text.split())
    assert (
        "the engine failed on purpose: it returned old issues of the passages, with other figures; it returned" in text
    )
    assert "reward 6.00 = 4 × 1.00 correctness + 2 × 1.00 recovery + 0 × 1.00 efficiency" in text
    assert "<b><u>led</u></b> it" in page and "<u>of</u>" not in page  # but an accepted answer stays marked as one
    assert "answer against gold: ✓ exact match, F1 1.00" in text
    assert not {"style", "form", "input", "table"} & set(Tags(page).tags)  # which notebooks strip, disable or restyle
    assert "reward" not in shown(NO_QUESTION).text


def test_browser_groups_by_cause_and_limits(tmp_path):
    page = browser([FIRST_TRY, GAVE_UP, RECOVERED, RETRIED_IN_VAIN], "dev", limit=1)
    text = " ".join(Tags(page._repr_html_()).text.split())
    assert [text.index(words) for words in ("right (2)", "stopped early (1)", "budget (1)")] > [0, 0, 0]
    assert "wrong query (" not in text and "and 1 more" in text
    assert page.save(tmp_path / "b.html").read_text("utf-8").count("Who led Corvane?") == 4
    assert repr(page).splitlines() == ["dev: 4 episodes", repr(card(FIRST_TRY))]


def test_side_by_side_wants_the_same_question():
    page = side_by_side(GAVE_UP, RECOVERED, ("start", "trained"))
    text = Tags(page._repr_html_()).text
    assert "◆ they part at turn 2" in text and text.count("◆ here they part") == 2
    assert "they act alike" in Tags(side_by_side(GAVE_UP, GAVE_UP)._repr_html_()).text
    assert repr(page) == f"{card(GAVE_UP)}\n{card(RECOVERED)}"
    with pytest.raises(ValueError, match="question 'q1' beside 'q2'"):
        side_by_side(GAVE_UP, HALF)


def test_a_line_for_a_terminal():
    assert repr(card(GAVE_UP)) == "[✗ stopped early] 1 searches: Who led Corvane? -> unknown"
    half = episode(turn("answer", "b\ud800"))  # of a surrogate pair, which no terminal can show
    assert repr(card(half)).endswith("-> b?")
    evil = replace(episode(turn("answer", "a\x1b[2J\nb\u202e")), question=Question("q", "Who\r\x07?", ("b",), ("c",)))
    assert repr(browser([evil], "\x1b[31m")).splitlines() == [
        "\ufffd[31m: 1 episodes",
        "[✗ never searched] 0 searches: Who \ufffd? -> a\ufffd[2J b\ufffd",
    ]
