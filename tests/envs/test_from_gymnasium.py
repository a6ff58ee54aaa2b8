"""Gymnasium's environments inside jit: the same numbers, and clear words where they fail."""

import json
import sys
import traceback
from importlib import metadata

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ragjax.config import config_json, from_json, to_json
from ragjax.envs.from_gymnasium import Gymnasium, host_errors
from ragjax.errors import UserError
from ragjax.learners.episodes import EpisodesConfig
from ragjax.objectives.a2c import A2C

E = 3
LIMIT = 15
STEPS = 60
PLAIN = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)


class Fake(gymnasium.Env):
    """Shows the number of its step and the last action; the rest is to the tests' liking."""

    observation_space = PLAIN
    action_space = gymnasium.spaces.Discrete(3, start=5)
    broken: str | None = None

    def __init__(self, **attributes):
        for name, value in attributes.items():
            setattr(self, name, value)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2), {}

    def step(self, action):
        self.steps += 1
        late = self.steps == 4
        shown, reward = float(self.steps), 0.5
        if late and self.broken == "observation":
            shown = np.nan
        if late and self.broken == "reward":
            reward = np.inf
        if late and self.broken == "crash":
            raise KeyError("a bug of the environment")
        return np.array([shown, action]), reward, False, False, {}


def not_installed():
    raise gymnasium.error.DependencyNotInstalled("Box2D is missing, run `pip install box2d`.")


@pytest.fixture(scope="module", autouse=True)
def registered():
    spaces = gymnasium.spaces
    kinds = {
        "Plain": {},
        "BadObservation": {"broken": "observation"},
        "BadReward": {"broken": "reward"},
        "Crash": {"broken": "crash"},
        "Many": {"action_space": spaces.MultiDiscrete([2, 3])},
        "Listed": {"observation_space": spaces.Sequence(spaces.Discrete(4))},
    }
    ids = [f"{kind}-v0" for kind in kinds]
    for name, kwargs in zip(ids, kinds.values(), strict=True):
        gymnasium.register(name, Fake, max_episode_steps=9, kwargs=kwargs)
    gymnasium.register("Endless-v0", Fake)
    gymnasium.register("NoBox2D-v0", not_installed)
    yield
    for name in [*ids, "Endless-v0", "NoBox2D-v0"]:
        del gymnasium.registry[name]


def roll(env):
    """(state, [T,E] actions) -> the last state and [T,E] timesteps, by a scan inside jit."""

    def step(state, action):
        return env.step(env.params, jax.random.PRNGKey(0), state, action)

    return jax.jit(lambda state, actions: jax.lax.scan(step, state, actions))


@pytest.fixture(scope="module")
def played():
    """CartPole: key, [T,E] actions, the first timestep and the [T,E] ones after it."""
    env = Gymnasium(time_limit=LIMIT).vectorise(E)
    actions = np.random.default_rng(0).integers(2, size=(STEPS, E)).astype(np.int32)
    key = jax.random.PRNGKey(3)
    with host_errors():
        state, first = jax.jit(env.reset)(env.params, key)
        _, steps = roll(env)(state, actions)
    return key, actions, jax.tree.map(np.asarray, first), jax.tree.map(np.asarray, steps)


def test_the_trajectory_is_gymnasiums(played):
    key, actions, first, steps = played
    seeds = np.asarray(jax.random.bits(key, (E,), jnp.uint32)).tolist()
    for row in range(E):
        env = gymnasium.make("CartPole-v1", max_episode_steps=LIMIT)
        observation, _ = env.reset(seed=seeds[row])
        np.testing.assert_array_equal(first.observation[row], observation)
        total = length = 0
        for t in range(STEPS):
            final, reward, terminated, truncated, _ = env.step(actions[t, row])
            total, length = total + reward, length + 1
            np.testing.assert_array_equal(steps.final_observation[t, row], final)
            assert steps.reward[t, row] == reward
            assert steps.terminated[t, row] == terminated
            assert steps.truncated[t, row] == truncated
            assert steps.metrics["episode_return"][t, row] == total
            assert steps.metrics["episode_length"][t, row] == length
            observation = final
            if terminated or truncated:
                observation, _ = env.reset()
                total = length = 0
            np.testing.assert_array_equal(steps.observation[t, row], observation)


