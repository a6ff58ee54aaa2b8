"""Fixed policies of adaptive retrieval, to compare a learned one with."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import jax.numpy as jnp

from ragjax.agents.adaptive_retrieval.decisions import ACTIONS, READ, REFORMULATE, RETRIEVE
from ragjax.agents.adaptive_retrieval.questions import FEATURES, QuestionTable
from ragjax.agents.adaptive_retrieval.reader import MEMORY, STAGES
from ragjax.errors import require
from ragjax.models.policy import Policy
from ragjax.ops.distributions import Categorical
from ragjax.types import Env, PolicyModel

CERTAIN = 30.0  # nats by which the action to take is likelier than the others
# Places in an observation: p of what is answered from memory, and at the stage that is reached.
FROM_MEMORY = STAGES + FEATURES.index("probability")
NOW = FROM_MEMORY + len(FEATURES)

Checked = Literal["memory", "every"]


@dataclass(frozen=True)
class FixedPolicy(Policy):
    """A policy that learns nothing: retrieve so many times, then read and answer.

    Attributes:
      retrievals: 0, 1 or 2.
      threshold: answer before that, as soon as the reader gives its answer more than this probability.
      checked: which answers are held against the threshold, that from `memory` alone or that of `every`
        stage.
      random: draw every action with the same probability instead.
    """

    learns: ClassVar[bool] = False

    retrievals: int = 1
    threshold: float = 1.0
    checked: Checked = "memory"
    random: bool = False

    def __post_init__(self):
        """Checks the fields."""
        require(
            0 <= self.retrievals < STAGES,
            f"policy.retrievals is {self.retrievals}; choose 0 to {STAGES - 1}.",
        )
        require(
            0 <= self.threshold <= 1,
            f"policy.threshold is {self.threshold}; it is a probability, 0 to 1.",
        )
        require(
            self.checked in get_args(Checked),
            f"policy.checked is {self.checked!r}; choose memory or every.",
        )

    def build(self, env: Env) -> PolicyModel:
        """Returns the functions, of no parameters; the critic is 0.

        Raises:
          UserError: the environment is another one.
        """
        require(
            isinstance(env.params, QuestionTable),
            "policy is a FixedPolicy, which is one of environment adaptive_retrieval only; choose "
            "another policy.",
        )

        def init(key):
            del key
            return {"policy": {}, "value": {}}

        def apply(params, observation):
            del params
            stage = jnp.argmax(observation[..., :STAGES], axis=-1)
            sure = jnp.where(stage == MEMORY, observation[..., FROM_MEMORY], observation[..., NOW])
            compared = (stage == MEMORY) | (self.checked == "every")
            search = (stage < self.retrievals) & ~(compared & (sure > self.threshold))
            how = jnp.where(stage == MEMORY, RETRIEVE, REFORMULATE)
            chosen = jnp.where(search, how, READ)[..., None] == jnp.arange(len(ACTIONS))
            logits = jnp.where(chosen & (not self.random), CERTAIN, 0.0)
            return Categorical(logits), jnp.zeros(stage.shape)

        return PolicyModel(init, apply)
