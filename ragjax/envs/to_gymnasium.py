"""Environments of this package as Gymnasium's, for other libraries to learn in."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ragjax.envs import wrappers
from ragjax.envs.base import Environment
from ragjax.envs.from_gymnasium import import_gymnasium
from ragjax.types import Env

if TYPE_CHECKING:  # an extra, imported when it is needed
    import gymnasium


def as_gymnasium(spec: Environment) -> "gymnasium.Env":
    """Returns a `gymnasium.Env` that plays single episodes, truncated at the spec's time limit.

    Each reset draws the seed of its episode's PRNG key from Gymnasium's `np_random`:
    `PRNGKey(np_random.integers(2**31))`.

    Args:
      spec: an environment of this package.

    Raises:
      UserError: Gymnasium isn't installed.
    """
    gym = import_gymnasium()
    env = wrappers.time_limit(spec.build(), spec.limit)
    reset, step = _jitted(env)

    class Single(gym.Env):
        metadata = {"render_modes": []}  # noqa: RUF012 - as Gymnasium declares it

        def __init__(self):
            self.observation_space, self.action_space = _spaces(gym, env)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed, options=options)
            self._carry, timestep = reset(env.params, _key(self.np_random))
            return np.array(timestep.observation), {}

        def step(self, action):
            self._carry, timestep = step(env.params, self._carry, np.asarray(action, np.int32))
            reward, over = float(timestep.reward), bool(timestep.terminated)
            return np.array(timestep.observation), reward, over, bool(timestep.truncated), {}

    return Single()


def as_gymnasium_vector(spec: Environment, num_envs: int) -> "gymnasium.vector.VectorEnv":
    """Returns a `gymnasium.vector.VectorEnv` whose environments start anew in the same step.

    The last observation of an episode is then in `infos["final_obs"]`, as `SyncVectorEnv` has it in the
    mode `SAME_STEP`. Seeds work as those of `as_gymnasium`, one for all environments.

    Args:
      spec: an environment of this package.
      num_envs: E.

    Raises:
      UserError: Gymnasium isn't installed.
    """
    gym = import_gymnasium()
    env = spec.vectorise(num_envs)
    reset, step = _jitted(env)
    count = num_envs

    class Vector(gym.vector.VectorEnv):
        metadata = {  # noqa: RUF012 - as Gymnasium declares it
            "render_modes": [],
            "autoreset_mode": gym.vector.AutoresetMode.SAME_STEP,
        }

        def __init__(self):
            self.num_envs = count
            batch_space = gym.vector.utils.batch_space
            self.single_observation_space, self.single_action_space = _spaces(gym, env)
            self.observation_space = batch_space(self.single_observation_space, count)
            self.action_space = batch_space(self.single_action_space, count)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed, options=options)
            self._carry, timestep = reset(env.params, _key(self.np_random))
            return np.array(timestep.observation), {}

        def step(self, actions):
            self._carry, timestep = step(env.params, self._carry, np.asarray(actions, np.int32))
            timestep = jax.tree.map(np.array, timestep)
            infos: dict[str, Any] = {}
            for row in np.flatnonzero(timestep.done):
                ended = {"final_obs": timestep.final_observation[row], "final_info": {}}
                infos = self._add_info(infos, ended, row)
            reward = timestep.reward.astype(np.float64)
            return timestep.observation, reward, timestep.terminated, timestep.truncated, infos

    return Vector()


def _key(np_random: np.random.Generator) -> Any:
    return jax.random.PRNGKey(int(np_random.integers(2**31)))


def _jitted(env: Env) -> tuple[Any, Any]:
    """Jitted `reset` and `step` whose carry holds the PRNG key as well as the state."""

    def reset(params, key):
        reset_key, key = jax.random.split(key)
        state, timestep = env.reset(params, reset_key)
        return (state, key), timestep

    def step(params, carry, action):
        state, key = carry
        step_key, key = jax.random.split(key)
        state, timestep = env.step(params, step_key, state, action)
        return (state, key), timestep

    return jax.jit(reset), jax.jit(step)


def _spaces(gym: Any, env: Env) -> tuple[Any, Any]:
    """Returns the spaces of observations and actions; no bound is that of float32.

    A slate is several integers, which have to be distinct, though the space can't say so.
    """
    bound = np.finfo(np.float32).max
    low, high = np.clip([env.low, env.high], -bound, bound)
    box = gym.spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
    if env.slate:
        return box, gym.spaces.MultiDiscrete([env.num_actions] * env.slate)
    return box, gym.spaces.Discrete(env.num_actions)