def test_both_ends_of_an_episode_are_told_apart(played):
    *_, steps = played
    assert (steps.terminated & ~steps.truncated).any()
    assert (steps.truncated & ~steps.terminated).any()
    limit = steps.metrics["episode_length"] == LIMIT
    np.testing.assert_array_equal(steps.truncated, limit)
    same = (steps.observation == steps.final_observation).all(-1)
    np.testing.assert_array_equal(same, ~steps.done)


def test_the_first_timestep(played):
    _, _, first, _ = played
    assert not first.done.any()
    assert not first.reward.any()
    np.testing.assert_array_equal(first.observation, first.final_observation)
    assert not first.metrics["episode_return"].any()
    assert not first.metrics["episode_length"].any()
    assert len(np.unique(first.observation, axis=0)) == E


def test_types_are_those_of_our_own_environments(played):
    from ragjax.envs.cartpole import CartPole

    *_, steps = played
    ours = CartPole().vectorise(E)
    _, first = jax.eval_shape(ours.reset, ours.params, jax.random.PRNGKey(0))
    assert jax.tree.structure(first) == jax.tree.structure(steps)
    for mine, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(steps), strict=True):
        assert (STEPS, *mine.shape) == theirs.shape
        assert mine.dtype == theirs.dtype
    env = Gymnasium().vectorise(E)
    assert env.num_actions == ours.num_actions
    np.testing.assert_array_equal(env.low, ours.low)
    np.testing.assert_array_equal(env.high, ours.high)


def test_a_new_key_starts_other_episodes_and_an_old_one_the_same():
    env = Gymnasium().vectorise(E)
    reset = jax.jit(env.reset)
    with host_errors():
        first, again, other = (
            reset(env.params, jax.random.PRNGKey(seed))[1].observation for seed in (0, 0, 1)
        )
    np.testing.assert_array_equal(first, again)
    assert not np.isclose(first, other).any()


def test_actions_start_where_the_space_does_and_float64_becomes_float32():
    env = Gymnasium(id="Plain-v0", time_limit=4).vectorise(2)
    assert env.num_actions == 3
    assert env.low.dtype == np.float32
    assert np.isinf([env.low, env.high]).all()
    with host_errors():
        state, _ = env.reset(env.params, jax.random.key(0))  # typed keys do as well
        _, steps = roll(env)(state, jnp.asarray([[0, 1], [2, 0], [1, 1], [0, 2], [1, 0]]))
    np.testing.assert_array_equal(
        steps.final_observation[..., 1] - 5, [[0, 1], [2, 0], [1, 1], [0, 2], [1, 0]]
    )
    np.testing.assert_array_equal(steps.final_observation[:, 0, 0], [1, 2, 3, 4, 1])
    np.testing.assert_array_equal(steps.metrics["episode_return"][:, 0], [0.5, 1, 1.5, 2, 0.5])
    np.testing.assert_array_equal(steps.truncated[:, 0], [False, False, False, True, False])


def test_the_limit_is_the_registered_one_unless_set():
    assert Gymnasium().limit == 500
    assert Gymnasium(id="Plain-v0").limit == 9
    assert Gymnasium(id="Plain-v0", time_limit=20).limit == 20
    assert Gymnasium(id="Endless-v0", time_limit=20).limit == 20


