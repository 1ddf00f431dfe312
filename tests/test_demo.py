"""The page: what grows on a card, a first search that fails, two policies in step; in a browser, the page itself.

The tests in headless Chromium are skipped without gradio (`pip install -e ".[demo]"`), playwright or a Chromium.
"""

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import CHUNKS, QUESTIONS

from rezero.__main__ import main
from rezero.analysis import demo
from rezero.config import load_config
from rezero.extras.ask import episodes_so_far
from rezero.files import ROOT
from rezero.policy.base import save_policy
from rezero.policy.load import load_policy
from rezero.protocol import Episode, Turn
from rezero.questions import Question
from rezero.rollout import rollout
from rezero.search.base import Hit
from rezero.task import load_task

WEIGHTS = {"correctness": 4, "recovery": 2}
MISSING = "the demo needs more packages: pip install -e '.[demo]'"
NO_GRADIO = importlib.util.find_spec("gradio") is None


@pytest.fixture(scope="module")
def laptop():
    return load_config()


@pytest.fixture(scope="module")
def asked(laptop) -> list[Question]:
    """Four dev questions; on the first of them the policy finds the gold after an outage, and then answers."""
    questions = load_task(laptop).questions["dev"]
    for number, question in enumerate(questions):
        *_, last = episodes_so_far(question, laptop, fault="outage")
        if [turn.action for turn in last.turns] == ["search", "search", "answer"] and last.recovered:
            return questions[number : number + 4]
    raise AssertionError("the policy never searches again after an outage")


def test_an_episode_is_seen_after_each_turn_and_ends_as_in_a_rollout(laptop, asked):
    task = load_task(laptop)
    for question in asked[:3]:
        grown = list(episodes_so_far(question, laptop))
        assert [len(one.turns) for one in grown] == list(range(1, len(grown) + 1)) and len(grown) > 1
        assert {one.outcome for one in grown[:-1]} == {"unfinished"} and grown[0].searches[0].hits
        policy, sampling = load_policy(laptop.policy), replace(task.sampling, temperature=0.0)
        assert grown[-1:] == rollout(policy, task.engine, [question], sampling)


@pytest.mark.parametrize("fault", demo.FAULTS)
def test_only_the_first_search_fails(laptop, asked, fault):
    ends = [list(episodes_so_far(question, laptop, fault=fault))[-1] for question in asked]
    harmed = [turn.fault for one in ends for turn in one.searches]
    assert {one.searches[0].fault for one in ends} <= {fault, ""} and fault in harmed  # "": it could do no harm
    assert not any(turn.fault or turn.error for one in ends for turn in one.searches[1:])
    if fault == "outage":
        assert ends[0].searches[1].hits and not ends[0].searches[0].hits


def test_a_shorter_episode_waits_for_the_longer_one():
    assert list(demo.zip_last(iter("a"), iter("bcd"))) == [["a", "b"], ["a", "c"], ["a", "d"]]


EVIL = "<img src=x onerror=alert(1)> ${alert(1)} {{value}} </details>"


def test_a_growing_card_keeps_gold_and_rewards_to_the_end_and_escapes(laptop):
    question = replace(QUESTIONS[0], text=EVIL)
    search = Turn("", EVIL, "search", EVIL, (Hit("c1", EVIL, CHUNKS[0].text, 1.0),), "…")
    running = Episode(question, (search,), "unfinished")
    done = Episode(question, (search, Turn("", "", "answer", EVIL)), "answered")
    first, last = (demo.growing_card([one], ["a"], WEIGHTS) for one in (running, done))
    assert "searching …" in first and "★ gold" in first
    for only_at_the_end in ("gold answer:", "answer against gold:", "× "):
        assert only_at_the_end not in first and only_at_the_end in last
    both = demo.growing_card([running, done], ["one", EVIL], WEIGHTS)
    assert "they part at turn 2" in both and "searching …" in both and "answer against gold:" in both
    own = demo.growing_card([replace(done, question=Question("asked", EVIL, (), ()))], ["a"], WEIGHTS)
    assert "not judged" in own and "gold answer" not in own and "reward" not in own
    assert not any("<img" in card for card in (first, last, both, own))


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--port", "70000"], "--port 70000; want 0 to 65535"),
        (["--policy", "no-such"], MISSING if NO_GRADIO else "no policy in"),
        (["--corpus", "no/such"], "no corpus at"),
        (["--profile", "no-such"], "no-such"),
    ],
)
def test_the_command_refuses_in_one_line(args, reason, capsys):
    assert main(["demo", *args]) == 2
    said = capsys.readouterr()
    assert reason in said.err and said.err.startswith("error: ") and said.err.count("\n") == 1 and not said.out


