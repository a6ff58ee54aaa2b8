"""An environment that retrieves: the state names a sign, and the sign says which way to go."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ragjax.envs.base import Environment, timestep
from ragjax.types import Env


@dataclass(frozen=True)
class Signs(Environment):
    """One step: reward 1 for the way that the named sign shows.

    Attributes:
      signs: how many there are.
    """

    name: ClassVar[str] = "signs"

    time_limit: int = 1
    signs: int = 8

    def build(self) -> Env:
        names = np.eye(self.signs, dtype=np.float32)
        ways = np.arange(self.signs) % 2
        passages = jnp.asarray(np.concatenate([names, np.eye(2, dtype=np.float32)[ways]], axis=-1))
        params = {"names": jnp.asarray(names), "ways": jnp.asarray(ways)}

        def reset(params, key):
            sign = jax.random.randint(key, (), 0, self.signs)
            return sign, timestep(params["names"][sign])

        def step(params, key, sign, action):
            right = (action == params["ways"][sign]).astype(jnp.float32)
            return sign, timestep(params["names"][sign], right, terminated=True)

        low = np.zeros(self.signs, np.float32)
        return Env(params, reset, step, num_actions=2, low=low, high=low + 1, passages=passages)