def test_it_is_no_environment_to_vmap():
    assert not Gymnasium.traceable
    with pytest.raises(NotImplementedError, match="use vectorise"):
        Gymnasium().build()
    env = Gymnasium().vectorise(E)
    keys = jax.random.split(jax.random.PRNGKey(0), 2)
    with pytest.raises(ValueError, match="Cannot `vmap` ordered IO callback"):
        jax.vmap(env.reset, (None, 0))(env.params, keys)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "CartPol-v1",
            "env.id is 'CartPol-v1', which Gymnasium can't make; did you mean CartPole-v1 or ",
        ),
        ("?", "env.id is '?', which Gymnasium can't make; choose another one."),
        (
            "no_such_module:Some-v0",
            "env.id 'no_such_module:Some-v0' needs a package that isn't installed (No module named "
            "'no_such_module'. ",
        ),
        (
            "NoBox2D-v0",
            "env.id 'NoBox2D-v0' needs a package that isn't installed (Box2D is missing, run "
            "`pip install box2d`); install it, or choose another environment.",
        ),
        (
            "Pendulum-v1",
            "env.id 'Pendulum-v1' has the action space Box(-2.0, 2.0, (1,), float32), but a policy "
            "here chooses among discrete actions; choose an environment with a Discrete action space.",
        ),
        (
            "Many-v0",
            "env.id 'Many-v0' has the action space MultiDiscrete([2 3]), but a policy here chooses "
            "among discrete actions; choose an environment with a Discrete action space.",
        ),
        (
            "Listed-v0",
            "env.id 'Listed-v0' has the observation space Sequence(Discrete(4), stack=False), but a "
            "policy here reads one array of numbers; name a wrapper in env.wrappers that makes one.",
        ),
        (
            "Endless-v0",
            "Gymnasium registers no time limit for env.id 'Endless-v0'; set env.time_limit.",
        ),
    ],
)
def test_an_environment_that_will_not_do(name, sentence):
    with pytest.raises(UserError) as caught:
        Gymnasium(id=name).vectorise(E)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def play(spec, actions):
    """The first timestep and the [T,E] ones after it, of one environment."""
    env = spec.vectorise(1)
    with host_errors():
        state, first = env.reset(env.params, jax.random.PRNGKey(0))
        _, steps = roll(env)(state, jnp.asarray(actions)[:, None])
    return env, first, steps


def test_numbered_observations_are_one_hot():
    """FrozenLake without ice: right, right, down from the top left corner."""
    spec = Gymnasium(id="FrozenLake-v1", kwargs='{"is_slippery": false}')
    env, first, steps = play(spec, [2, 2, 1])
    assert env.low.shape == (16,)
    assert (env.low.min(), env.high.max(), env.low.dtype) == (0, 1, np.float32)
    places = [first.observation[0], *steps.observation[:, 0]]
    np.testing.assert_array_equal(places, np.eye(16)[[0, 1, 2, 6]])
    assert first.observation.dtype == np.float32


def test_an_episode_ends_in_the_observation_that_it_led_to():
    """Down and right into the hole: the next observation is that of a new episode."""
    _, _, steps = play(Gymnasium(id="FrozenLake-v1", kwargs='{"is_slippery": false}'), [1, 2])
    assert steps.terminated[1, 0]
    assert np.argmax(steps.final_observation[1, 0]) == 5
    assert np.argmax(steps.observation[1, 0]) == 0


def test_arguments_reach_the_environment():
    spec = Gymnasium(id="FrozenLake-v1", kwargs='{"map_name": "8x8"}')
    assert spec.vectorise(1).low.shape == (64,)
    assert from_json(json.loads(json.dumps(to_json(spec)))) == spec


@pytest.mark.parametrize(("name", "size"), [("Taxi-v4", 500), ("Blackjack-v1", 32 + 11 + 2)])
def test_composed_observations_become_one_array(name, size):
    env, _, steps = play(Gymnasium(id=name, time_limit=5), [0, 1, 0])
    assert env.low.shape == steps.observation.shape[2:] == (size,)
    assert set(np.unique(steps.observation)) == {0.0, 1.0}


class Louder(gymnasium.ObservationWrapper):
    """Shows ten times the observation."""

    def observation(self, observation):
        return 10 * observation


def by_one(env):
    """Adds one to the observation."""
    return gymnasium.wrappers.TransformObservation(env, lambda seen: seen + 1, PLAIN)


