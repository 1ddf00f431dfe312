"""The work of notebook 03's sweeps: make a starting policy, train an arm. Each runs in a folder of its own.

Test stays sealed: policies are evaluated on dev as they are left, greedy and sampled.
"""

import shutil
from pathlib import Path

import torch

from rezero.config import Config, load_config
from rezero.evaluation.evaluate import evaluate
from rezero.evaluation.traces import Row, write_traces
from rezero.policy.base import Policy
from rezero.policy.load import load_policy
from rezero.questions import spread
from rezero.rollout import rollout
from rezero.task import Task, load_task
from rezero.training.train import train
from rezero.warmstart.shares import start_with_share
from rezero.warmstart.supervised import starting_policy

GREEDY, SAMPLED = "greedy", "sampled"  # how the episodes in traces.jsonl were decoded


def make_start(folder: Path, config: dict, share: float, places: dict[str, dict]) -> None:
    """Train a starting policy that retries after `share` of its misses, in `folder`/policy, and try it in all places.

    `config` has the arguments of `load_config`, a place some more. The episodes go to traces.jsonl, three per question.
    """
    trained = start_with_share(load_config(**config), share, folder / "policy")
    policy, rows = load_policy(trained), []
    for name, fields in places.items():
        here = load_config(**config | fields)
        rows += [(own | {"place": name}, one) for own, one in sampled(policy, load_task(here), here, 3)]
    write_traces(folder / "traces.jsonl", rows)


def train_arm(folder: Path, config: dict) -> None:
    """Train with GRPO as `config` says, and evaluate the last policy on dev into traces.jsonl; weights are deleted."""
    config = load_config(**config)
    task = load_task(config)
    policy = train(config, folder, task, starting_policy(config, task, folder)).last
    questions = spread(task.questions["dev"], config.eval_questions)
    report = evaluate(policy, task, questions, GREEDY, reuse=True)
    write_traces(folder / "traces.jsonl", [*report.rows, *sampled(policy, task, config, 1)])
    for name in ("checkpoints", "best", "tensorboard"):
        shutil.rmtree(folder / name, ignore_errors=True)


def sampled(policy: Policy, task: Task, config: Config, n: int) -> list[Row]:
    """`n` episodes per dev question, sampled as in training."""
    generator = torch.Generator(policy.model.device).manual_seed(config.seed)
    questions = spread(task.questions["dev"], config.eval_questions) * n
    episodes = rollout(policy, task.engine, questions, task.sampling, generator=generator)
    return [({"policy": SAMPLED}, episode) for episode in episodes]
