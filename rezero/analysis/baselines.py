"""What a policy is compared with: itself without search, with one search, with the gold passages; and a script.

The policy's baselines are ordinary rollouts of which some turns are not left to the policy: the first search may be
given, and the last turn must be an answer. Given and forced text counts as sampled in their reports.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from rezero.evaluation.evaluate import Judge, Report, evaluate, summarize
from rezero.policy.base import Policy
from rezero.protocol import Turn, build_prompt, parse_turn
from rezero.questions import Question
from rezero.search.base import Engine, Hit, Hits, SearchContext
from rezero.search_env import respond
from rezero.task import Task
from rezero.text import keywords
from rezero.warmstart.scripted import FIRST, FOUND, play, say, searcher

Query = Callable[[Question], str]


def baselines(policy: Policy, task: Task, questions: list[Question], judge: Judge | None = None) -> list[Report]:
    """Reports of five baselines on `questions`, greedily.

    - closed book: the policy answers without a search
    - single search: it may search once, in its own words
    - RAG: it answers from the k passages that the question itself retrieves
    - oracle passages: it answers from all gold passages, with what its words retrieve below them: how well it reads
    - scripted always-retry: `scripted.searcher`, which recognises the gold passages, reads without mistakes and uses
      the questions' rewrites: what retrying could bring

    Raises:
        ValueError: a question has no texts of its gold chunks.
    """
    ask = partial(must_answer, policy, questions=questions, judge=judge)
    oracle = replace(task, engine=gold_engine(task.engine, questions, task.sampling.k))
    return [
        ask(task, name="closed book", searches=0),
        ask(task, name="single search"),
        ask(task, name=f"RAG, k={task.sampling.k}", query=lambda question: question.text),
        ask(oracle, name="oracle passages", query=lambda question: keywords(question.text)),
        always_retry(task, questions, judge),
    ]


def must_answer(
    policy: Policy,
    task: Task,
    questions: list[Question],
    name: str,
    searches: int = 1,
    query: Query | None = None,
    judge: Judge | None = None,
) -> Report:
    """The policy's report when it may search at most `searches` times and the turn after that must be an answer.

    Args:
        query: writes the first search in the policy's place.

    An answer that is malformed nevertheless is wrong.
    """
    given = {}
    for question in questions if query else ():
        prompt = policy.prompt_ids(build_prompt(question.text, task.sampling.prompt_style))
        given[tuple(prompt)] = policy.encode(say(FIRST, "search", query(question)))

    def force(_, prompts, temperature, generator) -> ForcedGeneration:
        return ForcedGeneration(policy, given, searches, prompts, temperature, generator)

    forced = replace(policy, backend=force)
    short = replace(task, sampling=replace(task.sampling, max_turns=searches + 1))
    return evaluate(forced, short, questions, name, judge=judge)


class ForcedGeneration:
    """A generation (see `Policy.start`) whose first turns may be given, and whose last turn is an answer.

    Args:
        given: prompt ids -> ids of the first turn.
        searches: how many turns come before the last one.
    """

    def __init__(self, policy: Policy, given: dict, searches: int, prompts: list[list[int]], temperature, generator):
        self.policy, self.given, self.left = policy, given, searches
        self.start = partial(policy.start, temperature=temperature, generator=generator)
        self.ids = prompts

    def generate(self, max_new_tokens: int) -> list[list[int]]:
        if self.given and self.left:
            self.turns = [self.given[tuple(ids)] for ids in self.ids]
            self.given = {}
        else:
            self.turns = self.start(self.ids).generate(max_new_tokens)
            if not self.left:
                self._make_answers(max_new_tokens)
        self.left -= 1
        return self.turns

    def extend(self, rows: list[int], ids: list[list[int]]) -> None:
        self.ids = [self.ids[row] + self.turns[row] + new for row, new in zip(rows, ids, strict=True)]

    def _make_answers(self, max_new_tokens: int) -> None:
        """Sample turns that are no answer again: first after "found", then, if need be, after an opened answer."""
        for opening in (_found, _opened_answer):
            texts = [self.policy.decode(turn) for turn in self.turns]
            rows = [row for row, text in enumerate(texts) if parse_turn(text).action != "answer"]
            if not rows:
                return
            starts = {row: self.policy.encode(opening(texts[row])) for row in rows}
            rest = self.start([self.ids[row] + starts[row] for row in rows]).generate(max_new_tokens)
            for row, sampled in zip(rows, rest, strict=True):
                self.turns[row] = starts[row] + sampled


def _found(text: str) -> str:
    return f"<think> {FOUND}"


def _opened_answer(text: str) -> str:
    """The thought of a turn, up to its first other tag, and the beginning of an answer."""
    thought = re.split("</?(?:think|search|answer)>", text.replace("<think>", "", 1))[0].strip()
    return f"<think> {thought} </think><answer>"


def gold_engine(engine: Engine, questions: list[Question], k: int) -> Engine:
    """An engine that returns all gold passages of the question, above what `engine` finds; k passages together.

    Titles are taken from `engine`.
    """
    for question in questions:
        if len(question.gold_texts) != len(question.gold_chunk_ids):
            raise ValueError(f"question {question.id!r} has no gold texts; load the questions with their chunks")
    texts = {}
    for question in questions:
        texts.update(zip(question.gold_chunk_ids, question.gold_texts, strict=True))
    found = respond([Turn("", "", "search", text) for text in texts.values()], engine, 3)
    titles = {hit.chunk_id: hit.title for turn in found for hit in turn.hits}

    asked = [Turn("", "", "search", keywords(question.text)) for question in questions]
    replies = respond(asked, engine, k, [SearchContext(question.id, 1) for question in questions])
    hits = {}
    for question, turn in zip(questions, replies, strict=True):
        gold = [Hit(name, titles.get(name, ""), texts[name], 1.0) for name in question.gold_chunk_ids]
        others = [hit for hit in turn.hits if hit.chunk_id not in question.gold_chunk_ids]
        hits[question.id] = gold + others[: max(0, k - len(gold))]

    def search(queries, k, contexts):
        return [Hits(hits[context.question_id]) for context in contexts]

    search.by_context = True
    return Engine("oracle", search)


def always_retry(task: Task, questions: list[Question], judge: Judge | None = None) -> Report:
    """The scripted searcher that never gives up before its last turn; nothing of it is sampled."""
    sampling = task.sampling
    script = searcher(retry=1.0, max_searches=sampling.max_turns - 1)
    episodes = play(script, questions, task.engine, k=sampling.k, max_turns=sampling.max_turns)
    return summarize(episodes, "scripted always-retry", judge)