def nothing(env):
    return None


@pytest.mark.parametrize(
    ("wrappers", "shown"),
    [((), [1, 2]), (("Louder",), [10, 20]), (("Louder", "by_one"), [11, 21])],
)
def test_wrappers_go_around_in_order(wrappers, shown, wrapper_module):
    spec = Gymnasium(id="Plain-v0", wrappers=tuple(f"{wrapper_module}.{name}" for name in wrappers))
    _, _, steps = play(spec, [0, 0])
    np.testing.assert_array_equal(steps.observation[:, 0, 0], shown)
    assert spec.limit == 9
    assert from_json(json.loads(json.dumps(to_json(spec))), {wrapper_module: ""}) == spec


@pytest.mark.parametrize(
    ("fields", "modules"),
    [
        ({"id": "CartPole-v1"}, []),
        ({"id": "my_envs.more:Some-v0"}, ["my_envs.more"]),
        ({"id": "a_plugin:ALE/Pong-v5"}, []),
        ({"id": "gymnasium.envs:CartPole-v1"}, []),
        ({"wrappers": ("gymnasium.wrappers.No", "ragjax.some.Thing")}, []),
        (
            {"wrappers": ("mine.wrap", "my.other:Wrapper.of", "alone")},
            ["alone", "mine", "my.other"],
        ),
    ],
)
def test_the_modules_that_it_names_are_listed(fields, modules, monkeypatch):
    """But for those of Gymnasium, and of packages that it imports by their entry points."""
    point = metadata.EntryPoint("ALE", "a_plugin.registration:register", "gymnasium.envs")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point] * (group == point.group))
    config = EpisodesConfig(env=Gymnasium(**fields), algorithm=A2C())
    kept = json.loads(json.dumps(config_json(config)))
    listed = kept.pop("modules")
    assert listed == dict.fromkeys(modules, "")
    assert from_json(kept, listed) == config
    for name in listed:
        with pytest.raises(UserError, match=f"imports '{name}' by its (id|wrappers), but that is"):
            from_json(kept, {other: "" for other in listed if other != name})


@pytest.fixture
def wrapper_module(monkeypatch):
    """The name of a module that holds this file's wrappers."""
    monkeypatch.setitem(sys.modules, "my_wrappers", sys.modules[__name__])
    return "my_wrappers"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"kwargs": "4"}, "env.kwargs is '4'; give a JSON object, such as '{\"size\": 4}'."),
        ({"kwargs": "{"}, "env.kwargs is '{'; give a JSON object"),
        (
            {"kwargs": '{"is_sliper": true}', "id": "FrozenLake-v1"},
            "env.kwargs is '{\"is_sliper\": true}', which env.id 'FrozenLake-v1' refuses (TypeError: ",
        ),
        (
            {"kwargs": '{"id": 1}'},
            "env.kwargs is '{\"id\": 1}', which env.id 'CartPole-v1' refuses",
        ),
        (
            {"wrappers": ("gymnasium.wrappers.No",)},
            "env.wrappers names 'gymnasium.wrappers.No', which can't wrap ",
        ),
        ({"wrappers": ("no_such_module.Any",)}, "env.wrappers names 'no_such_module.Any', which "),
        (
            {"wrappers": ("gymnasium.wrappers.FrameStackObservation",)},
            "env.wrappers names 'gymnasium.wrappers.FrameStackObservation', which can't wrap ",
        ),
        (
            {"wrappers": ("my_wrappers.nothing",)},
            "env.wrappers names 'my_wrappers.nothing', which ",
        ),
    ],
)
def test_arguments_and_wrappers_that_will_not_do(fields, sentence, wrapper_module):
    with pytest.raises(UserError) as caught:
        Gymnasium(**fields).vectorise(1)
    assert str(caught.value).startswith(sentence)
    assert str(caught.value).endswith(".")


def test_a_limit_that_is_not_positive():
    with pytest.raises(UserError, match=r"env\.time_limit is 0; an episode needs at least 1 step"):
        Gymnasium(time_limit=0)


