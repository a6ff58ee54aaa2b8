"""The optimiser against hand values, AdamW written out in NumPy, and optax's own Adam."""

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
    rate = jax.vmap(lambda count: spec.rate_at(jnp.float32(2.0), count, 12))
    with jax.numpy_dtype_promotion("standard"):
        actual = rate(jnp.asarray(list(expected)))
    np.testing.assert_allclose(actual, 2 * np.array(list(expected.values())), rtol=1e-5)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedules_without_warm_up_or_without_decay(schedule):
    spec = Adam(schedule=schedule, warmup_steps=0, final_fraction=0.1)
    assert spec.rate_at(jnp.float32(2.0), 0, 10) == 2.0
    # A run that ends during its warm-up is no error.
    late = dataclasses.replace(spec, warmup_steps=50)
    np.testing.assert_allclose(late.rate_at(jnp.float32(2.0), 5, 10), 0.2, rtol=1e-6)


def norm_of(leaves):
    return np.sqrt(sum(np.sum(leaf**2) for leaf in leaves))


class NumpyAdam:
    """AdamW for one group: clip, moments with bias correction, decay, rate."""

    def __init__(self, spec, peak, steps):
        self.spec, self.count = spec, 0
        self.rate = lambda count: spec.rate_at(peak, count, steps)
        self.m = self.v = 0.0

    def step(self, params, gradient, norm=None):
        """`norm` is that of all that is clipped together, if that is more than this group."""
        spec = self.spec
        norm = norm or norm_of(gradient)
        gradient = [leaf * min(1.0, spec.max_grad_norm / norm) for leaf in gradient]
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
            direction /= np.sqrt(v / (1 - spec.b2**self.count)) + spec.epsilon
            moved.append(p - rate * (direction + spec.weight_decay * p))
        return moved


SPEC = Adam(
    retriever_rate=0.1,
    reader_rate=0.03,
    schedule="linear",
    warmup_steps=2,
    weight_decay=0.2,
    max_grad_norm=0.5,
    average=0.7,
)
START = {
    "retriever": {"a": np.array([1.0, -2.0]), "b": np.array(0.5)},
    "reader": {"a": np.array([[3.0, 0.1]]), "b": np.array([-1.0])},
    "critic": {"a": np.array([0.3, 0.2]), "b": np.array(0.0)},
}


def gradients(step):
    """The retriever's are large and grow, so that clipping shows in Adam's moments."""
    rng = np.random.default_rng(step)
    size = {"retriever": 10.0 * (step + 1), "reader": 0.05, "critic": 1.0}
    return {
        group: {name: size[group] * rng.normal(size=leaf.shape) for name, leaf in leaves.items()}
        for group, leaves in START.items()
    }


