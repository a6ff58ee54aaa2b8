"""What every environment keeps to: found by walking the package, so a new file needs no edit here."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compiled
from env_specs import traceable_specs

from ragjax.envs.base import Environment
from ragjax.errors import UserError
from ragjax.types import Env, Timestep

E = 3
LIMIT = 12
STEPS = 40


SPECS = traceable_specs()


@dataclass
class Played:
    """A rollout of random actions: of E environments, or of one alone.

    `first` and `steps` ([STEPS,...]) are of the first seed, `again` is `steps` of the same seed anew,
    `other` that of another one.
    """

    spec: Environment
    env: Env
    first: Timestep
    steps: Timestep
    again: Timestep
    other: Timestep
    compiled_again: list[str]


def random_actions(env, shape):
    """Actions [...], or slates [...,slate] of distinct ones."""
    rng = np.random.default_rng(0)
    if not env.slate:
        return rng.integers(env.num_actions, size=shape)
    return np.argsort(rng.random((*shape, env.num_actions)), axis=-1)[..., : env.slate]


def action_shape(env, shape):
    """The shape of actions where [...] environments are side by side."""
    return jax.ShapeDtypeStruct((*shape, env.slate) if env.slate else shape, jnp.int32)


def play(spec, env, shape) -> Played:
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    actions = jnp.asarray(random_actions(env, (STEPS, *shape)), jnp.int32)

    def run(seed):
        key = jax.random.key(seed)
        state, first = reset(env.params, key)
        steps: list[Any] = []
        for number, action in enumerate(actions):
            state, timestep = step(env.params, jax.random.fold_in(key, number), state, action)
            steps.append(timestep)
        return jax.tree.map(np.asarray, first), jax.tree.map(lambda *x: np.stack(x), *steps)

    first, steps = run(0)
    with compiled() as programs:
        (_, again), (_, other) = run(0), run(1)
    return Played(spec, env, first, steps, again, other, programs)


@pytest.fixture(scope="module", params=SPECS, ids=lambda kind: kind.name)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def batched(kind):
    """E environments with time limit, automatic resets and statistics."""
    spec = kind(time_limit=LIMIT)
    return play(spec, spec.vectorise(E), (E,))


@pytest.fixture(scope="module")
def single(kind):
    """One environment as it is built."""
    spec = kind(time_limit=LIMIT)
    return play(spec, spec.build(), ())


@pytest.fixture(params=["batched", "single"])
def played(request, kind):
    return request.getfixturevalue(request.param)


def test_specs_are_found():
    names = {kind.__name__ for kind in SPECS}
    assert names >= {"CartPole", "Acrobot", "MountainCar", "Catch", "Testbed", "RandomWalk"}
    assert names >= {"ShortCorridor"}
    assert len({kind.name for kind in SPECS}) == len(SPECS)


def test_spec_is_a_frozen_value(kind):
    spec = kind()
    assert spec == kind()
    assert hash(spec) == hash(kind())
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.time_limit = 3


@pytest.mark.parametrize("limit", [0, -1])
def test_time_limit_is_checked(kind, limit):
    with pytest.raises(UserError, match=rf"env\.time_limit is {limit}; "):
        kind(time_limit=limit)


def signatures(tree):
    """Shape, dtype and weakness of type of every leaf, and the tree's structure."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in leaves]


@pytest.mark.parametrize("shape", [(), (E,)])
def test_shapes_and_dtypes(kind, shape):
    """And a step returns what a reset does, so that a scan can carry either."""
    spec = kind()
    env = spec.vectorise(E) if shape else spec.build()
    key, action = jax.random.key(0), action_shape(env, shape)
    reset = jax.eval_shape(env.reset, env.params, key)
    step = jax.eval_shape(env.step, env.params, key, reset[0], action)
    assert signatures(reset) == signatures(step)
    for leaf in jax.tree.leaves(reset):
        assert leaf.shape[: len(shape)] == shape

    timestep = step[1]
    for observation in (timestep.observation, timestep.final_observation):
        assert observation.shape == shape + env.low.shape
        assert observation.dtype == jnp.float32
    assert env.low.shape == env.high.shape
    assert env.low.dtype == env.high.dtype == np.float32
    assert np.all(env.low <= env.high)
    assert timestep.reward.shape == shape
    assert timestep.reward.dtype == jnp.float32
    for flag in (timestep.terminated, timestep.truncated):
        assert flag.shape == shape
        assert flag.dtype == bool
    for metric in timestep.metrics.values():
        assert metric.shape == shape
    assert env.num_actions >= 1


