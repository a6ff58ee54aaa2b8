"""The optimisers against hand values, AdamW written out in NumPy, and optax's own Adam."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ragjax.errors import UserError
from ragjax.training.optimizer import (
    Adam,
    TracedAdam,
    evaluation_params,
    parameter_average,
    with_learning_rate,
)

COSINE = [0, 0.25, 0.5, 0.75, 1.0, 0.1 + 0.9 * (1 + np.cos(np.pi / 8)) / 2]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", {**dict(enumerate(COSINE)), 8: 0.55, 12: 0.1, 20: 0.1}),
        ("linear", {0: 0, 2: 0.5, 4: 1.0, 6: 0.775, 8: 0.55, 12: 0.1, 20: 0.1}),
        ("constant", {0: 0, 1: 0.25, 4: 1.0, 8: 1.0, 20: 1.0}),
    ],
)
def test_schedule_by_hand(schedule, expected):
    """Peak 2, 4 steps of warm-up, 12 in all, down to a tenth."""
    spec = Adam(schedule=schedule, warmup_steps=4, final_fraction=0.1)
    rate = jax.vmap(spec.learning_rate(2.0, 12))
    with jax.numpy_dtype_promotion("standard"):
        actual = rate(jnp.asarray(list(expected)))
    np.testing.assert_allclose(actual, 2 * np.array(list(expected.values())), rtol=1e-5)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedules_without_warm_up_or_without_decay(schedule):
    spec = Adam(schedule=schedule, warmup_steps=0, final_fraction=0.1)
    assert spec.learning_rate(2.0, 10)(0) == 2.0
    # A run that ends during its warm-up is no error.
    late = dataclasses.replace(spec, warmup_steps=50)
    np.testing.assert_allclose(late.learning_rate(2.0, 10)(5), 0.2, rtol=1e-6)


class NumpyAdam:
    """AdamW for one group: clip, moments with bias correction, decay, rate."""

    def __init__(self, spec, peak, steps):
        self.spec, self.rate, self.count = spec, spec.learning_rate(peak, steps), 0
        self.m = self.v = 0.0

    def step(self, params, gradient):
        spec = self.spec
        norm = np.sqrt(sum(np.sum(leaf**2) for leaf in gradient))
        gradient = [leaf * min(1.0, spec.clip / norm) for leaf in gradient]
        if self.count == 0:
            self.m = [np.zeros_like(leaf) for leaf in gradient]
            self.v = [np.zeros_like(leaf) for leaf in gradient]
        rate = float(self.rate(self.count))
        self.count += 1
        self.m = [spec.b1 * m + (1 - spec.b1) * g for m, g in zip(self.m, gradient, strict=True)]
        self.v = [spec.b2 * v + (1 - spec.b2) * g**2 for v, g in zip(self.v, gradient, strict=True)]
        moved = []
        for p, m, v in zip(params, self.m, self.v, strict=True):
            direction = m / (1 - spec.b1**self.count)
            direction /= np.sqrt(v / (1 - spec.b2**self.count)) + 1e-8
            moved.append(p - rate * (direction + spec.weight_decay * p))
        return moved


SPEC = Adam(
    retriever_rate=0.1,
    generator_rate=0.03,
    schedule="linear",
    warmup_steps=2,
    weight_decay=0.2,
    clip=0.5,
    average=0.7,
)
START = {
    "retriever": {"a": np.array([1.0, -2.0]), "b": np.array(0.5)},
    "generator": {"a": np.array([[3.0, 0.1]]), "b": np.array([-1.0])},
    "critic": {"a": np.array([0.3, 0.2]), "b": np.array(0.0)},
}


def gradients(step):
    """The retriever's are large and grow, so that clipping shows in Adam's moments."""
    rng = np.random.default_rng(step)
    size = {"retriever": 10.0 * (step + 1), "generator": 0.05, "critic": 1.0}
    return {
        group: {name: size[group] * rng.normal(size=leaf.shape) for name, leaf in leaves.items()}
        for group, leaves in START.items()
    }


def run(spec, steps=6):
    """[steps] parameters, and the last state, by the spec's transformation."""
    transformation = spec.build(steps, critic=True)
    single = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)  # noqa: E731
    params = single(START)
    state = transformation.init(params)

    @jax.jit
    def update(gradient, state, params):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = transformation.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    history = []
    for step in range(steps):
        params, state = update(single(gradients(step)), state, params)
        history.append(params)
    return history, state


