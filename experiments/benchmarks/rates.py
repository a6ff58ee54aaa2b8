"""How often a second something is done: what benchmarks of environments share."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ragjax.envs.base import Environment

REPETITIONS = 3


def rates(run: Callable[[], Any], count: Callable[[Any], float]) -> dict[str, float]:
    """What `count` makes of what `run` returns, a second: by the clock and by the time of all cores.

    The first run, which compiles, is not counted; of three repetitions the best counts.
    """
    made = jax.block_until_ready(run())
    found = []
    for _ in range(REPETITIONS):
        clock, cores = time.perf_counter(), time.process_time()
        made = jax.block_until_ready(run())
        found.append((time.perf_counter() - clock, time.process_time() - cores))
    clock, cores = (min(times) for times in zip(*found, strict=True))
    number = count(made)
    return {"per_second": number / clock, "per_core_second": number / cores}


def random_actions(spec: Environment, count: int, steps: int) -> dict[str, float]:
    """Steps of `count` environments side by side by random actions, `steps` each, with resets."""
    env = spec.vectorise(count)

    @jax.jit
    def run(params, state, key):
        def step(state, key):
            action = jax.random.randint(key, (count,), 0, env.num_actions, jnp.int32)
            state, made = env.step(params, key, state, action)
            return state, made.reward

        return jax.lax.scan(step, state, jax.random.split(key, steps))[1]

    state, _ = jax.jit(env.reset)(env.params, jax.random.PRNGKey(0))
    return rates(lambda: run(env.params, state, jax.random.PRNGKey(1)), lambda made: made.size)
