"""The perceptron policy and its critic: shapes, initialisation, the tabular case, bad fields."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.errors import UserError
from ragjax.models.policy import ActorCritic
from ragjax.ops.distributions import Categorical
from ragjax.types import Env


def env(shape=(4,), actions=3):
    """Bounds of observations and the number of actions are all that a policy asks for."""
    low = np.zeros(shape, np.float32)
    nothing = lambda *args: None  # noqa: E731
    return Env((), nothing, nothing, num_actions=actions, low=low, high=low + 1)


@functools.cache
def built(spec=None, seed=0, **kwargs):
    """(policy, params), its functions compiled as a whole."""
    policy = (spec or ActorCritic(hidden=(8, 6))).build(env(**kwargs))
    policy = policy._replace(init=jax.jit(policy.init), apply=jax.jit(policy.apply))
    return policy, policy.init(jax.random.PRNGKey(seed))


@pytest.fixture(scope="module")
def small():
    return built()


@pytest.mark.parametrize("lead", [(), (5,), (2, 5)])
def test_shapes(small, lead):
    policy, params = small
    distribution, value = policy.apply(params, jnp.ones((*lead, 4)))
    assert isinstance(distribution, Categorical)
    assert distribution.logits.shape == (*lead, 3)
    assert value.shape == lead
    assert set(params) == {"policy", "value"}
    shapes = {
        name: [leaf["kernel"].shape for leaf in group.values()] for name, group in params.items()
    }
    assert shapes == {"policy": [(4, 8), (8, 6), (6, 3)], "value": [(4, 8), (8, 6), (6, 1)]}


def is_orthogonal(kernel, gain):
    """The shorter side's vectors are orthogonal and `gain` long."""
    kernel = np.asarray(kernel, np.float64)
    gram = kernel @ kernel.T if kernel.shape[0] <= kernel.shape[1] else kernel.T @ kernel
    np.testing.assert_allclose(gram, gain**2 * np.eye(len(gram)), atol=1e-5 * max(gain**2, 1e-2))


@pytest.mark.parametrize(
    ("spec", "gains"),
    [
        (ActorCritic(hidden=(8, 6)), {"policy": 0.01, "value": 1.0}),
        (
            ActorCritic(hidden=(8, 6), activation="relu", policy_scale=0.5, value_scale=2.0),
            {"policy": 0.5, "value": 2.0},
        ),
    ],
)
def test_kernels_start_orthogonal_with_their_gains(spec, gains):
    _, params = built(spec)
    for group, output_gain in gains.items():
        layers = [params[group][f"Dense_{number}"] for number in range(3)]
        for layer, gain in zip(layers, [np.sqrt(2), np.sqrt(2), output_gain], strict=True):
            is_orthogonal(layer["kernel"], gain)
            np.testing.assert_array_equal(layer["bias"], 0.0)
    # Policy and critic are drawn apart.
    first = [params[group]["Dense_0"]["kernel"] for group in gains]
    assert np.abs(first[0] - first[1]).max() > 0.1