@pytest.fixture(scope="module")
def url(policy, tmp_path_factory):
    """The page over the shipped corpus, with the laptop's policy and a random one."""
    pytest.importorskip("gradio")
    other = save_policy(policy, tmp_path_factory.mktemp("random") / "policy")
    command = [sys.executable, "-m", "rezero", "demo", "--policy", "data/policy", str(other)]
    server = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    found = re.match(r"listening on (http://127\.0\.0\.1:\d+/)", server.stdout.readline())
    assert found, server.wait(10)
    yield found[1]
    server.terminate()
    assert server.wait(30) in (0, 130)


@pytest.fixture
def page(chromium, url):
    """A fresh page; it remembers each state of the card, asks nobody else, and no dialog opens."""
    page, strangers = chromium.new_page(), []
    page.on("request", lambda request: request.url.startswith((url, "data:", "blob:")) or strangers.append(request.url))
    page.on("dialog", lambda dialog: (strangers.append(dialog.message), dialog.dismiss()))
    page.goto(url)
    page.get_by_role("button", name="Ask").wait_for(timeout=60_000)
    yield page
    assert not strangers
    page.close()


def choose(page, label: str, option: str) -> None:
    page.get_by_label(label).click()
    page.get_by_role("option", name=option).first.click()


def ask(page) -> list[str]:
    """Ask, and return the card's text at each of its states."""
    watch = """() => { let last = document.querySelector(".rezero")?.innerText; window.states = [];
      new MutationObserver(() => {
      const text = document.querySelector(".rezero")?.innerText;
      if (text && text !== last) window.states.push(last = text);
    }).observe(document.body, {childList: true, subtree: true, characterData: true}); }"""
    page.evaluate(watch)
    page.get_by_role("button", name="Ask").click()
    page.wait_for_function("window.states.length && !window.states.at(-1).includes('searching …')", timeout=60_000)
    return page.evaluate("window.states")


@pytest.mark.slow
def test_a_question_is_watched_turn_by_turn_and_escapes(page, asked):
    page.get_by_label("Question", exact=True).fill(asked[0].text)
    states = ask(page)
    assert len(states) > 1 and "searching …" in states[0] and "passages:" in states[0] and "answer:" not in states[0]
    assert "answer:" in states[-1] and "gold answer:" in states[-1]  # what is typed as it stands in the set has gold
    page.get_by_label("Question", exact=True).fill(EVIL)
    assert EVIL in ask(page)[-1]
    for times, said in ((390, "do not fit"), (2000, "the question has 10000 characters; want at most 2000")):
        page.get_by_label("Question", exact=True).fill("Who? " * times)
        page.get_by_role("button", name="Ask").click()
        page.get_by_text(said).wait_for()


@pytest.mark.slow
def test_a_fault_brings_a_second_search_and_gold_and_rewards_are_shown(page, asked):
    choose(page, "or one of the", asked[0].text)
    choose(page, "The first search", "outage")
    states = ask(page)
    failed = "the search engine failed: the search service is down (fault made on purpose: outage)"
    assert len(states) == 3 and failed in states[0] and states[0].count("search:") == 1
    assert states[1].count("search:") == 2 and "★ gold" in states[1] and "gold answer" not in states[1]
    assert f"gold answer: {asked[0].answers[0]}" in states[2] and "correctness" in states[2]
    page.get_by_label("Question", exact=True).fill("")  # the next question starts afresh
    page.get_by_role("button", name="Ask").click()
    page.get_by_text("the question is empty").wait_for()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_two_policies_stand_side_by_side_at_any_width(page, asked, tmp_path, scheme):
    page.emulate_media(color_scheme=scheme)
    choose(page, "or one of the", asked[1].text)
    choose(page, "Beside it", "policy")
    choose(page, "Beside it", "random")
    states = ask(page)
    assert "they part at turn 1" in states[-1]
    assert states[-1].count("gold answer:") == states[-1].count("reward ") == 2
    for width in (1280, 420):
        page.set_viewport_size({"width": width, "height": 1000})
        page.screenshot(path=tmp_path / f"{scheme}-{width}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.slow
def test_a_browser_cannot_name_another_policy_or_engine(page, url, tmp_path):
    for policy, engine in ((str(tmp_path), "bm25"), ("data/policy", "os:system")):
        data = {"data": ["Who?", policy, "", engine, ""], "fn_index": 1, "session_hash": "x"}
        assert page.request.post(f"{url}gradio_api/queue/join", data=data).ok
        said = page.request.get(f"{url}gradio_api/queue/data?session_hash=x").text()
        assert "is not in the list of choices" in said and "process_generating" not in said
