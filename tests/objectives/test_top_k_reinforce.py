"""REINFORCE with top-K correction, against its formula over all items and all sets of draws."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.envs.catch import Catch
from ragjax.envs.recommendation.interest_evolution import InterestEvolution
from ragjax.envs.recommendation.recogym import RecoGym
from ragjax.errors import UserError
from ragjax.learners.episodes import EpisodesConfig
from ragjax.models.policy import ActorCritic
from ragjax.models.slate_policy import SlatePolicy
from ragjax.models.slate_retrieval import SlateRetrieval
from ragjax.objectives.reinforce import Reinforce
from ragjax.objectives.top_k_reinforce import TopKReinforce
from ragjax.ops.plackett_luce import PlackettLuce
from ragjax.training.learner import Stage, traced_scalars
from ragjax.training.step import make_step
from ragjax.types import PolicyModel, Rollout

N = 5
LOGITS = np.array([0.3, -1.0, 1.5, 0.0, 0.6])
RETURNS = np.array([1.0, -0.5, 2.0, 0.7, 3.0])


def policy_of(places):
    """One state; an observation is the place that was clicked."""

    def apply(params, observation):
        scores = jnp.broadcast_to(params["logits"], (*observation.shape[:-1], N))
        clicked = observation[..., 0].astype(jnp.int32)
        value = jnp.broadcast_to(params["value"], clicked.shape)
        return PlackettLuce(scores, places, clicked=clicked), value

    return PolicyModel(lambda key: None, apply)


def rollout_of(slates, clicked, weight, reward):
    """Steps [T,E]; all but the last of each row go on."""
    steps, envs = weight.shape
    last = np.zeros((steps, envs), bool)
    last[-1] = True
    return Rollout(
        observation=np.zeros((steps, envs, 1), np.float32),
        action=slates.astype(np.int32),
        log_probs=np.zeros((steps, envs, N), np.float32),
        reward=reward.astype(np.float32),
        terminated=last,
        truncated=np.zeros_like(last),
        final_observation=clicked[..., None].astype(np.float32),
        last_observation=np.zeros((envs, 1), np.float32),
        weight=weight.astype(np.float32),
        metrics={},
    )


def gradient_of(algorithm, places, steps, logits=LOGITS, value=0.0):
    """Of the loss, by logits, divided by its denominator."""
    policy = policy_of(places)
    params = {"logits": jnp.asarray(logits, jnp.float32), "value": jnp.float32(value)}
    hyper = traced_scalars(algorithm.hyper())

    @jax.jit
    def gradient(params, steps):
        batch = algorithm.targets(policy, params, steps, hyper)
        batch = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)

        def loss(params):
            made = algorithm.loss(policy, params, jax.random.key(0), batch, hyper)
            return made.sum / made.denom

        return jax.grad(loss)(params)

    return np.asarray(gradient(params, jax.tree.map(jnp.asarray, steps))["logits"])


def softmax(logits):
    weight = np.exp(logits - np.max(logits))
    return weight / weight.sum()


def slope(function, at=LOGITS, step=1e-5):
    """By differences, in float64."""
    units = step * np.eye(N)
    return np.array([(function(at + unit) - function(at - unit)) / (2 * step) for unit in units])


def every_item(places):
    """One environment for each item, as likely as it is drawn, which is clicked in some place."""
    slates = np.array([np.roll(np.arange(N), -item)[:places] for item in range(N)])
    clicked = np.arange(N) % places
    slates = np.array([np.roll(row, place) for row, place in zip(slates, clicked, strict=True)])
    np.testing.assert_array_equal(slates[np.arange(N), clicked], np.arange(N))
    weight = N * softmax(LOGITS)
    return rollout_of(slates[None], clicked[None], weight[None], RETURNS[None])


@pytest.mark.parametrize("places", [1, 2, 3, 4])
def test_its_gradient_is_that_of_the_chance_to_be_among_independent_draws(places):
    """Σ_a (1 - (1 - π_a)^K) r_a, itself the mean, over all N^K draws, of the returns of the set."""

    def value(logits):
        chance = softmax(logits)
        return np.sum((1 - (1 - chance) ** places) * RETURNS)

    def by_sets(logits):
        chance = softmax(logits)
        draws = itertools.product(range(N), repeat=places)
        return sum(np.prod(chance[list(draw)]) * RETURNS[list(set(draw))].sum() for draw in draws)

    np.testing.assert_allclose(value(LOGITS), by_sets(LOGITS), rtol=1e-12)
    found = gradient_of(TopKReinforce(num_envs=N, rollout_length=1), places, every_item(places))
    assert np.abs(found).max() > 0.05
    np.testing.assert_allclose(-found, slope(by_sets), atol=1e-5)


def test_it_is_not_the_gradient_of_the_slates_that_are_shown():
    """Over all ordered slates of two, of which a user clicks one by weights of its own."""
    slates = np.array(list(itertools.permutations(range(N), 2)))
    share = np.array([1.0, 2.0, 0.5, 1.0, 3.0])
    rows = [(slate, place) for slate in slates for place in (0, 1)]
    shown = np.array([slate for slate, _ in rows])
    clicked = np.array([place for _, place in rows])
    picks = np.array([share[slate[place]] / share[slate].sum() for slate, place in rows])
    reward = RETURNS[shown[np.arange(len(rows)), clicked]]

    def chance_of(logits):
        first = softmax(logits)
        return first[shown[:, 0]] * first[shown[:, 1]] / (1 - first[shown[:, 0]])

    weight = len(rows) * chance_of(LOGITS) * picks
    steps = rollout_of(shown[None], clicked[None], weight[None], reward[None])
    sizes = {"num_envs": len(rows), "rollout_length": 1}
    exact = slope(lambda logits: np.sum(chance_of(logits) * picks * reward))
    found = -gradient_of(Reinforce(**sizes, baseline=False), 2, steps)
    np.testing.assert_allclose(found, exact, atol=1e-5)
    corrected = -gradient_of(TopKReinforce(**sizes), 2, steps)
    assert np.abs(corrected - exact).max() > 0.1


def test_with_one_place_and_a_click_in_every_step_it_is_reinforce():
    steps = every_item(1)
    sizes = {"num_envs": N, "rollout_length": 1}
    found = gradient_of(TopKReinforce(**sizes), 1, steps)
    np.testing.assert_allclose(
        found, gradient_of(Reinforce(**sizes, baseline=False), 1, steps), atol=1e-6
    )


def test_a_return_is_discounted_and_a_step_without_a_click_teaches_nothing():
    """Two environments of three steps; in the second one the episode ended after the first step."""
    slates = np.array([[[0, 1], [2, 3]], [[3, 4], [0, 1]], [[1, 2], [4, 0]]])
    clicked = np.array([[1, 0], [2, 0], [0, 1]])
    weight = np.array([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    reward = np.array([[1.0, 2.0], [0.0, 5.0], [4.0, 7.0]])
    steps = rollout_of(slates, clicked, weight, reward)
    terminated = steps.terminated.copy()
    terminated[0, 1] = True
    steps = dataclasses.replace(steps, terminated=terminated)
    algorithm = TopKReinforce(num_envs=2, rollout_length=3, discount=0.5)
    pi = softmax(LOGITS)
    # (item, return): the first and third step of one episode, the only step of the other.
    taught = [(1, 1.0 + 0.25 * 4.0), (1, 4.0), (2, 2.0)]
    expected = sum(2 * (1 - pi[item]) * gained * (np.eye(N)[item] - pi) for item, gained in taught)
    for value in (0.0, 10.0):  # the critic says nothing here
        found = -gradient_of(algorithm, 2, steps, value=value)
        np.testing.assert_allclose(found, expected / 2, atol=1e-5)


@pytest.mark.parametrize(
    ("env", "policy"),
    [
        (InterestEvolution(candidates=5), SlatePolicy(hidden=(8,))),
        pytest.param(
            InterestEvolution(corpus=30),
            SlateRetrieval(k=6, explored=2, hidden=(8,)),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["offered", "retrieved"],
)
def test_it_learns_from_the_clicks_of_an_environment(env, policy):
    """Items that are clicked become likelier: all returns are positive there."""
    config = EpisodesConfig(
        env=env,
        algorithm=TopKReinforce(num_envs=8, rollout_length=20),
        policy=policy,
        env_steps=160,
    )
    learner = config.create()
    state = jax.jit(learner.init)(jax.random.PRNGKey(0), learner.hyper, learner.data)

    @jax.jit
    def collect(state, data):
        return learner.collect(state, None, stage=learner.stages[0], hyper=learner.hyper, data=data)

    state, batch, _ = collect(state, learner.data)
    clicked = np.asarray(batch.advantage) > 0
    assert 0.2 < clicked.mean() < 0.9
    step = jax.jit(make_step(learner, Stage(1)))
    moved, metrics = step(state, None, learner.hyper, learner.data)
    assert np.isfinite(metrics["loss"])
    changes = jax.tree.map(lambda a, b: np.abs(a - b).max(), moved.params, state.params)
    assert all(change > 0 for change in jax.tree.leaves(changes["policy"]))


@pytest.mark.parametrize(
    ("env", "policy"),
    [
        (Catch(), ActorCritic()),
        (RecoGym(products=10), SlateRetrieval(k=5)),
    ],
    ids=["no slates", "no responses"],
)
def test_it_wants_to_be_told_what_was_clicked(env, policy):
    config = EpisodesConfig(
        env=env, algorithm=TopKReinforce(num_envs=2, rollout_length=2), policy=policy, env_steps=4
    )
    learner = config.create()
    state = jax.jit(learner.init)(jax.random.PRNGKey(0), learner.hyper, learner.data)
    with pytest.raises(UserError) as caught:
        learner.collect(
            state, None, stage=learner.stages[0], hyper=learner.hyper, data=learner.data
        )
    assert str(caught.value).startswith(
        "algorithm is TopKReinforce, which learns from the items that"
    )
