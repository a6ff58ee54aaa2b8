"""Answers are drawn as often as they are likely, by enumeration of all of them."""

import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compiled

from ragjax.decoding.sampling import Sampling, sample_answers, sample_by_passage
from ragjax.errors import UserError

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


def check_frequencies(tokens, probabilities):
    """Tokens [G,T] against answer -> probability, all of them above 0 or exactly 0."""
    counts = Counter(tuple(int(t) for t in row if t) for row in tokens)
    expected = {answer: G * float(p) for answer, p in probabilities.items() if p > 0}
    assert sum(expected.values()) == pytest.approx(G, rel=1e-5)
    assert set(counts) <= set(expected)
    statistic = sum((counts[a] - n) ** 2 / n for a, n in expected.items())
    assert statistic < 24.3  # chi-squared with at most 6 degrees of freedom, p = .0005


def test_answers_are_drawn_as_often_as_they_are_likely(drawn):
    reader, (tokens, _), _ = drawn
    for b in range(B):
        check_frequencies(tokens[b], {y: probability(reader, b, y) for y in ANSWERS})


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


def changed(p, sampling):
    """The distribution [V] that is drawn from in the place of p, token by token."""
    powers = [float(x) ** (1 / sampling.temperature) for x in p]
    order = sorted(range(len(p)), key=lambda token: -powers[token])[: sampling.top_k]
    kept, share = [], 0.0
    for token in order:
        if share < sampling.top_p:
            kept.append(token)
        share += powers[token] / sum(powers[other] for other in order)
    total = sum(powers[token] for token in kept)
    return np.array([powers[token] / total if token in kept else 0.0 for token in range(len(p))])


OPTIONS = [
    Sampling(temperature=0.5),
    Sampling(temperature=3.0),
    Sampling(top_k=2),
    Sampling(top_p=0.6),
    Sampling(temperature=1.5, top_k=3, top_p=0.7),
    Sampling(top_k=1),
]


def test_each_option_changes_the_distribution():
    p = np.random.default_rng(0).dirichlet(np.ones(6), 30).astype(np.float32)
    found = []
    for sampling in OPTIONS:
        expected = np.array([changed(row, sampling) for row in p])
        found.append(np.exp(np.asarray(sampling.apply(jnp.log(p)))))
        np.testing.assert_allclose(found[-1], expected, rtol=1e-4, atol=1e-6)
        assert np.all((found[-1] == 0) == (expected == 0))
    for one, other in itertools.combinations([p, *found], 2):
        assert np.any(np.abs(one - other) > 0.05)


def test_by_default_nothing_is_changed():
    p = jnp.log(jnp.array([0.5, 0.3, 0.2]))
    assert Sampling().apply(p) is p
    # What keeps everything gives the same, to rounding.
    np.testing.assert_allclose(Sampling(top_k=3).apply(p), p, rtol=1e-6)
    np.testing.assert_allclose(Sampling(top_k=9).apply(p), p, rtol=1e-6)


def test_equally_likely_tokens_are_kept_together():
    p = jnp.log(jnp.array([0.1, 0.4, 0.1, 0.4]))
    np.testing.assert_allclose(np.exp(Sampling(top_k=1).apply(p)), [0, 0.5, 0, 0.5], atol=1e-6)
    np.testing.assert_allclose(np.exp(Sampling(top_p=1e-6).apply(p)), [0, 0.5, 0, 0.5], atol=1e-6)


SHARP = Sampling(temperature=0.8, top_k=2, top_p=0.9)


@pytest.fixture(scope="module")
def sharp(table_model, table_reader):
    """The reader; what is drawn from the changed marginal, and from each passage."""
    reader = table_reader(B, K)

    @jax.jit
    def sample(tables, prior, key):
        given = {"memory": tables, "samples": G, "length": T, "sampling": SHARP}
        return (
            sample_answers(table_model, tables, key, log_prior=prior, **given),
            sample_by_passage(table_model, tables, key, shape=(B, K), **given),
        )

    found = sample(reader.tables, reader.log_prior, jax.random.PRNGKey(1))
    return reader, *jax.tree.map(np.asarray, found)


def steps(tables, prior):
    """Answer -> the probability of each of its tokens, of tables [K,T,V,V] and p(d|x) [K]."""
    found = {}
    first = changed(prior @ np.exp(tables[:, 0, 1]), SHARP)
    for token in (1, 2, 3):
        posterior = prior * np.exp(
            tables[:, 0, 1, token]
        )  # of the model, and not of what was drawn
        second = changed((posterior / posterior.sum()) @ np.exp(tables[:, 1, token]), SHARP)
        if token == 2:
            found[(2,)] = [first[2]]
        else:
            found |= {(token, last): [first[token], second[last]] for last in (1, 2, 3)}
    return found


def check_sharp(tokens, log_probs, expected):
    check_frequencies(tokens, {answer: np.prod(each) for answer, each in expected.items()})
    for row, gains in zip(tokens[:50], log_probs[:50], strict=True):
        answer = tuple(int(t) for t in row if t)
        told = np.log(expected[answer])
        np.testing.assert_allclose(gains[: len(answer)], told, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(log_probs[tokens == 0], 0)


def test_draws_and_log_probabilities_of_a_changed_marginal(sharp):
    reader, (tokens, log_probs), _ = sharp
    cut = 0
    for b in range(B):
        prior = np.exp(reader.log_prior[b])
        expected = steps(reader.tables[b], prior / prior.sum())
        cut += sum(np.prod(each) == 0 for each in expected.values())
        check_sharp(tokens[b], log_probs[b], expected)
    assert cut > 0


def test_draws_from_each_passage(sharp):
    reader, _, (tokens, log_probs) = sharp
    for b, k in itertools.product(range(B), range(K)):
        expected = steps(reader.tables[b, k, None], np.ones(1))
        check_sharp(tokens[b, k], log_probs[b, k], expected)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0.0),
        ("temperature", float("inf")),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.5),
    ],
)
def test_bad_options_are_refused(field, value):
    with pytest.raises(UserError, match=rf"^sampling\.{field} is {value}; "):
        Sampling(**{field: value})
