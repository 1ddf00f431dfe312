"""Scripted episodes that a policy is fine-tuned on: which questions they are played on, and what their thoughts say."""

import random
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

from rezero.config import WarmStart
from rezero.protocol import Episode, Turn, neutralize
from rezero.questions import Question
from rezero.search.base import Engine, SearchError
from rezero.search_env import first_search_misses, seen_after_each_query
from rezero.task import Task
from rezero.text import keywords
from rezero.warmstart.scripted import MISSED, SENTENCE_END, Thought, play, quote, searcher, stems

VERDICTS = {True: "found", False: MISSED}  # whether all gold passages were seen -> how a thought says so
MAX_WORDS = 10  # of the question that a thought repeats, and of a sentence that `nearest` quotes


def scripted_episodes(task: Task, settings: WarmStart, seed: int) -> list[Episode]:
    """`settings.episodes` episodes of a scripted searcher on training questions, played as `task.sampling` says.

    Questions are drawn without replacement until all have been drawn, and then again; those whose first search misses
    are drawn twice as often, to balance the more common verdict "found".
    """
    sampling, rng = task.sampling, random.Random(seed)
    train = [to_the_point(question, task.engine, sampling.k) for question in task.questions["train"]]
    if not train:
        raise ValueError("a warm start needs training questions; the corpus has none")
    misses = first_search_misses(train, task.engine, sampling.k)
    pool = train + [question for question, missed in zip(train, misses, strict=True) if missed]
    questions = []
    while len(questions) < settings.episodes:
        questions += rng.sample(pool, len(pool))
    questions = questions[: settings.episodes]
    think = weighing(questions) if settings.quotes else lambda question, turns, found: VERDICTS[found]
    script = searcher(settings.retry, sampling.max_turns - 1, think)  # the last turn is left for the answer
    return play(script, questions, task.engine, sampling.k, sampling.max_turns, seed, sampling.prompt_style)


def to_the_point(question: Question, engine: Engine, k: int) -> Question:
    """`question` with only those rewrites that retrieve a gold chunk which no query before them retrieved.

    From the others a model learned to repeat its first query. If none does, or the engine fails, all are kept.
    """
    try:
        seen = seen_after_each_query(question, engine, k)
    except SearchError:
        return question
    steps = zip(question.rewrites, pairwise(seen), strict=True)
    kept = [rewrite for rewrite, (before, after) in steps if (after - before) & set(question.gold_chunk_ids)]
    return replace(question, rewrites=tuple(kept)) if kept else question


def weighing(questions: list[Question]) -> Thought:
    """Thoughts that repeat the question's words, quote a fact with its passage's title, and judge only then.

    For example "commander Corvane? Corvane: section 1 | commander of Corvane was Ilse Varrow: found". From thoughts
    that began with the verdict a model learned to say "found" every time. After a miss the quoted fact answers the most
    similar other question of `questions`, so that the quote does not give the verdict away, or it is `nearest`.
    """
    answered_by = defaultdict(list)  # chunk id -> the questions that it answers
    for question in questions:
        answered_by[question.gold_chunk_ids[-1]].append(question)

    def think(question: Question, turns: tuple[Turn, ...], found: bool) -> str:
        source, wanted = question, stems(question.text, *question.rewrites)
        if not found:
            others = [other for hit in turns[-1].hits for other in answered_by[hit.chunk_id]]
            others = [other for other in others if other.answers != question.answers]
            source = max(others, key=lambda other: len(wanted & stems(other.text)), default=None)
        if source:
            hits = [hit for turn in turns for hit in turn.hits if hit.chunk_id == source.gold_chunk_ids[-1]]
            fact = f"{hits[0].title} | ".removeprefix(" | ") + quote(source, turns)
        else:
            fact = nearest(question, turns[-1])
        asked = " ".join(keywords(question.text).split()[:MAX_WORDS])
        return f"{asked}? {fact}: {VERDICTS[found]}"

    return think


def nearest(question: Question, turn: Turn) -> str:
    """The sentence in `turn`'s passages that shares the most words with `question`, from the first shared word on."""
    asked = stems(question.text, *question.rewrites)
    sentences = [sentence for hit in turn.hits for sentence in SENTENCE_END.split(neutralize(hit.text))]
    if not sentences:  # the search returned no passage
        return "nothing"
    words = max(sentences, key=lambda sentence: len(stems(sentence) & asked)).split()
    first_shared = next((place for place, word in enumerate(words) if stems(word) & asked), 0)
    start = max(0, min(first_shared, len(words) - MAX_WORDS))
    return " ".join(words[start : start + MAX_WORDS]).rstrip(".,;")
