"""Which questions a run trains on, in which order: those its policy sometimes solves, or a first search leaves open.

A group whose episodes are all right or all wrong has no advantage to learn from (watch `zero_variance_groups`).
"""

import random
from pathlib import Path

import torch

from rezero.config import Config
from rezero.evaluation.evaluate import budget
from rezero.files import read_jsonl, write_jsonl
from rezero.judge import exact_match
from rezero.policy.base import Policy
from rezero.questions import Question
from rezero.rollout import rollout
from rezero.task import Task
from rezero.warmstart.demonstrations import found_at_once


def measure_difficulty(policy: Policy, task: Task, config: Config, path: Path) -> list[tuple[Question, float]]:
    """Each training question with the share of sampled episodes that solved it; kept in, and reused from, `path`.

    With the curriculum "first_search" nothing is sampled: 1 where the question's own words find the evidence, else 0.

    Raises:
        ValueError: the file knows nothing of one of the questions.
    """
    questions, samples = task.questions["train"], config.difficulty_samples
    if config.curriculum == "first_search":
        return list(zip(questions, map(float, found_at_once(questions, task.engine, config)), strict=True))
    if samples == 0:
        return [(question, 0.5) for question in questions]
    if not path.is_file():
        episodes = rollout(
            policy,
            task.engine,
            [question for question in questions for _ in range(samples)],
            k=config.k,
            budget=budget(config),
            prompt_style=config.prompt_style,
            temperature=config.temperature,
            generator=torch.Generator(policy.model.device).manual_seed(config.seed),
            batch_size=256,
            progress="difficulty of the training questions",
        )
        solved = [exact_match(episode.answer, episode.question.answers) for episode in episodes]
        shares = [sum(solved[i : i + samples]) / samples for i in range(0, len(solved), samples)]
        rows = ({"id": q.id, "solved": share} for q, share in zip(questions, shares, strict=True))
        write_jsonl(path, rows)
    share_of = {row["id"]: row["solved"] for row in read_jsonl(path)}
    if unknown := [question.id for question in questions if question.id not in share_of]:
        raise ValueError(f"{path}: no difficulty of question {unknown[0]!r}; delete the file to measure again")
    return [(question, share_of[question.id]) for question in questions]


def draw_questions(config: Config, difficulty: list[tuple[Question, float]]) -> list[Question]:
    """The questions of every step, in order: those the policy sometimes solves are the ones a group learns from.

    Drawn without replacement within a pass (Efraimidis and Spirakis 2006: order by u^(1/weight)).
    """
    rng = random.Random(config.seed)
    needed, order = config.steps * config.questions_per_step, []
    weight_of = {1: config.solved_weight, 0: config.unsolved_weight}
    weights = [weight_of.get(share, 1.0) for _, share in difficulty]
    while len(order) < needed:
        keys = [rng.random() ** (1 / weight) if weight else 0.0 for weight in weights]
        ranked = sorted(range(len(keys)), key=keys.__getitem__, reverse=True)
        informative = max(config.questions_per_step, round(sum(weights)))
        order += [difficulty[i][0] for i in ranked[:informative]]
    return order[:needed]
