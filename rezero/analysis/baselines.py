"""What a policy is compared with: itself without search, with one search, with the gold passages; and a script.

The policy's baselines are rollouts whose first search may be given, and whose last turn must be an answer. Given and
forced text counts as sampled in their reports.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import islice

from rezero.evaluation.evaluate import Judge, Report, evaluate, summarize
from rezero.policy.base import Policy
from rezero.protocol import Turn, parse_turn
from rezero.questions import Question
from rezero.search.base import Engine, Hit, Hits, SearchContext
from rezero.search_env import respond
from rezero.task import Task
from rezero.text import keywords
from rezero.warmstart.scripted import FIRST, FOUND, play, say, searcher


def baselines(policy: Policy, task: Task, questions: list[Question], judge: Judge | None = None) -> list[Report]:
    """Reports of greedy episodes:

    - closed book, single search: the policy may search never, or at most once in its own words
    - RAG: it answers from the k passages that the question itself retrieves
    - oracle passages: it answers from all gold passages, with what its words retrieve below them: how well it reads
    - scripted always-retry: `scripted.searcher` uses the questions' rewrites and reads without mistakes; not sampled
    """
    k, max_turns = task.sampling.k, task.sampling.max_turns
    ask = partial(must_answer, policy, questions=questions, judge=judge)
    oracle = replace(task, engine=gold_engine(task.engine, questions))
    scripted = play(searcher(max_searches=max_turns - 1), questions, task.engine, k=k, max_turns=max_turns)
    return [
        ask(task, name="closed book", searches=0),
        ask(task, name="single search"),
        ask(task, name=f"RAG, k={k}", query=lambda question: question.text),
        ask(oracle, name="oracle passages", query=lambda question: keywords(question.text)),
        summarize(scripted, "scripted always-retry", judge),
    ]


def must_answer(policy: Policy, task: Task, questions, name: str, searches=1, query=None, judge=None) -> Report:
    """The policy's report when it may search at most `searches` times and the turn after that must be an answer.

    `query`, of a question, is its first search in the policy's place. An answer that is still malformed is wrong.
    """
    given = (policy.encode(say(FIRST, "search", query(question))) for question in questions) if query else ()
    forced = replace(policy, backend=partial(ForcedGeneration, policy, given, searches))
    short = replace(task, sampling=replace(task.sampling, max_turns=searches + 1))
    return evaluate(forced, short, questions, name, judge=judge)


class ForcedGeneration:
    """A generation (see `Policy.start`) whose first turns may be given, and whose last turn is an answer.

    `given`: ids of first turns, in the order of all prompts, or none; `searches`: how many turns come before the last.
    """

    def __init__(self, policy: Policy, given: Iterable, searches: int, _, prompts: list[list[int]], *options):
        self.policy, self.left, self.ids = policy, searches, prompts
        self.given = list(islice(given, len(prompts)))
        self.sample = lambda prompts, limit: policy.start(prompts, *options).generate(limit)

    def generate(self, max_new_tokens: int) -> list[list[int]]:
        self.turns = self.given or self.sample(self.ids, max_new_tokens)
        self.given = None
        for opening in () if self.left else (lambda text: f"<think> {FOUND}", _opened_answer):
            starts = {}  # row of a turn that is no answer -> what the policy has to write on from instead
            for row, turn in enumerate(self.turns):
                text = self.policy.decode(turn)
                if parse_turn(text).action != "answer":
                    starts[row] = self.policy.encode(opening(text))
            prompts = [self.ids[row] + opened for row, opened in starts.items()]
            sampled = self.sample(prompts, max_new_tokens) if starts else []
            for (row, opened), rest in zip(starts.items(), sampled, strict=True):
                self.turns[row] = opened + rest
        self.left -= 1
        return self.turns

    def extend(self, rows: list[int], ids: list[list[int]]) -> None:
        self.ids = [self.ids[row] + self.turns[row] + new for row, new in zip(rows, ids, strict=True)]


def _opened_answer(text: str) -> str:
    """The thought of a turn, up to its first other tag, and the beginning of an answer."""
    thought = re.split("</?(?:think|search|answer)>", text.replace("<think>", "", 1))[0].strip()
    return f"<think> {thought} </think><answer>"


def gold_engine(engine: Engine, questions: list[Question]) -> Engine:
    """An engine that returns all gold passages of the question, above what `engine` finds; k passages together."""
    texts = {name: text for q in questions for name, text in zip(q.gold_chunk_ids, q.gold_texts, strict=True)}
    found = respond([Turn("", "", "search", text) for text in texts.values()], engine, 3)
    titles = {hit.chunk_id: hit.title for turn in found for hit in turn.hits}
    golds = {question.id: question.gold_chunk_ids for question in questions}

    def search(queries: list[str], k: int, contexts: list[SearchContext]) -> list[Hits]:
        results = []
        replies = respond([Turn("", "", "search", query) for query in queries], engine, k, contexts)
        for turn, context in zip(replies, contexts, strict=True):
            names = golds[context.question_id]
            gold = [Hit(name, titles.get(name, ""), texts[name], 1.0) for name in names]
            others = [hit for hit in turn.hits if hit.chunk_id not in names]
            results.append(Hits((gold + others)[: max(k, len(gold))]))
        return results

    search.by_context = True
    return Engine("oracle", search)
