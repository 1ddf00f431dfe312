"""Refuse wrong names and values of a command or a notebook at once: nothing here loads a model or a corpus."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rezero.analysis.arms import named, plan
from rezero.config import Config, load_config, parse_config, read_profile
from rezero.files import resolve
from rezero.names import check_policy_name
from rezero.protocol import PROMPTS
from rezero.rewards import reward_weights
from rezero.search import check_options
from rezero.training.sentinel import check_limits

OF_CONFIG = ("profile", "seed", "steps", "reward_set")  # notebook 02's parameters that are fields of `Config`
OF_ARMS = ("name", *OF_CONFIG, "overrides", "test", "judge")


def check_notebooks(used: dict[str, dict]) -> None:
    """Check {notebook: its parameters}; ValueError, OSError or ImportError for the first that is wrong."""
    for notebook, values in used.items():
        config = check_fields(notebook, values) if "profile" in values else None
        arms = [*values.get("arms", []), *values.get("elsewhere", [])]
        for arm in arms:
            for name in arm.keys() - {*OF_ARMS}:
                raise ValueError(f"{notebook}: arm {arm}: no parameter {name!r}; allowed: {', '.join(OF_ARMS)}")
        if arms:
            shared = {name: values[name] for name in ("profile", "steps", "overrides")}
            for job, parameters in plan(arms, values["seeds"][:1], **shared).items():
                check_fields(f"{notebook}: arm {job!r}", parameters)
            names = [arm["name"] for arm in named(values["arms"])]
            if values["baseline"] not in names:
                raise ValueError(f"{notebook}: baseline {values['baseline']!r} is no arm; allowed: {', '.join(names)}")
        for place in named(values.get("places", [])):
            with naming(f"{notebook}: place {place.pop('name')!r}"):
                check_config(parse_config(config.to_dict() | place, "as a configuration"))
        for name, fields in values.get("collapses", {}).items():
            check_fields(f"{notebook}: {name!r}", {"overrides": fields})


def check_fields(where: str, parameters: dict) -> Config:
    """The configuration that notebook 02 would make of some of its parameters, once it is checked."""
    fields = {name: parameters[name] for name in OF_CONFIG if name in parameters}
    overrides = parameters.get("overrides", {})
    with naming(where):
        for name in fields.keys() & overrides.keys():
            raise ValueError(f"overrides: {name} is a parameter of its own; want it there")
        config = load_config(**fields, **overrides)
        check_config(config)
    return config


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
    for one in _importable([engine, *engines]):
        check_options(one, options or {})
    if corpus and not resolve(corpus).exists():
        raise FileNotFoundError(f"no corpus at {resolve(corpus)}")
    if weights:
        weights = {one: weights[one] for one in _importable(weights)} or {"correctness": 1}
    if weights or reward_set:
        reward_weights(reward_set, weights)


def _importable(names: Iterable[str]) -> list[str]:
    """Names without the functions of a notebook's cells, which exist only in its kernel."""
    return [name for name in names if name and not name.startswith("__main__:")]


@contextmanager
def naming(where: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as error:
        raise type(error)(f"{where}: {error}") from None
