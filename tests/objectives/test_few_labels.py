"""Likelihood of the labelled questions of a batch, and reward of all of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from ragjax.models.retriever import Dense
from ragjax.objectives.answer_reward import AnswerReward
from ragjax.objectives.base import Context
from ragjax.objectives.joint import Joint
from ragjax.objectives.likelihood import RagSequence, RagToken, retrieve
from ragjax.objectives.rewards import TokenF1
from ragjax.ops.marginal import log_posterior, rag_sequence
from ragjax.retrieval.corpus import gather_passages
from ragjax.training.step import summed_gradients
from ragjax.types import PAD_ID

K, LENGTH = 3, 2
NOISE: dict[str, Any] = {"rename_reader": 0.5, "rename_retriever": 0.5, "corrupt_words": 0.3}
KEY = jax.random.PRNGKey(4)


@pytest.fixture(scope="module")
def problem(make_toy, corpus, batch):
    """(loss(objective) -> (params, key, batch) -> Loss, toy, batch of short answers, index)."""
    toy = make_toy(siamese=False)
    index = jax.jit(toy.model.retriever.embed)(toy.params, corpus)
    target = jnp.asarray([[4, 8], [6, 9], [7, 5], [8, 2]])
    other = jnp.asarray([[9, 2], [0, 0], [7, 7], [0, 0]])
    short = batch.replace(
        retrieved=None, target=target, accepted=jnp.stack([target, other], axis=1)
    )

    def loss_of(objective):
        context = Context(toy.model, toy.vocabulary, Dense(), K)

        def loss(params, key, batch):
            return objective.loss(context, params, key, batch, corpus=corpus, index=index)

        return loss

    return loss_of, toy, short, index


@pytest.fixture(scope="module")
def differentiate(problem):
    """(objective) -> jitted (params, key, batch) -> (gradient, Loss)."""
    loss_of = problem[0]

    def made(objective):
        def total(params, key, batch):
            loss = loss_of(objective)(params, key, batch)
            return loss.sum, loss

        return jax.jit(jax.grad(total, has_aux=True))

    return made


def labelled(batch, *weights):
    return batch.replace(label_weight=jnp.asarray(weights, jnp.float32))


@pytest.mark.parametrize("objective", [RagSequence(**NOISE), RagToken("index", **NOISE)])
def test_answers_and_gold_passages_of_unlabelled_questions_change_nothing(
    problem, differentiate, objective
):
    """Not a bit of the loss; those of a labelled one do, and without any label nothing is learned."""
    _, toy, batch, _ = problem
    gradient = differentiate(objective)
    batch = labelled(batch, 0, 2, 0, 2)
    garbage = jnp.asarray([[11, 11], [6, 9], [11, 3], [8, 2]])
    other = batch.replace(target=garbage, positives=batch.positives.at[0].set(3))
    found, expected = (gradient(toy.params, KEY, given) for given in (other, batch))
    jax.tree.map(np.testing.assert_array_equal, found[0], expected[0])
    assert found[1].sum == expected[1].sum
    assert found[1].denom == expected[1].denom == 3
    changed, _ = gradient(toy.params, KEY, labelled(other, 2, 2, 0, 0))
    assert np.any(ravel_pytree(changed)[0] != ravel_pytree(expected[0])[0])
    nothing, loss = gradient(toy.params, KEY, labelled(batch, 0, 0, 0, 0))
    assert loss.sum == 0
    assert loss.denom == 3
    assert np.all(ravel_pytree(nothing)[0] == 0)


def test_the_loss_is_the_mean_over_labelled_questions(problem, differentiate):
    """Also as the sum of micro-batches, of which some have no labelled question."""
    loss_of, toy, batch, _ = problem
    objective = RagSequence()  # without noise, which micro-batches draw each for itself
    gradient = differentiate(objective)
    batch = batch.replace(weight=jnp.ones(4))
    found, loss = gradient(toy.params, KEY, labelled(batch, 0, 2, 0, 2))
    alone, among = gradient(toy.params, KEY, batch.replace(weight=jnp.asarray([0.0, 1, 0, 1])))
    assert (loss.denom, among.denom) == (4, 2)
    np.testing.assert_allclose(loss.sum / 4, among.sum / 2, rtol=1e-6)
    exact = ravel_pytree(alone)[0] / 2
    np.testing.assert_allclose(ravel_pytree(found)[0] / 4, exact, rtol=1e-5, atol=1e-7)

    @jax.jit
    def in_parts(params, batch):
        return summed_gradients(loss_of(objective), params, KEY, batch, accumulate=2)

    rows = jnp.asarray([0, 2, 1, 3])
    parts = jax.tree.map(lambda leaf: leaf[rows], labelled(batch, 0, 2, 0, 2))
    found, loss = in_parts(toy.params, parts)
    np.testing.assert_allclose(ravel_pytree(found)[0] / loss.denom, exact, rtol=1e-5, atol=1e-7)


def test_joint_is_the_likelihood_of_labelled_and_the_expected_reward_of_all(
    problem, corpus, all_answers
):
    """-α Σ_labelled (B/n) ∇log p(y*|x) - β Σ_b Σ_y ∇p(y|x_b) R(y), with every answer y."""
    loss_of, toy, batch, index = problem
    model, reward = toy.model, TokenF1()
    objective = Joint(RagSequence(), 0.5, AnswerReward(weight=2.0, samples=8, reward=reward))
    batch = labelled(batch, 0, 1.5, 0, 1.5)
    every = jnp.asarray(all_answers(12, LENGTH))

    def exact(params):
        context = Context(model, toy.vocabulary, Dense(), K)
        topk, log_prior = retrieve(
            RagSequence(), context, params, batch, corpus=corpus, index=index
        )
        memory = model.encode(params, batch.question, gather_passages(corpus, topk.ids))
        among = log_posterior(log_prior, jnp.zeros_like(log_prior))

        def log_prob(answer):  # [B,T] -> [B]
            said = model.token_logprobs(params, memory, answer)
            return rag_sequence(among, said, answer != PAD_ID)

        answers = jnp.broadcast_to(every, (4, *every.shape))
        chance = jnp.exp(jax.vmap(log_prob, in_axes=1, out_axes=1)(answers))
        expected = jnp.sum(chance * reward.score(answers, batch.accepted), axis=-1)
        learned = log_prob(batch.target) * batch.label_weight
        total = -jnp.sum(batch.weight * (0.5 * learned + 2.0 * expected))
        return total, (jnp.sum(chance, axis=-1), batch.weight * learned)

    gradient, (whole, learned) = jax.jit(jax.grad(exact, has_aux=True))(toy.params)
    np.testing.assert_allclose(whole, 1.0, rtol=1e-4)  # every answer is there
    assert np.flatnonzero(learned).tolist() == [1, 3]

    def one(key):
        loss = loss_of(objective)
        return ravel_pytree(jax.grad(lambda params: loss(params, key, batch).sum)(toy.params))[0]

    draws = np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(KEY, 400)))
    expected, mean = np.asarray(ravel_pytree(gradient)[0]), draws.mean(axis=0)
    error = np.linalg.norm(draws.std(axis=0, ddof=1)) / 20
    assert np.linalg.norm(mean - expected) < 1.5 * error
    assert mean @ expected > 0.99 * np.linalg.norm(mean) * np.linalg.norm(expected)
