"""LinUCB: a contextual bandit that learns from every user's clicks which product to show to whom.

Disjoint linear models (Li et al. 2010, arXiv 1003.0146, algorithm 1): of arm a and context x the reward
is taken to be x·θ_a, and shown is

    argmax_a  x·θ_a + α √(xᵀ A_a⁻¹ x),   A_a = λI + Σ x xᵀ,   θ_a = A_a⁻¹ Σ r x

with sums over the times at which a was shown. It is no policy with parameters that a gradient changes,
but a learner of its own: what to compare policies with.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from ragjax.envs.recommendation.numbered import shares_of_views
from ragjax.envs.recommendation.recogym import RecoGym
from ragjax.envs.wrappers import bind_env, env_data
from ragjax.errors import require
from ragjax.models.slate_policy import split
from ragjax.types import Env, Leaf


@struct.dataclass
class Arms:
    """The linear models of P arms.

    Attributes:
      inverse: [P,d,d] A_a⁻¹.
      rewarded: [P,d] Σ r x.
    """

    inverse: Leaf
    rewarded: Leaf


@dataclass(frozen=True)
class LinUCB:
    """The bandit.

    Attributes:
      alpha: α, how much is explored.
      ridge: λ.
      width: numbers that the shares of products among a user's views are projected to at random, of
        which a context is made together with a constant; 0 for the shares themselves.
    """

    alpha: float = 0.1
    ridge: float = 1.0
    width: int = 0

    def __post_init__(self):
        """Checks the fields."""
        require(self.alpha >= 0, f"alpha is {self.alpha}; it must not be negative.")
        require(self.ridge > 0, f"ridge is {self.ridge}; it must be positive.")
        require(self.width >= 0, f"width is {self.width}; it must not be negative.")

    def start(self, arms: int, width: int) -> Arms:
        """Models of as many arms, of contexts of this width, before anything was shown."""
        inverse = jnp.eye(width) / self.ridge
        return Arms(jnp.tile(inverse, (arms, 1, 1)), jnp.zeros((arms, width)))

    def choose(self, arms: Arms, context: Float[Array, "E d"]) -> Int[Array, "E"]:
        """The arms to show in contexts [E,d]."""
        models = jnp.einsum("pde,pe->pd", arms.inverse, arms.rewarded)
        spread = jnp.einsum("nd,pde,ne->np", context, arms.inverse, context)
        scores = context @ models.T + self.alpha * jnp.sqrt(jnp.maximum(spread, 0.0))
        return jnp.argmax(scores, axis=-1).astype(jnp.int32)

    def learn(
        self,
        arms: Arms,
        context: Float[Array, "E d"],
        shown: Int[Array, "E"],
        reward: Float[Array, "E"],
    ) -> Arms:
        """The models after E rewards: A⁻¹ by the formula of Sherman & Morrison, one after another."""

        def add(arms: Arms, seen: tuple[Array, Array, Array]) -> tuple[Arms, None]:
            x, arm, r = seen
            moved = arms.inverse[arm] @ x
            change = jnp.outer(moved, moved) / (1.0 + x @ moved)
            return Arms(arms.inverse.at[arm].add(-change), arms.rewarded.at[arm].add(r * x)), None

        return jax.lax.scan(add, arms, (context, shown, reward))[0]

    def contexts(self, env: Env, key: Array) -> Any:
        """(observation [E,O]) -> contexts [E,d] of a `RecoGym` environment."""
        products = env.num_actions
        mixed = None
        if self.width:
            mixed = jax.random.normal(key, (products, self.width)) / jnp.sqrt(float(self.width))

        def context(observation: Float[Array, "E O"]) -> Float[Array, "E d"]:
            shares = shares_of_views(split(env, observation), products)
            shares = shares if mixed is None else shares @ mixed
            return jnp.concatenate([shares, jnp.ones((*shares.shape[:-1], 1))], axis=-1)

        return context

    def play(self, spec: RecoGym, key: Array, num_envs: int, steps: int) -> dict[str, Array]:
        """Learns while it shows products to `num_envs` users at once, one after another for ever.

        Args:
          spec: the environment.
          key: PRNG key.
          num_envs: E.
          steps: T.

        Returns:
          `reward` [T,E], and `shown` [T,E] the products.
        """
        env = spec.vectorise(num_envs)
        mix_key, reset_key, step_key = jax.random.split(key, 3)
        context = self.contexts(env, mix_key)

        @jax.jit
        def run(data):
            bound = bind_env(env, data)

            def step(carry, key):
                arms, state, observation = carry
                x = context(observation)
                shown = self.choose(arms, x)
                state, made = bound.step(bound.params, key, state, shown[:, None])
                arms = self.learn(arms, x, shown, made.reward)
                return (arms, state, made.observation), {"reward": made.reward, "shown": shown}

            state, first = bound.reset(bound.params, reset_key)
            arms = self.start(env.num_actions, context(first.observation).shape[-1])
            keys = jax.random.split(step_key, steps)
            return jax.lax.scan(step, (arms, state, first.observation), keys)[1]

        return run(env_data(env))
