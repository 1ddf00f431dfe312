"""Configuration: profiles by name, overrides checked."""

import pytest

from rezero.config import PROFILES, Config, load_config


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
        ({"aggregation": "sum"}, "aggregation='sum'; allowed: sum_then_normalize, normalize_then_sum"),
        ({"reward_weights": [4, 2]}, r"reward_weights=\[4, 2\]: want dict, got list"),
        ({"micro_batch": 7}, "micro_batch=7 must divide .* = 64"),
    ],
)
def test_bad_values_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        load_config(**arguments)


def test_a_configuration_is_plain_data():
    assert Config(**load_config().to_dict()) == load_config()
