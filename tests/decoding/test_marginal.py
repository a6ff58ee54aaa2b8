"""The marginal decoders against brute force over tables, misses among the passages."""

import itertools

import jax
import numpy as np
import pytest

from ragjax.decoding.marginal import decode_rag_sequence, decode_rag_token

B, K, T, V = 40, 4, 4, 4


@pytest.fixture(scope="module")
def reader(table_reader, all_answers):
    """Where the last passage is a miss, it proposes the best of all answers: it may not count."""
    reader = table_reader(B, K)
    answers = [text(row) for row in all_answers(V, T)]
    planted = 0
    for b in range(B):
        if len(hits(reader, b)) < K:
            best = max(answers, key=lambda answer, b=b: reader.marginal(b, answer))
            planted += all(best != reader.greedy(b, k) for k in hits(reader, b))
            reader.plant(b, K - 1, best)
    assert planted > 0
    return reader


def given(reader):
    return {"passages": reader.passages, "log_prior": reader.log_prior}


@pytest.fixture(scope="module")
def decoded(table_model, reader):
    """Name -> `Decoded` in NumPy."""

    @jax.jit
    def run(tables, question, given):
        arrays, given = (table_model, tables, question), given | {"length": T}
        return {
            "fast": decode_rag_sequence(*arrays, **given),
            "rescored": decode_rag_sequence(*arrays, **given, rescore_all=True),
            "token": decode_rag_token(*arrays, **given),
        }

    return jax.device_get(run(reader.tables, reader.question, given(reader)))


def text(tokens):
    return tuple(int(token) for token in tokens if token)


def hits(reader, b):
    return [k for k in range(K) if np.isfinite(reader.log_prior[b, k])]


def test_rescoring_takes_the_best_proposal_under_all_passages(reader, decoded):
    for b in range(B):
        proposals = {reader.greedy(b, k) for k in hits(reader, b)}
        best = max(proposals, key=lambda answer: reader.marginal(b, answer))
        assert text(decoded["rescored"].tokens[b]) == best


def test_fast_counts_the_passages_that_propose_the_answer(reader, decoded):
    outvoted = 0
    for b in range(B):
        proposals = {}
        for k in hits(reader, b):
            proposals.setdefault(reader.greedy(b, k), []).append(k)
        best = max(proposals, key=lambda answer: reader.marginal(b, answer, proposals[answer]))
        assert text(decoded["fast"].tokens[b]) == best
        single = max(
            hits(reader, b), key=lambda k, b=b: reader.marginal(b, reader.greedy(b, k), [k])
        )
        outvoted += reader.greedy(b, single) != best
    assert outvoted > 0  # several passages together beat the best single one


def test_the_tables_tell_the_decoders_apart(reader, decoded):
    """Without this the tests above would not notice one decoder in the place of another."""
    fast, rescored = decoded["fast"], decoded["rescored"]
    differ = np.any(fast.tokens != rescored.tokens, axis=-1)
    assert 0 < np.sum(differ) < B
    assert np.all(rescored.log_prob[differ] > fast.log_prob[differ])
    single = [max(hits(reader, b), key=lambda k: reader.log_prior[b, k]) for b in range(B)]
    top = [reader.greedy(b, k) for b, k in enumerate(single)]
    assert any(text(fast.tokens[b]) != top[b] for b in range(B))


def test_no_answer_beats_the_best_of_all_answers(reader, decoded, all_answers):
    answers = [text(row) for row in all_answers(V, T)]
    reached = 0
    for b in range(B):
        best = max(np.log(reader.marginal(b, answer)) for answer in answers)
        for name in ("fast", "rescored"):
            assert decoded[name].log_prob[b] <= best + 1e-5
        reached += decoded["rescored"].log_prob[b] > best - 1e-5
    assert reached > B / 2


