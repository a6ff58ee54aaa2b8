"""Fixed policies of movie booking, to begin by and to compare learned ones with."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ragjax.envs.dialogue.movie_booking_acts import ACTIONS
from ragjax.errors import require
from ragjax.models.policy import Policy
from ragjax.models.slate_policy import split
from ragjax.ops.distributions import Categorical
from ragjax.ops.plackett_luce import CERTAIN
from ragjax.types import Env, PolicyModel

Rule = Literal["rule", "random"]

ASKED = ("moviename", "starttime", "city", "date", "theater", "numberofpeople")
SCRIPT = (
    *(("request", slot) for slot in ASKED),
    ("inform", "taskcomplete"),
    ("thanks", None),
)


@dataclass(frozen=True)
class MovieBookingBaseline(Policy):
    """A policy that learns nothing.

    Attributes:
      by: `rule`, TC-Bot's rule agent: it requests six slots, informs taskcomplete, and ends by thanks,
        whatever the user says; or `random` actions.
    """

    learns: ClassVar[bool] = False

    by: Rule = "rule"

    def __post_init__(self):
        """Checks the fields."""
        options = get_args(Rule)
        require(
            self.by in options, f"policy.by is {self.by!r}; choose one of {', '.join(options)}."
        )

    def build(self, env: Env, contents: Array | None = None) -> PolicyModel:
        """Returns the functions, of no parameters; the critic is 0.

        Raises:
          UserError: the environment is another one.
        """
        del contents
        require(
            "moves_one_hot" in (env.parts or {}),
            "policy is a MovieBookingBaseline, but the environment is another one; choose MovieBooking.",
        )
        script = jnp.asarray([ACTIONS.index(action) for action in SCRIPT])

        def init(key):
            del key
            return {"policy": {}, "value": {}}

        def apply(params, observation):
            del params
            lead = observation.shape[:-1]
            # Not plain zeros, which XLA would take seconds to fold what follows from.
            logits = jnp.zeros(env.num_actions) * observation[..., :1]
            if self.by == "rule":
                moves = jnp.argmax(split(env, observation)["moves_one_hot"], axis=-1)
                action = script[jnp.minimum(moves // 2, len(SCRIPT) - 1)]
                logits = CERTAIN * jax.nn.one_hot(action, env.num_actions)
            return Categorical(logits), jnp.zeros(lead)

        return PolicyModel(init, apply)
