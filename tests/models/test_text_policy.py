"""Policies that retrieve, over passages of either kind: what text changes, and what misses do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jitted import jitted
from user_retriever import Sparse

from ragjax.envs.lookup import Lookup
from ragjax.envs.text_lookup import TextLookup
from ragjax.errors import UserError
from ragjax.models.encoder import BagEncoder, PerceptronEncoder
from ragjax.models.retrieval_policy import RetrievalPolicy, two_matrices
from ragjax.models.retriever import Dense

SPEC = Lookup(passages=6, actions=3, key_width=4, steps=2, time_limit=2)
E, K = 5, 3


def built(spec, env):
    """The policy, its parameters made larger than at the start, and its index."""
    policy = jitted(spec.build(env))

    def moved(leaf):
        return leaf + 0.3 * jnp.sin(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape)

    params = jax.tree.map(moved, policy.init(jax.random.PRNGKey(0)))
    return policy, params, policy.embed(params)


def softmax(x):
    e = np.exp(np.asarray(x, np.float64) - np.max(x))
    return e / e.sum()


TEXT = TextLookup(adjectives=3, nouns=2)
OF_TEXT = Dense(BagEncoder(width=6), PerceptronEncoder(width=6), initial_scale=3.0)
ESTIMATORS = ("marginal", "sampled", "gumbel", "attention")


def test_of_text_its_embedding_is_read():
    env = jitted(TEXT.vectorise(E))
    policy, params, index = built(RetrievalPolicy(k=K, hidden=(8,), retriever=OF_TEXT), env)
    observation = jnp.tile(jnp.array([1.0, 0.0, 0.0, 0.0, 1.0]), (E, 1))
    seen = policy.retrieve(params, index, None, observation)
    distribution, value = policy.apply(params, seen)
    functions = OF_TEXT.build(env.vocabulary, query_width=5)
    features = functions.embed(params, env.passages[seen.ids[0]])
    tree = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    both = np.concatenate([np.tile(observation[0], (K, 1)), features], axis=-1)

    def perceptron(layers):
        hidden = np.tanh(both @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"])
        return hidden @ layers["Dense_1"]["kernel"] + layers["Dense_1"]["bias"]

    np.testing.assert_allclose(distribution.logits[0], perceptron(tree["policy"]), rtol=1e-4)
    scores = (
        3.0
        * np.exp(tree["retriever"]["log_scale"] - np.log(3.0))
        * (np.asarray(functions.query(params, observation[:1]))[0] @ np.asarray(features).T)
    )
    np.testing.assert_allclose(np.exp(distribution.log_prior[0]), softmax(scores), rtol=1e-4)
    expected = softmax(scores) @ perceptron(tree["value"])[:, 0]
    np.testing.assert_allclose(value[0], expected, rtol=1e-4)


def test_the_policy_trains_the_encoder_of_text_and_the_critic_does_not():
    env = jitted(TEXT.vectorise(E))
    policy, params, index = built(RetrievalPolicy(k=K, retriever=OF_TEXT), env)
    seen = policy.retrieve(params, index, None, jnp.ones((E, 5)))

    def outputs(params, which):
        distribution, value = policy.apply(params, seen)
        return jnp.sum(value if which else distribution.log_prob(jnp.zeros((E,), jnp.int32)))

    by_policy, by_critic = (jax.grad(outputs)(params, which)["retriever"] for which in (0, 1))
    assert np.any(by_policy["stored"]["embedding"])
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(by_critic))


@pytest.mark.parametrize("spec", [SPEC, TEXT], ids=["features", "text"])
def test_passages_are_an_argument_of_the_program(spec):
    """None of its constants is as large as they are, and other passages are other probabilities."""
    env = jitted(spec.vectorise(E))
    retriever = OF_TEXT if env.vocabulary is not None else two_matrices(6)
    policy = RetrievalPolicy(k=K, retriever=retriever)
    params = policy.build(env).init(jax.random.PRNGKey(0))
    observation = jnp.ones((E, *env.low.shape))

    def probabilities(passages):
        made = policy.build(env._replace(passages=passages))
        seen = made.retrieve(params, made.embed(params), None, observation)
        return made.apply(params, seen)[0].log_probs

    traced = jax.make_jaxpr(probabilities)(env.passages)
    shapes = [np.shape(constant) for constant in traced.consts]
    assert env.passages.shape not in shapes
    one, other = (jax.jit(probabilities)(p) for p in (env.passages, env.passages[::-1] * 0 + 1))
    assert np.max(np.abs(one - other)) > 1e-6


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("least", [0.0, 2.0], ids=["some misses", "nothing found"])
@pytest.mark.parametrize("spec", [SPEC, TEXT], ids=["features", "text"])
def test_an_index_may_find_less_than_k(spec, estimator, least):
    """Probabilities add up, and so does what is learned of them."""
    env = jitted(spec.vectorise(E))
    retriever = OF_TEXT if env.vocabulary is not None else two_matrices(6)
    retriever = dataclasses.replace(retriever, index=Sparse(least))
    policy, params, index = built(
        RetrievalPolicy(k=6, retriever=retriever, estimator=estimator, drawn=2), env
    )
    observation = jax.random.normal(jax.random.PRNGKey(1), (E, *env.low.shape))

    @jax.jit
    def run(params):
        seen = policy.retrieve(params, index, jax.random.PRNGKey(2), observation)
        distribution, value = policy.apply(params, seen)
        choice = distribution.sample(jax.random.PRNGKey(3))
        learned = distribution.log_prob(choice) + distribution.entropy() + value
        return jnp.sum(learned), (seen.ids, distribution.log_probs)

    gradient, (ids, log_probs) = jax.grad(run, has_aux=True)(params)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=-1), 1.0, rtol=1e-5)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    hits = (np.asarray(ids) >= 0).sum(axis=-1)
    assert np.all(hits == 0) if least == 2.0 else 0 < hits.sum() < ids.size


@pytest.mark.parametrize(
    ("spec", "env", "message"),
    [
        (Dense(), SPEC, "encoder is a BagEncoder, which reads tokens, but there is no text"),
        (two_matrices(), TEXT, "encoder is a PerceptronEncoder, which reads numbers, but it is"),
    ],
)
def test_an_encoder_that_cannot_read_the_passages_is_refused(spec, env, message):
    with pytest.raises(UserError, match=f"retriever.{message}"):
        RetrievalPolicy(k=2, retriever=spec).build(env.vectorise(2)).init(jax.random.PRNGKey(0))
