"""The composed model: its answers add up to one, and what renaming and folding leave alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.models.encoder import BagEncoder
from ragjax.models.rag import build_model
from ragjax.models.reader import TransformerReader
from ragjax.models.retriever import Dense
from ragjax.ops.marginal import rag_sequence, rag_token
from ragjax.retrieval.bm25 import BM25

PRIOR = np.array([0.5, 0.2, 0.3, 0.0], np.float32)  # the last passage is a miss


@jax.jit
def both(log_prior, token_logprobs, mask):
    arrays = log_prior, token_logprobs, mask
    return jnp.exp(rag_sequence(*arrays)), jnp.exp(rag_token(*arrays))


@pytest.mark.parametrize(
    ("vocab_size", "length", "question", "passages"),
    [
        (4, 4, [1, 3], [[3, 1, 2], [1, 1, 0], [0, 0, 0], [3, 3, 3]]),
        (7, 3, [4, 6], [[4, 5, 6], [6, 5, 0], [3, 6, 4], [0, 0, 0]]),
    ],
)
def test_all_answers_have_probability_one(
    make_toy, all_answers, repeat_memory, vocab_size, length, question, passages
):
    """Over every answer, with the real reader: teacher forcing and the cache, both marginals."""
    toy = make_toy(vocab_size)
    answers = all_answers(vocab_size, length)
    memory = toy.encode(toy.params, np.array([question], np.int32), np.array([passages], np.int32))
    memory = repeat_memory(memory, len(answers))
    with np.errstate(divide="ignore"):
        log_prior = np.tile(np.log(PRIOR), (len(answers), 1))
    steps = np.asarray(toy.stepwise(toy.params, memory, answers))
    stepwise = np.take_along_axis(steps, answers[:, None, :, None], axis=-1)[..., 0]
    forced = np.asarray(toy.logprobs(toy.params, memory, answers))
    mask = answers != 0
    probability = jax.device_get([both(log_prior, each, mask) for each in (forced, stepwise)])
    for sequence, token in probability:
        np.testing.assert_allclose(np.sum(sequence, dtype=np.float64), 1.0, atol=1e-5)
        np.testing.assert_allclose(np.sum(token, dtype=np.float64), 1.0, atol=1e-5)
        assert np.max(np.abs(sequence - token)) > 1e-3
    np.testing.assert_allclose(probability[0], probability[1], rtol=1e-4)
    # Brute force: the definition, in float64, without the miss.
    per_passage = np.prod(np.where(mask[:, None], np.exp(forced.astype(np.float64)), 1.0), -1)
    np.testing.assert_allclose(probability[0][0], per_passage @ PRIOR, rtol=1e-4)


def test_a_fresh_model(toy):
    vocabulary = toy.vocabulary
    bag, reader = BagEncoder(8), TransformerReader(8, 2, 1, 1)
    model = build_model(Dense(bag, initial_scale=5.0), reader, vocabulary)
    params = jax.jit(model.init)(jax.random.PRNGKey(0))
    assert params["retriever"].keys() == {"query", "log_scale"}
    np.testing.assert_allclose(model.retriever.scale(params), 5.0, rtol=1e-6)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))
    assert np.std(params["retriever"]["query"]["embedding"]) > 0.5
    np.testing.assert_array_equal(params["retriever"]["query"]["log_weight"], np.zeros((2, 12)))
    two = build_model(Dense(bag, bag), reader, vocabulary)
    shapes = jax.eval_shape(two.init, jax.random.PRNGKey(0))
    assert shapes["retriever"].keys() == {"observed", "stored", "log_scale"}
    fixed = build_model(BM25(), reader, vocabulary)
    shapes = jax.eval_shape(fixed.init, jax.random.PRNGKey(0))
    assert shapes["retriever"].keys() == {"log_scale"}


def renamed_params(params, rename):
    """Parameters with which a renamed text means what the text means without: E'[σ(i)] = E[i]."""
    back = np.argsort(rename)
    query, reader = params["retriever"]["query"], params["reader"]
    query = query | {
        "embedding": query["embedding"][back],
        "log_weight": query["log_weight"][:, back],
    }
    return {
        "retriever": params["retriever"] | {"query": query},
        "reader": reader | {"embedding": reader["embedding"][back]},
    }


def test_renaming_tokens_is_renaming_their_parameters(toy, corpus, batch):
    rename = np.arange(12)
    rename[[7, 8, 9, 10, 11]] = [9, 11, 7, 8, 10]
    passages = np.asarray(corpus)[np.array([[0, 3], [2, 5], [1, 0], [3, 4]])]

    @jax.jit
    def outputs(params, rename):
        each = jnp.broadcast_to(rename, (4, 12))
        memory = toy.model.encode(params, batch.question, passages_, each)
        return (
            toy.model.retriever.query(params, batch.question, rename),
            toy.model.retriever.embed(params, passages_, rename),
            toy.model.token_logprobs(params, memory, rename[batch.target]),
        )

    passages_ = jnp.asarray(passages)
    expected = outputs(toy.params, np.arange(12))
    actual = outputs(renamed_params(toy.params, rename), rename)
    without = outputs(toy.params, rename)
    real = np.broadcast_to(np.asarray(batch.target)[:, None] != 0, expected[2].shape)
    for place in (0, 1):
        np.testing.assert_allclose(actual[place], expected[place], atol=1e-5)
        assert np.max(np.abs(without[place] - expected[place])) > 0.1
    np.testing.assert_allclose(
        np.asarray(actual[2])[real], np.asarray(expected[2])[real], atol=1e-5
    )
    assert np.max(np.abs(np.asarray(without[2] - expected[2])[real])) > 0.1


def test_upper_and_lower_case_are_one_token_to_the_retriever(toy):
    embed = jax.jit(toy.model.retriever.query)
    upper = embed(toy.params, np.array([[4, 11]], np.int32))
    np.testing.assert_array_equal(upper, embed(toy.params, np.array([[4, 10]], np.int32)))
    assert np.max(np.abs(upper - embed(toy.params, np.array([[4, 9]], np.int32)))) > 0.1


def test_matches_are_those_of_folded_tokens(toy):
    """The reader marks 11 in the question as found in a passage that holds its lower-case form 10."""
    marked = jax.tree.map(lambda leaf: leaf, toy.params)
    marked["reader"]["match"] = toy.params["reader"]["match"].at[1].add(1.0)

    def changes(question, passage):
        """Whether the embedding of "found in the other segment" matters."""
        arrays = np.array([question], np.int32), np.array([[passage]], np.int32)
        before, after = (toy.encode(params, *arrays).states for params in (toy.params, marked))
        return bool(np.max(np.abs(before - after)) > 1e-3)

    assert changes([6, 11], [10, 4])
    assert changes([6, 10], [10, 4])
    assert changes([6, 10], [11, 4])
    assert not changes([6, 9], [10, 4])
    assert not changes([6, 0], [10, 0])  # padding matches nothing
