"""What an index does not find: p(d|x) and the loss where there are fewer hits than K, or none."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from user_retriever import Sparse

from ragjax.errors import UserError
from ragjax.models.encoder import BagEncoder
from ragjax.models.rag import build_model
from ragjax.models.reader import TransformerReader
from ragjax.models.retriever import Dense
from ragjax.objectives.base import Context
from ragjax.objectives.likelihood import RagSequence, RagToken, retrieve

K = 4


@pytest.fixture(scope="module", params=[0.0, 2.0], ids=["some misses", "nothing found"])
def found(request, toy, corpus):
    """(context of a toy with a sparse index, the index)."""
    spec = Dense(BagEncoder(width=8), index=Sparse(request.param))
    model = build_model(spec, TransformerReader(8, 2, 1, 1), toy.vocabulary)
    index = jax.jit(model.retriever.index)(toy.params, corpus)
    return Context(model, toy.vocabulary, spec, K), index


@pytest.mark.parametrize("documents", ["retrieved", "in_batch", "index"])
@pytest.mark.parametrize("frozen", [False, True])
def test_priors_are_those_of_the_hits(found, toy, corpus, batch, documents, frozen):
    context, index = found
    asked = batch.replace(retrieved=None)

    @jax.jit
    def run(params):
        topk, prior = retrieve(
            RagSequence(documents=documents),
            context,
            params,
            asked,
            corpus=corpus,
            index=index,
            frozen_index=frozen,
        )
        return jnp.sum(jnp.where(topk.valid, prior, 0.0)), (topk, prior)

    gradient, (topk, prior) = jax.device_get(jax.grad(run, has_aux=True)(toy.params))
    np.testing.assert_array_equal(np.isneginf(prior), ~topk.valid)
    assert np.all(topk.valid.any(axis=-1))
    assert np.all(topk.ids[~topk.valid] == -1)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    total = np.exp(prior).sum(axis=-1)
    # The whole index is always scored exactly: its search is not asked.
    if documents == "retrieved" or (frozen and documents == "in_batch"):
        np.testing.assert_allclose(total, 1.0, rtol=1e-5)


@pytest.mark.parametrize("kind", [RagSequence, RagToken])
def test_the_loss_stays_finite(found, toy, corpus, batch, kind):
    context, index = found
    asked = batch.replace(retrieved=None)

    @jax.jit
    def loss(params):
        made = kind().loss(
            context, params, jax.random.PRNGKey(0), asked, corpus=corpus, index=index
        )
        return made.sum, made.metrics

    (value, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(toy.params)
    for leaf in jax.tree.leaves((value, metrics, gradient)):
        assert np.all(np.isfinite(leaf))


def test_a_k_beyond_the_corpus_is_named(found, toy, corpus, batch):
    context, index = found
    deep = context._replace(k=7)
    arrays = {"corpus": corpus, "index": index}
    with pytest.raises(UserError, match="k is 7, but there are 6 passages"):
        retrieve(RagSequence(), deep, toy.params, batch.replace(retrieved=None), **arrays)


def test_an_index_that_does_not_score_all_is_refused_for_the_whole_index():
    """Before anything is made of the config."""
    import tiny_config

    @dataclasses.dataclass(frozen=True)
    class Partial(Sparse):
        scores_all = False

    config = tiny_config.get_config()
    retriever = dataclasses.replace(config.retriever, index=Partial())
    with pytest.raises(
        UserError, match=r"documents is 'index', but retriever.index does not score"
    ):
        dataclasses.replace(config, retriever=retriever)
    fits = dataclasses.replace(config.objective, documents="retrieved")
    dataclasses.replace(config, retriever=retriever, objective=fits)
