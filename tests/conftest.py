"""What every test may use: four chunks, two questions, a tiny random model, and turns and runs of a toy."""

import gc
import shutil
import signal
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

from data.policy.induction import new_model
from data.policy.train_policy import train_tokenizer
from rezero import files
from rezero.config import load_config
from rezero.corpus import Chunk
from rezero.extras import smollm
from rezero.files import read_jsonl
from rezero.policy.base import Policy, save_policy
from rezero.protocol import Episode, Sampling, Turn
from rezero.questions import Question
from rezero.search import build_engine
from rezero.search.base import Hit
from rezero.task import Task
from rezero.warmstart.scripted import play, searcher

# A shell starts a background job with SIGINT ignored, which the processes that tests interrupt would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
gc.freeze()  # each trainer collects garbage, and would look for it among all that was imported

CHUNKS = [
    Chunk("c1", "Corvane: section 1", "The commander of Corvane was Ilse Varrow. The flight lasted 12 days."),
    Chunk("c2", "Corvane: section 2", "After splashdown Corvane was met by the cutter Ondine in 40 minutes."),
    Chunk("c3", "Tarnel: section 1", "The skipper of Tarnel was Bram Keld. The flight lasted 9 days."),
    Chunk("c4", "Tarnel: section 2", "The Tarnel vent valve, which crews called the Moxen, was built by Orlan Works."),
]
QUESTIONS = [
    Question("q1", "Who was the commander of Corvane?", ("Ilse Varrow", "Varrow"), ("c1",), (CHUNKS[0].text,)),
    Question(
        "q2",
        "Which ship met the crew of Ilse Varrow?",
        ("Ondine",),
        ("c1", "c2"),
        (CHUNKS[0].text, CHUNKS[1].text),
        kind="two-hop",
        rewrites=("Corvane cutter",),
    ),
]

EPISODES = dict(max_turns=2, turn_tokens=8, episode_tokens=300)
TINY = dict(  # overrides of the laptop profile: a training of seconds
    **EPISODES,
    steps=4,
    questions_per_step=2,
    num_generations=2,
    micro_batch=2,
    eval_every=2,
    save_every=2,
    patience=0,
    curriculum={"samples": 1},
    grpo={"learning_rate": 0.01},
)


def length(episode: Episode) -> float:
    """A reward that differs between the episodes of a random policy."""
    return float(len(episode.completion_ids))


LENGTH = "conftest:length"


def search(*ids: str, query: str = "q", texts: tuple[str, ...] = ()) -> Turn:
    """A search whose hits are the chunks with these ids, of these texts or of none."""
    texts = texts or ("",) * len(ids)
    hits = tuple(Hit(name, "", text, 1.0) for name, text in zip(ids, texts, strict=True))
    return Turn("t", "", "search", query, hits, "info")


def answer(text: str) -> Turn:
    return Turn("t", "", "answer", text)


def toy_task() -> Task:
    sampling = Sampling(k=2, prompt_style="short", temperature=1.0, **EPISODES)
    return Task(build_engine("bm25", CHUNKS), {"train": QUESTIONS, "dev": QUESTIONS}, sampling, tuple(QUESTIONS))


def metrics_of(run: Path, kind: str = "") -> list[dict]:
    """The rows of a run's metrics.jsonl, of one kind or of all, without the times that differ between runs."""
    rows = [row for row in read_jsonl(run / "metrics.jsonl") if kind in ("", row["kind"])]
    return [
        {name: value for name, value in row.items() if "seconds/" not in name and "second/" not in name} for row in rows
    ]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A test finds nothing that another one has left in .cache."""
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def figures():
    """A test finds no style and no open figure of another one, and none of SmolLM2 that was unpacked for it."""
    smollm.unpack.cache_clear()
    with plt.rc_context():
        yield
    plt.close("all")


@pytest.fixture(scope="session")
def chunks() -> list[Chunk]:
    return CHUNKS


@pytest.fixture(scope="session")
def questions() -> list[Question]:
    return QUESTIONS


@pytest.fixture(scope="session")
def engine(chunks):
    return build_engine("bm25", chunks)


@pytest.fixture(scope="session")
def policy(questions, engine) -> Policy:
    """A random 2-layer policy with a ChatML tokenizer trained on scripted episodes of the toy corpus."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(play(searcher(), questions, engine, k=2), vocab_size=300)
    made = Policy(new_model(tokenizer, width=32, layers=2), tokenizer)
    made.model.eval()
    return made


@pytest.fixture
def task() -> Task:
    return toy_task()


@pytest.fixture
def sampling(task) -> Sampling:
    """How the episodes of `task` are played; the same as `config` says."""
    return task.sampling


@pytest.fixture
def config(policy, tmp_path):
    return load_config("laptop", policy=str(save_policy(policy, tmp_path / "start")), **TINY)


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium, on PATH or of `playwright install chromium`; without one the test is skipped."""
    sync_api = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield browser
        browser.close()