@pytest.mark.parametrize("name", ["fast", "rescored"])
def test_rag_sequence_probability_and_posterior(reader, decoded, name):
    out = decoded[name]
    for b in range(B):
        answer = text(out.tokens[b])
        joint = np.array(
            [np.exp(reader.log_prior[b, k] + reader.total(b, k, answer)) for k in range(K)]
        )
        np.testing.assert_allclose(np.exp(out.log_prob[b]), np.sum(joint), rtol=1e-4)
        np.testing.assert_allclose(
            np.exp(out.log_posterior[b]), joint / np.sum(joint), rtol=1e-4, atol=1e-7
        )
    np.testing.assert_allclose(np.sum(np.exp(out.log_posterior), -1), 1.0, rtol=1e-5)
    assert np.all(np.isneginf(out.log_posterior[::3, -1]))


def test_rag_token_probability_and_mean_posterior(reader, decoded):
    out = decoded["token"]
    for b in range(B):
        answer = text(out.tokens[b])
        before = (1, *answer[:-1])
        joints = np.array(
            [
                [
                    np.exp(reader.log_prior[b, k] + reader.tables[b, k, t, last, token])
                    for k in range(K)
                ]
                for t, last, token in zip(itertools.count(), before, answer, strict=False)
            ]
        )
        total = np.sum(joints, axis=1, keepdims=True)
        np.testing.assert_allclose(np.exp(out.log_prob[b]), np.prod(total), rtol=1e-4)
        expected = np.mean(joints / total, axis=0)
        np.testing.assert_allclose(np.exp(out.log_posterior[b]), expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(np.sum(np.exp(out.log_posterior), -1), 1.0, rtol=1e-5)
    assert np.all(np.isneginf(out.log_posterior[::3, -1]))
    assert np.any(out.tokens != decoded["rescored"].tokens)


def test_one_passage(table_model, table_reader, padded):
    reader = table_reader(20, 1, seed=2)
    reader.log_prior[:] = 0.0

    @jax.jit
    def run(tables, question, given):
        return [
            decode(table_model, tables, question, length=T, **given)
            for decode in (decode_rag_sequence, decode_rag_token)
        ]

    for out in jax.device_get(run(reader.tables, reader.question, given(reader))):
        np.testing.assert_allclose(out.log_posterior, 0.0, atol=1e-6)
        for b in range(20):
            answer = reader.greedy(b, 0)
            assert out.tokens[b].tolist() == padded(answer)
            np.testing.assert_allclose(out.log_prob[b], reader.total(b, 0, answer), rtol=1e-4)


def test_the_real_reader(toy, corpus, batch):
    """Probabilities are those of teacher forcing; the order of passages does not matter."""
    passages = np.asarray(corpus)[np.array([[0, 3, 1], [2, 5, 4], [1, 0, 2], [3, 4, 5]])]
    prior = np.array(
        [[0.6, 0.3, 0.1], [0.2, 0.3, 0.5], [0.0, 0.4, 0.6], [1.0, 0.0, 0.0]], np.float32
    )
    with np.errstate(divide="ignore"):
        log_prior = np.log(prior)

    @jax.jit
    def decode(params, question, passages, log_prior):
        given = {"passages": passages, "log_prior": log_prior, "length": T}
        return decode_rag_sequence(toy.model, params, question, **given, rescore_all=True)

    out = jax.device_get(decode(toy.params, batch.question, passages, log_prior))
    memory = toy.encode(toy.params, batch.question, passages)
    forced = np.asarray(toy.logprobs(toy.params, memory, out.tokens), np.float64)
    joint = prior * np.exp(np.where(out.tokens[:, None] != 0, forced, 0.0).sum(-1))
    np.testing.assert_allclose(np.exp(out.log_prob), joint.sum(-1), rtol=1e-4)
    np.testing.assert_allclose(
        np.exp(out.log_posterior), joint / joint.sum(-1, keepdims=True), rtol=1e-4, atol=1e-7
    )
    order = [1, 2, 0]
    other = jax.device_get(
        decode(toy.params, batch.question, passages[:, order], log_prior[:, order])
    )
    np.testing.assert_array_equal(other.tokens, out.tokens)
    np.testing.assert_allclose(other.log_prob, out.log_prob, rtol=1e-4)
    np.testing.assert_allclose(
        np.exp(other.log_posterior), np.exp(out.log_posterior[:, order]), rtol=1e-3, atol=1e-7
    )
