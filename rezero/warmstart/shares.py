"""Starting policies that search again after a given share of their misses, for studies of when retrying is learned."""

import random
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from transformers import set_seed

from rezero.config import Config
from rezero.files import ROOT, resolve
from rezero.policy.base import save_policy
from rezero.policy.load import load_trainable
from rezero.rollout import rollout
from rezero.task import load_task
from rezero.warmstart.scripted import GIVE_UP, RETRY, play, searcher
from rezero.warmstart.supervised import starting_policy

SHOWN = 0.5  # probability that the script retries after a miss; how often the policy does is set by the loss
ROUNDS, STEPS, LEARNING_RATE, WEIGHT = 5, 40, 5e-4, 3.0  # the weight of the decision; other tokens weigh 1
MEASURED, NEAR = 200, 0.05  # missed questions on which the share is measured, and how near it is to come


def start_with_share(config: Config, share: float, folder: str | Path) -> Path:
    """Train `config.policy` to search again after `share` of its misses; returns its folder, made only once.

    The laptop's policy is trained on scripted episodes as data/policy/train_policy.py does: all of them show how to
    retry, and the loss weights of the decision to retry or to give up set how often. At first and after every `STEPS`
    steps the share is measured on training questions, until it is near; the weights are corrected half of the way, as
    what is measured varies. A language model gets its profile's warm start instead, whose script retries with
    probability `share`.
    """
    folder, task = resolve(folder), load_task(config)
    if config.lora_rank:
        if not config.warm_start.steps:
            raise ValueError(f"the warm start sets the share {share}; want warm_start.steps above 0")
        starting_policy(replace(config, warm_start=replace(config.warm_start, retry=share)), task, folder)
        return folder / "warm"
    if (folder / "config.json").is_file():
        return folder
    sys.path += [str(ROOT)] if str(ROOT) not in sys.path else []  # the recipe stands beside the policy's weights
    recipe, sampling, policy = import_module("data.policy.train_policy"), task.sampling, load_trainable(config)
    train, aim = task.questions["train"], share
    options = dict(max_turns=sampling.max_turns, seed=config.seed, prompt_style=sampling.prompt_style)
    episodes = play(searcher(SHOWN, sampling.max_turns - 1), train, task.engine, sampling.k, **options)
    misses = [episode.question for episode in episodes if episode.missed]
    if not misses:
        raise ValueError("no first search misses on the training questions; want another corpus or engine")
    set_seed(config.seed)
    for number in range(ROUNDS + 1):
        tried = rollout(policy, task.engine, random.sample(misses, min(MEASURED, len(misses))), sampling)
        missed = [episode.retried for episode in tried if episode.missed]
        reached = sum(missed) / max(1, len(missed))
        print(f"retries after {reached:.2f} of the misses; want {share:.2f}", flush=True)
        if number == ROUNDS or abs(reached - share) <= (NEAR if share else 0.0):
            break
        aim = min(1.0, max(0.0, aim + (share - reached) / 2 * (number > 0)))
        decision = {RETRY: WEIGHT * aim / SHOWN, GIVE_UP: WEIGHT * (1 - aim) / (1 - SHOWN)}
        examples = [recipe.encode_episode(policy, episode, decision, context=0.0) for episode in episodes]
        recipe.fit(policy, [(examples, STEPS)], STEPS, tokens=3000, lr=LEARNING_RATE, seed=config.seed + number)
    save_policy(policy, folder.with_name("new")).rename(folder)
    return folder
