"""Fixed policies of recommendation, to compare learned ones with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ragjax.errors import require
from ragjax.models.policy import Policy
from ragjax.models.slate_policy import require_slates, split
from ragjax.ops.plackett_luce import CERTAIN, PlackettLuce
from ragjax.types import Env, PolicyModel, Retrieved

# (the parts of observations [...] by name, what is seen of documents [...,K,F]) -> scores [...,K]
Ranking = Callable[[Mapping[str, Array], Array], Array]


class Ranked:
    """What an environment's constants say about the documents that fixed policies show."""

    def rankings(self) -> dict[str, Ranking]:
        """Name -> scores, the highest of which are shown."""
        raise NotImplementedError

    def oracles(self) -> dict[str, Ranking]:
        """More of them, which go by what is hidden of the user: for environments with `reveal`."""
        return {}


@dataclass(frozen=True)
class SlateBaseline(Policy):
    """A policy that learns nothing: it shows the documents of the highest scores, the best one first.

    Attributes:
      by: `random`, or the name of a ranking of the environment; a name that it doesn't have is told
        together with those that it has.
      drawn: documents of a corpus among which it chooses, drawn evenly in each step; 0 for all.
    """

    learns: ClassVar[bool] = False

    by: str = "random"
    drawn: int = 0

    def __post_init__(self):
        """Checks the fields."""
        require(self.drawn >= 0, f"policy.drawn is {self.drawn}; it must not be negative.")

    def build(self, env: Env, contents: Array | None = None) -> PolicyModel:
        """Returns the functions, of no parameters; the critic is 0.

        Raises:
          UserError: the environment is shown no slates, has no rankings, or not this one, or has no
            corpus of as many documents as are drawn.
        """
        del contents
        require_slates(env)
        ranking = self._ranking(env)
        count, places, offers = env.num_actions, env.slate, "candidates" in (env.parts or {})
        require(
            not self.drawn or not offers,
            f"policy.drawn is {self.drawn}, but the environment draws its candidates by itself; leave "
            "it at 0.",
        )
        require(
            not self.drawn or places <= self.drawn <= count,
            f"policy.drawn is {self.drawn}; it must be at least {places}, the places of a slate, and at "
            f"most {count}, the documents of the corpus.",
        )

        def init(key):
            del key
            return {"policy": {}, "value": {}}

        def retrieve(params, index, key, observation):
            del params, index
            lead = observation.shape[:-1]
            if not self.drawn:
                return Retrieved(observation, jnp.zeros((*lead, 0), jnp.int32), None)
            if key is None:
                ids = jnp.broadcast_to(jnp.arange(self.drawn), (*lead, self.drawn))
            else:
                ids = drawn_evenly(key, lead, self.drawn, count)
            return Retrieved(observation, ids, None)

        def apply(params, seen: Retrieved):
            del params
            lead = seen.observation.shape[:-1]
            ids = seen.ids if self.drawn else None
            value, known = jnp.zeros(lead), self.drawn or count
            if self.by == "random":
                return PlackettLuce(jnp.zeros((*lead, known)), places, ids), value
            parts = split(env, seen.observation)
            looks = parts["candidates"] if offers else jnp.asarray(env.passages)
            looks = looks if ids is None else looks[ids]
            scores = jnp.broadcast_to(ranking(parts, looks), (*lead, known))
            best = jax.lax.top_k(scores, places)[1].astype(jnp.int32)
            if ids is not None:
                best = jnp.take_along_axis(ids, best, axis=-1)
            scores = jnp.broadcast_to(-CERTAIN * jnp.arange(places, dtype=float), best.shape)
            return PlackettLuce(scores, places, best), value

        return PolicyModel(init, apply, retrieve=retrieve)

    def _ranking(self, env: Env) -> Any:
        """The ranking that `by` names; None of a random one."""
        if self.by == "random":
            return None
        known: Any = env.params
        require(
            isinstance(known, Ranked),
            f"policy.by is {self.by!r}, but the environment has no rankings; choose policy.by random.",
        )
        rankings = known.rankings()
        if "hidden" in (env.parts or {}):
            rankings |= known.oracles()
        require(
            self.by in rankings,
            f"policy.by is {self.by!r}; choose one of {', '.join(['random', *rankings])} in this "
            "environment.",
        )
        return rankings[self.by]


def scored(weights: Float[Array, "... F"], looks: Float[Array, "... K F"]) -> Array:
    """Scores [...,K], the weighted sums of what is seen of documents."""
    return jnp.einsum("...f,...kf->...k", weights, looks)


def drawn_evenly(key: Array, shape: tuple[int, ...], drawn: int, count: int) -> Int[Array, "... K"]:
    """Subsets of `drawn` of `count` rows, each as likely as any other (Floyd's algorithm).

    For j from count - drawn on, t is drawn evenly from 0..j and taken, or j if t was taken before.

    Returns:
      [*shape, drawn] rows.
    """
    keys = jax.random.split(key, drawn)
    taken = jnp.full((*shape, 0), -1, jnp.int32)
    for number, one in enumerate(keys):
        last = count - drawn + number
        row = jax.random.randint(one, (*shape, 1), 0, last + 1)
        again = jnp.any(taken == row, axis=-1, keepdims=True)
        taken = jnp.concatenate([taken, jnp.where(again, last, row)], axis=-1)
    return taken
