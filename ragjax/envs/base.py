"""What every environment is: a frozen spec that builds pure functions.

A new environment is one new file in this package with one frozen dataclass that subclasses
`Environment`; its fields are the constants that a config may change.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ragjax.envs import wrappers
from ragjax.envs.conversation import Conversation
from ragjax.envs.scene import Scene
from ragjax.errors import require
from ragjax.text import counted
from ragjax.types import Env, QaData, Timestep

NUMBERS = 4  # of a passage's features that describe it, where its environment says no more


class EpisodeList(NamedTuple):
    """Every episode that an environment has, to be played once each.

    Attributes:
      env: a batch of environments, of which number i starts with episode i; after the last episode they
        begin again with the first, if each is to be played several times.
      ids: names of the episodes, such as those of their questions.
      kinds: the kind of each; a mean over all episodes counts every kind alike.
    """

    env: Env
    ids: tuple[str, ...]
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Environment:
    """The spec of an environment.

    Attributes:
      name: unique among environments; it names the directory of runs.
      time_limit: steps after which an episode is truncated.
      history: whether observations hold the whole episode so far, in `time_limit` + 1 rows
        (`wrappers.episode_history`), which policies with a latent passage of the episode need.
      traceable: whether its functions can be vmapped, over seeds for example.
      splits: names of the splits that its episodes come in, () if it knows none.
    """

    name: ClassVar[str]
    traceable: ClassVar[bool] = True
    splits: ClassVar[tuple[str, ...]] = ()

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

    def same_for_all_seeds(self) -> bool:
        """Whether runs of several seeds can share it in one program; not if each has a trained part."""
        return True

    def of_run(self, run_dir: Path, seed: int) -> "Environment":
        """The spec with paths that a run in `run_dir` can find from anywhere; itself by default."""
        del run_dir, seed
        return self

    def prepare(self, seed: int) -> "Environment":
        """The environment as a run of this seed uses it, with what it has to load; itself by default."""
        del seed
        return self

    def on_split(self, split: str) -> "Environment":
        """The environment to learn in ("train") or to be measured in ("dev", "test"); itself by default.

        Called on what `prepare` returned.
        """
        del split
        return self

    def for_answering(self) -> "Environment":
        """An environment of the same shapes that is quick to make, though nobody can play it.

        It is what a policy is restored with that only answers questions. Itself by default; called on
        what `prepare` returned.
        """
        return self

    def origins(self) -> dict[str, Any]:
        """The runs that it is built on, see `Learner.origins`; called on what `prepare` returned."""
        return {}

    def asks(self) -> tuple[str, QaData] | None:
        """The name of the task whose questions its episodes ask, and its rows; None if there is none.

        Called on what `prepare` returned.
        """
        return None

    def answer(self, act: Callable[[Array], Any], text: str) -> dict[str, Any] | None:
        """Lets a policy answer one question; None of an environment that answers none.

        Called on what `prepare` returned.

        Args:
          act: observation [E,O] -> action distribution.
          text: the question.

        Returns:
          {"question", "answer" (None if it gives none), "probability", "notes", ...}.
        """
        del act, text
        return None

    def guard(self) -> contextlib.AbstractContextManager[None]:
        """A context in which its functions run; it raises what went wrong outside JAX."""
        return contextlib.nullcontext()

    def every_episode(self, times: int = 1) -> EpisodeList | None:
        """Every episode of the split, each in its own environment; None where they can't be listed.

        Called on what `on_split` returned.

        Args:
          times: environments for each episode.
        """
        del times
        return None

    def scene(self, params: Any, state: Any) -> Scene | None:
        """What is seen of a state; None of an environment that `ragjax render` can't draw.

        Called on what `on_split` returned, with NumPy's arrays. A few lines do:

            def scene(self, params, state):
                track = Line([(-2.4, 0.0), (2.4, 0.0)], role="ground")
                cart = Rectangle(state.position, 0.0, 0.5, 0.3)
                return Scene([track, cart], x=(-3.0, 3.0), y=(-1.0, 2.0))

        Args:
          params: those of `build`.
          state: that of `build`, without those of the wrappers.
        """
        del params, state
        return None

    def conversation(self) -> Conversation | None:
        """A dialogue with a person in its user's place; None of an environment that isn't one."""
        return None

    def action_name(self, action: int) -> str:
        """What an action is called where a policy's choices are shown; its number by default."""
        return str(action)

    def describe_action(self, action: np.ndarray) -> str:
        """An action in words, also one that is a slate [slate]; the names of its parts by default."""
        return ", ".join(self.action_name(int(part)) for part in np.ravel(action))

    def describe_passage(self, row: int, content: np.ndarray) -> str:
        """What one of its passages says, in a few words; its first numbers by default.

        Called on what `on_split` returned.

        Args:
          row: of the passage.
          content: [F] its features, or [P] its tokens.
        """
        del row
        numbers = " ".join(f"{number:.3g}" for number in content[:NUMBERS].tolist())
        more = len(content) - NUMBERS
        return f"{numbers} and {counted(more, 'more number')}" if more > 0 else numbers

    def build(self) -> Env:
        """Returns one episode's functions, without a time limit and without resets."""
        raise NotImplementedError

    def vectorise(self, num_envs: int) -> Env:
        """Returns `num_envs` environments side by side, [E] leading every array.

        Episodes end at the time limit, start anew by themselves, and report their return and length.
        """
        return wrappers.batch(wrappers.auto_reset(self.whole_episode(self.build())), num_envs)

    def watched(self, num_envs: int) -> Env:
        """As `vectorise`, step by step under the same keys, until an episode ends: none starts anew."""
        return wrappers.batch(wrappers.without_reset(self.whole_episode(self.build())), num_envs)

    def whole_episode(self, env: Env) -> Env:
        """One episode's functions with the time limit and the history of this spec, and statistics."""
        env = wrappers.time_limit(env, self.time_limit)
        if self.history:
            env = wrappers.episode_history(env, self.time_limit)
        return wrappers.episode_statistics(env)


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
