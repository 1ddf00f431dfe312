"""`python -m rezero demo`: a page that puts a question to one policy or two, whose cards grow turn by turn.

Questions, passages and what policies write are untrusted; the cards escape them. The page offers policies and engines
and takes no other from a browser.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import chain, repeat, zip_longest
from time import sleep
from types import SimpleNamespace

from markupsafe import escape

from rezero.analysis.cards import FAULTS, MACROS, described, parting
from rezero.config import Config, load_config
from rezero.corpus import load_chunks
from rezero.extras.ask import find_settings
from rezero.files import ROOT, resolve, shown
from rezero.names import check_policy_name
from rezero.policy.load import check_context, load_policy
from rezero.protocol import Episode, Sampling
from rezero.questions import Question
from rezero.rewards import reward_weights
from rezero.rollout import play
from rezero.search import ENGINES, REMOTE, build_engine
from rezero.search.base import Engine, SearchError, needs
from rezero.task import load_task, open_test
from rezero.text import clean, printable, redact

PAUSE = 0.4  # seconds for which each turn stands alone: a small policy is faster than eyes
INTRO = """# Search, and search again
Put a question to a policy and watch it search. Let its first search fail, and see whether it searches again."""
load, read = lru_cache(2)(load_policy), lru_cache(1)(load_chunks)


def run_demo(policies: list[str], profile: str, corpus: str, test: bool, host: str, port: int) -> None:
    """Serve the page until Ctrl-C. Port 0 is the first free one from 7860; opening test is recorded."""
    if not 0 <= port < 2**16:
        raise ValueError(f"--port {port}; want 0 to {2**16 - 1}")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # it would report to its makers
    with needs("demo", "the demo"):
        import gradio
    start = load_config(profile or "laptop")
    config = find_settings(policies[0] if policies else "", profile, "", None)
    config = replace(config, corpus=corpus or config.corpus)
    best = sorted((ROOT / "papermill_runs").rglob("best"))
    kept = [shown(path.parent) for path in best if (path.parent / "config.json").is_file()]
    names = list(dict.fromkeys([*policies, start.policy, *kept]))
    for name in names:
        check_policy_name(find_settings(name, profile, "", None).policy)
    questions = []
    if (resolve(config.corpus) / "questions.jsonl").is_file():
        task = load_task(config)
        questions = open_test(task, "papermill_runs/demo", "asked by hand") if test else task.questions["dev"]
    weights = reward_weights(config.reward_set, config.reward_weights)
    known = {question.text: question for question in questions}

    def answer(text: str, name: str, other: str, engine: str, fault: str) -> Iterator[str]:
        question = known.get(text.strip()) or Question("asked", clean(text).strip(), (), ())
        pair = [name, other] if other else [name]
        try:
            asked = [replace(find_settings(one, profile, engine, None), corpus=config.corpus) for one in pair]
            for episodes in zip_last(*(episodes_so_far(question, one, fault) for one in asked)):
                yield growing_card(episodes, pair, weights)
                sleep(PAUSE)
        except (ValueError, OSError, ImportError, MemoryError, SearchError) as error:
            raise gradio.Error(escape(printable(redact(str(error)))[:2000]), print_exception=False) from None

    faults = [("works", ""), *((f"{name}: {what}", name) for name, what in FAULTS.items())]
    local = [name for name in ENGINES if name not in REMOTE]
    with gradio.Blocks(title="ReZero", analytics_enabled=False) as page:
        gradio.Markdown(INTRO)
        with gradio.Row():
            text = gradio.Textbox(
                label="Question", placeholder="Type one, or take one of the set", min_width=300, max_length=2000
            )
            texts = [(f"{question.text} ({question.kind})", question.text) for question in questions]
            label = f"One of the {len(texts)} {'test' if test else 'dev'} questions, with its gold answer"
            taken = gradio.Dropdown(texts, value=None, min_width=300, label=label)
        with gradio.Row():
            chosen = [
                gradio.Dropdown(names, label="Policy"),
                gradio.Dropdown([("no other", ""), *names], label="Beside it", value=""),
                gradio.Dropdown(list(dict.fromkeys([config.engine, *local])), label="Engine"),
                gradio.Dropdown(faults, label="The first search", value=""),
            ]
        button = gradio.Button("Ask", variant="primary")
        card = gradio.HTML(padding=False)
        taken.input(lambda one: one, taken, text, show_progress="hidden")
        gradio.on([button.click, text.submit], answer, [text, *chosen], card, show_progress="minimal")
    theme = gradio.themes.Default(primary_hue="blue", font="system-ui", font_mono="monospace")
    options = dict(
        server_name=host, server_port=port or None, share=False, ssr_mode=False, footer_links=[], theme=theme
    )
    _, url, _ = page.launch(**options, quiet=True, prevent_thread_lock=True)
    print(f"listening on {url} until Ctrl-C", flush=True)
    page.block_thread()


def episodes_so_far(question: Question, config: Config, fault: str = "") -> Iterator[Episode]:
    """The greedy episode of `config`'s policy after each turn; with a `fault` (see `FAULTS`) its first search fails."""
    if not question.text:
        raise ValueError("the question is empty")
    policy, place = load(config.policy), (config.corpus, config.engine, json.dumps(config.engine_options))
    sampling = Sampling(config.k, config.max_turns, config.turn_tokens, config.episode_tokens, config.prompt_style)
    check_context(policy, config.policy, sampling, config.max_context, [question])
    engines = chain([build(*place, fault)], repeat(build(*place)))
    flaky = SimpleNamespace(search=lambda *asked: next(engines).search(*asked))
    for (state,) in play(policy, flaky, [question], sampling, None, {"generation": 0.0, "search": 0.0}):
        yield state.episode()


@lru_cache(8)
def build(corpus: str, name: str, options: str, fault: str = "") -> Engine:
    """An engine with `options` (JSON) over a corpus; with a `fault` every search of it fails."""
    chunks, given = [] if name in REMOTE else read(corpus), json.loads(options)
    if fault:
        return build_engine("faulty", chunks, engine={"engine": name, "engine_options": given}, **{fault: 1.0})
    return build_engine(name, chunks, **given)


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
