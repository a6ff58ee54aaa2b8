"""SlateQ: long-term values of the items of a slate by decomposed temporal differences."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from ragjax.errors import require
from ragjax.objectives.algorithm import Algorithm, Hyper
from ragjax.ops.plackett_luce import CERTAIN, PlackettLuce
from ragjax.ops.slates import decomposed_target
from ragjax.types import Leaf, Loss, Params, PolicyBatch, PolicyModel, Rollout, Timestep


@struct.dataclass
class Replay:
    """The target network's parameters, and the newest transitions [C,...] in a ring.

    Attributes:
      target: parameters.
      observation: [C,O].
      item: [C] the candidate that was chosen; any if none was.
      chosen: [C] 1 if one was, else 0.
      reward: [C].
      following: [C,O] what the step led to.
      terminated: [C] bool.
      count: [] transitions written so far.
    """

    target: Leaf
    observation: Leaf
    item: Leaf
    chosen: Leaf
    reward: Leaf
    following: Leaf
    terminated: Leaf
    count: Leaf


@dataclass(frozen=True)
class SlateQ(Algorithm):
    """Q-learning of item values with replay (Ie et al. 2019, arXiv 1905.12767), for `SlateQPolicy`.

        q(s,i) <- r + γ Q(s',A')   of the item i that was chosen, A' the slate shown next

    Steps in which nothing was chosen teach nothing, since the value of no choice is taken as 0. A time
    limit is no termination: the value of what would have followed stands for the rest.

    Attributes:
      capacity: C, transitions that are kept.
      replayed: transitions that an update learns from.
      refresh_target_every: steps of the run between two copies of the parameters to the target network.
      sharpness: nats by which each item of the slate is likelier in its place than the next while the
        policy draws; all slates are possible.
    """

    num_envs: int = 32
    rollout_length: int = 2
    capacity: int = 20_000
    replayed: int = 512
    refresh_target_every: int = 100
    sharpness: float = 2.0

    def __post_init__(self):
        """Checks the fields."""
        super().__post_init__()
        for name in ("replayed", "refresh_target_every"):
            value = getattr(self, name)
            require(value >= 1, f"algorithm.{name} is {value}; it must be at least 1.")
        require(
            self.capacity >= self.batch_size,
            f"algorithm.capacity is {self.capacity}; it must hold at least the {self.batch_size} steps "
            "of one rollout.",
        )
        require(
            self.sharpness > 0, f"algorithm.sharpness is {self.sharpness}; it must be positive."
        )

    def hyper(self) -> dict[str, float]:
        """The numbers that are traced, by name."""
        return super().hyper() | {"sharpness": self.sharpness}

    def begin(self, policy: PolicyModel, params: Params, timestep: Timestep) -> Replay:
        """An empty ring."""
        del policy
        shape = (self.capacity, *timestep.observation.shape[1:])
        return Replay(
            target=jax.tree.map(jnp.copy, params),
            observation=jnp.zeros(shape),
            item=jnp.zeros(self.capacity, jnp.int32),
            chosen=jnp.zeros(self.capacity),
            reward=jnp.zeros(self.capacity),
            following=jnp.zeros(shape),
            terminated=jnp.zeros(self.capacity, bool),
            count=jnp.zeros((), jnp.int32),
        )

    def behave(self, params: Params, extra: Replay, step: Array) -> tuple[Params, Replay]:
        """The learner's parameters, copied to the target network every so many steps."""
        fresh = step % self.refresh_target_every == 0
        target = jax.tree.map(lambda new, old: jnp.where(fresh, new, old), params, extra.target)
        return params, extra.replace(target=target)  # pyright: ignore[reportAttributeAccessIssue]

    def explore(self, distribution: Any, hyper: Hyper, step: Array) -> PlackettLuce:
        """Slates near the one that the values say."""
        del step
        sharpness = hyper["sharpness"] / CERTAIN
        return PlackettLuce(distribution.scores * sharpness, distribution.places)

    def batch(
        self,
        policy: PolicyModel,
        params: Params,
        rollout: Rollout,
        hyper: Hyper,
        *,
        key: Array,
        extra: Replay,
    ) -> tuple[PolicyBatch, Replay]:
        """Transitions drawn from the ring, after the rollout's are written to it."""
        extra = self._written(policy, params, rollout, extra)
        rows = jax.random.randint(key, (self.replayed,), 0, jnp.minimum(extra.count, self.capacity))
        later, _ = policy.apply(extra.target, extra.following[rows])
        going_on = jnp.where(extra.terminated[rows], 0.0, hyper["discount"])
        target = decomposed_target(
            extra.reward[rows],
            going_on,
            later.choice_scores,
            later.no_click,
            later.item_values,
            later.rule,
            later.places,
        )
        observation, item = extra.observation[rows], extra.item[rows]
        now = _of_item(policy.apply(params, observation)[0].item_values, item)
        batch = PolicyBatch(
            observation=observation,
            action=item,
            log_probs=jnp.zeros((self.replayed, 1)),
            value=now,
            advantage=jnp.zeros(self.replayed),
            value_target=target,
            weight=extra.chosen[rows],
        )
        return jax.lax.stop_gradient(batch), extra

    def _written(
        self, policy: PolicyModel, params: Params, rollout: Rollout, extra: Replay
    ) -> Replay:
        """The ring after the steps of a rollout are written over the oldest."""
        clicked = policy.apply(params, rollout.final_observation)[0].clicked
        places = rollout.action.shape[-1]
        place = jnp.minimum(clicked, places - 1)[..., None]
        new = {
            "observation": rollout.observation,
            "item": jnp.take_along_axis(rollout.action, place, axis=-1)[..., 0],
            "chosen": (clicked < places).astype(jnp.float32),
            "reward": rollout.reward,
            "following": rollout.final_observation,
            "terminated": rollout.terminated,
        }
        rows = (extra.count + jnp.arange(self.batch_size)) % self.capacity
        kept = {
            name: getattr(extra, name).at[rows].set(leaf.reshape(-1, *leaf.shape[2:]))
            for name, leaf in new.items()
        }
        count = extra.count + self.batch_size
        return extra.replace(count=count, **kept)  # pyright: ignore[reportAttributeAccessIssue]

    def loss(
        self,
        policy: PolicyModel,
        params: Params,
        key: Array,
        batch: PolicyBatch,
        hyper: Hyper,
        *,
        extra: Any = None,
    ) -> Loss:
        """The squared error ½ (q(s,i) - target)², summed over the steps in which an item was chosen."""
        del key, hyper, extra
        values = _of_item(policy.apply(params, batch.observation)[0].item_values, batch.action)
        error = 0.5 * jnp.sum(batch.weight * jnp.square(values - batch.value_target))
        count = jnp.sum(batch.weight)
        return Loss(error, count, {"td_error": (error, count)})


def _of_item(values: Array, item: Array) -> Array:
    """[B] the values [B,K] of one candidate each."""
    return jnp.take_along_axis(values, item[:, None], axis=-1)[:, 0]
