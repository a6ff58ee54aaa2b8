"""SlateQ: what is written to its ring, and the targets that its updates learn from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import jitted

from ragjax.envs.recommendation.interest_evolution import InterestEvolution
from ragjax.envs.recommendation.interest_exploration import InterestExploration
from ragjax.errors import UserError
from ragjax.models.slate_policy import split
from ragjax.models.slate_q import SlateQPolicy
from ragjax.objectives.slate_q import SlateQ
from ragjax.training.rollout import rollout, start

SPEC = InterestEvolution(candidates=4, slate=2)
ALGORITHM = SlateQ(
    num_envs=3, rollout_length=5, capacity=20, replayed=64, discount=0.9, sharpness=1.0
)


@pytest.fixture(scope="module")
def made():
    """Policy, parameters of learner and target, a rollout, and what an update learns from."""
    env = jitted(SPEC.vectorise(ALGORITHM.num_envs))
    policy = jitted(SlateQPolicy(hidden=(8,)).build(env))
    params, target = (policy.init(jax.random.key(seed)) for seed in (0, 1))
    hyper = {name: jnp.asarray(value) for name, value in ALGORITHM.hyper().items()}
    carry = start(env, jax.random.key(2))
    extra = ALGORITHM.begin(policy, target, carry.timestep)

    def act(observation):
        return ALGORITHM.explore(policy.apply(params, observation)[0], hyper, jnp.asarray(0))

    _, steps = rollout(env, act, carry, jax.random.key(3), ALGORITHM.rollout_length)
    batch, extra = ALGORITHM.batch(policy, params, steps, hyper, key=jax.random.key(4), extra=extra)
    return env, policy, params, target, steps, batch, extra


def test_the_ring_holds_what_was_chosen(made):
    env, _, _, _, steps, _, extra = made
    assert int(extra.count) == 15
    clicks = np.asarray(split(env, steps.final_observation)["responses"])[..., 0].reshape(15, 2)
    chosen = clicks.sum(axis=-1)
    np.testing.assert_array_equal(extra.chosen[:15], chosen)
    assert 0 < chosen.sum() < 15
    slates = np.asarray(steps.action).reshape(15, 2)
    for row in np.flatnonzero(chosen):
        assert int(extra.item[row]) == slates[row, clicks[row].argmax()]
    np.testing.assert_array_equal(extra.reward[:15], np.asarray(steps.reward).reshape(-1))
    np.testing.assert_array_equal(np.asarray(steps.reward).reshape(-1) > 0, chosen > 0)


def test_targets_are_the_reward_and_the_best_next_slate_of_the_target_network(made):
    env, policy, _, target, _, batch, extra = made
    for row in range(64):
        [place] = np.flatnonzero(
            (np.asarray(extra.observation) == np.asarray(batch.observation[row])).all(axis=-1)
        )
        following = extra.following[place]
        later, _ = policy.apply(target, following)
        s, q = (np.asarray(of, np.float64) for of in (later.choice_scores, later.item_values))
        interest = np.asarray(split(env, following)["user"]) + 1
        topics = np.asarray(split(env, following)["candidates"]).argmax(axis=-1)
        np.testing.assert_allclose(s, interest[topics], rtol=1e-5, atol=2e-6)
        pairs = [(i, j) for i in range(4) for j in range(i)]
        best = max(s[list(pair)] @ q[list(pair)] / (s[list(pair)].sum() + 2) for pair in pairs)
        going_on = 1.0 - float(extra.terminated[place])
        expected = float(extra.reward[place]) + 0.9 * going_on * best
        np.testing.assert_allclose(batch.value_target[row], expected, rtol=1e-4, atol=1e-5)
        assert float(batch.weight[row]) == float(extra.chosen[place])


def test_the_loss_counts_chosen_items_alone(made):
    _, policy, params, _, _, batch, _ = made
    loss = ALGORITHM.loss(policy, params, jax.random.key(0), batch, {})
    values = np.asarray(policy.apply(params, batch.observation)[0].item_values)
    error = values[np.arange(64), np.asarray(batch.action)] - np.asarray(batch.value_target)
    weight = np.asarray(batch.weight)
    np.testing.assert_allclose(loss.sum, 0.5 * np.sum(weight * error**2), rtol=1e-5)
    assert float(loss.denom) == weight.sum() < 64


def test_the_target_network_is_copied_every_so_many_steps(made):
    _, _, params, target, _, _, extra = made
    same = ALGORITHM.behave(params, extra, jnp.asarray(1))[1].target
    copied = ALGORITHM.behave(params, extra, jnp.asarray(ALGORITHM.refresh_target_every))[1].target
    jax.tree.map(np.testing.assert_array_equal, same, target)
    jax.tree.map(np.testing.assert_array_equal, copied, params)


def test_the_likeliest_slate_is_the_rules_and_all_are_possible_in_rollouts(made):
    _, policy, params, _, steps, _, _ = made
    distribution, value = policy.apply(params, steps.observation[0])
    explored = ALGORITHM.explore(distribution, {"sharpness": jnp.asarray(1.0)}, jnp.asarray(0))
    np.testing.assert_array_equal(explored.mode(), distribution.mode())
    np.testing.assert_allclose(value, distribution.item_values.max(axis=-1))
    # First place: e² against e, 1 and 1; then e against 1 and 1.
    likeliest = np.exp(2) / (np.exp(2) + np.exp(1) + 2) * np.exp(1) / (np.exp(1) + 2)
    np.testing.assert_allclose(np.exp(explored.log_prob(explored.mode())), likeliest, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"capacity": 63}, "capacity is 63"),
        ({"replayed": 0}, "replayed is 0"),
        ({"sharpness": 0.0}, "sharpness is 0"),
        ({"refresh_target_every": 0}, "refresh_target_every is 0"),
    ],
)
def test_bad_fields_are_named(fields, named):
    with pytest.raises(UserError, match=named):
        SlateQ(**fields)


def test_users_seen_in_other_numbers_are_refused():
    with pytest.raises(UserError, match="as many numbers as a candidate"):
        SlateQPolicy().build(InterestExploration().vectorise(2))
    with pytest.raises(UserError, match="no_click"):
        SlateQPolicy(no_click=0.0)
