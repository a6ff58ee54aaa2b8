"""An algorithm whose state is more than parameters: DQN with a replay buffer and a target network."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ragjax.objectives.algorithm import Algorithm
from ragjax.ops.distributions import Categorical
from ragjax.types import Loss, PolicyBatch


@struct.dataclass
class Memory:
    """The target network, and the newest transitions [C,...] in a ring."""

    target: Any
    observation: Any
    action: Any
    reward: Any
    following: Any
    terminated: Any
    count: Any


@dataclass(frozen=True)
class DQN(Algorithm):
    """Q-learning from replayed transitions (Mnih et al. 2015), the policy's logits being Q(s,a).

    Attributes:
      capacity: C, transitions that are kept.
      replayed: transitions that an update learns from.
      refresh_target_every: steps between two copies of the parameters to the target network.
      exploring_steps: steps in which ε falls from 1 to `epsilon`.
      epsilon: probability of a random action.
    """

    num_envs: int = 8
    rollout_length: int = 4
    capacity: int = 2048
    replayed: int = 256
    refresh_target_every: int = 20
    exploring_steps: int = 100
    epsilon: float = 0.1

    def begin(self, policy, params, timestep):
        shape = timestep.observation.shape[1:]
        return Memory(
            target=jax.tree.map(jnp.copy, params),
            observation=jnp.zeros((self.capacity, *shape)),
            action=jnp.zeros((self.capacity,), jnp.int32),
            reward=jnp.zeros((self.capacity,)),
            following=jnp.zeros((self.capacity, *shape)),
            terminated=jnp.zeros((self.capacity,), bool),
            count=jnp.zeros((), jnp.int32),
        )

    def behave(self, params, extra, step):
        fresh = step % self.refresh_target_every == 0
        target = jax.tree.map(lambda new, old: jnp.where(fresh, new, old), params, extra.target)
        return params, extra.replace(target=target)

    def explore(self, distribution, hyper, step):
        share = jnp.clip(step / self.exploring_steps, 0.0, 1.0)
        epsilon = 1.0 + share * (self.epsilon - 1.0)
        actions = distribution.logits.shape[-1]
        greedy = jax.nn.one_hot(distribution.mode(), actions)
        return Categorical(jnp.log((1.0 - epsilon) * greedy + epsilon / actions))

    def batch(self, policy, params, rollout, hyper, *, key, extra):
        def flat(leaf):
            return leaf.reshape(-1, *leaf.shape[2:])

        places = (extra.count + jnp.arange(self.batch_size)) % self.capacity
        new = {
            "observation": rollout.observation,
            "action": rollout.action,
            "reward": rollout.reward,
            "following": rollout.final_observation,
            "terminated": rollout.terminated,
        }
        kept = {name: getattr(extra, name).at[places].set(flat(leaf)) for name, leaf in new.items()}
        extra = extra.replace(count=extra.count + self.batch_size, **kept)
        known = jnp.minimum(extra.count, self.capacity)
        rows = jax.random.randint(key, (self.replayed,), 0, known)
        later = policy.apply(extra.target, extra.following[rows])[0].logits.max(axis=-1)
        going_on = 1.0 - extra.terminated[rows].astype(jnp.float32)
        target = extra.reward[rows] + hyper["discount"] * going_on * later
        observation, action = extra.observation[rows], extra.action[rows]
        now = Categorical(policy.apply(params, observation)[0].logits)
        return PolicyBatch(
            observation=observation,
            action=action,
            log_probs=now.log_probs,
            value=_of_action(now.logits, action),
            advantage=jnp.zeros_like(target),
            value_target=jax.lax.stop_gradient(target),
            weight=jnp.ones_like(target),
        ), extra

    def loss(self, policy, params, key, batch, hyper, *, extra=None):
        values = _of_action(policy.apply(params, batch.observation)[0].logits, batch.action)
        error = jnp.sum(jnp.square(values - batch.value_target))
        count = jnp.sum(batch.weight)
        return Loss(0.5 * error, count, {"td_error": (error, count)})


def _of_action(values, action):
    return jnp.take_along_axis(values, action[..., None], axis=-1)[..., 0]
