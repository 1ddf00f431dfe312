"""How fast recorded episodes are scored again; `python tests/test_original_speed.py` prints the measurements."""

from difflib import SequenceMatcher
from random import Random
from time import process_time

import pytest
from rezero.traces import read_traces

from rezero.corpus import load_chunks
from rezero.evaluation.traces import write_traces
from rezero.files import ROOT
from rezero.protocol import Episode, parse_turn
from rezero.questions import load_questions
from rezero.rewards import REWARDS
from rezero.rewards import published as original
from rezero.scripted import play
from rezero.search import build_engine
from rezero.text import keywords

LARKSPUR = ROOT / "data" / "larkspur"


def difflibs(a, b):
    return SequenceMatcher(None, a, b).ratio()


def diversity_times(monkeypatch, repeats=5, episodes=10, low=30, high=60):
    """(difflib, ours): seconds for the diversity of distinct episodes of 20 queries of `low` to `high` characters."""
    questions = load_questions(LARKSPUR / "questions.jsonl")
    pool = sorted({text for q in questions for text in (q.text, *q.rewrites) if low <= len(text) <= high})
    rng, ours = Random(0), original.similarity
    for _ in range(repeats):
        drawn = [[parse_turn(f"<search>{query}</search>") for query in rng.sample(pool, 20)] for _ in range(episodes)]
        batch, seconds, values = [Episode(None, tuple(turns), "unfinished") for turns in drawn], [], []
        for similarity in (difflibs, ours):
            monkeypatch.setattr(original, "similarity", similarity)
            clock = process_time()
            values.append([original.search_diversity(episode) for episode in batch])
            seconds.append(process_time() - clock)
        assert values[0] == pytest.approx(values[1], abs=1e-9)
        yield tuple(seconds)


def record(path, searches=5, episodes=1000):
    """A trace file of episodes on the shipped corpus with 5 searches of 5 hits each."""
    chunks = load_chunks(LARKSPUR / "chunks.jsonl")

    def script(question, turns, rng):
        if len(turns) == searches:
            return f"<think> found: it </think><answer> {question.answers[0]} </answer>"
        words = [keywords(question.text), *question.rewrites]
        return f"<think> not found </think><search> {words[len(turns) % len(words)]} {len(turns)} </search>"

    questions = load_questions(LARKSPUR / "questions.jsonl", chunks)[:episodes]
    return write_traces(path, play(script, questions, build_engine("bm25", chunks), k=5))


def replay(path):
    """(read, score): seconds to read a trace file, and for all rewards of its episodes."""
    clock = process_time()
    episodes = read_traces(path)
    read = process_time()
    values = [[reward(episode) for reward in REWARDS.values()] for episode in episodes]
    assert len(values) == 1000 and len(episodes[0].searches) > 1
    return read - clock, process_time() - read


def test_diversity_is_ten_times_as_fast_as_with_difflib(monkeypatch):
    assert max(slow / fast for slow, fast in diversity_times(monkeypatch)) >= 10


def test_a_thousand_recorded_episodes_are_read_and_scored_in_two_seconds(tmp_path):
    assert sum(replay(record(tmp_path / "t.jsonl"))) < 2


if __name__ == "__main__":
    from pathlib import Path
    from tempfile import TemporaryDirectory

    for low, high in ((30, 60), (28, 33), (45, 75)):
        with pytest.MonkeyPatch.context() as patch:
            times = list(diversity_times(patch, low=low, high=high))
        print(f"diversity, 20 queries of {low} to {high} characters:", *(f"{a / b:.1f}x" for a, b in times))
        slow, fast = (100 * min(seconds) for seconds in zip(*times, strict=True))  # of 10 episodes, so ms of one
        print(f"  ms an episode: {slow:.2f} with difflib, {fast:.2f} with ours")
    with TemporaryDirectory() as folder:
        for searches in (5, 19):
            path = record(Path(folder) / "t.jsonl", searches)
            for _ in range(5):
                read, score = replay(path)
                print(f"1,000 episodes of {searches} searches: read in {read:.2f} s, all rewards in {score:.2f} s")
