"""One step: micro-batches, denominators, keys, several updates, compilation, donation, bfloat16."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from loss_learner import LossLearner

from ragjax.models.retriever import Dense
from ragjax.objectives.base import Context
from ragjax.objectives.likelihood import RagSequence, retrieve
from ragjax.training.learner import Stage, State, step_keys
from ragjax.training.optimizer import Adam
from ragjax.training.step import make_step, repeated_updates, summed_gradients
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


def compiled(loss, optimizer, **fields):
    """The step as a run has it, a program that the state is donated to: (state, batch, *data)."""
    step = make_step(LossLearner(loss, optimizer), Stage(1, **fields))

    def run(state, batch, *data):
        return program(state, batch, {}, data)

    program = jax.jit(step, donate_argnums=0)
    run.program = program
    return run


@pytest.fixture(scope="module")
def rag_step(rag_loss):
    """accumulate -> the training step over `documents="retrieved"`."""
    loss = rag_loss("retrieved")
    return functools.cache(lambda accumulate: compiled(loss, optimizer(), accumulate=accumulate))


def begun(params, optimizer, seed=3):
    """The state before the first step; what is donated is gone afterwards, but the parameters stay."""
    params = jax.tree.map(jnp.copy, params)
    return LossLearner(None, optimizer).begun(jax.random.PRNGKey(seed), params)


def test_four_micro_batches_make_the_same_step(rag_step, toy, plain_batch, corpus):
    """Loss, metrics and parameters; the micro-batches' denominators differ (weights 1 1 0 1)."""
    results = []
    for accumulate in (1, 4):
        state = begun(toy.params, optimizer())
        for _ in range(2):
            state, metrics = rag_step(accumulate)(state, plain_batch, corpus, INDEX)
        results.append((state.params, metrics))
    chex.assert_trees_all_close(*results, rtol=2e-5, atol=1e-6)
    moved = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), results[0][0], toy.params)
    assert all(value > 1e-5 for value in jax.tree.leaves(moved))


def test_the_second_step_compiles_nothing_and_reuses_memory(rag_step, toy, plain_batch, corpus):
    step = rag_step(1)
    state = begun(toy.params, optimizer())
    state, first = step(state, plain_batch, corpus, INDEX)
    before = step.program._cache_size()
    for number in range(3):
        old = state
        shuffled = jax.tree.map(functools.partial(np.roll, shift=number, axis=0), plain_batch)
        state, metrics = step(state, shuffled, corpus, INDEX)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves((old.params, old.opt_state)))
    assert step.program._cache_size() == before
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
                lambda *given: loss(*given, *constants), params, key, batch, accumulate
            )
        )
        return sums(toy.params, jax.random.PRNGKey(0), plain_batch, corpus, INDEX)

    return run


@pytest.mark.slow
def test_four_micro_batches_over_the_whole_index(index_sums):
    chex.assert_trees_all_close(index_sums(1), index_sums(4), rtol=2e-5, atol=1e-5)


def test_in_batch_negatives_are_those_of_the_micro_batch(toy, plain_batch, corpus):
    """The documented exception: fewer negatives, hence more weight on the own passages."""

    @jax.jit
    def log_prior(params, batch):
        context = Context(toy.model, toy.vocabulary, Dense(), 3)
        arrays = {"corpus": corpus, "index": jnp.asarray(INDEX)}
        return retrieve(RagSequence(documents="in_batch"), context, params, batch, **arrays)[1]

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


def expected_noise(key, accumulate):
    """The weighted mean of `linear_loss`'s noise, each micro-batch having drawn its own."""
    keys = [key] if accumulate == 1 else jax.random.split(key, accumulate)
    noise = [float(jax.random.normal(each, ())) for each in keys]
    assert len(set(noise)) == accumulate
    return np.average(noise, weights=LINEAR["weight"].reshape(accumulate, -1).sum(1))


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_a_step_by_hand(accumulate):
    step = compiled(linear_loss, optax.sgd(0.25), accumulate=accumulate)
    run_key = jax.random.PRNGKey(7)
    state = begun({"w": jnp.float32(1.0)}, optax.sgd(0.25), 7)
    # Residuals 0.5, 2.5, 2.5: loss 12.75 / 3, gradient 2 (0.5 + 5 + 7.5) / 3, once divided.
    for number, (w, loss) in enumerate([(1.0, 12.75 / 3), (1 - 0.25 * 26 / 3, None)]):
        np.testing.assert_allclose(state.params["w"], w, rtol=1e-6)
        state, metrics = step(state, LINEAR, jnp.float32(0.5))
        if loss is not None:
            np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
            np.testing.assert_allclose(metrics["half"], loss / 4, rtol=1e-6)
            np.testing.assert_allclose(metrics["grad_norm"], 26 / 3, rtol=1e-6)
        noise = expected_noise(jax.random.fold_in(run_key, number), accumulate)
        np.testing.assert_allclose(metrics["noise"], noise, rtol=1e-5)
    assert np.array_equal(state.key, run_key)
    assert state.step == 2


