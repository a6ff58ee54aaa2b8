"""Catch: a ball falls, and a paddle on the ground has to be below it when it arrives.

The task of Mnih et al. (2014), "Recurrent models of visual attention", in the form of bsuite (Osband
et al., 2020, arXiv 1908.03568): 10 rows, 5 columns, and pixels that are on or off.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int

from ragjax.envs.base import Environment, timestep
from ragjax.envs.scene import Circle, Line, Rectangle, Scene
from ragjax.errors import require
from ragjax.types import Env, Leaf, PRNGKey, Timestep


@struct.dataclass
class State:
    """The ball's row, 0 being the top, and column, and the paddle's column; all are [] integers."""

    row: Leaf
    column: Leaf
    paddle: Leaf


@dataclass(frozen=True)
class Catch(Environment):
    """Reward 1 for a ball caught and -1 for one missed, in the step that brings it to the ground.

    Actions: the paddle, which starts in the middle, moves left, stays, or moves right. Observation
    [rows * columns]: the pixels row by row, 1 at the ball and at the paddle.

    Attributes:
      rows: the ball starts in the first, falls one a step, and is caught in the last.
      columns: the ball starts in any of them.
    """

    name: ClassVar[str] = "catch"

    time_limit: int = 10  # one more than the steps of an episode, which ends by itself
    rows: int = 10
    columns: int = 5

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        require(self.rows >= 2, f"env.rows is {self.rows}; the ball needs at least 2 to fall.")
        require(self.columns >= 1, f"env.columns is {self.columns}; there must be at least 1.")

    def scene(self, params: tuple[()], state: State) -> Scene:
        """The board, row by row from the top, with the ball and the paddle."""
        del params
        right, below = self.columns - 0.5, self.rows - 0.5
        landed = int(state.row) >= self.rows - 1
        missed = landed and int(state.column) != int(state.paddle)
        across = [[(-0.5, y - 0.5), (right, y - 0.5)] for y in range(self.rows)]
        down = [[(x - 0.5, -0.5), (x - 0.5, below)] for x in range(self.columns + 1)]
        return Scene(
            [
                *(Line(points, 1.0, role="muted") for points in across + down),
                Line([(-0.5, below), (right, below)], 3.0, role="ground"),
                Rectangle(state.paddle, self.rows - 0.75, 0.9, 0.4),
                Circle(state.column, state.row, 0.33, role="danger" if missed else "goal"),
            ],
            x=(-1.0, self.columns),
            y=(self.rows, -1.0),
            caption="missed" if missed else "caught" if landed else "",
        )

    def action_name(self, action: int) -> str:
        """Where the paddle moves."""
        return ("left", "stay", "right")[action]

    def build(self) -> Env:
        """Returns one episode's functions, without a time limit and without resets."""
        ground, columns = self.rows - 1, self.columns
        pixels = self.rows * columns

        def observe(state: State) -> Array:
            pixel = jnp.arange(pixels)
            ball = pixel == state.row * columns + state.column
            paddle = pixel == ground * columns + state.paddle
            return (ball | paddle).astype(jnp.float32)

        def reset(params: tuple[()], key: PRNGKey) -> tuple[State, Timestep]:
            del params
            column = (columns * jax.random.uniform(key)).astype(jnp.int32)
            row, middle = jnp.zeros_like(column), jnp.full_like(column, columns // 2)
            state = State(row, column, middle)
            return state, timestep(observe(state))

        def step(
            params: tuple[()], key: PRNGKey, state: State, action: Int[Array, ""]
        ) -> tuple[State, Timestep]:
            del params, key
            paddle = jnp.clip(state.paddle + action.astype(jnp.int32) - 1, 0, columns - 1)
            state = State(state.row + 1, state.column, paddle)
            landed = state.row >= ground
            caught = jnp.where(state.column == paddle, 1.0, -1.0)
            reward = jnp.where(landed, caught, 0.0)
            return state, timestep(observe(state), reward, terminated=landed)

        low, high = np.zeros(pixels, np.float32), np.ones(pixels, np.float32)
        return Env((), reset, step, num_actions=3, low=low, high=high)
