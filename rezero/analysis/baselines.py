"""What a policy is compared with: itself without search, with one search, with the gold passages; and a script.

The policy's baselines are rollouts as any other, of which some turns are not left to it: a first search may be given,
and the last turn must be an answer. Given and forced text counts as sampled in their reports.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from rezero.config import Config
from rezero.evaluation.evaluate import Report, evaluate, report
from rezero.extras.model_judge import Judge
from rezero.policy.base import Policy
from rezero.protocol import Turn, build_prompt, parse_turn
from rezero.questions import Question
from rezero.scripted import FIRST, FOUND, say
from rezero.search.base import Engine, Hit, Hits, SearchContext
from rezero.search_env import respond
from rezero.task import Task
from rezero.text import keywords
from rezero.warmstart.demonstrations import play_searcher

Query = Callable[[Question], str]


def baselines(
    policy: Policy, task: Task, config: Config, split: str | list[Question] = "dev", judge: Judge | None = None
) -> list[Report]:
    """Reports of five baselines on a split of `task` (or on questions, as those of `open_test`), greedily.

    - closed book: the policy answers without a search
    - single search: it may search once, in its own words
    - RAG: it answers from the `config.k` passages that the question itself brings
    - oracle passages: it answers from all gold passages, with what its words bring below them: how well it reads
    - scripted always-retry: `scripted.searcher`, which knows the gold when it sees it, reads without mistakes and
      takes the questions' rewrites: what retrying could bring

    Raises:
        ValueError: unknown split, or a question without the texts of its gold chunks.
    """
    if isinstance(split, str) and split not in task.questions:
        raise ValueError(f"split {split!r} is not open; allowed: {', '.join(task.questions)}, or a list of questions")
    questions = task.questions[split] if isinstance(split, str) else split
    ask = partial(must_answer, policy, questions=questions, config=config, judge=judge)
    return [
        ask(task.engine, name="closed book", searches=0),
        ask(task.engine, name="single search"),
        ask(task.engine, name=f"RAG, k={config.k}", query=lambda question: question.text),
        ask(gold_engine(task.engine, questions, config.k), name="oracle passages", query=lambda q: keywords(q.text)),
        always_retry(task.engine, questions, config, judge),
    ]


def must_answer(
    policy: Policy,
    engine: Engine,
    questions: list[Question],
    config: Config,
    name: str,
    searches: int = 1,
    query: Query | None = None,
    judge: Judge | None = None,
) -> Report:
    """The policy's report when it may search at most `searches` times and the turn after that must be an answer.

    `query` writes the first search in its stead. An answer that is malformed all the same is wrong.
    """
    given = {}
    for question in questions if query else ():
        prompt = policy.prompt_ids(build_prompt(question.text, config.prompt_style))
        given[tuple(prompt)] = policy.encode(say(FIRST, "search", query(question)))
    forced = replace(policy, backend=partial(Forced, policy, given, searches))
    return evaluate(forced, engine, questions, replace(config, max_turns=searches + 1), name, judge=judge)


class Forced:
    """A generation (see `policy.Policy.start`) whose first turns may be `given`, and whose last is an answer.

    `given`: prompt ids -> ids of the first turn. Before the last turn there are `searches` others.
    """

    def __init__(self, policy: Policy, given: dict, searches: int, prompts: list[list[int]], temperature, generator):
        self.policy, self.given, self.free = policy, given, searches
        self.start = partial(policy.start, temperature=temperature, generator=generator)
        self.ids = prompts

    def generate(self, max_new_tokens: int) -> list[list[int]]:
        if self.given and self.free:
            self.turns, self.given = [self.given[tuple(ids)] for ids in self.ids], {}
        else:
            self.turns = self.start(self.ids).generate(max_new_tokens)
            if not self.free:
                self._answer(max_new_tokens)
        self.free -= 1
        return self.turns

    def extend(self, rows: list[int], ids: list[list[int]]) -> None:
        self.ids = [self.ids[row] + self.turns[row] + new for row, new in zip(rows, ids, strict=True)]

    def _answer(self, max_new_tokens: int) -> None:
        """Turns that are no answer begin again as one that found something, at last with an opened answer."""
        for opening in (f"<think> {FOUND}", "{thought} </think><answer>"):
            texts = [self.policy.decode(turn) for turn in self.turns]
            rows = [row for row, text in enumerate(texts) if parse_turn(text).action != "answer"]
            for row in rows:
                thought = re.split("</?(?:think|search|answer)>", texts[row].replace("<think>", "", 1))[0].strip()
                self.turns[row] = self.policy.encode(opening.replace("{thought}", f"<think> {thought}"))
            opened = [self.ids[row] + self.turns[row] for row in rows]
            for row, rest in zip(rows, self.start(opened).generate(max_new_tokens) if rows else (), strict=True):
                self.turns[row] = self.turns[row] + rest


def gold_engine(engine: Engine, questions: list[Question], k: int) -> Engine:
    """An engine that brings all gold passages of the question that asks, above what `engine` brings, `k` together.

    Their titles are those that `engine` knows.
    """
    for question in questions:
        if len(question.gold_texts) != len(question.gold_chunk_ids):
            raise ValueError(f"question {question.id!r} has no gold texts; load the questions with their chunks")
    golds = dict(pair for q in questions for pair in zip(q.gold_chunk_ids, q.gold_texts, strict=True))
    found = respond([Turn("", "", "search", text) for text in golds.values()], engine, 3)
    titles = {hit.chunk_id: hit.title for turn in found for hit in turn.hits}
    asked = [Turn("", "", "search", keywords(question.text)) for question in questions]
    brought = respond(asked, engine, k, [SearchContext(question.id, 1) for question in questions])
    hits = {}
    for question, turn in zip(questions, brought, strict=True):
        gold = [Hit(chunk_id, titles.get(chunk_id, ""), golds[chunk_id], 1.0) for chunk_id in question.gold_chunk_ids]
        others = [hit for hit in turn.hits if hit.chunk_id not in question.gold_chunk_ids]
        hits[question.id] = gold + others[: max(0, k - len(gold))]

    def search(queries, k, contexts):
        return [Hits(hits[context.question_id]) for context in contexts]

    search.by_context = True
    return Engine("oracle", search)


def always_retry(engine: Engine, questions: list[Question], config: Config, judge: Judge | None = None) -> Report:
    """The scripted searcher that never gives up before its last turn; nothing of it is sampled."""
    return report(play_searcher(questions, engine, config), "scripted always-retry", judge)
