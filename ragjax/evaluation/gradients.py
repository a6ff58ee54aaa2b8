"""How noisy a policy-gradient estimator is, and where it points: against the exact gradient.

On a problem of one step whose states and rewards can be listed, the gradient of the expected reward is a
finite sum. An estimator draws a state, a choice, and returns ∇log p(choice|s) (r - b(s)); here many such
draws are made, and compared with the sum.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ragjax.types import Params, PolicyModel, Retrieved

LEARNED = ("retriever", "policy")  # the critic has no policy gradient


class Spread(NamedTuple):
    """What many single-draw gradients [M,P] are like beside the exact one.

    Attributes:
      variance: [] Σ_p Var(g_p) of one draw.
      cosine: [] of the mean of all draws with the exact gradient.
      error: [] distance of that mean from the exact gradient, in its standard errors:
        |ĝ - g| / sqrt(variance / M), about 1 without bias.
    """

    variance: Array
    cosine: Array
    error: Array


def split_params(params: Params) -> tuple[Params, Params]:
    """The groups that the policy gradient moves, and the others."""
    learned = {name: params[name] for name in LEARNED}
    return learned, {name: params[name] for name in params if name not in LEARNED}


def exact_gradient(
    policy: PolicyModel, params: Params, seen: Retrieved, reward: Float[Array, "S A"]
) -> Float[Array, "P"]:
    """∇ (1/S) Σ_s Σ_a π(a|s) r(s,a), every state and action enumerated.

    Args:
      policy: one whose distribution is over actions, such as that of the marginal.
      params: differentiated in the groups `LEARNED`.
      seen: S states with their passages.
      reward: [S,A].

    Returns:
      [P] the gradient, flat.
    """
    learned, rest = split_params(params)

    def expected(learned):
        distribution, _ = policy.apply({**rest, **learned}, seen)
        return jnp.mean(jnp.sum(jnp.exp(distribution.log_probs) * reward, axis=-1))

    return ravel_pytree(jax.grad(expected)(learned))[0]


def drawn_gradients(
    policy: PolicyModel,
    params: Params,
    index: Any,
    key: Array,
    observation: Float[Array, "S O"],
    reward: Float[Array, "S A"],
    baseline: Float[Array, "S"],
    draws: int,
) -> Float[Array, "M P"]:
    """Single-draw estimates of the policy gradient: one state, one choice each.

    Args:
      policy: whose estimator is measured.
      params: differentiated in the groups `LEARNED`.
      index: of the policy's passages.
      key: PRNG key.
      observation: [S,O] the states, drawn uniformly.
      reward: [S,A].
      baseline: [S] what is subtracted from the reward.
      draws: M.

    Returns:
      [M,P] gradients, flat.
    """
    learned, rest = split_params(params)

    def draw(key):
        state_key, input_key, choice_key = jax.random.split(key, 3)
        state = jax.random.randint(state_key, (), 0, observation.shape[0])
        seen = policy.retrieve(params, index, input_key, observation[state])

        def surrogate(learned):
            distribution, _ = policy.apply({**rest, **learned}, seen)
            choice = jax.lax.stop_gradient(distribution.sample(choice_key))
            gain = reward[state, distribution.executed(choice)] - baseline[state]
            return distribution.log_prob(choice) * gain

        return ravel_pytree(jax.grad(surrogate)(learned))[0]

    return jax.vmap(draw)(jax.random.split(key, draws))


def spread(gradients: Float[Array, "M P"], exact: Float[Array, "P"]) -> Spread:
    """Compares single-draw gradients with the exact one."""
    mean = jnp.mean(gradients, axis=0)
    variance = jnp.sum(jnp.var(gradients, axis=0, ddof=1))
    norms = jnp.linalg.norm(mean) * jnp.linalg.norm(exact)
    cosine = jnp.dot(mean, exact) / jnp.maximum(norms, 1e-12)
    deviation = jnp.sqrt(variance / gradients.shape[0])
    return Spread(variance, cosine, jnp.linalg.norm(mean - exact) / jnp.maximum(deviation, 1e-12))
