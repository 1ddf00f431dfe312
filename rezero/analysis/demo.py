"""`python -m rezero demo`: a page that puts a question to one policy or two, whose cards grow turn by turn.

Questions, passages and what policies write are untrusted; the cards escape them. The page offers policies and engines
and takes no other from a browser.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import zip_longest
from time import sleep

from markupsafe import escape

from rezero.analysis.cards import FAULTS, MACROS, described, parting
from rezero.config import load_config
from rezero.extras.ask import episodes_so_far, find_settings
from rezero.files import ROOT, resolve, shown
from rezero.names import check_policy_name
from rezero.protocol import Episode
from rezero.questions import Question
from rezero.rewards import reward_weights
from rezero.search import ENGINES, REMOTE
from rezero.search.base import SearchError, needs
from rezero.task import load_task, open_test
from rezero.text import clean, printable, redact

PAUSE = 0.4  # seconds for which each turn stands alone: a small policy is faster than eyes
INTRO = """# Search, and search again
Put a question to a policy and watch it search. Let its first search fail, and see whether it searches again."""
CSS = ".main {max-width: 1164px !important} input {text-overflow: ellipsis; padding-right: 24px !important}"


def run_demo(policies: list[str], profile: str, corpus: str, test: bool, host: str, port: int) -> None:
    """Serve the page until Ctrl-C. Port 0 is the first free one from 7860; opening test is recorded."""
    if not 0 <= port < 2**16:
        raise ValueError(f"--port {port}; want 0 to {2**16 - 1}")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # it would report to its makers
    with needs("demo", "the demo"):
        import gradio
    config = find_settings(policies[0] if policies else "", profile, "", None)
    config = replace(config, corpus=corpus or config.corpus)
    names = [*policies, load_config(profile or "laptop").policy]
    for name in names:
        check_policy_name(find_settings(name, profile, "", None).policy)
    best = sorted((ROOT / "papermill_runs").rglob("best"))
    names += [shown(path.parent) for path in best if (path.parent / "config.json").is_file()]
    questions = []
    if (resolve(config.corpus) / "questions.jsonl").is_file():
        task = load_task(config)
        questions = open_test(task, "papermill_runs/demo", "asked by hand") if test else task.questions["dev"]
    weights = reward_weights(config.reward_set, config.reward_weights)
    known = {question.text.strip(): question for question in questions}

    def answer(text: str, name: str, other: str, engine: str, fault: str) -> Iterator[str]:
        question = known.get(text.strip()) or Question("asked", clean(text).strip(), (), ())
        pair = [name, other] if other else [name]
        try:
            if len(text) > 2000:
                raise ValueError(f"the question has {len(text)} characters; want at most 2000")
            options = config.engine_options if engine == config.engine else {}  # the same ones for both
            asked = [replace(find_settings(one, profile, engine, options), corpus=config.corpus) for one in pair]
            growing = [episodes_so_far(question, one, corpus, fault) for one in asked]
            for number, episodes in enumerate(zip_last(*growing)):
                sleep(PAUSE if number else 0)
                yield growing_card(episodes, pair, weights)
        except (ValueError, OSError, ImportError, MemoryError, SearchError) as error:
            raise gradio.Error(str(escape(printable(redact(str(error)))[:2000])), print_exception=False) from None

    page = make_page(gradio, answer, list(dict.fromkeys(names)), config.engine, questions)
    look = dict(theme=gradio.themes.Default(primary_hue="blue", font="system-ui", font_mono="monospace"), css=CSS)
    options = dict(server_name=host, server_port=port or None, share=False, ssr_mode=False, footer_links=[])
    options |= dict(max_file_size=1, enable_monitoring=False)  # it takes no files
    _, url, _ = page.launch(**options, **look, quiet=True, prevent_thread_lock=True)
    print(f"listening on {url} until Ctrl-C", flush=True)
    page.block_thread()


def make_page(gradio, answer: Callable, names: list[str], engine: str, questions: list[Question]):
    """The page; `answer` yields the HTML of cards. What is taken from the set goes into the box of the question."""
    texts = [(f"{question.text} ({question.kind})", question.text) for question in questions]
    engines = [engine, *(name for name in ENGINES if name not in REMOTE | {"faulty", engine})]
    faults = [("works", ""), *((f"{name}: {what}", name) for name, what in FAULTS.items())]
    with gradio.Blocks(title="ReZero", analytics_enabled=False) as page:
        gradio.Markdown(INTRO)
        with gradio.Row():
            text = gradio.Textbox(label="Question", placeholder="Type one", min_width=300)
            label = f"or one of the {len(texts)} {questions[0].split} questions" if questions else "no questions"
            taken = gradio.Dropdown(texts, value=None, min_width=300, label=label)
        with gradio.Row():
            chosen = [
                gradio.Dropdown(names, label="Policy"),
                gradio.Dropdown([("no other", ""), *names], label="Beside it", value=""),
                gradio.Dropdown(engines, label="Engine"),
                gradio.Dropdown(faults, label="The first search", value=""),
            ]
        button, card = gradio.Button("Ask", variant="primary"), gradio.HTML(padding=False)
        taken.input(None, taken, text, js="one => one")
        gradio.on([button.click, text.submit], answer, [text, *chosen], card, show_progress="minimal")
    return page


def zip_last(*growing: Iterator[Episode]) -> Iterator[list[Episode]]:
    """The episodes in step; one that has ended stays as it is."""
    last = [None] * len(growing)
    for step in zip_longest(*growing):
        last = [new or old for new, old in zip(step, last, strict=True)]
        yield last


def growing_card(episodes: list[Episode], names: list[str], weights: dict[str, float]) -> str:
    """The HTML of one episode or of two; one that goes on shows neither gold answer nor rewards yet."""
    ones = []
    for episode in episodes:
        if episode.outcome != "unfinished":
            ones.append(described(episode, weights))
        else:
            hidden = replace(episode, question=replace(episode.question, answers=()))
            ones.append(described(hidden) | {"cause": "not judged", "words": ["searching …"]})
    cards = MACROS.side_by_side(names, ones, parting(*episodes)) if len(ones) > 1 else MACROS.card(ones[0], open=True)
    return clean(MACROS.output(cards))
