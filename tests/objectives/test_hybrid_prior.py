"""p(d|x) of a hybrid retriever over all that it may be normalised over, written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.models.encoder import BagEncoder
from ragjax.models.hybrid import Hybrid
from ragjax.models.retriever import Dense
from ragjax.objectives.base import Context
from ragjax.objectives.likelihood import RagSequence, retrieve
from ragjax.types import TopK

N, B, K, C = 6, 4, 3, 3
SPEC = Hybrid(Dense(BagEncoder(width=8)), lexical_weight=0.3, depth=2)


@pytest.fixture(scope="module")
def context(toy):
    return Context(
        toy.model._replace(retriever=SPEC.build(toy.vocabulary)), toy.vocabulary, SPEC, K
    )


@pytest.fixture(scope="module")
def params(toy):
    learned = toy.params["retriever"] | {"log_lexical_weight": jnp.log(jnp.float32(0.3))}
    return toy.params | {"retriever": learned}


def lexical(seed):
    """[B,C] hits with misses; the third question has no word in common with any passage."""
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.choice(N, C, replace=False) for _ in range(B)]).astype(np.int32)
    scores = -np.sort(-rng.uniform(0.5, 6.0, (B, C)).astype(np.float32), axis=-1)
    valid = np.arange(C) < rng.integers(1, C + 1, (B, 1))
    ids[2], scores[2], valid[2] = -1, 0.0, np.arange(C) == 0
    return TopK(np.where(valid, ids, -1), np.where(valid, scores, -np.inf), valid)


def by_hand(context, params, question, corpus, hits):
    """([B,N] inner products, [B,N] lexical scores, τ) in float64."""
    retriever = context.model.retriever
    query = np.asarray(retriever.query(params, question), np.float64)
    inner = query @ np.asarray(retriever.embed(params, corpus), np.float64).T
    words = np.zeros((B, N))
    for row in range(B):
        counted = hits.valid[row] & (hits.ids[row] >= 0)
        words[row, hits.ids[row][counted]] = hits.scores[row][counted]
    return inner, words, float(retriever.scale(params))


def chosen(searched, words, hits, row, depth):
    """The K best of the candidates: as many as the embeddings propose, and the hits."""
    proposed = set(np.argsort(-searched[row])[:depth].tolist())
    proposed |= set(hits.ids[row][hits.valid[row] & (hits.ids[row] >= 0)].tolist())
    totals = searched[row] + 0.3 * words[row]
    return sorted(proposed, key=lambda passage: (-totals[passage], passage))[:K]


@pytest.mark.parametrize("frozen", [False, True], ids=["training", "answering"])
@pytest.mark.parametrize("documents", ["retrieved", "in_batch", "index"])
def test_what_is_found_and_its_probabilities(context, params, corpus, batch, documents, frozen):
    """In training the index is an older one, whatever embeddings score; over it all it isn't asked."""
    objective = RagSequence(documents=documents)
    rng = np.random.default_rng(5)
    older = rng.normal(size=(N, 8)).astype(np.float32)
    fresh = context.model.retriever.index(params, corpus)
    index = fresh if frozen else jnp.asarray(older)

    @jax.jit
    def run(params, hits):
        asked = batch.replace(retrieved=None, lexical=hits)
        return retrieve(
            objective, context, params, asked, corpus=corpus, index=index, frozen_index=frozen
        )

    query = np.asarray(context.model.retriever.query(params, batch.question), np.float64)
    searched = query @ np.asarray(index, np.float64).T
    for seed in range(12):
        hits = lexical(seed)
        inner, words, scale = by_hand(context, params, batch.question, corpus, hits)
        topk, log_prior = jax.device_get(run(params, hits))
        whole = documents == "index" and not frozen
        by, depth = (inner, N) if whole else (searched, K)
        ids = np.array([chosen(by, words, hits, row, depth) for row in range(B)])
        np.testing.assert_array_equal(topk.ids, ids)
        weight = np.exp(scale * (inner + 0.3 * words))
        own = np.take_along_axis(weight, ids, -1)
        over = {"retrieved": own, "in_batch": weight[:, np.unique(ids)], "index": weight}[
            "retrieved" if frozen and documents == "in_batch" else documents
        ]
        expected = own / over.sum(-1, keepdims=True)
        np.testing.assert_allclose(np.exp(log_prior), expected, rtol=2e-4)


def test_passages_that_are_given_are_scored_with_their_words(context, params, corpus, batch):
    """As candidates of a phase, or as those that a step's answers were drawn for."""
    hits = lexical(1)
    asked = batch.replace(lexical=hits)
    topk, log_prior = retrieve(
        RagSequence(documents="retrieved"), context, params, asked, corpus=corpus, index=None
    )
    np.testing.assert_array_equal(topk.ids, batch.retrieved.ids)
    inner, words, scale = by_hand(context, params, batch.question, corpus, hits)
    weight = np.exp(scale * (inner + 0.3 * words))
    own = np.take_along_axis(weight, np.maximum(batch.retrieved.ids, 0), -1)
    own = np.where(batch.retrieved.valid, own, 0.0)
    np.testing.assert_allclose(np.exp(log_prior), own / own.sum(-1, keepdims=True), rtol=1e-4)


def test_the_loss_moves_the_weight(context, params, corpus, batch):
    """By as much as the loss changes with it."""
    index = context.model.retriever.index(params, corpus)
    asked = batch.replace(retrieved=None, lexical=jax.tree.map(jnp.asarray, lexical(4)))

    @jax.jit
    @jax.grad
    def slope(log_weight):
        return total(log_weight)

    def total(log_weight):
        learned = params["retriever"] | {"log_lexical_weight": log_weight}
        return (
            RagSequence(documents="in_batch")
            .loss(
                context,
                params | {"retriever": learned},
                jax.random.PRNGKey(0),
                asked,
                corpus=corpus,
                index=index,
            )
            .sum
        )

    at, step = jnp.log(jnp.float32(0.3)), 2e-2
    run = jax.jit(total)
    difference = (run(at + step) - run(at - step)) / (2 * step)
    assert abs(difference) > 1e-3
    np.testing.assert_allclose(slope(at), difference, rtol=1e-2)
