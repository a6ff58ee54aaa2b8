"""Beam search over passages and their marginals against all answers, and with the real reader."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from plain_beam import Answer, by_score, in_plain_python, text

from ragjax.decoding.beam import Beam, beam_by_passage, beam_marginal
from ragjax.decoding.greedy import greedy_by_passage
from ragjax.decoding.marginal import (
    decode_rag_sequence,
    decode_rag_token,
    nbest_rag_sequence,
    nbest_rag_token,
)

B, K, T, V = 6, 3, 3, 5
ALL = 15  # answers of tokens 2 to 4 in three places


@pytest.fixture(scope="module")
def reader(table_reader):
    return table_reader(B, K, vocab=V, length=T)


@pytest.fixture(scope="module")
def answers(all_answers):
    answers = [text(row) for row in all_answers(V, T) if 1 not in row]
    assert len(answers) == ALL
    return answers


def given(reader):
    return {"passages": reader.passages, "log_prior": reader.log_prior}


@pytest.fixture(scope="module")
def everything(table_model, reader):
    """Name -> what is found by as many beams as there are answers, and how often sources were read."""
    beam, read = Beam(ALL + 1, 1.0, returned=ALL + 1), []

    def encode(params, question, passages):
        jax.debug.callback(lambda: read.append(1))
        return params

    model = table_model._replace(encode=encode)

    @jax.jit
    def run(tables, question, given):
        arrays, given = (model, tables, question), given | {"length": T}
        shape = {"length": T, "beam": beam}
        return {
            "passage": beam_by_passage(model, tables, tables, (B, K), **shape),
            "marginal": beam_marginal(model, tables, tables, given["log_prior"], **shape),
            "rescored": nbest_rag_sequence(*arrays, **given, beam=beam, rescore_all=True),
            "fast": nbest_rag_sequence(*arrays, **given, beam=beam),
            "token": nbest_rag_token(*arrays, **given, beam=beam),
            "best": decode_rag_sequence(*arrays, **given, beam=beam, rescore_all=True),
            "best token": decode_rag_token(*arrays, **given, beam=beam),
        }

    out = jax.device_get(run(reader.tables, reader.question, given(reader)))
    jax.effects_barrier()
    return out, read


def by_token(reader, b, answer):
    """log p(y|x_b) under RAG-Token, in float64."""
    total = 0.0
    for t, last, token in zip(itertools.count(), (1, *answer), answer, strict=False):
        total += np.log(
            sum(
                np.exp(reader.log_prior[b, k] + reader.tables[b, k, t, last, token])
                for k in range(K)
            )
        )
    return total


def check_all(tokens, values, expected):
    """One row of n-best is every answer by its value, and then nothing."""
    ranked = by_score(Answer(value, answer) for answer, value in expected.items())
    assert [text(row) for row in tokens] == [answer.tokens for answer in ranked] + [()]
    np.testing.assert_allclose(values[:-1], [answer.score for answer in ranked], rtol=1e-4)
    assert np.isneginf(values[-1])


def test_each_passage_ranks_all_answers(everything, reader, answers):
    out = everything[0]["passage"]
    for b, k in itertools.product(range(B), range(K)):
        scores = {y: reader.total(b, k, y) / len(y) for y in answers}
        check_all(out.tokens[b, k], out.score[b, k], scores)


def test_rag_token_ranks_all_answers(everything, reader, answers):
    out, told = everything[0]["marginal"], everything[0]["token"]
    for b in range(B):
        scores = {y: by_token(reader, b, y) / len(y) for y in answers}
        check_all(out.tokens[b], out.score[b], scores)
        assert text(everything[0]["best token"].tokens[b]) == max(scores, key=scores.__getitem__)
    np.testing.assert_array_equal(told.tokens, out.tokens)
    np.testing.assert_allclose(told.log_prob, out.log_prob, rtol=1e-4)
    np.testing.assert_allclose(np.exp(told.log_posterior[:, :-1]).sum(-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("name", ["rescored", "fast"])
def test_rag_sequence_ranks_all_answers(everything, reader, answers, name):
    """Every passage proposes every answer, so that fast decoding is exact, too."""
    out, best = everything[0][name], everything[0]["best"]
    for b in range(B):
        values = {y: np.log(reader.marginal(b, y)) for y in answers}
        check_all(out.tokens[b], out.log_prob[b], values)
        for i, row in enumerate(out.tokens[b][:-1]):
            joint = [
                np.exp(reader.log_prior[b, k] + reader.total(b, k, text(row))) for k in range(K)
            ]
            expected = np.array(joint) / np.sum(joint)
            np.testing.assert_allclose(
                np.exp(out.log_posterior[b, i]), expected, rtol=1e-4, atol=1e-7
            )
        assert text(best.tokens[b]) == max(values, key=values.__getitem__)
    np.testing.assert_array_equal(best.log_prob, everything[0]["rescored"].log_prob[:, 0])


def test_sources_are_read_once(everything):
    assert len(everything[1]) == 5  # by each of the decoders that are given questions


# -- few beams: candidates, misses, greedy decoding --


@pytest.fixture(scope="module")
def few(table_model, table_reader, answers):
    """A reader with a row of misses only, and what is found.

    Other misses propose an answer that would often be among the best two, but is not proposed elsewhere.
    """
    reader = table_reader(40, K, seed=3, vocab=V, length=T)
    planted = 0
    for b in range(0, 40, 3):
        candidates = votes(reader, b)
        others = set(answers) - set(candidates)
        best = max(others, key=lambda answer, b=b: reader.marginal(b, answer))
        second = sorted(reader.marginal(b, answer) for answer in candidates)[-2]
        planted += reader.marginal(b, best) > second
        reader.plant(b, K - 1, best)
    assert planted > 0
    reader.log_prior[1] = -np.inf
    beam = Beam(2, returned=2)

    @jax.jit
    def run(tables, question, given):
        arrays, given = (table_model, tables, question), given | {"length": T, "beam": beam}
        return {
            "rescored": nbest_rag_sequence(*arrays, **given, rescore_all=True),
            "fast": nbest_rag_sequence(*arrays, **given),
            "token": nbest_rag_token(*arrays, **given),
        }

    return reader, jax.device_get(run(reader.tables, reader.question, given(reader)))


def proposed(reader, b, k):
    found, _ = in_plain_python(reader.tables[b, k], Beam(2, returned=2))
    return [answer.tokens for answer in found]


def votes(reader, b):
    """Answer -> the passages that propose it."""
    found = {}
    for k in range(K):
        if np.isfinite(reader.log_prior[b, k]):
            for answer in proposed(reader, b, k):
                found.setdefault(answer, []).append(k)
    return found


@pytest.mark.parametrize("name", ["rescored", "fast"])
def test_rag_sequence_ranks_the_candidates(few, name):
    reader, out = few
    counted = 0
    for b in [b for b in range(40) if b != 1]:
        candidates = votes(reader, b)
        counted += any(1 < len(passages) < K for passages in candidates.values())
        values = {
            y: reader.marginal(b, y, None if name == "rescored" else passages)
            for y, passages in candidates.items()
        }
        ranked = sorted(values, key=values.__getitem__, reverse=True)[:2]
        assert [text(row) for row in out[name].tokens[b]] == ranked
        log_probs = [np.log(reader.marginal(b, answer)) for answer in ranked]
        np.testing.assert_allclose(out[name].log_prob[b], log_probs, rtol=1e-4)
    assert counted > 0
    assert np.any(out["rescored"].tokens != out["fast"].tokens)


def test_where_all_are_misses_there_is_no_answer(few):
    for out in few[1].values():
        assert not np.any(out.tokens[1])
        assert np.all(np.isneginf(out.log_prob[1]))
        assert np.all(np.isneginf(out.log_posterior[1]))
        rest = np.delete(np.arange(40), 1)
        assert np.all(np.isfinite(out.log_prob[rest]))
        assert np.all(out.tokens[rest, :, 0] > 1)


def test_one_beam_is_greedy_decoding(table_model, table_reader):
    reader = table_reader(40, K, seed=4, vocab=V, length=T, never=(0, 1))

    @jax.jit
    def run(tables, question, given, beam=None):
        arrays, given = (table_model, tables, question), given | {"length": T}
        return [
            [
                decode_rag_sequence(*arrays, **given, beam=beam),
                decode_rag_sequence(*arrays, **given, beam=beam, rescore_all=True),
                decode_rag_token(*arrays, **given, beam=beam),
            ]
            for beam in (None, Beam(1))
        ]

    greedy, beams = jax.device_get(run(reader.tables, reader.question, given(reader)))
    for one, other in zip(greedy, beams, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_allclose(one.log_prob, other.log_prob, rtol=1e-5)
        np.testing.assert_allclose(one.log_posterior, other.log_posterior, rtol=1e-5, atol=1e-6)


# -- the real reader --


@pytest.fixture(scope="module")
def memory(toy, corpus, batch):
    passages = np.asarray(corpus)[np.array([[0, 3, 1], [2, 5, 4], [1, 0, 2], [3, 4, 5]])]
    return toy.encode(toy.params, batch.question, passages)


def test_the_real_reader_follows_its_beams(toy, memory):
    """Probabilities are those of teacher forcing, which they would not be over another beam's cache."""
    beam = Beam(3, 0.0, returned=3)

    @jax.jit
    def run(params, memory):
        found = beam_by_passage(toy.model, params, memory, (4, 3), length=5, beam=beam)
        return found, greedy_by_passage(toy.model, params, memory, (4, 3), 5)

    out, (_, greedy) = jax.device_get(run(toy.params, memory))
    for k, i in itertools.product(range(3), range(3)):
        tokens = out.tokens[:, k, i]
        forced = np.asarray(toy.logprobs(toy.params, memory, tokens))[:, k]
        expected = np.where(tokens != 0, forced, 0).sum(-1)
        np.testing.assert_allclose(out.log_prob[:, k, i], expected, atol=1e-4)
    assert np.any(out.log_prob[..., 0] > greedy + 1e-3)
    assert np.unique(out.tokens.reshape(-1, 5), axis=0).shape[0] > 6


def test_beams_share_the_memory(toy, memory):
    """No array of the program is keys or values of the source times the number of beams."""

    def shapes(run):
        program = str(jax.make_jaxpr(run)(toy.params, memory))
        found = re.findall(r"\w+\[([\d,]+)\]", program)
        return {tuple(sorted(map(int, shape.split(",")))) for shape in found}

    cross = memory.cross[0].key.shape
    beams = tuple(sorted((7, *cross)))
    beam = Beam(7)

    def searched(params, memory):
        return beam_by_passage(toy.model, params, memory, (4, 3), length=3, beam=beam)

    found = shapes(searched)
    assert tuple(sorted(cross)) in found
    assert beams not in found
    repeated = shapes(lambda params, memory: jnp.stack([memory.cross[0].key] * 7))
    assert beams in repeated
