"""How many steps a second highway_fast makes, by random actions and with PPO learning from them.

    python experiments/benchmarks/highway_steps.py > experiments/results/benchmarks/highway_steps.json

The original makes 33 to 44 steps a second on one core. Of every figure there are two: by the clock, and
by the seconds that all cores together have worked, which other processes disturb less. Compilation is
not counted; of three repetitions the best counts.
"""

import dataclasses
import json
from typing import Any

import jax
from rates import random_actions, rates

from ragjax.envs.highway.highway import HighwayFast
from ragjax.learners.episodes import EpisodesConfig
from ragjax.objectives.ppo import PPO
from ragjax.training.step import make_step

ENVIRONMENTS = (1, 16, 64, 256, 1024)
STEPS = 32  # of each environment in one repetition
UPDATES = 4  # rollouts that PPO learns from in one repetition


def learning() -> dict[str, float]:
    """PPO with 64 environments, rollouts of 64 steps and two layers of 64 units."""
    algorithm = PPO(num_envs=64, rollout_length=64)
    size = algorithm.batch_size
    config = EpisodesConfig(
        env=HighwayFast(),
        algorithm=algorithm,
        env_steps=size * UPDATES,
        normalise_observations=True,
    )
    learner = config.create()
    step = make_step(learner, learner.stages[0])
    state = jax.jit(learner.init)(jax.random.PRNGKey(0), learner.hyper, learner.data)

    @jax.jit
    def run(state):
        def update(state, _):
            return step(state, None, learner.hyper, learner.data)

        return jax.lax.scan(update, state, length=UPDATES)

    return rates(lambda: run(state), lambda made: size * UPDATES)


def measure() -> dict[str, Any]:
    """All figures: environments -> steps a second by random actions, and those with PPO."""
    found: dict[str, Any] = {
        str(count): random_actions(HighwayFast(), count, STEPS) for count in ENVIRONMENTS
    }
    return {"environment": dataclasses.asdict(HighwayFast()), "random": found, "ppo": learning()}


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
