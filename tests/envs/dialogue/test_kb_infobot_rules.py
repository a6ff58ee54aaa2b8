"""The rules of KB-InfoBot, by the numbers that they see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.envs.catch import Catch
from ragjax.envs.dialogue.kb_infobot import KBInfoBot
from ragjax.envs.dialogue.kb_infobot_rules import EntropyRule
from ragjax.envs.dialogue.tables import Generated
from ragjax.errors import UserError
from ragjax.training.rollout import play_episodes

SMALL = Generated(rows=40, values=(16, 16, 16), skew=0.0, missing=0.0, seed=1)
INFORM = 3


def chances(sees, *, bits=(3.0, 2.5, 2.0), dropped=(0, 0, 0), asked=(0, 0, 0), last=(), **fields):
    """The probabilities of asking for each of three slots and of informing."""
    env = KBInfoBot(table=SMALL, sees=sees).build()
    numbers = [*bits, *dropped, 0, 0, 0, *asked, *last]
    policy = EntropyRule(**fields).build(env)
    distribution, _ = policy.apply({}, jnp.asarray(numbers, jnp.float32))
    return np.exp(np.asarray(distribution.log_probs))


def test_the_slot_of_the_highest_entropy_is_asked_for():
    assert chances("none")[0] > 0.999
    assert chances("none", asked=(1, 0, 0))[1] > 0.999
    assert chances("none", asked=(1, 0, 0), requests=2)[0] > 0.999
    assert chances("none", dropped=(1, 1, 0))[2] > 0.999


def test_slots_that_are_not_worth_asking_for():
    assert chances("none", least=3.5, share=0.0)[INFORM] > 0.999
    assert chances("none", bits=(0.9, 0.8, 0.7), share=0.0)[INFORM] > 0.999
    first = np.asarray(KBInfoBot(table=SMALL).build().params.knowledge.entropy)
    bits = tuple(0.5 * first + np.array([-0.1, 0.1, -0.1]))
    assert chances("none", bits=bits, least=0.0)[1] > 0.999  # the others have lost more than a half
    assert chances("none", bits=bits, least=0.0, share=0.6)[INFORM] > 0.999


def test_informs_as_soon_as_the_posterior_is_certain():
    assert chances("soft", last=(1.1,))[0] > 0.999
    assert chances("soft", last=(0.9,))[INFORM] > 0.999
    assert chances("soft", last=(1.9,), certain=2.0)[INFORM] > 0.999


def test_informs_of_a_single_match_and_asks_anything_if_there_is_none():
    several, one, none = np.eye(6)[[3, 1, 0]]
    assert chances("hard", last=several)[0] > 0.999
    assert chances("hard", last=one)[INFORM] > 0.999
    np.testing.assert_allclose(chances("hard", last=none), [1 / 3] * 3 + [0], atol=1e-6)
    found = chances("hard", last=none, asked=(1, 0, 0), dropped=(0, 0, 1))
    np.testing.assert_allclose(found, [0, 1, 0, 0], atol=1e-6)
    assert chances("hard", last=none, asked=(1, 1, 1))[INFORM] > 0.999


@pytest.mark.slow
def test_without_noise_and_missing_cells_the_soft_rule_finds_all_but_every_row():
    spec = KBInfoBot(table=SMALL, replaced=0.0, corrupted=0.0, missing=0.0)
    env = spec.vectorise(400)
    policy = EntropyRule(least=0.1, share=0.0).build(env)
    played = play_episodes(
        env,
        lambda seen: policy.apply({}, seen)[0],
        jax.random.key(0),
        10,
        jnp.ones(400, bool),
    )
    assert float(played["success"].mean()) > 0.95
    assert float(played["return"].mean()) > 1.3


def test_another_environment_is_refused():
    with pytest.raises(
        UserError, match="policy is an EntropyRule, which is one of environment kb_"
    ):
        EntropyRule().build(Catch().build())
    with pytest.raises(UserError, match=r"with env\.counts_asked only"):
        EntropyRule().build(KBInfoBot(table=SMALL, counts_asked=False).build())


@pytest.mark.parametrize("name", ["certain", "least", "share", "requests"])
def test_fields_are_checked(name):
    value = -1 if name == "requests" else -1.0
    with pytest.raises(UserError, match=rf"policy\.{name} is {value}; it must not be negative\."):
        EntropyRule(**{name: value})