def single(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


def peaks(spec, **rates):
    """The traced peak rates of a spec, some of them exchanged."""
    return single(spec.hyper() | rates)


def updater(transformation):
    """(gradient, state, params, hyper, step) -> (params, state), a program that counts its traces."""
    traced = []

    @jax.jit
    def update(gradient, state, params, hyper, step):
        traced.append(hyper)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = transformation.update(gradient, state, params, hyper=hyper, step=step)
        return optax.apply_updates(params, updates), state

    return update, traced


def run(spec, steps=6, *, updates_a_step=1, hypers=None):
    """[steps] parameters, and the last state, by the spec's transformation."""
    transformation = spec.build(tuple(START), steps, steps * updates_a_step)
    params = single(START)
    state, history = transformation.init(params), []
    update, traced = updater(transformation)
    for step in range(steps):
        hyper = hypers[step] if hypers else peaks(spec)
        for _ in range(updates_a_step):
            params, state = update(single(gradients(step)), state, params, hyper, jnp.int32(step))
        history.append(params)
    assert len(traced) == 1  # whatever the rates are
    return history, state


@pytest.mark.parametrize("norm", ["group", "all"])
@pytest.mark.parametrize(
    "fields",
    [{}, {"b1": 0.0}, {"schedule": "cosine", "weight_decay": 0.0}, {"epsilon": 0.1}],
    ids=["linear", "b1", "cosine", "epsilon"],
)
def test_each_group_is_adamw_with_its_own_rate_and_clipping(fields, norm):
    """Clipped by the norm of the group alone, or by that of all groups together."""
    spec = dataclasses.replace(SPEC, norm_of=norm, **fields)
    history, _ = run(spec)
    for group in START:
        reference = NumpyAdam(spec, getattr(spec, f"{group}_rate"), 6)
        params = [START[group]["a"], START[group]["b"]]
        for step, actual in enumerate(history):
            gradient, whole = gradients(step)[group], jax.tree.leaves(gradients(step))
            gradient = [gradient["a"], gradient["b"]]
            params = reference.step(params, gradient, norm_of(whole) if norm == "all" else None)
            np.testing.assert_allclose(actual[group]["a"], params[0], rtol=1e-4)
            np.testing.assert_allclose(actual[group]["b"], params[1], rtol=1e-4)
    np.testing.assert_array_equal(history[0]["reader"]["a"], START["reader"]["a"].astype("f4"))


def test_clipping_and_decay_reach_the_update():
    """What the test above would miss if both sides ignored a field."""
    plain = run(SPEC)[0][-1]
    for field, value, group in [
        ("max_grad_norm", 1e9, "retriever"),
        ("weight_decay", 0.0, "reader"),
        ("b2", 0.9, "retriever"),
    ]:
        other = run(dataclasses.replace(SPEC, **{field: value}))[0][-1]
        assert np.max(np.abs(other[group]["a"] - plain[group]["a"])) > 1e-4, field
    # The reader's small gradients are below the limit by themselves.
    loose = run(dataclasses.replace(SPEC, max_grad_norm=1e9))[0][-1]
    np.testing.assert_allclose(loose["reader"]["a"], plain["reader"]["a"], rtol=1e-6)


def test_one_norm_of_all_groups_lets_the_largest_drown_the_others():
    """Not so where each group has its own, where the reader's small gradients are never clipped."""
    moved = {}
    for norm in ("group", "all"):
        for limit in (0.5, 1e9):
            spec = dataclasses.replace(SPEC, norm_of=norm, max_grad_norm=limit)
            moved[norm, limit] = run(spec)[0][-1]["reader"]["a"]
    assert np.abs(moved["all", 0.5] - moved["all", 1e9]).max() > 1e-4
    np.testing.assert_allclose(moved["group", 0.5], moved["group", 1e9], rtol=1e-6)
    np.testing.assert_array_equal(moved["group", 1e9], moved["all", 1e9])


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
        history[-1]["reader"]["a"], with_average[-1]["reader"]["a"]
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
        ({"learning_rate": -1.0}, "optimizer.learning_rate is -1"),
        ({"reader_rate": -1.0}, "optimizer.reader_rate is -1"),
        ({"critic_rate": -1.0}, "optimizer.critic_rate is -1"),
        ({"epsilon": -1e-8}, "optimizer.epsilon is -1e-08"),
        ({"weight_decay": -0.1}, "optimizer.weight_decay is -0.1"),
        ({"b2": 1.0}, "optimizer.b2 is 1"),
        ({"average": 1.0}, "optimizer.average is 1"),
        ({"final_fraction": 2.0}, "optimizer.final_fraction is 2"),
        ({"max_grad_norm": 0.0}, "optimizer.max_grad_norm is 0"),
        ({"warmup_steps": -1}, "optimizer.warmup_steps is -1"),
        ({"accumulate": 0}, "optimizer.accumulate is 0"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        Adam(**fields)


@pytest.mark.parametrize(("counts", "total"), [("updates", 12), ("steps", 4)])
def test_a_warm_up_ends_within_the_run(counts, total):
    spec = Adam(counts=counts, warmup_steps=total)
    spec.check(steps=4, updates=12)
    longer = dataclasses.replace(spec, warmup_steps=total + 1)
    with pytest.raises(
        UserError, match=rf"warmup_steps is {total + 1}, more than the {total} {counts}"
    ):
        longer.check(steps=4, updates=12)


# Rates are traced

RATES = np.array([0.1, 0.03, 0.0, 0.2, 0.01], np.float32)


@pytest.mark.parametrize("limit", [0.5, 1e9])
def test_for_policies_it_is_optaxs_adam_with_clipping_and_any_rate(limit):
    """The rate is an input: whatever it is, one compilation serves all updates."""
    spec = Adam.for_policies(7.0, epsilon=1e-3, max_grad_norm=limit, schedule="constant")
    hypers = [peaks(spec, learning_rate=rate) for rate in RATES]
    history, _ = run(spec, len(RATES), hypers=hypers)
    schedule = lambda count: jnp.asarray(RATES)[count]  # noqa: E731
    reference = optax.chain(optax.clip_by_global_norm(limit), optax.adam(schedule, eps=1e-3))
    params = single(START)
    state = reference.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for step, actual in enumerate(history):
            updates, state = reference.update(single(gradients(step)), state, params)
            params = optax.apply_updates(params, updates)
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), actual, params
            )
    # A rate of 0 moves nothing.
    jax.tree.map(np.testing.assert_array_equal, history[2], history[1])


