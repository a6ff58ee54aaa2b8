"""Answers are drawn as often as they are likely, by enumeration of all of them."""

import itertools
from collections import Counter

import jax
import numpy as np
import pytest
from compilations import compiled

from ragjax.decoding.sampling import sample_answers

B, K, T, G = 4, 3, 2, 20_000
# Tokens 1 to 3 can be written; 2 ends an answer.
ANSWERS = [(2,), *itertools.product((1, 3), (1, 2, 3))]


def probability(reader, b, answer):
    """p(answer|x_b); the reader's prior lacks the passage that was missed."""
    return reader.marginal(b, answer) / np.exp(reader.log_prior[b]).sum()


@pytest.fixture(scope="module")
def drawn(table_model, table_reader):
    """The reader, and (tokens [B,G,T], log-probabilities [B,G,T])."""
    reader = table_reader(B, K)

    @jax.jit
    def sample(tables, prior, key):
        given = {"memory": tables, "log_prior": prior, "samples": G, "length": T}
        return sample_answers(table_model, tables, key, **given)

    found = sample(reader.tables, reader.log_prior, jax.random.PRNGKey(0))
    return reader, jax.tree.map(np.asarray, found), sample


def test_answers_are_drawn_as_often_as_they_are_likely(drawn):
    reader, (tokens, _), _ = drawn
    for b in range(B):
        counts = Counter(tuple(int(t) for t in row if t) for row in tokens[b])
        expected = {answer: G * float(probability(reader, b, answer)) for answer in ANSWERS}
        assert sum(expected.values()) == pytest.approx(G, rel=1e-5)
        assert set(counts) <= set(ANSWERS)
        statistic = sum((counts[a] - n) ** 2 / n for a, n in expected.items())
        assert statistic < 24.3  # chi-squared with 6 degrees of freedom, p = .0005


def test_log_probabilities_are_those_of_the_marginal(drawn):
    reader, (tokens, log_probs), _ = drawn
    for b, g in itertools.product(range(B), range(50)):
        answer = tuple(int(t) for t in tokens[b, g] if t)
        total = np.log(probability(reader, b, answer))
        np.testing.assert_allclose(log_probs[b, g].sum(), total, rtol=1e-4, atol=1e-5)
        # And each token by itself, given those before it.
        first = np.log(probability(reader, b, answer[:1]))
        np.testing.assert_allclose(log_probs[b, g, 0], first, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(log_probs[tokens == 0], 0)


def test_the_prior_may_be_that_of_a_whole_index(drawn):
    """What it lacks to one changes neither the draws nor their probabilities."""
    reader, found, sample = drawn
    prior = reader.log_prior - np.float32(0.5)
    with compiled() as programs:
        other = sample(reader.tables, prior, jax.random.PRNGKey(0))
    assert programs == []
    np.testing.assert_array_equal(other[0], found[0])
    np.testing.assert_allclose(other[1], found[1], atol=1e-5)
