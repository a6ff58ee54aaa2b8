"""Lookup: what to do is written in one of N passages, and the observation says in which.

A small environment to retrieve in: the state names a passage by its key, and the passage says which
action is right. All of it can be enumerated, so exact gradients are at hand. Other passages that say the
same serve as well, and an encoder of enough width can learn by heart which these are.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int

from ragjax.envs.base import Environment, timestep
from ragjax.envs.scene import Label, Rectangle, Scene, Shape
from ragjax.errors import require
from ragjax.ranges import SEED
from ragjax.types import Env, Leaf, PRNGKey, Timestep


@struct.dataclass
class PassageTable:
    """The passages.

    Attributes:
      keys: [N,W] unit vectors.
      answers: [N] what each passage says.
      noise: [] deviation of what is observed of a key.
    """

    keys: Leaf
    answers: Leaf
    noise: Leaf


@struct.dataclass
class State:
    """The passage [] that is named, and the steps [] of the episode so far."""

    passage: Leaf
    steps: Leaf


@dataclass(frozen=True)
class Lookup(Environment):
    """Reward 1 for each step with the right action, which is (what the passage says + step) modulo A.

    An episode has `steps` steps and names its passage in the first one alone: later ones show zeros in
    the key's place. The metric `gold` is the row of the named passage. Observation [W + steps]: the key,
    with Gaussian noise, and the step as one-hot.
    Passages [N, W + A]: the key, and what the passage says as one-hot.

    Attributes:
      passages: N.
      actions: A.
      key_width: W.
      steps: of an episode.
      noise: deviation of the noise on each number of a key.
      passage_seed: seed that the passages are made from.
    """

    name: ClassVar[str] = "lookup"

    passages: int = 32
    actions: int = 4
    key_width: int = 16
    steps: int = 1
    noise: float = 0.0
    passage_seed: int = field(default=0, metadata=SEED)

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        for name in ("passages", "actions", "key_width", "steps"):
            value = getattr(self, name)
            require(value >= 1, f"env.{name} is {value}; it must be at least 1.")
        require(
            self.passage_seed >= 0,
            f"env.passage_seed is {self.passage_seed}; it must not be negative.",
        )
        require(self.noise >= 0, f"env.noise is {self.noise}; it must not be negative.")
        require(
            self.steps <= self.time_limit,
            f"env.steps is {self.steps}, more than env.time_limit {self.time_limit}; an episode has to "
            "end by itself.",
        )

    def scene(self, params: PassageTable, state: State) -> Scene:
        """The table of passages with what each says; those that say the right thing are marked."""
        across = math.ceil(math.sqrt(1.6 * self.passages))
        named, steps = int(state.passage), int(state.steps)
        said = int(params.answers[named])
        shapes: list[Shape] = []
        for row, answer in enumerate(params.answers.tolist()):
            x, y = row % across, row // across
            role = "goal" if row == named else "part" if answer == said else "muted"
            shapes += [
                Rectangle(x, y, 0.92, 0.92, role=role),
                Label(x, y - 0.2, f"{row}", height=0.26),
                Label(x, y + 0.15, f"{answer}", height=0.42),
            ]
        return Scene(
            shapes,
            x=(-0.6, across - 0.4),
            y=(math.ceil(self.passages / across) - 0.4, -0.6),
            caption=f"passage {named} is named and says {said}; step {steps} of {self.steps}, "
            f"so action {(said + steps) % self.actions} is right"
            if steps < self.steps
            else f"passage {named} was named and says {said}",
        )

    def describe_passage(self, row: int, content: np.ndarray) -> str:
        """What it says."""
        del row
        return f"says {content[self.key_width :].argmax()}"

    def build(self) -> Env:
        """Returns one episode's functions, without a time limit and without resets."""
        random = np.random.default_rng(self.passage_seed)
        keys = random.normal(size=(self.passages, self.key_width)).astype(np.float32)
        keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
        answers = random.permutation(np.arange(self.passages) % self.actions).astype(np.int32)
        said = np.eye(self.actions, dtype=np.float32)[answers]

        def observe(cue: Array, steps: Int[Array, ""]) -> Array:
            return jnp.concatenate([cue, (jnp.arange(self.steps) == steps).astype(jnp.float32)])

        def named(made: Timestep, passage: Array) -> Timestep:
            return dataclasses.replace(made, metrics={"gold": passage})

        def reset(table: PassageTable, key: PRNGKey) -> tuple[State, Timestep]:
            which, blur = jax.random.split(key)
            passage = jax.random.randint(which, (), 0, self.passages)
            cue = table.keys[passage] + table.noise * jax.random.normal(blur, (self.key_width,))
            steps = jnp.zeros((), jnp.int32)
            return State(passage, steps), named(timestep(observe(cue, steps)), passage)

        def step(
            table: PassageTable, key: PRNGKey, state: State, action: Int[Array, ""]
        ) -> tuple[State, Timestep]:
            del key
            right = (table.answers[state.passage] + state.steps) % self.actions
            reward = (action == right).astype(jnp.float32)
            steps = state.steps + 1
            shown = observe(jnp.zeros((self.key_width,)), steps)
            made = timestep(shown, reward, terminated=steps >= self.steps)
            return State(state.passage, steps), named(made, state.passage)

        high = np.full((self.key_width + self.steps,), np.inf, np.float32)
        table = PassageTable(jnp.asarray(keys), jnp.asarray(answers), jnp.float32(self.noise))
        passages = jnp.asarray(np.concatenate([keys, said], axis=-1))
        parts = {"key": self.key_width, "action": self.actions}
        env = Env(table, reset, step, self.actions, low=-high, high=high, passages=passages)
        return env._replace(passage_parts=parts)