def test_a_policy_starts_nearly_flat_and_a_scale_of_zero_starts_at_zero(small):
    policy, params = small
    observation = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    distribution, value = policy.apply(params, observation)
    np.testing.assert_allclose(np.exp(distribution.log_probs), 1 / 3, atol=0.01)
    assert np.abs(value).max() > 0.1
    policy, params = built(ActorCritic(hidden=(8,), policy_scale=0.0, value_scale=0.0))
    distribution, value = policy.apply(params, observation)
    np.testing.assert_array_equal(distribution.logits, 0.0)
    np.testing.assert_array_equal(value, 0.0)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_layers_by_hand(activation):
    policy, params = built(ActorCritic(hidden=(8, 6), activation=activation, policy_scale=1.0))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params)
    observation = rng.normal(size=(7, 4)).astype(np.float32)
    bend = np.tanh if activation == "tanh" else lambda x: np.maximum(x, 0)

    def forward(group):
        x = observation.astype(np.float64)
        for number in range(3):
            layer = params[group][f"Dense_{number}"]
            x = x @ layer["kernel"] + layer["bias"]
            x = bend(x) if number < 2 else x
        return x

    distribution, value = policy.apply(params, observation)
    np.testing.assert_allclose(distribution.logits, forward("policy"), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(value, forward("value")[:, 0], rtol=1e-4, atol=1e-5)


def test_without_hidden_layers_and_bias_one_hot_observations_make_tables():
    """Row s of the kernel is the logits of state s, and moving it moves no other state."""
    policy, params = built(ActorCritic(hidden=(), bias=False, policy_scale=1.0))
    assert jax.tree.map(jnp.shape, params) == {
        "policy": {"Dense_0": {"kernel": (4, 3)}},
        "value": {"Dense_0": {"kernel": (4, 1)}},
    }
    logits, values = (params[group]["Dense_0"]["kernel"] for group in ("policy", "value"))
    distribution, value = policy.apply(params, jnp.eye(4))
    np.testing.assert_array_equal(distribution.logits, logits)
    np.testing.assert_array_equal(value, values[:, 0])

    slope = jax.grad(lambda params: policy.apply(params, jnp.eye(4)[2])[0].log_probs[1])(params)
    touched = np.asarray(slope["policy"]["Dense_0"]["kernel"])
    assert np.all(touched[2] != 0)
    assert np.all(touched[[0, 1, 3]] == 0)
    np.testing.assert_array_equal(slope["value"]["Dense_0"]["kernel"], 0.0)


@pytest.mark.parametrize("lead", [(), (5,), (2, 5)])
def test_images_are_flattened(lead):
    policy, params = built(shape=(3, 2, 2))
    flat_policy, _ = built(shape=(12,))
    image = np.random.default_rng(0).normal(size=(*lead, 3, 2, 2)).astype(np.float32)
    actual = policy.apply(params, image)
    expected = flat_policy.apply(params, image.reshape(*lead, 12))
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    assert actual[1].shape == lead


def test_a_number_is_an_observation_too():
    policy, params = built(shape=())
    distribution, value = policy.apply(params, jnp.ones(5))
    assert distribution.logits.shape == (5, 3)
    assert value.shape == (5,)


def test_without_bias_no_layer_has_one():
    policy = ActorCritic(hidden=(8, 6), bias=False).build(env())
    params = jax.eval_shape(policy.init, jax.random.PRNGKey(0))
    layers = [layer for group in params.values() for layer in group.values()]
    assert len(layers) == 6
    assert all(set(layer) == {"kernel"} for layer in layers)


def test_seeds_differ(small):
    policy, params = small
    again, other = (policy.init(jax.random.PRNGKey(seed)) for seed in (0, 1))
    jax.tree.map(np.testing.assert_array_equal, params, again)
    kernels = [tree["policy"]["Dense_1"]["kernel"] for tree in (params, other)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1


def test_side_by_side_seeds_start_one_by_one():
    """As each would alone, and without the QR of a batch, which can wait for itself (see `build`)."""
    policy = ActorCritic(hidden=(8, 6)).build(env())
    keys = jnp.stack([jax.random.PRNGKey(seed) for seed in range(3)])
    params = jax.jit(jax.vmap(policy.init))(keys)
    for number, key in enumerate(keys):
        alone = jax.jit(policy.init)(key)
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[number], b), params, alone)  # noqa: B023
    program = str(jax.make_jaxpr(jax.vmap(policy.init))(keys))
    factored = re.findall(r"\w+:f32\[([\d,]+)\] \w+:f32\[[\d,]+\] = qr\[", program)
    assert factored
    assert all(shape.count(",") == 1 for shape in factored)


def test_bad_fields_are_named():
    with pytest.raises(
        UserError, match=r"policy.hidden is \(64, 0\); every width must be at least 1"
    ):
        ActorCritic(hidden=(64, 0))
    spec = ActorCritic()
    object.__setattr__(spec, "activation", "gelu")  # past the annotation that tests check
    with pytest.raises(UserError, match=r"policy.activation is 'gelu'; choose tanh or relu"):
        spec.__post_init__()


def test_matrices_are_factorised_one_at_a_time():
    """Also for several seeds: batched factorisations can hang on a CPU."""
    policy = ActorCritic(hidden=(8, 8)).build(env())
    keys = jax.random.split(jax.random.PRNGKey(0), 3)
    program = str(jax.make_jaxpr(jax.vmap(policy.init))(keys))
    factors = re.findall(r"\w+:f32\[([0-9,]+)\] \w+:f32\[[0-9,]+\] = qr\[", program)
    assert factors
    assert all(shape.count(",") == 1 for shape in factors), factors
    alone = [policy.init(key) for key in keys]
    together = jax.vmap(policy.init)(keys)
    for number, params in enumerate(alone):
        for one, many in zip(jax.tree.leaves(params), jax.tree.leaves(together), strict=True):
            np.testing.assert_array_equal(one, many[number])
