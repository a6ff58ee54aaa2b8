"""Greedy decoding against argmax chains, over tables and with the real reader."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.decoding.greedy import greedy_by_passage, greedy_marginal

T = 4


@pytest.fixture(scope="module")
def reader(table_reader):
    return table_reader(30, 3)


def test_by_passage_is_the_argmax_chain(table_model, reader, padded):
    tokens, total = jax.jit(
        lambda tables: greedy_by_passage(table_model, tables, tables, (30, 3), T)
    )(reader.tables)
    lengths = set()
    for b in range(30):
        for k in range(3):
            answer = reader.greedy(b, k)
            lengths.add((len(answer), answer[-1] == 2))
            assert tokens[b, k].tolist() == padded(answer)
            np.testing.assert_allclose(total[b, k], reader.total(b, k, answer), rtol=1e-5)
    # Early ends, ends at the last token, and answers without an end all occurred.
    assert {(1, True), (T, True), (T, False)} <= lengths


def test_marginal_takes_the_best_token_of_the_mixture(table_model, reader, padded):
    actual = jax.jit(lambda tables, prior: greedy_marginal(table_model, tables, tables, prior, T))(
        reader.tables, reader.log_prior
    )
    differs = 0
    for b in range(30):
        answer, last = [], 1
        while last != 2 and len(answer) < T:
            mixture = sum(
                np.exp(reader.log_prior[b, k] + reader.tables[b, k, len(answer), last])
                for k in range(3)
            )
            last = int(np.argmax(mixture))
            answer.append(last)
        assert actual[b].tolist() == padded(answer)
        differs += all(tuple(answer) != reader.greedy(b, k) for k in range(3))
    assert differs > 0  # the mixture is not just the choice of a passage


def test_one_passage_makes_both_the_same(table_model, table_reader):
    reader = table_reader(20, 1, seed=1)
    apart, together = jax.jit(
        lambda tables, prior: (
            greedy_by_passage(table_model, tables, tables, (20, 1), T)[0][:, 0],
            greedy_marginal(table_model, tables, tables, prior, T),
        )
    )(reader.tables, reader.log_prior)
    np.testing.assert_array_equal(apart, together)


def test_the_real_reader_follows_its_own_distributions(toy, corpus, batch):
    """Each token written is the best one by teacher-forced distributions of the text before it."""
    passages = np.asarray(corpus)[np.array([[0, 3, 1], [2, 5, 4], [1, 0, 2], [3, 4, 5]])]
    memory = toy.encode(toy.params, batch.question, passages)
    tokens, total = jax.jit(
        lambda params, memory: greedy_by_passage(toy.model, params, memory, (4, 3), T)
    )(toy.params, memory)
    tokens = np.asarray(tokens)
    for k in range(3):
        best = np.asarray(toy.stepwise(toy.params, memory, tokens[:, k]))[:, k].argmax(-1)
        real = tokens[:, k] != 0
        np.testing.assert_array_equal(best[real], tokens[:, k][real])
        # Real tokens come first, and padding only after the end of sequence.
        ends = (tokens[:, k] == 2).any(-1)
        np.testing.assert_array_equal(
            real.sum(-1), np.where(ends, (tokens[:, k] == 2).argmax(-1) + 1, T)
        )
        forced = np.asarray(toy.logprobs(toy.params, memory, tokens[:, k]))[:, k]
        np.testing.assert_allclose(total[:, k], np.where(real, forced, 0).sum(-1), atol=1e-4)
    assert len(np.unique(tokens.reshape(-1, T), axis=0)) > 3


def test_the_real_reader_under_the_marginal(toy, corpus, batch):
    passages = np.asarray(corpus)[np.array([[0, 3, 1], [2, 5, 4], [1, 0, 2], [3, 4, 5]])]
    memory = toy.encode(toy.params, batch.question, passages)
    prior = jnp.log(jnp.array([[0.5, 0.3, 0.2]] * 4))
    tokens = np.asarray(
        jax.jit(lambda *a: greedy_marginal(toy.model, *a, T))(toy.params, memory, prior)
    )
    steps = np.asarray(toy.stepwise(toy.params, memory, tokens))
    mixture = np.einsum("k,bktv->btv", [0.5, 0.3, 0.2], np.exp(steps))
    np.testing.assert_array_equal(mixture.argmax(-1)[tokens != 0], tokens[tokens != 0])
