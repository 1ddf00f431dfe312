"""Starting policies that search again after a given share of their misses, for studies of when retrying is learned."""

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from rezero.config import Config
from rezero.files import ROOT, resolve
from rezero.policy.base import save_policy
from rezero.policy.load import load_trainable
from rezero.task import load_task
from rezero.warmstart.scripted import GIVE_UP, RETRY, play, searcher
from rezero.warmstart.supervised import starting_policy

SHOWN = 0.75  # probability that the script retries after a miss; how often the policy does is set by the loss


def start_with_share(config: Config, share: float, folder: str | Path, steps: int = 60) -> Path:
    """Train `config.policy` to search again after `share` of its misses; returns its folder, made only once.

    The laptop's policy is trained on scripted episodes as data/policy/train_policy.py does: all of them show how to
    retry, and the loss weights of the decision to retry or to give up set how often. A language model gets the warm
    start of its profile instead, whose script retries with probability `share`.
    """
    folder, task = resolve(folder), load_task(config)
    if config.lora_rank:
        starting_policy(replace(config, warm_start=replace(config.warm_start, retry=share)), task, folder)
        return folder / "warm"
    if (folder / "config.json").is_file():
        return folder
    sys.path += [str(ROOT)] if str(ROOT) not in sys.path else []  # the recipe stands beside the policy's weights
    recipe, sampling, policy = import_module("data.policy.train_policy"), task.sampling, load_trainable(config)
    script = searcher(SHOWN, sampling.max_turns - 1)
    options = dict(max_turns=sampling.max_turns, seed=config.seed, prompt_style=sampling.prompt_style)
    episodes = play(script, task.questions["train"], task.engine, sampling.k, **options)
    decision = {RETRY: share / SHOWN, GIVE_UP: (1 - share) / (1 - SHOWN)}
    examples = [recipe.encode_episode(policy, episode, decision, context=0.0) for episode in episodes]
    recipe.fit(policy, [(examples, steps)], steps, tokens=3000, lr=1e-3, seed=config.seed)
    save_policy(policy, folder.with_name("new")).rename(folder)
    return folder