@pytest.mark.parametrize("fields", [{}, {"b1": 0.0}, {"schedule": "cosine", "weight_decay": 0.0}])
def test_each_group_is_adamw_with_its_own_rate_and_clipping(fields):
    spec = dataclasses.replace(SPEC, **fields)
    history, _ = run(spec)
    for group in START:
        reference = NumpyAdam(spec, getattr(spec, f"{group}_rate"), 6)
        params = [START[group]["a"], START[group]["b"]]
        for step, actual in enumerate(history):
            gradient = gradients(step)[group]
            params = reference.step(params, [gradient["a"], gradient["b"]])
            np.testing.assert_allclose(actual[group]["a"], params[0], rtol=1e-4)
            np.testing.assert_allclose(actual[group]["b"], params[1], rtol=1e-4)
    np.testing.assert_array_equal(
        history[0]["generator"]["a"], START["generator"]["a"].astype("f4")
    )


def test_clipping_and_decay_reach_the_update():
    """What the test above would miss if both sides ignored a field."""
    plain = run(SPEC)[0][-1]
    for field, value, group in [
        ("clip", 1e9, "retriever"),
        ("weight_decay", 0.0, "generator"),
        ("b2", 0.9, "retriever"),
    ]:
        other = run(dataclasses.replace(SPEC, **{field: value}))[0][-1]
        assert np.max(np.abs(other[group]["a"] - plain[group]["a"])) > 1e-4, field
    # The generator's small gradients are below the limit by themselves.
    loose = run(dataclasses.replace(SPEC, clip=1e9))[0][-1]
    np.testing.assert_allclose(loose["generator"]["a"], plain["generator"]["a"], rtol=1e-6)


def test_average_by_hand():
    history, state = run(SPEC)
    expected = START["retriever"]["a"].astype(np.float32)
    for params in history:
        expected = 0.7 * expected + 0.3 * np.asarray(params["retriever"]["a"])
    average = evaluation_params(history[-1], state)
    np.testing.assert_allclose(average["retriever"]["a"], expected, rtol=1e-5)
    assert jax.tree.structure(average) == jax.tree.structure(history[-1])


def test_without_an_average_the_parameters_themselves_are_evaluated():
    spec = dataclasses.replace(SPEC, average=0.0)
    history, state = run(spec, steps=2)
    assert evaluation_params(history[-1], state) is history[-1]
    with_average, _ = run(SPEC, steps=2)
    np.testing.assert_array_equal(  # an average changes no update
        history[-1]["generator"]["a"], with_average[-1]["generator"]["a"]
    )