def test_the_settings_for_policies():
    """Those of PPO's usual implementation, each of which may be given instead."""
    spec = Adam.for_policies()
    assert spec == Adam(
        learning_rate=2.5e-4,
        retriever_rate=None,
        reader_rate=None,
        critic_rate=None,
        schedule="linear",
        counts="steps",
        warmup_steps=0,
        final_fraction=0.0,
        b2=0.999,
        epsilon=1e-5,
        max_grad_norm=0.5,
        norm_of="all",
    )
    assert Adam.for_policies(0.1, b2=0.9, norm_of="group", retriever_rate=0.2) == (
        dataclasses.replace(spec, learning_rate=0.1, b2=0.9, norm_of="group", retriever_rate=0.2)
    )


def test_runs_side_by_side_at_different_rates():
    """Also of different groups, each by the rate that it names."""
    spec = Adam.for_policies(max_grad_norm=1e9, epsilon=0.0, retriever_rate=1.0)
    transformation = spec.build(("policy", "retriever"), 4)
    params = {name: jnp.asarray([1.0, 2.0]) for name in ("policy", "retriever")}
    gradient = {name: jnp.asarray([3.0, -0.1]) for name in params}

    @jax.jit
    @jax.vmap
    def first_step(hyper):
        with jax.numpy_dtype_promotion("standard"):
            return transformation.update(
                gradient, transformation.init(params), params, hyper=hyper, step=jnp.int32(0)
            )[0]

    own = RATES[::-1].copy()
    moved = first_step({"learning_rate": jnp.asarray(RATES), "retriever_rate": jnp.asarray(own)})
    # Adam's first step is the rate times the sign.
    np.testing.assert_allclose(moved["policy"], np.outer(RATES, [-1.0, 1.0]), rtol=1e-5)
    np.testing.assert_allclose(moved["retriever"], np.outer(own, [-1.0, 1.0]), rtol=1e-5)


def test_a_group_without_a_rate_of_its_own_has_the_common_one():
    assert Adam(learning_rate=0.3, critic_rate=None).hyper() == {
        "learning_rate": 0.3,
        "retriever_rate": 1e-2,
        "reader_rate": 5e-3,
    }
    assert Adam.for_policies(0.2).hyper() == {"learning_rate": 0.2}
    own = run(dataclasses.replace(SPEC, critic_rate=0.05))[0]
    common = run(dataclasses.replace(SPEC, critic_rate=None, learning_rate=0.05))[0]
    jax.tree.map(np.testing.assert_array_equal, own, common)
    other = run(dataclasses.replace(SPEC, critic_rate=None, learning_rate=0.06))[0]
    assert np.abs(other[-1]["critic"]["a"] - own[-1]["critic"]["a"]).max() > 1e-3
    np.testing.assert_array_equal(other[-1]["reader"]["a"], own[-1]["reader"]["a"])


@pytest.mark.parametrize(("counts", "rates"), [("updates", 6), ("steps", 3)])
def test_a_schedule_counts_updates_or_steps(counts, rates):
    """Of 3 steps with 2 updates each, where Adam moves by the rate at every update.

    Gradients are constant, so that both moments are, and the direction is their sign.
    """
    spec = Adam.for_policies(
        0.5, counts=counts, max_grad_norm=1e9, epsilon=0.0, final_fraction=0.25, warmup_steps=1
    )
    transformation = spec.build(("policy",), 3, 6)
    params = {"policy": jnp.float32(0.0)}
    state, moves = transformation.init(params), []
    update, _ = updater(transformation)
    for step in range(3):
        for _ in range(2):
            before = params["policy"]
            gradient = {"policy": jnp.float32(-2.0)}
            params, state = update(gradient, state, params, peaks(spec), jnp.int32(step))
            moves.append(float(params["policy"] - before))
    # One of warm-up from 0, then linearly from the peak to a quarter, where the run would end.
    expected = [0.0, *(0.5 - 0.375 * n / (rates - 1) for n in range(rates - 1))]
    np.testing.assert_allclose(moves, np.repeat(expected, 6 // rates), rtol=1e-5, atol=1e-7)


def test_updates_count_unless_a_run_says_how_many_there_are():
    """Without a number of updates there are as many as steps."""
    spec = Adam(learning_rate=0.5, warmup_steps=0, schedule="linear", final_fraction=0.0)
    history, _ = run(spec, 4)
    transformation = spec.build(tuple(START), 4)
    params, (update, _) = single(START), updater(transformation)
    state = transformation.init(params)
    for step in range(4):
        params, state = update(single(gradients(step)), state, params, peaks(spec), jnp.int32(77))
    jax.tree.map(np.testing.assert_array_equal, params, history[-1])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("schedule", "choose cosine, linear or constant"),
        ("counts", "choose updates or steps"),
        ("norm_of", "choose group or all"),
    ],
)
def test_what_is_not_among_the_choices_is_named(name, options):
    spec = Adam()
    object.__setattr__(spec, name, "none")  # past the annotation that tests check
    with pytest.raises(UserError, match=f"optimizer.{name} is 'none'; {options}"):
        spec.__post_init__()
