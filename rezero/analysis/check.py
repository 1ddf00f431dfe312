"""Refuse wrong names and values of a command or a notebook at once: nothing here loads a model or a corpus."""

import re
from collections.abc import Iterator

from rezero.config import Config, load_config, read_profile
from rezero.files import resolve
from rezero.names import check_policy_name
from rezero.protocol import PROMPTS
from rezero.rewards import reward_weights
from rezero.search import check_options
from rezero.training.sentinel import check_limits

OF_CONFIG = ("profile", "seed", "steps", "reward_set")  # notebook 02's parameters that are fields of `Config`
IN_KERNEL = "__main__:"  # the functions of a notebook's cells, which exist only in its kernel


def check_notebooks(used: dict[str, dict]) -> None:
    """Check {notebook: its parameters}; ValueError, OSError or ImportError for the first that is wrong."""
    for notebook, values in used.items():
        where = notebook
        try:
            for place, parameters in configurations(values):
                where = f"{notebook}{place}"
                fields = {name: parameters[name] for name in OF_CONFIG if name in parameters}
                overrides = parameters.get("overrides", {})
                for name in fields.keys() & overrides.keys():
                    raise ValueError(f"overrides: {name} is a parameter of its own; want it there")
                check_config(load_config(**fields, **overrides))
            where = notebook
            if "places" in values:
                check_map(**values)
        except (ValueError, OSError) as error:
            raise type(error)(f"{where}: {error}") from None


def check_map(retry_shares, seeds, reward_sets, check_shares, forked_start, forked, places, **_) -> None:
    """Check what notebook 03 is a map of."""
    if not (places and retry_shares and seeds and reward_sets):
        raise ValueError("places, retry_shares, seeds or reward_sets is empty; want at least one of each")
    if len({*reward_sets}) < max(2, len(reward_sets)):
        raise ValueError(
            f"reward_sets: {reward_sets}; want two or more, each once: the first is what others are compared with"
        )
    if reward_sets[0] == "recovery" and (check_shares or forked):
        raise ValueError("reward_sets: checks and forked compare the first with recovery; want another one first")
    for name in places:
        if not re.fullmatch(r"\w[\w.-]*", name):  # it becomes part of folders' names
            raise ValueError(f"places: {name!r}; want letters, digits, '.', '_' or '-'")
        if check_shares and name in ("dense", "corpus-1"):
            raise ValueError(f"places: {name!r} is the name of a check; want another name")
    for share in (*retry_shares, forked):
        if not 0 <= share <= 1:
            raise ValueError(f"{share} is no share of the misses; want 0 to 1")
    for share in {*check_shares, *([forked_start] if forked else [])} - {*retry_shares}:
        raise ValueError(f"check_shares, forked_start: {share} is none of retry_shares, {retry_shares}")


def configurations(values: dict) -> Iterator[tuple[str, dict]]:
    """Where a notebook makes a configuration, for messages, and the parameters that it is made of."""
    if "profile" in values:
        yield "", values
    for name, fields in values.get("places", {}).items():
        yield f": place {name!r}", {"profile": values["profile"], "overrides": values["overrides"] | fields}
    for reward_set in values.get("reward_sets", []):
        yield "", {"reward_set": reward_set}
    for name, fields in values.get("collapses", {}).items():
        yield f": {name!r}", {"overrides": fields}


def check_config(config: Config) -> None:
    """Check that what a configuration names is there."""
    names = {name: getattr(config, name) for name in ("profile", "policy", "engine", "corpus", "reward_set")}
    check_names(**names, weights=config.reward_weights, options=config.engine_options)
    check_limits(config.collapse.limits)
    if config.prompt_style not in PROMPTS:
        raise ValueError(f"unknown prompt_style {config.prompt_style!r}; allowed: {', '.join(PROMPTS)}")


def check_names(
    profile="", policy="", engine="", corpus="", weights=None, reward_set="", options=None, engines=(), **_
) -> None:
    """Check those of a command's arguments that name something; an empty one is a default."""
    if profile:
        read_profile(profile)
    if policy and not (resolve(policy) / "best").is_dir():  # which a run's folder has
        check_policy_name(policy)
    for one in {engine, *engines} - {""}:
        if not one.startswith(IN_KERNEL):
            check_options(one, options or {})
    if corpus and not resolve(corpus).exists():
        raise FileNotFoundError(f"no corpus at {resolve(corpus)}")
    if weights:
        found = {one: weight for one, weight in weights.items() if not one.startswith(IN_KERNEL)}
        reward_weights(reward_set, found or {"correctness": 1})
    elif reward_set:
        reward_weights(reward_set, weights)