def test_a_batch_of_weight_zero_moves_nothing():
    step = compiled(linear_loss, optax.sgd(0.25))
    state = begun({"w": jnp.float32(1.0)}, optax.sgd(0.25))
    state, metrics = step(state, LINEAR | {"weight": np.zeros(4, np.float32)}, jnp.float32(0.5))
    assert state.params["w"] == 1.0
    assert metrics["loss"] == 0.0
    assert np.isnan(metrics["half"])  # a mean of nothing


def test_adam_with_an_average_is_traced_once():
    """Schedule, clipping and average run inside the one program, and its average is donated too."""

    @chex.assert_max_traces(n=1)
    def loss(params, key, batch):
        residual = batch["x"] * params["retriever"]["w"] - batch["y"] * params["reader"]["w"]
        return Loss(jnp.sum(residual**2), jnp.sum(batch["weight"]), {})

    chex.clear_trace_counter()
    groups, spec = ("retriever", "reader"), Adam(warmup_steps=1, average=0.9)
    transformation = spec.build(groups, 5)
    state = begun({group: {"w": jnp.ones(())} for group in groups}, transformation)
    step = jax.jit(make_step(LossLearner(loss, transformation), Stage(5)), donate_argnums=0)
    losses = []
    for number in range(5):
        old = state
        hyper = {name: jnp.float32(rate) for name, rate in spec.hyper().items()}
        if number == 4:  # another rate is another input
            hyper = jax.tree.map(lambda rate: rate / 2, hyper)
        state, metrics = step(state, LINEAR, hyper, ())
        losses.append(float(metrics["loss"]))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.opt_state))
    assert step._cache_size() == 1
    assert losses[0] == losses[1] > losses[2] > losses[4]  # the first rate of a warm-up is 0


def test_bfloat16_computes_but_does_not_store(
    rag_loss, rag_step, make_toy, toy, plain_batch, corpus
):
    state = begun(toy.params, optimizer())
    exact = float(rag_step(1)(state, plain_batch, corpus, INDEX)[1]["loss"])
    with jax.numpy_dtype_promotion("standard"):  # Flax's LayerNorm mixes bfloat16 and float32
        rough = make_toy(dtype="bfloat16")
        step = compiled(rag_loss("retrieved", rough), optimizer())
        state = begun(toy.params, optimizer())
        state, metrics = step(state, plain_batch, corpus, INDEX)
    leaves = jax.tree.leaves((state.params, state.opt_state, metrics))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32"), jnp.dtype(bool)}
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves)
    assert abs(float(metrics["loss"]) - exact) < 0.05 * exact
    assert float(metrics["loss"]) != exact


# Several updates of one batch


def gradient_of(w, rows):
    """d/dw of the mean of `linear_loss` without offset over some rows, in float64."""
    x, y, weight = (LINEAR[name][rows].astype(np.float64) for name in ("x", "y", "weight"))
    return np.sum(weight * 2 * (w * x - y) * x) / max(weight.sum(), 1e-9)


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"epochs": 3}, [[0, 1, 2, 3]] * 3),
        ({"minibatches": 2}, [[0, 1], [2, 3]]),
        ({"epochs": 2, "minibatches": 2}, [[0, 1], [2, 3]] * 2),
        ({"epochs": 2, "minibatches": 2, "accumulate": 2}, [[0, 1], [2, 3]] * 2),
    ],
    ids=["epochs", "minibatches", "both", "accumulated"],
)
def test_several_updates_by_hand(fields, parts):
    """One after the other, each divided by its own denominator; a step of the run all the same."""
    step = compiled(linear_loss, optax.sgd(0.05), **fields)
    state, metrics = step(begun({"w": jnp.float32(1.0)}, optax.sgd(0.05)), LINEAR, jnp.float32(0))
    w, norms = 1.0, []
    for rows in parts:
        norms.append(abs(gradient_of(w, rows)))
        w -= 0.05 * gradient_of(w, rows)
    np.testing.assert_allclose(state.params["w"], w, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], np.mean(norms), rtol=1e-5)
    assert metrics["updates_made"] == 1
    assert state.step == 1
    # All have the step's key, micro-batches too: what they learn from was drawn with it.
    noise = jax.random.normal(jax.random.fold_in(jax.random.PRNGKey(3), 0), ())
    np.testing.assert_allclose(metrics["noise"], noise, rtol=1e-5)


def standing(value):
    """A state of which only the parameters matter, and they are one number."""
    return State(jnp.int32(0), value, None, jax.random.PRNGKey(0))


def shuffled_rows(stage, key):
    """[updates,rows] what each of the updates of a batch of 12 was given."""
    seen = []

    def step(state, part):
        jax.debug.callback(lambda rows: seen.append(np.asarray(rows)), part, ordered=True)
        return state, {"none": jnp.zeros(())}

    repeated_updates(step, standing(1.0), jnp.arange(12), stage=stage, key=key)
    jax.effects_barrier()
    return seen


