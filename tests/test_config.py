"""Configuration: profiles by name, overrides checked."""

import json
import re

import pytest

from rezero.config import PROFILES, Config, load_config
from rezero.files import ROOT
from rezero.training.sentinel import collapse


def test_profiles_are_configurations():
    assert {name: profile.profile for name, profile in PROFILES.items()} == {name: name for name in PROFILES}


def test_overrides():
    config = load_config("laptop", steps=3, learning_rate=1)
    assert (config.steps, config.learning_rate) == (3, 1.0)  # an int is a float, too


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"profile": "mainframe"}, "unknown profile 'mainframe'; allowed: laptop"),
        ({"step": 3}, "unknown configuration field 'step'; allowed: .*steps"),
        ({"steps": 3.5}, "steps=3.5: want int, got float"),
        ({"steps": True}, "steps=True: want int, got bool"),  # a bool is not a number of steps
        ({"learning_rate": "1e-6"}, "learning_rate='1e-6': want float, got str"),  # what YAML makes of 1e-6
        ({"scale_rewards": "grup"}, "scale_rewards='grup'; allowed: group, batch, none"),
        ({"split": "rows"}, "split='rows'; allowed: disjoint, by_row"),
        ({"aggregation": "sum"}, "aggregation='sum'; allowed: sum_then_normalize, normalize_then_sum"),
        ({"reward_weights": [4, 2]}, r"reward_weights=\[4, 2\]: want dict, got list"),
        ({"micro_batch": 7}, "micro_batch=7 must divide .* = 64"),
        ({"backend": "vllm"}, "backend='vllm'; allowed: transformers, unsloth"),
        ({"backend": "unsloth"}, "backend='unsloth' wants lora_rank=0 and max_context=0 > 0"),
        ({"warm_start_steps": 5}, "warm_start_steps=5 trains an adapter: lora_rank=0 must be above 0"),
    ],
)
def test_bad_values_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        load_config(**arguments)


def test_the_published_runs_to_the_letter():
    published = dict(
        policy="unsloth/Llama-3.2-3B-Instruct", load_in_4bit=True, lora_rank=64, lora_layers=0, k=5, max_turns=20,
        turn_tokens=2048, episode_tokens=8192, num_generations=6, questions_per_step=1, micro_batch=6,
        learning_rate=5e-6, lr_scheduler="cosine", warmup_steps=100, weight_decay=0.1, adam_beta1=0.9, adam_beta2=0.99,
        optim="paged_adamw_8bit", max_grad_norm=0.1, loss_type="dapo", scale_rewards="group", beta=0.04,
        temperature=0.9, steps=1000, save_every=50, eval_every=50, eval_questions=32, split="by_row",
        reward_set="original", difficulty_samples=0, gpu_share=0.6,
    )  # fmt: skip
    own = {
        "exp_01": {"max_turns": 10, "reward_set": "retry_always"},
        "exp_02": {},
        "exp_03": {"reward_set": "no_retry"},
    }
    for name, other in own.items():
        config = load_config(name).to_dict()
        assert {field: config[field] for field in published} == published | other


def test_the_published_runs_have_no_sentinel():
    collapsed = [
        {"kind": "eval", "step": s, "accuracy": a} for s, a in ((250, 1.0), *((s, 0.0) for s in range(300, 999)))
    ]
    steps = [{"kind": "train", "step": s, "malformed_ends": 1.0} for s in range(1, 1001)]
    most = {"searches": 19, "policy_tokens": 9999}
    for name, stops in (("exp_02", False), ("single_gpu", True)):
        config = load_config(name)
        limits = config.collapse_drop, config.collapse_patience, config.collapse_window
        assert bool(collapse([*collapsed, *steps], *limits, most)) is stops


def test_a_configuration_is_plain_data():
    for name in PROFILES:
        assert Config(**json.loads(json.dumps(load_config(name).to_dict()))) == load_config(name)


def test_the_readme_tells_what_the_published_profiles_set():
    """A row: fields, what the original did, one value a field or one field's value a run, the same or not."""
    table = (ROOT / "README.md").read_text().split("| field | the original |")[1].split("\n\n")[0]
    runs, told = [load_config(name) for name in ("exp_01", "exp_02", "exp_03")], set()
    for line in table.splitlines()[2:]:
        names, theirs, ours = (re.findall(r"`([^`]+)`", cell) for cell in line.split("|")[1:4])
        told |= set(names)
        if len(names) == 1 and len(ours) == 3:
            assert ours == [str(getattr(run, names[0])) for run in runs], line
        else:
            assert all(ours == [str(getattr(run, name)) for name in names] for run in runs), line
        assert line.split("|")[4].strip().startswith("yes") is (bool(names) and theirs == ours), line
    set_here = {name for name, value in runs[1].to_dict().items() if value != getattr(Config(), name)}
    assert set_here - {"profile"} <= told
