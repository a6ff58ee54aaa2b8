"""A memory of responses, seen beside everything else: it grows as slates are shown."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array

from ragjax.retrieval.growing import GrowingMemory
from ragjax.types import Env, Leaf, Timestep


@struct.dataclass
class Remembering:
    """State of `remember_responses`: the inner state and the episode's `GrowingMemory`."""

    inner: Leaf
    memory: Leaf


def remember_responses(env: Env, capacity: int, earlier: Callable[..., Array] | None = None) -> Env:
    """Shows, before the candidates, a part "memory" [M,R+1] of all that slates have met with so far.

    A row is what was seen of a place, as in the part "responses", and 1 where it is written; rows that
    are not are zeros. Before a slate is shown there is no response, so that a reset writes none.

    Args:
      env: one episode, whose observations end with the part "candidates" if there is one.
      capacity: M, at least the places of a slate; then the oldest rows make room.
      earlier: (params, key, inner state) -> [E,R] rows that an episode's memory begins with, at most M.
    """
    parts = dict(env.parts or {})
    places, width = parts["responses"]
    before = [int(np.prod(shape)) for name, shape in parts.items() if name != "candidates"]
    start, joint = int(np.prod(parts["user"])), int(np.sum(before))

    def show(inner: Any, memory: GrowingMemory, made: Timestep) -> tuple[Remembering, Timestep]:
        rows = jnp.concatenate([memory.rows, memory.known[:, None].astype(jnp.float32)], axis=-1)
        seen, last = jnp.split(made.observation, [joint])
        shown = jnp.concatenate([seen, rows.reshape(-1), last])
        made = dataclasses.replace(made, observation=shown, final_observation=shown)
        return Remembering(inner, memory), made

    def reset(params, key):
        inner, made = env.reset(params, key)
        memory = GrowingMemory.empty(capacity, width)
        if earlier is not None:
            # A key of its own, so that users and candidates are those of an episode without such rows.
            rows = earlier(params, jax.random.fold_in(key, 1), inner)
            memory = memory.add(rows.astype(jnp.float32), jnp.ones(len(rows), bool))
        return show(inner, memory, made)

    def step(params, key, state, action):
        inner, made = env.step(params, key, state.inner, action)
        responses = made.observation[start : start + places * width].reshape(places, width)
        return show(inner, state.memory.add(responses, jnp.ones(places, bool)), made)

    def bound(values: Any, known: float) -> np.ndarray:
        values = np.asarray(values)
        row = np.append(values[start : start + width], known)
        return np.concatenate([values[:joint], np.tile(row, capacity), values[joint:]])

    with_memory = {name: shape for name, shape in parts.items() if name != "candidates"}
    with_memory["memory"] = (capacity, width + 1)
    with_memory |= {name: shape for name, shape in parts.items() if name == "candidates"}
    low, high = bound(env.low, 0.0), bound(env.high, 1.0)
    return env._replace(reset=reset, step=step, low=low, high=high, parts=with_memory)
