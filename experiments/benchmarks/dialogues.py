"""How many dialogues a second are played: with a policy that learns, and stepped from Python.

    python experiments/benchmarks/dialogues.py [movie_booking | kb_infobot]

Of every figure there are two: by the clock, and by the seconds that all cores together have worked,
which other processes disturb less. Compilation is not counted; of three repetitions the best counts.
Stepped from Python, as environments outside JAX are, one dialogue is played at a time: for each exchange
the policy is called and then the environment, both compiled. Nothing is learned there.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rates import random_actions, rates

from ragjax.config import load_config
from ragjax.envs.base import Environment
from ragjax.envs.dialogue.kb_infobot import KBInfoBot
from ragjax.envs.dialogue.movie_booking import MovieBooking
from ragjax.envs.dialogue.tables import Countries
from ragjax.objectives.guided_ppo import GuidedPPO
from ragjax.training.step import make_step

CONFIGS = Path(__file__).parents[2] / "configs"
ENVIRONMENT: dict[str, Environment] = {
    "movie_booking": MovieBooking(),
    "kb_infobot": KBInfoBot(table=Countries()),
}
LEARNED = {
    "movie_booking": ("ppo", "retrieval"),
    "kb_infobot": ("countries_ppo", "countries_joint"),
}
ENVIRONMENTS = (1, 16, 128, 1024)
STEPS = 32  # exchanges of each environment in one repetition, by random actions
UPDATES = 4  # rollouts that are learned from in one repetition
PLAYED = 400  # exchanges in one repetition from Python


def learning(name: str) -> dict[str, Any]:
    """Dialogues that are learned from as in a config, whose warm start is over."""
    config: Any = load_config(CONFIGS / f"{name}.py")
    algorithm = config.algorithm
    if isinstance(algorithm, GuidedPPO):
        algorithm = dataclasses.replace(algorithm, guided=0)
    learner = dataclasses.replace(config, algorithm=algorithm).create()
    step = make_step(learner, learner.stages[0])
    state = jax.jit(learner.init)(jax.random.PRNGKey(0), learner.hyper, learner.data)

    @jax.jit
    def run(state):
        def update(state, _):
            state, metrics = step(state, None, learner.hyper, learner.data)
            return state, metrics["episode_length"].value

        return jax.lax.scan(update, state, length=UPDATES)[1]

    size = algorithm.batch_size * UPDATES
    return rates(lambda: run(state), lambda lengths: size / float(jnp.mean(lengths)))


def from_python(name: str) -> dict[str, float]:
    """Dialogues of the same policy, stepped from Python one exchange of one dialogue at a time."""
    config: Any = load_config(CONFIGS / f"{name}.py")
    env = config.env.vectorise(1)
    policy = config.policy.build(env)
    params = policy.init(jax.random.PRNGKey(0))
    index = None if policy.embed is None else policy.embed(params)
    reset, advance = jax.jit(env.reset), jax.jit(env.step)

    @jax.jit
    def choose(observation, key):
        seen = policy.retrieve(params, index, key, observation)
        return policy.apply(params, seen)[0].sample(key)

    keys = np.asarray(jax.random.split(jax.random.PRNGKey(1), PLAYED))
    first = reset(env.params, jax.random.PRNGKey(2))

    def run():
        (state, made), dialogues = first, 0
        for key in keys:
            state, made = advance(env.params, key, state, choose(made.observation, key))
            dialogues += int(made.done[0])
        return dialogues

    return rates(run, float)


def measure(name: str) -> dict[str, Any]:
    """Of an environment: exchanges a second by random actions, dialogues a second by configs."""
    found: dict[str, Any] = {
        "exchanges, random": {
            str(count): random_actions(ENVIRONMENT[name], count, STEPS) for count in ENVIRONMENTS
        }
    }
    for config in LEARNED[name]:
        found[f"dialogues, {config}"] = learning(f"{name}/{config}")
        found[f"dialogues, {config} from Python"] = from_python(f"{name}/{config}")
    return found


if __name__ == "__main__":
    print(json.dumps({name: measure(name) for name in sys.argv[1:] or LEARNED}, indent=2))
