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


def baselines(policy: Policy, task: Task, questions: list[Question], judge: Judge | None = None) -> list[Report]:
    """Five reports, of greedy episodes:

    - closed book: the policy answers without a search
    - single search: it may search once, in its own words
    - RAG: it answers from the k passages that the question itself retrieves
    - oracle passages: it answers from all gold passages, with what its words retrieve below them: how well it reads
    - scripted always-retry: `scripted.searcher`, which recognises the gold passages, reads without mistakes and uses
      the questions' rewrites: what retrying could bring; nothing of it is sampled
    """
    k, max_turns = task.sampling.k, task.sampling.max_turns
    ask = partial(must_answer, policy, questions=questions, judge=judge)
    oracle = replace(task, engine=gold_engine(task.engine, questions))
    script = searcher(retry=1.0, max_searches=max_turns - 1)
    scripted = play(script, questions, task.engine, k=k, max_turns=max_turns)
    return [
        ask(task, name="closed book", searches=0),
        ask(task, name="single search"),
        ask(task, name=f"RAG, k={k}", query=lambda question: question.text),
        ask(oracle, name="oracle passages", query=lambda question: keywords(question.text)),
        summarize(scripted, "scripted always-retry", judge),
    ]


def must_answer(
    policy: Policy, task: Task, questions: list[Question], name: str, searches: int = 1, query=None, judge=None
) -> Report:
    """The policy's report when it may search at most `searches` times and the turn after that must be an answer.

    `query`, of a question, is its first search in the policy's place. An answer that is still malformed is wrong.
    """
    given = {}
    for question in questions if query else ():
        prompt = policy.prompt_ids(build_prompt(question.text, task.sampling.prompt_style))
        given[tuple(prompt)] = policy.encode(say(FIRST, "search", query(question)))
    forced = replace(policy, backend=partial(ForcedGeneration, policy, given, searches))
    short = replace(task, sampling=replace(task.sampling, max_turns=searches + 1))
    return evaluate(forced, short, questions, name, judge=judge)


class ForcedGeneration:
    """A generation (see `Policy.start`) whose first turns may be given, and whose last turn is an answer.

    `given`: prompt ids -> ids of the first turn; `searches`: how many turns come before the last one.
    """

    def __init__(self, policy: Policy, given: dict, searches: int, _, prompts: list[list[int]], temperature, generator):
        self.policy, self.given, self.left, self.ids = policy, given, searches, prompts
        self.start = partial(policy.start, temperature=temperature, generator=generator)

    def generate(self, max_new_tokens: int) -> list[list[int]]:
        if self.given and self.left:
            self.turns = [self.given[tuple(ids)] for ids in self.ids]
            self.given = {}
        else:
            self.turns = self.start(self.ids).generate(max_new_tokens)
        if not self.left:
            self._sample_again(max_new_tokens, lambda text: f"<think> {FOUND}")
            self._sample_again(max_new_tokens, _opened_answer)
        self.left -= 1
        return self.turns

    def _sample_again(self, max_new_tokens: int, opening: Callable[[str], str]) -> None:
        """Replace each turn that is no answer by what the policy writes after an opening, which is made of its text."""
        starts = {}
        for row, turn in enumerate(self.turns):
            text = self.policy.decode(turn)
            if parse_turn(text).action != "answer":
                starts[row] = self.policy.encode(opening(text))
        if starts:
            rest = self.start([self.ids[row] + opened for row, opened in starts.items()]).generate(max_new_tokens)
            for (row, opened), sampled in zip(starts.items(), rest, strict=True):
                self.turns[row] = opened + sampled

    def extend(self, rows: list[int], ids: list[list[int]]) -> None:
        self.ids = [self.ids[row] + self.turns[row] + new for row, new in zip(rows, ids, strict=True)]


def _opened_answer(text: str) -> str:
    """The thought of a turn, up to its first other tag, and the beginning of an answer."""
    thought = re.split("</?(?:think|search|answer)>", text.replace("<think>", "", 1))[0].strip()
    return f"<think> {thought} </think><answer>"


def gold_engine(engine: Engine, questions: list[Question]) -> Engine:
    """An engine that returns all gold passages of the question, above what `engine` finds; k passages together."""
    asked, texts = {question.id: question for question in questions}, {}
    for question in questions:
        if len(question.gold_texts) != len(question.gold_chunk_ids):
            raise ValueError(f"question {question.id!r} has no gold texts; load the questions with their chunks")
        texts.update(zip(question.gold_chunk_ids, question.gold_texts, strict=True))
    found = respond([Turn("", "", "search", text) for text in texts.values()], engine, 3)
    titles = {hit.chunk_id: hit.title for turn in found for hit in turn.hits}

    def search(queries: list[str], k: int, contexts: list[SearchContext]) -> list[Hits]:
        results = []
        replies = respond([Turn("", "", "search", query) for query in queries], engine, k, contexts)
        for turn, context in zip(replies, contexts, strict=True):
            gold_ids = asked[context.question_id].gold_chunk_ids
            gold = [Hit(name, titles.get(name, ""), texts[name], 1.0) for name in gold_ids]
            others = [hit for hit in turn.hits if hit.chunk_id not in gold_ids]
            results.append(Hits(gold + others[: max(0, k - len(gold))]))
        return results

    search.by_context = True
    return Engine("oracle", search)
