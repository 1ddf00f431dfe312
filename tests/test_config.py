"""Configuration: profiles by name, overrides merged and checked, and what the published runs set."""

import json
import re

import pytest

from rezero.config import BOUNDS, MERGED, PROFILES, RENAMED, Collapse, Config, load_config, parse_config
from rezero.files import ROOT
from rezero.training.sentinel import collapse

NAMES = sorted(path.stem for path in PROFILES.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_is_a_configuration_and_plain_data(name):
    config = load_config(name)
    assert config.profile == name
    assert parse_config(json.loads(json.dumps(config.to_dict())), "a record") == config


def test_overrides_replace_fields_and_merge_groups():
    config = load_config("laptop", steps=3, seed=None, grpo={"learning_rate": 1}, curriculum={"samples": 0})
    assert (config.steps, config.seed, config.grpo["learning_rate"]) == (3, 0, 1)
    assert config.grpo["warmup_steps"] == 2 and config.curriculum.solved_weight == 0.1  # as the profile says
    assert load_config("laptop", engine_options={"k1": 1.2}).engine_options == {"k1": 1.2}
    assert load_config("colab_t4").grpo["max_grad_norm"] == load_config("single_gpu").grpo["max_grad_norm"] == 0.1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"profile": "mainframe"}, "unknown profile 'mainframe'; allowed: colab_t4, "),
        ({"step": 3}, "profile 'laptop': unknown field 'step'; allowed: profile, seed, "),
        ({"steps": 3.5}, "steps is 3.5; want a valid integer"),
        ({"steps": 0}, "steps=0; want at least 1"),
        ({"eval_every": 0}, "eval_every=0; want at least 1"),
        ({"max_turns": 0}, "max_turns=0; want at least 1"),
        ({"micro_batch": 0}, "micro_batch=0; want at least 1"),
        ({"num_generations": 1}, "num_generations=1; want at least 2"),
        ({"lora_rank": -1}, "lora_rank=-1; want at least 0"),
        ({"temperature": 0.0}, "temperature=0.0; want at least 1e-09"),
        ({"temperature": float("nan")}, "temperature=nan; want at least 1e-09"),
        ({"gpu_share": 1.5}, "gpu_share=1.5; want 0 to 1"),
        ({"warm_start": {"batch": 0}}, "warm_start.batch=0; want at least 1"),
        ({"warm_start": {"learning_rate": float("inf")}}, "warm_start.learning_rate=inf; want at least 1e-09"),
        ({"curriculum": {"samples": -1}}, "curriculum.samples=-1; want at least 0"),
        ({"collapse": {"window": 0}}, "collapse.window=0; want at least 1"),
        ({"reward_weights": {"retry": float("nan")}}, "reward_weights.retry=nan; want a finite number"),
        ({"temperature": "1e-6"}, "temperature is '1e-6'; want a valid number"),
        ({"grpo": {"learning_rate": "1e-6"}}, "grpo: learning_rate is the string '1e-6'; in YAML write 1.0e-6"),
        ({"split": "rows"}, "split is 'rows'; want 'disjoint', 'given' or 'by_row'"),
        ({"reward_weights": [4, 2]}, r"reward_weights is \[4, 2\]; want an object"),
        ({"collapse": {"limits": {"entropy": "4"}}}, "collapse.limits.entropy is '4'; want a valid number"),
        ({"curriculum": {"sample": 2}}, "unknown field 'curriculum.sample'; allowed: by, samples, "),
        ({"curriculum": {"by": "luck"}}, "curriculum.by is 'luck'; want 'samples' or 'first_search'"),
        ({"engine_options": {"seeds": {1, 2}}}, "profile 'laptop': Object of type set is not JSON serializable"),
        ({"micro_batch": 7}, "micro_batch=7 must divide .* = 64"),
        ({"backend": "unsloth"}, "backend='unsloth' needs lora_rank=0 and max_context=0 above 0"),
        ({"load_in_4bit": True}, "load_in_4bit=True needs backend='unsloth'; it is 'transformers'"),
        ({"warm_start": {"steps": 5}}, "warm_start.steps=5 trains an adapter: lora_rank=0 must be above 0"),
    ],
)
def test_bad_values_are_refused_in_one_line(arguments, said):
    with pytest.raises(ValueError, match=said) as caught:
        load_config(**arguments)
    assert "\n" not in str(caught.value)


def test_every_number_has_bounds():
    """A new field of numbers needs a line in `BOUNDS`."""
    bounded = " ".join(BOUNDS.values()).split()
    groups = {"": load_config(), **{f"{name}.": getattr(load_config(), name) for name in MERGED if name != "grpo"}}
    for prefix, group in groups.items():
        for name, value in vars(group).items():
            assert (type(value) in (int, float)) == (f"{prefix}{name}" in bounded), f"{prefix}{name}"


@pytest.mark.parametrize("name", RENAMED)
def test_names_of_the_first_version_tell_the_new_way(name):
    with pytest.raises(ValueError, match=f"^{name} is now set by overrides") as caught:
        load_config(**{name: 1})
    hinted = re.search(r"overrides \{(\w+): ", str(caught.value))
    assert hinted is None or hinted[1] in Config.__dataclass_fields__  # what the hint names exists


def test_the_published_runs_have_no_sentinel():
    evaluations = [{"kind": "eval", "step": 250, "accuracy": 1.0}]
    evaluations += [{"kind": "eval", "step": step, "accuracy": 0.0} for step in range(300, 999)]
    steps = [{"kind": "train", "step": step, "malformed_ends": 1.0} for step in range(1, 1001)]
    for name, stops in (("exp_02", False), ("single_gpu", True)):
        settings = load_config(name).collapse
        assert isinstance(settings, Collapse)
        assert bool(collapse([*evaluations, *steps], settings, {"searches": 19, "policy_tokens": 9999})) is stops


def value_of(config, name):
    """A field, or an entry of a group, such as grpo.beta."""
    group, _, entry = name.partition(".")
    value = config.to_dict()[group]
    return str(value[entry] if entry else value)


def test_the_table_of_the_published_runs_has_what_their_profiles_set():
    """A row: fields, what the original did, one value per field or one field's value per run, the same or not.

    Where the table says "yes", the profile has the original's value to the letter; a field without a row is the
    laptop's.
    """
    table = (ROOT / "papermill_runs/README.md").read_text().split("| field | the original |")[1].split("\n\n")[0]
    runs, told, exact = [load_config(name) for name in ("exp_01", "exp_02", "exp_03")], set(), 0
    for line in table.splitlines()[2:]:
        names, theirs, ours = (re.findall(r"`([^`]+)`", cell) for cell in line.split("|")[1:4])
        told |= set(names)
        if len(names) == 1 and len(ours) == 3:
            assert ours == [value_of(run, names[0]) for run in runs], line
        else:
            assert all(ours == [value_of(run, name) for name in names] for run in runs), line
        same = line.split("|")[4].strip().startswith("yes")
        assert same is (bool(names) and theirs == ours), line
        exact += len(names) if same else 0
    assert exact >= 25
    default = load_config("laptop")
    for name, value in runs[1].to_dict().items():
        for entry in [f"{name}.{entry}" for entry in value] if isinstance(value, dict) and value else [name]:
            assert entry in told | {"profile"} or value_of(runs[1], entry) == value_of(default, entry), entry
