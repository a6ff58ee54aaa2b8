"""Every integer of a config is in its range, or refused by name; a walk finds the fields."""

import dataclasses
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_config
import tiny_policy_config
from specs import build, config_specs

from ragjax.config import Config
from ragjax.errors import UserError
from ragjax.learners.questions import Phase
from ragjax.models.encoder import PerceptronEncoder
from ragjax.objectives.a2c import A2C
from ragjax.objectives.ppo import PPO

WIDE = {"seed": 2**32, "passage_seed": 2**32, "env_steps": 2**63}  # all others stay below 2^31
FIELDS = [
    (kind, field.name)
    for kind in config_specs()
    for field in dataclasses.fields(kind)
    if typing.get_type_hints(kind)[field.name] in (int, int | None, tuple[int, ...])
]


@dataclass(frozen=True, kw_only=True)
class Holder(Config):
    """A config of any one part."""

    part: Any


@dataclass(frozen=True)
class Own:
    """A user's spec, which checks nothing."""

    size: int = 1
    sizes: tuple[int, ...] = ()
    limit: int | None = None
    weight: float = 1.0
    either: int | float = 1
    flag: bool = False


def value_of(kind, name, number):
    several = typing.get_type_hints(kind)[name] == tuple[int, ...]
    return (number,) if several else number


def refusal(make):
    """The one sentence with which something is refused."""
    with pytest.raises(UserError) as error:
        make()
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


def test_the_walk_finds_the_fields():
    found = {f"{kind.__name__}.{name}" for kind, name in FIELDS}
    assert len(found) > 60
    assert found >= {
        "Phase.steps",
        "EpisodesConfig.seed",
        "EpisodesConfig.env_steps",
        "Adam.accumulate",
    }
    assert found >= {
        "ActorCritic.hidden",
        "Gymnasium.time_limit",
        "Lookup.passage_seed",
        "PPO.epochs",
    }


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=lambda x: getattr(x, "__name__", x))
def test_every_integer_has_a_range(kind, name):
    limit = WIDE.get(name, 2**31)
    for number in (-1, limit, 10**30, True):
        value = value_of(kind, name, number)
        message = refusal(lambda value=value: Holder(part=build(kind, **{name: value})))
        assert re.search(rf"\b{name}\b", message)
        assert str(number) in message
    spec = build(kind)
    # What the type checker of the tests would refuse first, and users don't run.
    object.__setattr__(spec, name, value_of(kind, name, 2.5))
    message = refusal(lambda: Holder(part=spec))
    assert re.fullmatch(rf"part\.{name}(\.0)? is 2\.5; give a whole number\.", message)


@pytest.mark.parametrize("name", ["size", "sizes", "limit"])
def test_a_spec_that_checks_nothing_is_checked(name):
    for number in (2**31, -(2**31) - 1, True, 2.5, "7"):
        own = Own()
        object.__setattr__(own, name, value_of(Own, name, number))
        message = refusal(lambda own=own: Holder(part=(1, (own,))))
        where = f"part.1.0.{name}" + ".0" * (name == "sizes")
        assert message.startswith(f"{where} is {number!r}")
    for number in (2**31 - 1, -(2**31), np.int64(3)):
        own = dataclasses.replace(Own(), **{name: value_of(Own, name, number)})
        assert Holder(part=own).part is own


def test_other_numbers_are_left_alone():
    own = Own(weight=10**12, either=2**40, flag=True, limit=None)
    assert Holder(part=own).part is own


def test_the_widest_integers_are_accepted():
    config = dataclasses.replace(tiny_config.get_config(), seed=2**32 - 2, num_seeds=2)
    assert list(config.seeds) == [2**32 - 2, 2**32 - 1]
    algorithm = PPO(num_envs=1024, rollout_length=1024)
    config = dataclasses.replace(
        tiny_policy_config.get_config(), algorithm=algorithm, env_steps=2**43
    )
    assert config.steps == 2**23
    assert config.create().counts(config.steps) == {"env_steps": 2**43}


def test_a_nested_field_is_named_in_full():
    config = tiny_config.get_config()
    phases = (Phase(steps=3), Phase(steps=3, k=2**31))
    message = refusal(lambda: dataclasses.replace(config, phases=phases))
    assert message.startswith("phases.1.k is 2147483648, which is out of range")
    encoder = PerceptronEncoder(hidden=(8, 2**40))
    retriever = dataclasses.replace(config.retriever, encoder=encoder)
    message = refusal(lambda: dataclasses.replace(config, retriever=retriever))
    assert message.startswith(f"retriever.encoder.hidden.1 is {2**40}")


def with_steps(**fields):
    return lambda: dataclasses.replace(tiny_policy_config.get_config(), **fields)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Holder(part=None, seed=2**32 - 1, num_seeds=2), "num_seeds is 2"),
        (lambda: A2C(num_envs=2**16, rollout_length=2**15), "algorithm.num_envs is 65536"),
        (with_steps(env_steps=64 * 2**30), f"env_steps is {2**36}, which comes to {2**32} updates"),
        (
            lambda: dataclasses.replace(
                tiny_config.get_config(), phases=(Phase(steps=2**30), Phase(steps=2**30))
            ),
            f"phases has {2**31} steps",
        ),
    ],
)
def test_what_integers_come_to_has_a_range(make, named):
    assert named in refusal(make)


@dataclass(frozen=True)
class Odd:
    """A user's spec with fields of several kinds, one that is no argument, and one of functions."""

    either: int | str = "none"
    place: tuple[int, Path] = (1, Path("x"))
    rule: Callable[[int], float] | None = None
    later: int = dataclasses.field(init=False)


def test_fields_of_several_kinds_hold_what_they_hold():
    for part in (Odd(), Odd(either=3), Odd(place=(2, Path("y")))):
        Holder(part=part)
    assert refusal(lambda: Holder(part=Odd(either=True))).startswith("part.either is True")
    assert refusal(lambda: Holder(part=Odd(place=(2**40, Path())))).startswith("part.place.0 is")