def test_every_epoch_sees_every_row_once():
    """Minibatches are of equal size, and dealt anew each epoch where the stage says so."""
    stage, key = Stage(1, epochs=3, minibatches=4, shuffle=True), jax.random.PRNGKey(0)
    seen = shuffled_rows(stage, key)
    assert [len(rows) for rows in seen] == [3] * 12
    epochs = [np.concatenate(seen[4 * n : 4 * n + 4]) for n in range(3)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(12))
    assert not np.array_equal(epochs[0], epochs[1])
    np.testing.assert_array_equal(seen, shuffled_rows(stage, key))
    assert not np.array_equal(seen, shuffled_rows(stage, jax.random.PRNGKey(1)))
    # Rows that belong together stay in their order and in whole batches otherwise.
    plain = shuffled_rows(dataclasses.replace(stage, shuffle=False), key)
    np.testing.assert_array_equal(np.reshape(plain, (3, 12)), np.tile(np.arange(12), (3, 1)))
    np.testing.assert_array_equal(shuffled_rows(Stage(1, epochs=2), key), [np.arange(12)] * 2)


@pytest.mark.parametrize(("target", "made"), [(0.0, 4), (1.5, 1), (2.5, 2), (9.0, 4)])
def test_updates_beyond_the_divergence_are_left_out(target, made):
    """Each moves by 1 and reports one more; what is left out counts in the metrics' mean."""
    stage = Stage(1, epochs=4, target_kl=target)

    def step(state, part):
        moved = state.replace(params=state.params + 1)
        return moved, {"kl": moved.params}

    @jax.jit
    def run(state):
        return repeated_updates(step, state, jnp.zeros(2), stage=stage, key=state.key)

    state, metrics = run(standing(jnp.float32(0)))
    assert state.params == made
    assert metrics["updates_made"] == made / 4
    reported = [min(n, made) + 1.0 for n in range(4)]
    np.testing.assert_allclose(metrics["kl"], np.mean(reported))


def test_nothing_is_learned_once_the_divergence_was_too_large():
    """Though the minibatches that follow are below it."""

    def step(state, part):
        return state.replace(params=state.params + 1), {"kl": part[0]}

    stage = Stage(1, epochs=1, minibatches=4, target_kl=1.0)
    batch = jnp.array([0.0, 5.0, 0.5, 0.0])
    state, metrics = repeated_updates(
        step, standing(0.0), batch, stage=stage, key=jax.random.PRNGKey(0)
    )
    assert state.params == 1
    assert metrics["updates_made"] == 1 / 4


class Collecting(LossLearner):
    """Counts the steps in its index, and lets the loss see the state; no data is fed."""

    def init(self, key, hyper, data):
        return self.begun(key, self.params).replace(
            index=jnp.float32(10), carry=jnp.float32(20), extra=jnp.float32(30)
        )

    def collect(self, state, fed, *, stage, hyper, data):
        assert fed is None
        batch = jnp.full(4, state.params["w"])
        moved = state.replace(index=state.index + 1, carry=state.carry + 1, extra=state.extra + 1)
        return moved, batch, {"collected": state.step, "drawn": step_keys(state).collect[0]}

    def loss(self, params, key, batch, *, stage, state, hyper, data):
        # The parameters of before the step, in the state and in the batch alike.
        lag = params["w"] - state.params["w"] + params["w"] - batch[0]
        seen = state.index + state.carry + state.extra + state.params["w"]
        one = jnp.ones(())
        return Loss(
            hyper["slope"] * params["w"] + lag, one, {"lag": (lag, one), "seen": (seen, one)}
        )


@pytest.mark.parametrize("updates", [1, 3])
def test_what_is_collected_stays_and_updates_move_parameters_alone(updates):
    """The state that a loss sees has no gradient, and is the same in all updates of a step.

    Their gradient is that of slope · w + 2 w, so that each moves as far as the one before.
    """
    learner = Collecting(None, optax.sgd(0.5), {"w": jnp.float32(1.0)})
    step = jax.jit(make_step(learner, Stage(2, epochs=updates)))
    state = learner.init(jax.random.PRNGKey(0), {}, ())
    w, slope = 1.0, 3.0
    for number in range(2):
        state, metrics = step(state, None, {"slope": jnp.float32(slope)}, ())
        move = 0.5 * (slope + 2)
        np.testing.assert_allclose(metrics["lag"], -2 * move * np.mean(np.arange(updates)))
        np.testing.assert_allclose(metrics["seen"], 11 + 21 + 31 + 3 * number + w)
        w -= updates * move
        np.testing.assert_allclose(state.params["w"], w)
        assert (state.index, state.carry, state.extra) == (11 + number, 21 + number, 31 + number)
        assert metrics["collected"] == number
        assert state.step == number + 1


def test_the_keys_of_a_step_are_its_own():
    """Of the run's key and the step alone; no two parts of a step share one, nor do two steps."""
    state = State(jnp.int32(4), None, None, jax.random.PRNGKey(1))
    np.testing.assert_array_equal(step_keys(state).loss, jax.random.fold_in(state.key, 4))
    again = step_keys(state.replace(params=1.0, opt_state=2.0, index=3.0, extra=4.0))
    chex.assert_trees_all_equal(again, step_keys(state))
    several = [*step_keys(state), *step_keys(state.replace(step=jnp.int32(5))), state.key]
    assert len({tuple(np.asarray(key).tolist()) for key in several}) == 9
