"""One step: micro-batches, denominators, keys, compilation, donation and bfloat16."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ragjax.objectives.base import Context
from ragjax.objectives.likelihood import RagSequence, retrieve
from ragjax.retrieval.dense import Dense
from ragjax.training.optimizer import Adam
from ragjax.training.step import init_state, make_train_step, summed_gradients
from ragjax.types import Loss

INDEX = np.random.default_rng(5).normal(size=(6, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def rag_loss(toy):
    """documents -> (params, key, batch, corpus, index) -> `Loss` of dense RAG-Sequence."""

    def build(documents, toy=toy):
        objective = RagSequence(documents=documents)
        context = Context(toy.model, toy.vocabulary, Dense(), 3)

        def loss(params, key, batch, corpus, index):
            return objective.loss(context, params, key, batch, corpus=corpus, index=index)

        return loss

    return build


@pytest.fixture(scope="module")
def plain_batch(batch):
    return jax.device_get(batch.replace(retrieved=None))  # the host's arrays, as in a run


def optimizer():
    # Not Adam: it blows rounding errors of tiny gradients up to whole steps.
    return optax.sgd(0.1, momentum=0.9)


@pytest.fixture(scope="module")
def rag_step(rag_loss):
    """accumulate -> the training step over `documents="retrieved"`."""
    loss = rag_loss("retrieved")
    return functools.cache(lambda accumulate: make_train_step(loss, optimizer(), accumulate))


def copied(params):
    """Donated buffers are gone afterwards; the session's parameters must stay."""
    return jax.tree.map(jnp.copy, params)


def test_four_micro_batches_make_the_same_step(rag_step, toy, plain_batch, corpus):
    """Loss, metrics and parameters; the micro-batches' denominators differ (weights 1 1 0 1)."""
    results = []
    for accumulate in (1, 4):
        state = init_state(copied(toy.params), optimizer(), jax.random.PRNGKey(3))
        for _ in range(2):
            state, metrics = rag_step(accumulate)(state, plain_batch, corpus, INDEX)
        results.append((state.params, metrics))
    chex.assert_trees_all_close(*results, rtol=2e-5, atol=1e-6)
    moved = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), results[0][0], toy.params)
    assert all(value > 1e-5 for value in jax.tree.leaves(moved))


def test_the_second_step_compiles_nothing_and_reuses_memory(rag_step, toy, plain_batch, corpus):
    step = rag_step(1)
    state = init_state(copied(toy.params), optimizer(), jax.random.PRNGKey(3))
    state, first = step(state, plain_batch, corpus, INDEX)
    before = step._cache_size()
    for number in range(3):
        old = state
        shuffled = jax.tree.map(functools.partial(np.roll, shift=number, axis=0), plain_batch)
        state, metrics = step(state, shuffled, corpus, INDEX)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves((old.params, old.opt_state)))
    assert step._cache_size() == before
    assert state.step == 4
    health = {"prior_entropy", "posterior_entropy", "effective_passages", "passage_credit"}
    assert metrics.keys() == {"loss", "grad_norm", "recall", "posterior_mass"} | health
    assert metrics["loss"] < first["loss"]


@pytest.fixture(scope="module")
def index_sums(rag_loss, toy, plain_batch, corpus):
    """accumulate -> (gradient, `Loss`) of documents="index"."""
    loss = rag_loss("index")

    def run(accumulate):
        sums = jax.jit(
            lambda params, key, batch, *constants: summed_gradients(
                loss, params, key, batch, constants, accumulate
            )
        )
        return sums(toy.params, jax.random.PRNGKey(0), plain_batch, corpus, INDEX)

    return run


def test_four_micro_batches_over_the_whole_index(index_sums):
    chex.assert_trees_all_close(index_sums(1), index_sums(4), rtol=2e-5, atol=1e-5)


def test_in_batch_negatives_are_those_of_the_micro_batch(toy, plain_batch, corpus):
    """The documented exception: fewer negatives, hence more weight on the own passages."""

    @jax.jit
    def log_prior(params, batch):
        arrays = toy.model, Dense(), params, batch, corpus, jnp.asarray(INDEX)
        return retrieve(RagSequence(documents="in_batch"), *arrays, k=3)[1]

    whole = np.asarray(log_prior(toy.params, plain_batch))
    part = log_prior(toy.params, jax.tree.map(lambda leaf: leaf[:2], plain_batch))
    assert np.all(part > whole[:2] + 1e-3)


