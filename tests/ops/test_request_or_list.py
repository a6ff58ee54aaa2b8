"""A request or a list of rows, against every choice enumerated by plain products."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.ops.request_or_list import RequestOrList

REQUESTS, ROWS, PLACES = 2, 4, 2
IDS = [7, 3, 9, 5]
RANDOM = np.random.default_rng(0)
SCORES = RANDOM.normal(size=ROWS)
LOGITS = RANDOM.normal(size=(ROWS, REQUESTS + 1))
CHOICES = [(j, REQUESTS) for j in range(REQUESTS)] + [
    (REQUESTS + a, REQUESTS + b) for a, b in itertools.permutations(range(ROWS), PLACES)
]


def made(scores, logits):
    log_prior = jax.nn.log_softmax(jnp.asarray(scores, jnp.float32))
    return RequestOrList(log_prior, jnp.asarray(logits, jnp.float32), jnp.asarray(IDS), PLACES)


def plain(scores, logits, softmax=np):
    """The chance of each choice, by sums and products of probabilities."""
    prior = softmax.exp(scores) / softmax.sum(softmax.exp(scores))
    acts = softmax.exp(logits) / softmax.sum(softmax.exp(logits), axis=1, keepdims=True)
    chances = [softmax.sum(prior * acts[:, j]) for j in range(REQUESTS)]
    begins = prior * acts[:, REQUESTS]
    for first, second in itertools.permutations(range(ROWS), PLACES):
        others = sum(begins[k] for k in range(ROWS) if k != first)
        chances.append(begins[first] * begins[second] / others)
    return chances


@pytest.fixture(scope="module")
def distribution():
    return made(SCORES, LOGITS)


def test_every_choice_has_its_chance(distribution):
    chances = plain(SCORES, LOGITS)
    assert sum(chances) == pytest.approx(1.0)
    found = jnp.exp(jax.vmap(distribution.log_prob)(jnp.asarray(CHOICES)))
    np.testing.assert_allclose(found, chances, rtol=1e-5)
    acts = [*chances[:REQUESTS], sum(chances[REQUESTS:])]
    np.testing.assert_allclose(jnp.exp(distribution.log_acts), acts, rtol=1e-5)


def test_draws_have_these_chances(distribution):
    count = 20_000
    noise = jax.random.gumbel(jax.random.key(0), (count, REQUESTS + ROWS))
    drawn = np.asarray(jax.vmap(distribution.perturbed_mode)(noise))
    asked = drawn[:, 0] < REQUESTS
    names = [(int(a), REQUESTS) if ask else (int(a), int(b))
             for ask, (a, b) in zip(asked, drawn, strict=True)]  # fmt: skip
    found = np.array([names.count(choice) for choice in CHOICES])
    expected = count * np.array(plain(SCORES, LOGITS))
    assert found.sum() == count
    assert np.sum((found - expected) ** 2 / expected) < 30.0  # 13 degrees of freedom: p = .005
    for choice in drawn:
        assert len(set(choice.tolist())) == PLACES or choice[0] < REQUESTS


def test_the_gradient_is_that_of_the_chances():
    action = jnp.asarray(CHOICES)
    advantage = jnp.asarray(RANDOM.normal(size=len(CHOICES)), jnp.float32)
    weight = jnp.asarray(RANDOM.uniform(size=len(CHOICES)), jnp.float32)

    def ours(scores, logits):
        each = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (len(CHOICES), *leaf.shape)), made(scores, logits)
        )
        return each.policy_gradient_sum(action, advantage, weight)

    def theirs(scores, logits):
        chances = jnp.stack(plain(scores, logits, jnp))
        return -jnp.sum(weight * advantage * jnp.log(chances))

    arguments = jnp.asarray(SCORES, jnp.float32), jnp.asarray(LOGITS, jnp.float32)
    for mine, other in zip(
        jax.grad(ours, (0, 1))(*arguments), jax.grad(theirs, (0, 1))(*arguments), strict=True
    ):
        assert np.abs(other).max() > 0.01
        np.testing.assert_allclose(mine, other, atol=1e-5)


def test_stored_log_probs_give_the_same_chances(distribution):
    stored = distribution.with_log_probs(distribution.log_probs)
    for choice in map(jnp.asarray, CHOICES):
        np.testing.assert_allclose(
            stored.log_prob(choice), distribution.log_prob(choice), rtol=1e-5
        )
    assert float(stored.kl(distribution)) == pytest.approx(0.0, abs=1e-6)
    assert float(stored.kl(made(SCORES[::-1], LOGITS))) > 0.01


def test_the_likeliest_act_comes_before_the_likeliest_rows():
    """A list that is likelier than any request is given, though each of its rows is less likely."""
    logits = jnp.log(jnp.broadcast_to(jnp.asarray([0.3, 0.2, 0.5]), (ROWS, 3)))
    even = made(np.array([0.0, 0.1, 0.3, 0.2]), logits)
    assert float(jnp.max(even.log_probs[REQUESTS:])) < float(even.log_probs[0])
    assert even.mode().tolist() == [REQUESTS + 2, REQUESTS + 3]
    assert even.executed(even.mode()).tolist() == [REQUESTS + IDS[2], REQUESTS + IDS[3]]
    asks = made(SCORES, np.tile([0.0, 3.0, 0.0], (ROWS, 1)))
    assert int(asks.mode()[0]) == 1
    assert int(asks.executed(asks.mode())[0]) == 1


def test_the_posterior_of_a_request_is_bayes_rule_and_of_a_list_its_first_row(distribution):
    prior, acts = np.exp(distribution.log_prior), np.exp(LOGITS)
    joint = prior * acts[:, 1] / acts.sum(1)
    found = jnp.exp(distribution.log_posterior(jnp.asarray([1, 0])))
    np.testing.assert_allclose(found, joint / joint.sum(), rtol=1e-5)
    shown = distribution.executed(jnp.asarray([REQUESTS + 2, REQUESTS]))
    assert np.exp(distribution.log_posterior(shown)).tolist() == [0, 0, 1, 0]


def test_what_was_not_found_is_not_named():
    """A miss has no chance, and no gradient that isn't finite."""
    log_prior = jnp.asarray([-0.5, -jnp.inf, -1.0, -3.0])

    def named(log_prior):
        missing = RequestOrList(
            log_prior, jnp.asarray(LOGITS, jnp.float32), jnp.asarray(IDS), PLACES
        )
        return missing.log_prob(missing.mode()), missing

    (value, missing), gradient = jax.value_and_grad(named, has_aux=True)(log_prior)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))
    assert float(missing.log_probs[REQUESTS + 1]) < -1e8
    noise = jax.random.gumbel(jax.random.key(1), (200, REQUESTS + ROWS))
    assert REQUESTS + 1 not in np.asarray(jax.vmap(missing.perturbed_mode)(noise))
