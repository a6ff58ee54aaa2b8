"""Policies that retrieve, against the sum over passages written out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.envs.cartpole import CartPole
from ragjax.envs.lookup import Lookup
from ragjax.errors import UserError
from ragjax.models.retrieval_policy import RetrievalPolicy
from ragjax.ops.distributions import MarginalCategorical
from ragjax.training.rollout import rollout, start
from ragjax.types import Retrieved

SPEC = Lookup(passages=6, actions=3, key_width=4, steps=2, time_limit=2)
WHOLE = Lookup(passages=6, actions=3, key_width=4, steps=2, time_limit=2, history=True)
E, K = 5, 3


def built(spec, env, seed=0):
    """The policy, its parameters made larger than at the start, and its index."""
    policy = spec.build(env)
    params = policy.init(jax.random.PRNGKey(seed))
    params = jax.tree.map(
        lambda leaf: (
            leaf + 0.3 * jnp.sin(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape)
        ),
        params,
    )
    return policy, params, policy.embed(params)


def softmax(x):
    e = np.exp(np.asarray(x, np.float64) - np.max(x))
    return e / e.sum()


def test_the_k_best_passages_are_retrieved_and_scored():
    env = SPEC.vectorise(E)
    policy, params, index = built(RetrievalPolicy(k=K, width=8, hidden=(8,)), env)
    observation = jax.random.normal(jax.random.PRNGKey(1), (E, *env.low.shape))
    seen = policy.retrieve(params, index, None, observation)
    distribution, value = policy.apply(params, seen)
    tower = params["retriever"]
    query = np.asarray(observation) @ np.asarray(tower["observed"]["Dense_0"]["kernel"])
    stored = np.asarray(env.passages) @ np.asarray(tower["stored"]["Dense_0"]["kernel"])
    query, stored = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (query, stored))
    scores = np.exp(float(tower["log_scale"])) * query @ stored.T
    for row in range(E):
        best = np.argsort(-scores[row])[:K]
        np.testing.assert_array_equal(seen.ids[row], best)
        np.testing.assert_allclose(
            np.exp(distribution.log_prior[row]), softmax(scores[row, best]), rtol=1e-4
        )
    assert value.shape == (E,)
    np.testing.assert_allclose(np.exp(distribution.log_probs).sum(axis=-1), 1, rtol=1e-5)


def test_a_miss_counts_for_nothing():
    env = SPEC.vectorise(E)
    policy, params, _ = built(RetrievalPolicy(k=K), env)
    observation = jnp.ones((E, *env.low.shape))
    ids = jnp.tile(jnp.array([4, 1, -1], jnp.int32), (E, 1))
    with_miss, value = policy.apply(params, Retrieved(observation, ids, None))
    without, other = policy.apply(params, Retrieved(observation, ids[:, :2], None))
    np.testing.assert_allclose(with_miss.log_probs, without.log_probs, atol=1e-6)
    np.testing.assert_allclose(value, other, atol=1e-6)


def test_the_critic_does_not_train_the_retriever():
    env = SPEC.vectorise(E)
    policy, params, index = built(RetrievalPolicy(k=K), env)
    observation = jax.random.normal(jax.random.PRNGKey(1), (E, *env.low.shape))
    seen = policy.retrieve(params, index, None, observation)
    gradient = jax.grad(lambda params: jnp.sum(policy.apply(params, seen)[1]))(params)
    for group in ("retriever", "policy"):
        assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient[group]))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient["value"]))


@pytest.mark.parametrize("estimator", ["marginal", "sampled", "gumbel", "attention"])
def test_what_was_acted_on_gives_the_same_probabilities_again(estimator):
    """With an index of other parameters, too: the ratio of acting to learning starts at exactly 1."""
    env = SPEC.vectorise(E)
    spec = RetrievalPolicy(k=K, estimator=estimator)
    policy, params, _ = built(spec, env)
    stale = built(spec, env, seed=7)[2]
    carry = start(env, jax.random.PRNGKey(2))

    def act(seen):
        return policy.apply(params, seen)[0]

    def look(key, observation):
        return policy.retrieve(params, stale, key, observation)

    _, made = jax.jit(lambda carry: rollout(env, act, carry, jax.random.PRNGKey(3), 4, look=look))(
        carry
    )
    again = policy.apply(params, made.observation)[0]
    np.testing.assert_allclose(made.log_probs, again.log_probs, atol=1e-6)
    assert made.observation.ids.shape == (4, E, K)
    # Retrieving anew would be another policy: the index chooses other passages.
    fresh = policy.retrieve(params, policy.embed(params), None, made.observation.observation)
    assert np.any(np.sort(fresh.ids) != np.sort(made.observation.ids))
    if estimator in ("marginal", "attention"):
        other = policy.apply(params, fresh)[0].log_probs
        assert np.max(np.abs(other - made.log_probs)) > 1e-2


def test_gumbel_draws_other_passages_with_every_key():
    env = SPEC.vectorise(E)
    policy, params, index = built(RetrievalPolicy(k=K, estimator="gumbel"), env)
    observation = jnp.ones((E, *env.low.shape))
    one, other, none = (
        policy.retrieve(params, index, key, observation).noise
        for key in (jax.random.PRNGKey(0), jax.random.PRNGKey(1), None)
    )
    assert np.all(one != other)
    assert not np.any(none)


def test_an_episodes_actions_have_the_marginal_of_the_whole_episode():
    """Π_t π(a_t|h_t) = Σ_d p(d|s_0) Π_t π(a_t|s_t,d), for every sequence of actions."""
    env = WHOLE.vectorise(1)
    policy, params, index = built(RetrievalPolicy(k=K, hidden=(8,), latent="episode"), env)
    step = jax.jit(env.step)
    look = jax.jit(lambda observation: policy.retrieve(params, index, None, observation))
    apply = jax.jit(policy.apply)
    state, first = env.reset(env.params, jax.random.PRNGKey(5))
    single = RetrievalPolicy(k=K, hidden=(8,)).build(SPEC.vectorise(1))
    total = 0.0
    for actions in itertools.product(range(3), repeat=2):
        now, shown, product, parts = state, first, 1.0, []
        for action in actions:
            seen = look(shown.observation)
            product *= float(jnp.exp(apply(params, seen)[0].log_probs)[0, action])
            rows = shown.observation[0, :, :6]
            current = int(shown.observation[0, :, -1].sum()) - 1
            plain = single.apply(params, Retrieved(rows[current : current + 1], seen.ids, None))[0]
            parts.append(np.exp(plain.component_log_probs)[0, :, action])
            now, shown = step(env.params, jax.random.PRNGKey(6), now, jnp.array([action]))
        prior = np.exp(
            single.apply(params, Retrieved(first.observation[:, 0, :6], seen0(look, first), None))[
                0
            ].log_prior
        )[0]
        expected = np.sum(prior * parts[0] * parts[1])
        assert product == pytest.approx(expected, rel=1e-4)
        total += product
    assert total == pytest.approx(1.0, rel=1e-4)


def seen0(look, first):
    return look(first.observation).ids


def test_an_episodes_passages_are_those_of_its_first_observation():
    env = WHOLE.vectorise(1)
    policy, params, index = built(RetrievalPolicy(k=K, latent="episode"), env)
    state, first = env.reset(env.params, jax.random.PRNGKey(5))
    _, second = env.step(env.params, jax.random.PRNGKey(6), state, jnp.array([1]))
    one, other = (
        policy.retrieve(params, index, None, shown.observation).ids for shown in (first, second)
    )
    np.testing.assert_array_equal(one, other)


def test_the_distribution_is_the_marginal_by_default():
    env = SPEC.vectorise(E)
    policy, params, index = built(RetrievalPolicy(k=K), env)
    seen = policy.retrieve(params, index, None, jnp.ones((E, *env.low.shape)))
    assert isinstance(policy.apply(params, seen)[0], MarginalCategorical)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 0}, r"policy.k is 0; it must be at least 1"),
        ({"scale": 0.0}, r"policy.scale is 0.0; it must be positive"),
        ({"k": 2, "drawn": 3}, r"policy.drawn is 3, more than the policy.k 2"),
        (
            {"latent": "episode", "estimator": "sampled"},
            r"policy.latent is 'episode' with policy.estimator 'sampled'",
        ),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        RetrievalPolicy(**fields)


@pytest.mark.parametrize(
    ("spec", "env", "message"),
    [
        (RetrievalPolicy(), CartPole(), r"the environment has no passages to retrieve"),
        (RetrievalPolicy(k=7), SPEC, r"policy.k is 7, but the environment has 6 passages"),
        (
            RetrievalPolicy(k=2, latent="episode"),
            SPEC,
            r"observations have shape \(6,\); set env.hist",
        ),
        (RetrievalPolicy(k=2), WHOLE, r"observations have shape \(2, 10\); unset env.history"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(spec, env, message):
    with pytest.raises(UserError, match=message):
        spec.build(env.vectorise(2))