def linear_loss(params, key, batch, offset):
    """Weighted squares, with noise from the key; small enough to check by hand."""
    noise = jax.random.normal(key, ())
    residual = batch["x"] * params["w"] - batch["y"] + offset
    total = jnp.sum(batch["weight"] * residual**2)
    count = jnp.sum(batch["weight"])
    return Loss(total, count, {"noise": (noise * count, count), "half": (total / 2, count * 2)})


LINEAR = {
    "x": np.array([1.0, 2.0, 3.0, 4.0], np.float32),
    "y": np.array([1.0, 0.0, 1.0, 9.0], np.float32),
    "weight": np.array([1.0, 1.0, 1.0, 0.0], np.float32),
}


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_a_step_by_hand(accumulate):
    step = make_train_step(linear_loss, optax.sgd(0.25), accumulate)
    run_key = jax.random.PRNGKey(7)
    state = init_state({"w": jnp.float32(1.0)}, optax.sgd(0.25), jnp.copy(run_key))
    # Residuals 0.5, 2.5, 2.5: loss 12.75 / 3, gradient 2 (0.5 + 5 + 7.5) / 3, once divided.
    for number, (w, loss) in enumerate([(1.0, 12.75 / 3), (1 - 0.25 * 26 / 3, None)]):
        np.testing.assert_allclose(state.params["w"], w, rtol=1e-6)
        state, metrics = step(state, LINEAR, jnp.float32(0.5))
        if loss is not None:
            np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
            np.testing.assert_allclose(metrics["half"], loss / 4, rtol=1e-6)
            np.testing.assert_allclose(metrics["grad_norm"], 26 / 3, rtol=1e-6)
        noise = jax.random.normal(jax.random.fold_in(run_key, number), ())
        np.testing.assert_allclose(metrics["noise"], noise, rtol=1e-5)
    assert np.array_equal(state.key, run_key)
    assert state.step == 2


def test_a_batch_of_weight_zero_moves_nothing():
    step = make_train_step(linear_loss, optax.sgd(0.25))
    state = init_state({"w": jnp.float32(1.0)}, optax.sgd(0.25), jax.random.PRNGKey(0))
    state, metrics = step(state, LINEAR | {"weight": np.zeros(4, np.float32)}, jnp.float32(0.5))
    assert state.params["w"] == 1.0
    assert metrics["loss"] == 0.0


def test_adam_with_an_average_is_traced_once():
    """Schedule, clipping and average run inside the one program, and its average is donated too."""

    @chex.assert_max_traces(n=1)
    def loss(params, key, batch):
        residual = batch["x"] * params["retriever"]["w"] - batch["y"] * params["generator"]["w"]
        return Loss(jnp.sum(residual**2), jnp.sum(batch["weight"]), {})

    chex.clear_trace_counter()
    transformation = Adam(warmup_steps=1, average=0.9).build(5)
    params = {room: {"w": jnp.ones(())} for room in ("retriever", "generator")}
    state = init_state(params, transformation, jax.random.PRNGKey(0))
    step = make_train_step(loss, transformation)
    losses = []
    for _ in range(5):
        old = state
        state, metrics = step(state, LINEAR)
        losses.append(float(metrics["loss"]))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.opt_state))
    assert step._cache_size() == 1
    assert losses[0] == losses[1] > losses[2] > losses[4]  # the first rate of a warm-up is 0


def test_bfloat16_computes_but_does_not_store(
    rag_loss, rag_step, make_toy, toy, plain_batch, corpus
):
    state = init_state(copied(toy.params), optimizer(), jax.random.PRNGKey(3))
    exact = float(rag_step(1)(state, plain_batch, corpus, INDEX)[1]["loss"])
    with jax.numpy_dtype_promotion("standard"):  # Flax's LayerNorm mixes bfloat16 and float32
        rough = make_toy(dtype="bfloat16")
        step = make_train_step(rag_loss("retrieved", rough), optimizer())
        state = init_state(copied(toy.params), optimizer(), jax.random.PRNGKey(3))
        state, metrics = step(state, plain_batch, corpus, INDEX)
    leaves = jax.tree.leaves((state.params, state.opt_state, metrics))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves)
    assert abs(float(metrics["loss"]) - exact) < 0.05 * exact
    assert float(metrics["loss"]) != exact
