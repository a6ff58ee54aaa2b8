"""Fixed policies of `QaAgent`, to compare a learned one with."""

from dataclasses import dataclass
from typing import Literal, get_args

import jax.numpy as jnp

from ragjax.envs.qa_agent import ACTIONS, MEMORY, READ, REFORMULATE, RETRIEVE, ROUNDS, SHOWN, Book
from ragjax.errors import require
from ragjax.ops.distributions import Categorical
from ragjax.types import Env, PolicyModel

CERTAIN = 30.0  # nats by which the planned action is likelier than the others
# Places in an observation: p of what is answered from memory, and in the round that is reached.
FROM_MEMORY = ROUNDS + SHOWN.index("probability")
NOW = FROM_MEMORY + len(SHOWN)


Doubts = Literal["memory", "every"]


@dataclass(frozen=True)
class Plan:
    """A policy that learns nothing: retrieve so many times, then read and answer.

    Attributes:
      retrievals: 0, 1 or 2.
      threshold: answer before that, as soon as the reader gives its answer more than this probability.
      doubts: whether it may do so from `memory` alone, or in `every` round.
      random: draw every action with the same probability instead.
    """

    retrievals: int = 1
    threshold: float = 1.0
    doubts: Doubts = "memory"
    random: bool = False

    def __post_init__(self):
        """Checks the fields."""
        require(
            0 <= self.retrievals < ROUNDS,
            f"policy.retrievals is {self.retrievals}; choose 0 to {ROUNDS - 1}.",
        )
        require(
            0 <= self.threshold <= 1,
            f"policy.threshold is {self.threshold}; it is a probability, 0 to 1.",
        )
        require(
            self.doubts in get_args(Doubts),
            f"policy.doubts is {self.doubts!r}; choose memory or every.",
        )

    def build(self, env: Env) -> PolicyModel:
        """Returns the functions; the only parameter is the critic's constant.

        Raises:
          UserError: the environment is no `QaAgent`.
        """
        require(
            isinstance(env.params, Book),
            "policy is a Plan, which is one of environment qa_agent only; choose another policy.",
        )

        def init(key):
            del key
            return {"policy": {}, "value": {"constant": jnp.zeros(())}}

        def apply(params, observation):
            reached = jnp.argmax(observation[..., :ROUNDS], axis=-1)
            sure = jnp.where(
                reached == MEMORY, observation[..., FROM_MEMORY], observation[..., NOW]
            )
            asked = (reached == MEMORY) | (self.doubts == "every")
            search = (reached < self.retrievals) & ~(asked & (sure > self.threshold))
            how = jnp.where(reached == MEMORY, RETRIEVE, REFORMULATE)
            chosen = jnp.where(search, how, READ)[..., None] == jnp.arange(len(ACTIONS))
            logits = jnp.where(chosen & (not self.random), CERTAIN, 0.0)
            value = jnp.broadcast_to(params["value"]["constant"], reached.shape)
            return Categorical(logits), value

        return PolicyModel(init, apply)