def test_gymnasium_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(UserError) as caught:
        Gymnasium().vectorise(E)
    assert str(caught.value) == (
        "environments of Gymnasium need the package 'gymnasium', which isn't installed: "
        "run `pip install gymnasium`"
    )


def start(name):
    """Returns the environments, their first state and 6 actions for each, 2 more than they stand."""
    env = Gymnasium(id=name).vectorise(2)
    state, _ = env.reset(env.params, jax.random.PRNGKey(0))
    return env, state, jnp.zeros((6, 2), jnp.int32)


@pytest.mark.parametrize(
    ("name", "words"),
    [("BadObservation-v0", "nan in an observation"), ("BadReward-v0", "inf in a reward")],
)
def test_what_is_not_finite_ends_the_run(name, words):
    mend = "mend it, or set env.id to another one."
    sentence = f"the Gymnasium environment '{name}' returned {words}; {mend}"
    env, state, actions = start(name)
    with pytest.raises(UserError) as caught, host_errors():
        _, steps = roll(env)(state, actions)
    assert str(caught.value) == sentence
    # Those who don't ask for the error don't get anything that looks like data, nor wait for an end.
    assert not np.isnan(steps.reward[:3]).any()
    assert not steps.done[:3].any()
    assert np.isnan(steps.observation[3:]).all()
    assert np.isnan(steps.reward[3:]).all()
    assert steps.terminated[3:].all()
    assert (steps.metrics["episode_length"][3:] == 1).all()
    # It stays so, and every block says why.
    with pytest.raises(UserError, match=words), host_errors():
        env.reset(env.params, jax.random.PRNGKey(0))


def test_the_error_replaces_one_that_follows_from_it():
    env, state, actions = start("BadObservation-v0")

    def train():
        with host_errors(), host_errors():
            _, steps = roll(env)(state, actions)
            if np.isnan(steps.reward).any():
                raise ValueError("the loss is nan")

    with pytest.raises(UserError, match="nan in an observation") as caught:
        train()
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(ValueError, match="another error"), host_errors():
        raise ValueError("another error")


def test_an_environment_that_crashes_is_named_with_the_place():
    env, state, actions = start("Crash-v0")
    said = rf"'Crash-v0' failed \(KeyError: 'a bug of the environment'; in {__file__}, line \d+\)"
    with pytest.raises(UserError, match=said) as caught, host_errors():
        roll(env)(state, actions)
    cause = caught.value.__cause__
    assert isinstance(cause, KeyError)
    assert traceback.extract_tb(cause.__traceback__)[-1].name == "step"


def test_a_state_that_is_not_the_last_one_is_refused():
    env, state, actions = start("Plain-v0")
    step = jax.jit(env.step)
    key = jax.random.PRNGKey(0)
    with host_errors():
        step(env.params, key, state, actions[0])
    with (
        pytest.raises(RuntimeError, match=r"stands after call 2 .* from where call 1 led"),
        host_errors(),
    ):
        step(env.params, key, state, actions[0])


def test_a_failure_on_two_devices_does_not_hang():
    mesh = Mesh(np.asarray(jax.devices()[:2]), "d")
    env, state, _ = start("BadObservation-v0")
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("d",), ()))

    @jax.jit
    def run(weights, state):
        def step(carry, _):
            state, reward = carry
            total = (weights * reward[0]).sum()  # over both devices, in each step
            action = jnp.where(total > 0, jnp.ones(2, jnp.int32), 0)
            state, timestep = env.step(env.params, jax.random.PRNGKey(0), state, action)
            return (state, timestep.reward), timestep.reward

        return jax.lax.scan(step, (state, jnp.zeros(2)), length=6)

    weights = jax.device_put(jnp.ones(4), split)
    with pytest.raises(UserError, match="nan in an observation"), host_errors():
        _, reward = run(weights, jax.device_put(state, whole))
    assert np.isnan(reward[3:]).all()
