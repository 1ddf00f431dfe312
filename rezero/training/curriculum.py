"""Which questions a run trains on, and in which order: preferably those from whose groups something can be learned."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from rezero.config import Curriculum
from rezero.files import cached, read_jsonl, write_jsonl
from rezero.judge import exact_match
from rezero.policy.base import Policy, episodes_depend_on
from rezero.questions import Question
from rezero.rollout import rollout
from rezero.search_env import first_search_misses
from rezero.task import Task

Shares = list[tuple[Question, float]]  # training questions, each with the share of its episodes that were correct


def measure_difficulty(policy: Policy, task: Task, curriculum: Curriculum, path: Path, seed: int) -> Shares:
    """Each training question with the share of sampled episodes that answered it correctly; with 0 samples, with 0.5.

    The shares are written to `path`, or read from it if it exists; ValueError if it lacks a question. Another run may
    have measured them, see `files.cached`. By "first_search" nothing is sampled: the share is 1 where the question's
    own words find all evidence, else 0.
    """
    questions, samples = task.questions["train"], curriculum.samples
    if curriculum.by == "first_search":
        misses = first_search_misses(questions, task.engine, task.sampling.k)
        return [(question, float(not missed)) for question, missed in zip(questions, misses, strict=True)]
    if samples == 0:
        return [(question, 0.5) for question in questions]
    if not path.is_file():
        seed = seed if curriculum.seed is None else curriculum.seed

        def measure() -> Iterator[dict]:
            repeated = [question for question in questions for _ in range(samples)]
            generator = torch.Generator(policy.model.device).manual_seed(seed)
            options = dict(generator=generator, batch_size=256, progress="measuring difficulty")
            episodes = rollout(policy, task.engine, repeated, task.sampling, **options)
            solved = Counter(e.question.id for e in episodes if exact_match(e.answer, e.question.answers))
            return ({"id": question.id, "solved": solved[question.id] / samples} for question in questions)

        key = episodes_depend_on(policy, task.engine, questions, task.sampling)
        write_jsonl(path, cached("difficulty", key and [*key, samples, seed], measure))
    share_of = {row["id"]: row["solved"] for row in read_jsonl(path)}
    try:
        return [(question, share_of[question.id]) for question in questions]
    except KeyError as error:
        raise ValueError(f"{path}: has no difficulty of question {error}; delete the file to measure again") from None


def draw_questions(
    shares: Shares, curriculum: Curriculum, steps: int, questions_per_step: int, seed: int
) -> list[Question]:
    """The questions of all steps; a pass draws without replacement, by u^(1/weight) (Efraimidis and Spirakis 2006)."""
    if not shares:
        raise ValueError("there are no training questions; want at least one")
    rng = random.Random(seed)
    weight_of = {1: curriculum.solved_weight, 0: curriculum.unsolved_weight}
    weights = [weight_of.get(share, 1.0) for _, share in shares]
    informative = max(questions_per_step, round(sum(weights)))  # questions per pass
    order: list[Question] = []
    while len(order) < steps * questions_per_step:
        keys = [rng.random() ** (1 / weight) if weight else 0.0 for weight in weights]
        ranked = sorted(range(len(keys)), key=keys.__getitem__, reverse=True)
        order += [shares[i][0] for i in ranked[:informative]]
    return order[: steps * questions_per_step]
