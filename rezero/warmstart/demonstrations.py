"""Warm start: supervised fine-tuning on scripted episodes, for a policy that does not know the protocol.

TRL's SFTTrainer on ids and labels that we build, in the very layout a rollout produces: the loss falls on the tokens
that the policy would sample, and on nothing that it reads (the prompt, the retrieved text, the template's words).
"""

import random
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

from rezero.analysis.retrieval import evidence
from rezero.config import Config
from rezero.protocol import Episode, Turn, neutralize
from rezero.questions import Question
from rezero.scripted import ASKED, GLANCE, HIT, MISSED, SENTENCE, Thought, _asked, _stems, play, quote, searcher
from rezero.search.base import Engine, SearchError
from rezero.task import Task
from rezero.text import keywords


def scripted_episodes(task: Task, config: Config) -> list[Episode]:
    """`warm_start_episodes` episodes of the scripted searcher on training questions, drawn without replacement.

    Those whose first search misses are in the urn twice: the other verdict is the more frequent one. Rewrites that
    bring nothing are not played: imitated, they taught a second search that repeats the first.
    """
    rng = random.Random(config.seed)
    train = [to_the_point(question, task.engine, config.k) for question in task.questions["train"]]
    found = found_at_once(train, task.engine, config)
    missed = [question for question, at_once in zip(train, found, strict=True) if not at_once]
    questions: list[Question] = []
    while len(questions) < config.warm_start_episodes:
        questions += rng.sample([*train, *missed], len(train) + len(missed))
    return play_searcher(questions[: config.warm_start_episodes], task.engine, config, config.warm_start_retry)


def to_the_point(question: Question, engine: Engine, k: int) -> Question:
    """`question` with those rewrites alone that bring a gold chunk which was not known before; all, where none does."""
    try:
        steps = pairwise(evidence(question, engine, k))
    except SearchError:  # it fails on purpose, perhaps
        return question
    gold = set(question.gold_chunk_ids)
    kept = [rewrite for rewrite, (old, new) in zip(question.rewrites, steps, strict=True) if gold & (new - old)]
    return replace(question, rewrites=tuple(kept) or question.rewrites)


def play_searcher(questions: list[Question], engine: Engine, config: Config, retry: float = 1.0) -> list[Episode]:
    """`play` with a `searcher` under the budgets of `config`, whose last turn is left for an answer."""
    return play(
        searcher(retry, config.max_turns - 1, weighing(questions) if config.warm_start_quotes else judge_only),
        questions,
        engine,
        k=config.k,
        max_turns=config.max_turns,
        seed=config.seed,
        prompt_style=config.prompt_style,
    )


def found_at_once(questions: list[Question], engine: Engine, config: Config) -> list[bool]:
    """Of each question whether a search for its own words brings all of its evidence."""
    return [episode.evidence_search == 1 for episode in play_searcher(questions, engine, config, retry=0.0)]


def judge_only(question: Question, turns: tuple[Turn, ...], found: bool) -> str:
    """The verdict alone, for passages whose answers are too long to quote on the way to them."""
    return HIT if found else MISSED


def weighing(questions: list[Question]) -> Thought:
    """What was asked, a fact of the passages with the title it stands under, then whether the one tells the other.

    A language model that judged first called everything found. After a miss the fact is the one among those that
    others of `questions` ask for which comes nearest to what was asked, so that neither its form nor its choice gives
    the verdict away; `nearest`, where there is none.
    """
    about = defaultdict(list)
    for other in questions:
        about[other.gold_chunk_ids[-1]].append(other)

    def think(question: Question, turns: tuple[Turn, ...], found: bool) -> str:
        wanted = _asked(question)
        told = [other for hit in turns[-1].hits for other in about[hit.chunk_id] if other.answers != question.answers]
        source = question if found else max(told, key=lambda other: len(wanted & _stems(other.text)), default=None)
        gold = source and source.gold_chunk_ids[-1]
        title = next((f"{h.title} | " for turn in turns for h in turn.hits if h.chunk_id == gold and h.title), "")
        said = quote(source, turns) if source else nearest(question, turns[-1])
        asked = " ".join(keywords(question.text).split()[:ASKED])
        return f"{asked}? {title}{said}: {HIT if found else MISSED}"

    return think


def nearest(question: Question, turn: Turn) -> str:
    """At most `GLANCE` words of a turn's passages, from the first asked word of the sentence that has the most."""
    asked = _asked(question)
    sentences = [sentence.split() for hit in turn.hits for sentence in SENTENCE.split(neutralize(hit.text))]
    if not sentences:
        return "nothing"
    best = max(sentences, key=lambda words: len(_stems(" ".join(words)) & asked))
    start = next((i for i, word in enumerate(best) if _stems(word) & asked), 0)
    start = max(0, min(start, len(best) - GLANCE))
    return " ".join(best[start : start + GLANCE]).rstrip(".,;")
