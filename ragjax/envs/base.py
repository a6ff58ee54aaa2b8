"""What every environment is: a frozen spec that builds pure functions.

A new environment is one new file in this package with one frozen dataclass that subclasses
`Environment`; its fields are the constants that a config may change.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from ragjax.envs import wrappers
from ragjax.errors import require
from ragjax.types import Env, Timestep


@dataclass(frozen=True)
class Environment:
    """The spec of an environment.

    Attributes:
      name: unique among environments; it names the directory of runs.
      time_limit: steps after which an episode is truncated.
      history: whether observations hold the whole episode so far, in `time_limit` + 1 rows
        (`wrappers.episode_history`), which policies with a latent passage of the episode need.
      traceable: whether its functions can be vmapped, over seeds for example.
      stands_alone: whether it can be built as it is; others are bound to a trained reader first.
    """

    name: ClassVar[str]
    traceable: ClassVar[bool] = True
    stands_alone: ClassVar[bool] = True

    time_limit: int = 500
    history: bool = False

    def __post_init__(self):
        """Checks the fields."""
        require(
            self.time_limit >= 1,
            f"env.time_limit is {self.time_limit}; an episode needs at least 1 step.",
        )

    @property
    def limit(self) -> int:
        """Steps within which every episode ends."""
        return self.time_limit

    def bind(self, split: str, open_book: Callable[[Any, str], Any]) -> "Environment":
        """The environment to learn in (split "train") or to be measured in ("dev" and "test").

        Args:
          split: of the questions, where there are any; other environments know no splits.
          open_book: (environment, split) -> what a trained reader makes of its questions.
        """
        del split, open_book
        return self

    def build(self) -> Env:
        """Returns one episode's functions, without a time limit and without resets."""
        raise NotImplementedError

    def vectorise(self, num_envs: int) -> Env:
        """Returns `num_envs` environments side by side, [E] leading every array.

        Episodes end at the time limit, start anew by themselves, and report their return and length.
        """
        env = wrappers.time_limit(self.build(), self.time_limit)
        if self.history:
            env = wrappers.episode_history(env, self.time_limit)
        return wrappers.batch(wrappers.auto_reset(wrappers.episode_statistics(env)), num_envs)


def timestep(
    observation: Array, reward: Any = 0.0, terminated: Any = False, truncated: Any = False
) -> Timestep:
    """The `Timestep` of an environment proper: no metrics, and no reset has replaced anything."""
    return Timestep(
        observation=observation,
        reward=jnp.asarray(reward, jnp.float32),
        terminated=jnp.asarray(terminated, bool),
        truncated=jnp.asarray(truncated, bool),
        final_observation=observation,
        metrics={},
    )