def test_the_average_starts_as_a_copy():
    """The same buffer in parameters and average could not be donated twice."""
    params = {"w": jnp.ones(3)}
    average = parameter_average(0.9).init(params).average
    assert average["w"] is not params["w"]
    assert average["w"].unsafe_buffer_pointer() != params["w"].unsafe_buffer_pointer()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"retriever_rate": -1.0}, "optimizer.retriever_rate is -1"),
        ({"generator_rate": -1.0}, "optimizer.generator_rate is -1"),
        ({"weight_decay": -0.1}, "optimizer.weight_decay is -0.1"),
        ({"b2": 1.0}, "optimizer.b2 is 1"),
        ({"average": 1.0}, "optimizer.average is 1"),
        ({"final_fraction": 2.0}, "optimizer.final_fraction is 2"),
        ({"clip": 0.0}, "optimizer.clip is 0"),
        ({"warmup_steps": -1}, "optimizer.warmup_steps is -1"),
        ({"accumulate": 0}, "optimizer.accumulate is 0"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        Adam(**fields)


RATES = np.array([0.1, 0.03, 0.0, 0.2, 0.01], np.float32)


def run_traced(spec, rates):
    """[steps] parameters, and how often the update was traced; each update has its own rate."""
    transformation, traced = spec.build(), []
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), START)
    state = transformation.init(params)

    @jax.jit
    def update(gradient, state, params, rate):
        traced.append(rate)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = transformation.update(
                gradient, with_learning_rate(state, rate), params
            )
        return optax.apply_updates(params, updates), state

    history = []
    for step, rate in enumerate(rates):
        gradient = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), gradients(step))
        params, state = update(gradient, state, params, jnp.asarray(rate))
        history.append(params)
        np.testing.assert_array_equal(state.hyperparams["learning_rate"], rate)
    return history, len(traced)


@pytest.mark.parametrize("clip", [0.5, 1e9])
def test_traced_adam_is_optaxs_with_clipping_and_any_rate(clip):
    """The rate is an input: whatever it is, one compilation serves all updates."""
    history, traced = run_traced(TracedAdam(learning_rate=7.0, epsilon=1e-3, clip=clip), RATES)
    assert traced == 1
    schedule = lambda count: jnp.asarray(RATES)[count]  # noqa: E731
    reference = optax.chain(optax.clip_by_global_norm(clip), optax.adam(schedule, eps=1e-3))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), START)
    state = reference.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for step, actual in enumerate(history):
            gradient = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), gradients(step))
            updates, state = reference.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), actual, params
            )
    # A rate of 0 moves nothing.
    jax.tree.map(np.testing.assert_array_equal, history[2], history[1])


def test_traced_adam_clips_all_groups_together():
    """Unlike `Adam`: one norm over the whole tree, so the retriever's drowns the generator's."""
    loose, _ = run_traced(TracedAdam(clip=1e9), RATES)
    tight, _ = run_traced(TracedAdam(clip=0.5), RATES)
    assert np.abs(loose[-1]["generator"]["a"] - tight[-1]["generator"]["a"]).max() > 1e-4
    assert np.abs(loose[-1]["retriever"]["a"] - tight[-1]["retriever"]["a"]).max() > 1e-4


def test_traced_adam_runs_side_by_side_at_different_rates():
    transformation = TracedAdam(clip=1e9, epsilon=0.0).build()
    params, gradient = jnp.asarray([1.0, 2.0]), jnp.asarray([3.0, -0.1])

    @jax.jit
    @jax.vmap
    def first_step(rate):
        state = with_learning_rate(transformation.init(params), rate)
        with jax.numpy_dtype_promotion("standard"):
            return transformation.update(gradient, state, params)[0]

    moved = first_step(jnp.asarray(RATES))  # Adam's first step is the rate times the sign
    np.testing.assert_allclose(moved, np.outer(RATES, [-1.0, 1.0]), rtol=1e-5)


def test_a_set_rate_leaves_the_rest_of_the_state():
    state = TracedAdam(learning_rate=0.25).build().init(jnp.ones(2))
    assert state.hyperparams["learning_rate"] == 0.25
    other = with_learning_rate(state, jnp.float32(0.5))
    assert other.hyperparams["learning_rate"] == 0.5
    assert state.hyperparams["learning_rate"] == 0.25
    jax.tree.map(np.testing.assert_array_equal, other.inner_state, state.inner_state)
    assert jax.tree.structure(other) == jax.tree.structure(state)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate": -1.0}, "optimizer.learning_rate is -1"),
        ({"epsilon": -1e-8}, "optimizer.epsilon is -1e-08"),
        ({"clip": 0.0}, "optimizer.clip is 0"),
    ],
)
def test_traced_adams_bad_fields_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        TracedAdam(**fields)
