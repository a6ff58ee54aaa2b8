"""The optimiser against hand values and against AdamW written out in NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ragjax.errors import UserError
from ragjax.training.optimizer import Adam, evaluation_params, parameter_average

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
}


def gradients(step):
    """The retriever's are large and grow, so that clipping shows in Adam's moments."""
    rng = np.random.default_rng(step)
    size = {"retriever": 10.0 * (step + 1), "generator": 0.05}
    return {
        group: {name: size[group] * rng.normal(size=leaf.shape) for name, leaf in leaves.items()}
        for group, leaves in START.items()
    }


def run(spec, steps=6):
    """[steps] parameters, and the last state, by the spec's transformation."""
    transformation = spec.build(steps)
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
    for group, peak in [("retriever", spec.retriever_rate), ("generator", spec.generator_rate)]:
        reference = NumpyAdam(spec, peak, 6)
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
