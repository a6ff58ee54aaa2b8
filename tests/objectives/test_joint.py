"""Likelihood and reward together: each alone is what it should be, and both reach the retriever."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from ragjax.errors import UserError
from ragjax.objectives.joint import Joint
from ragjax.objectives.likelihood import RagSequence, retrieve
from ragjax.objectives.rewards import Reward
from ragjax.ops.marginal import log_posterior, marginal
from ragjax.retrieval.corpus import gather_passages
from ragjax.retrieval.dense import Dense
from ragjax.types import BOS_ID

K = 3


@dataclass(frozen=True)
class FirstToken(Reward):
    """A reward that is dense and whose expectation is a sum over one token."""

    def score(self, answers, target):
        return value(answers[..., 0])


def value(token):
    return jnp.sin(3.0 * token.astype(jnp.float32))


@pytest.fixture(scope="module")
def problem(make_toy, corpus, batch):
    """(loss(objective) -> (params, key) -> Loss, toy, parameters)."""
    toy = make_toy(siamese=False)
    embeddings = jax.jit(toy.model.embed_passage)(toy.params, corpus)
    given = batch.replace(retrieved=None)

    def loss_of(objective):
        def loss(params, key):
            fixed = toy.model, toy.vocabulary, Dense()
            return objective.loss(*fixed, params, key, given, corpus, embeddings, k=K)

        return loss

    return loss_of, toy, given, embeddings


def test_likelihood_alone_is_rag_sequence_to_the_bit(problem):
    loss_of, toy, *_ = problem
    gradients = []
    for objective in (RagSequence(), Joint(reward_weight=0.0)):
        loss = loss_of(objective)
        gradient = jax.jit(
            jax.value_and_grad(lambda params, loss=loss: loss(params, jax.random.PRNGKey(0)).sum)
        )
        gradients.append(gradient(toy.params))
    jax.tree.map(np.testing.assert_array_equal, *gradients)


@pytest.fixture(scope="module")
def sampled(problem):
    """Gradients [M,P] of reward alone, one a key, and its metrics."""
    loss_of, toy, *_ = problem
    loss = loss_of(Joint(likelihood_weight=0.0, samples=8, reward=FirstToken()))

    @jax.jit
    def draw(keys):
        def one(key):
            def total(params):
                found = loss(params, key)
                return found.sum, found

            gradient, found = jax.grad(total, has_aux=True)(toy.params)
            return ravel_pytree(gradient)[0], found.metrics

        return jax.lax.map(one, keys)

    return draw(jax.random.split(jax.random.PRNGKey(1), 400))


def test_reward_alone_has_the_gradient_of_the_expected_reward(problem, corpus, sampled):
    """-∇ Σ_b Σ_v p(y_1 = v|x_b) R(v), with every token of the vocabulary, through the retriever too."""
    _, toy, given, embeddings = problem
    model = toy.model

    def expected(params):
        topk, log_prior = retrieve(
            RagSequence(), model, Dense(), params, given, corpus, embeddings, k=K
        )
        memory = model.encode(params, given.question, gather_passages(corpus, topk.ids))
        cache = model.init_cache(params, memory, given.target.shape[1])
        start = jnp.full(log_prior.shape, BOS_ID, jnp.int32)
        logprobs, _ = model.decode_step(params, memory, cache, start, jnp.int32(0))
        log_prior = log_posterior(log_prior, jnp.zeros_like(log_prior))
        chance = jnp.exp(marginal(log_prior[:, None], jnp.swapaxes(logprobs, 1, 2)))
        return -jnp.sum(given.weight * (chance @ value(jnp.arange(chance.shape[-1]))))

    gradient = jax.jit(jax.grad(expected))(toy.params)
    drawn = np.asarray(sampled[0])
    exact = np.asarray(ravel_pytree(gradient)[0])
    mean, error = drawn.mean(axis=0), drawn.std(axis=0, ddof=1) / np.sqrt(len(drawn))
    distance = np.linalg.norm(mean - exact) / np.linalg.norm(error)
    assert 0.5 < distance < 1.5
    assert mean @ exact / np.linalg.norm(mean) / np.linalg.norm(exact) > 0.9
    retriever = ravel_pytree(gradient["retriever"])[0]
    assert np.linalg.norm(retriever) > 1e-3


def test_metrics_of_the_samples(problem, sampled):
    *_, given, _ = problem
    count = float(jnp.sum(given.weight))
    for name, (low, high) in {
        "reward": (-1, 1),
        "distinct": (0, 1),
        "sampled_entropy": (0, 1e3),
    }.items():
        total, denom = sampled[1][name]
        np.testing.assert_allclose(denom, count)
        assert np.all((low <= total / denom) & (total / denom <= high))


def test_rows_that_fill_up_a_batch_change_nothing(problem, corpus):
    _, toy, given, embeddings = problem
    objective = Joint(reward=FirstToken())
    weight = np.ones(len(given.weight), np.float32)
    weight[-1] = 0.0
    filled = given.replace(weight=weight)
    other = filled.replace(
        target=np.concatenate([np.asarray(given.target[:-1]), np.asarray(given.target[:1])])
    )

    @jax.jit
    def total(batch):
        fixed = toy.model, toy.vocabulary, Dense()
        return objective.loss(
            *fixed, toy.params, jax.random.PRNGKey(0), batch, corpus, embeddings, k=K
        ).sum

    assert total(filled) == total(other)


def test_steps_on_the_reward_raise_it(problem):
    loss_of, toy, *_ = problem
    loss = loss_of(Joint(likelihood_weight=0.0, samples=8, reward=FirstToken()))

    @jax.jit
    def run(params):
        def step(params, key):
            def total(params):
                found = loss(params, key)
                return found.sum / found.denom, found.metrics["reward"]

            gradient, (reward, count) = jax.grad(total, has_aux=True)(params)
            return jax.tree.map(lambda p, g: p - 0.2 * g, params, gradient), reward / count

        return jax.lax.scan(step, params, jax.random.split(jax.random.PRNGKey(2), 150))[1]

    rewards = np.asarray(run(toy.params))
    assert rewards[-20:].mean() > rewards[:20].mean() + 0.2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples": 1}, r"objective.samples is 1; a baseline from other answers needs at least 2"),
        ({"reward_weight": -1.0}, r"objective.reward_weight is -1.0; it must not be negative"),
        (
            {"likelihood_weight": 0.0, "reward_weight": 0.0},
            r"objective.likelihood_weight and objective.reward_weight are both 0",
        ),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        Joint(**fields)