def test_functions_can_be_vmapped_over_seeds_and_parameters(kind):
    env = kind().vectorise(E)
    size = 4
    keys = jax.random.split(jax.random.key(0), size)
    params = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf)] * size), env.params)
    state, first = jax.eval_shape(jax.vmap(env.reset), params, keys)
    action = action_shape(env, (size, E))
    new, timestep = jax.eval_shape(jax.vmap(env.step), params, keys, state, action)
    assert signatures((state, first)) == signatures((new, timestep))
    assert timestep.observation.shape == (size, E, *env.low.shape)


def test_nothing_is_compiled_twice(played):
    assert played.compiled_again == []


def test_the_same_keys_give_the_same_steps(played):
    jax.tree.map(np.testing.assert_array_equal, played.steps, played.again)


def test_a_reset_gives_no_reward_and_ends_nothing(played):
    assert not np.any(played.first.reward)
    assert not np.any(played.first.done)
    np.testing.assert_array_equal(played.first.observation, played.first.final_observation)


def test_observations_stay_within_their_limits(batched):
    """As long as episodes run; what follows an end by the task's rules is nobody's business."""
    env, steps = batched.env, batched.steps
    running = steps.final_observation[~steps.terminated]
    for observation in (batched.first.observation, steps.observation, running):
        assert np.all(observation >= env.low)
        assert np.all(observation <= env.high)
    for value in jax.tree.leaves(steps):
        assert np.all(np.isfinite(value))


def test_an_environment_alone_knows_no_time_limit(single):
    assert not np.any(single.steps.truncated)
    np.testing.assert_array_equal(single.steps.observation, single.steps.final_observation)


def test_episodes_start_anew(batched):
    """Lengths count up to an end and from 1 again, and only there is the observation replaced."""
    steps = batched.steps
    done = steps.terminated | steps.truncated
    expected = np.zeros(done.shape, int)
    for number in range(STEPS):
        before = expected[number - 1] * ~done[number - 1] if number else 0
        expected[number] = before + 1
    np.testing.assert_array_equal(steps.metrics["episode_length"], expected)
    np.testing.assert_array_equal(steps.truncated, expected == LIMIT)
    assert np.all(done.sum(0) >= STEPS // LIMIT)
    np.testing.assert_array_equal(steps.observation[~done], steps.final_observation[~done])


def test_returns_add_up(batched):
    steps = batched.steps
    done = steps.terminated | steps.truncated
    total = np.zeros(E)
    for number in range(STEPS):
        total += steps.reward[number]
        np.testing.assert_allclose(steps.metrics["episode_return"][number], total, atol=1e-4)
        total = np.where(done[number], 0.0, total)


def test_chance_is_that_of_the_key(batched):
    """Environments that draw anything differ by key and side by side; the others don't by key."""
    env = batched.spec.build()
    key, action = jax.random.key(0), action_shape(env, ())
    state, _ = jax.eval_shape(env.reset, env.params, key)
    program = jax.make_jaxpr(lambda *x: (env.reset(*x[:2]), env.step(*x)))
    draws = "random_bits" in str(program(env.params, key, state, action))
    shown, other = (
        np.concatenate([steps.final_observation, steps.reward[..., None]], -1)
        for steps in (batched.steps, batched.other)
    )
    assert np.any(shown != other) == draws
    if draws:
        assert np.any(shown[:, 0] != shown[:, 1])
