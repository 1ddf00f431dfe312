"""One step of GRPO by hand: a group of episodes of one question, their rewards and their advantages."""

import torch
from pandas import DataFrame

from rezero.policy.base import Policy
from rezero.protocol import Episode
from rezero.rewards import score
from rezero.rewards.published import correctness
from rezero.rollout import rollout
from rezero.task import Task


def sample_group(policy: Policy, task: Task, weights: dict[str, float], n: int = 8, seed: int = 0) -> list[Episode]:
    """`n` sampled episodes of one training question, chosen so that the group shows a retry that pays.

    Of the first 40 reworded questions, the first of which an episode recovered from a miss and answered correctly, but
    not all did as well; else the first whose rewards differ; else the first.
    """
    generator = torch.Generator(policy.model.device).manual_seed(seed)
    train = task.questions["train"]
    reworded = [question for question in train if question.kind == "reworded"]
    groups: dict[bool, list[Episode]] = {}  # whether the rewards differ -> the first such group
    for question in (reworded or train)[:40]:
        group = rollout(policy, task.engine, [question] * n, task.sampling, generator=generator)
        differ = len({score(episode, weights)[0] for episode in group}) > 1
        if differ and any(episode.recovered and correctness(episode) for episode in group):
            return group
        groups.setdefault(differ, group)
    return groups.get(True) or groups[False]


def group_table(group: list[Episode], weights: dict[str, float]) -> DataFrame:
    """One row per episode: its searches and answer, each reward, their weighted sum, and the advantage.

    The advantage is (reward - mean) / (standard deviation + 0.0001), as TRL computes it with scale_rewards="group".
    """
    rows = []
    for episode in group:
        total, values = score(episode, weights)
        rows.append({"searches": len(episode.searches), "answer": episode.answer, **values, "reward": total})
    table = DataFrame(rows, index=range(1, len(group) + 1)).rename_axis("episode")
    return table.assign(advantage=(table.reward - table.reward.mean()) / (table.reward.std() + 1e-4))
