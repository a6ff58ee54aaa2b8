"""Returns and advantages over rollouts of several episodes, by rlax.

A rollout is a window of T steps in E environments that start anew by themselves, so episodes begin and
end within it. rlax knows one trajectory without ends; `across_resets` makes it right at every end, and
is the one place where that happens:

    ended by      what follows the step is worth     reward used            discount used
    -             V(s_{t+1})                         r_t                    γ
    termination   0                                  r_t                    0
    truncation    V(final observation)               r_t + γ V(final)       0
    both          0, termination decides             r_t                    0

With discount 0 nothing of the next episode, whose first value stands at t+1, flows back.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import rlax
from jaxtyping import Array, Bool, Float

lib: Any = rlax  # its annotations name array types of its own
Scalar = float | Float[Array, ""]


def across_resets(
    reward: Float[Array, "T E"],
    terminated: Bool[Array, "T E"],
    truncated: Bool[Array, "T E"],
    final_value: Float[Array, "T E"],
    discount: Scalar,
) -> tuple[Float[Array, "T E"], Float[Array, "T E"]]:
    """Rewards and discounts with which an estimator for one endless trajectory is right.

        r'_t = r_t + γ V(final_t) truncated_t (1 - terminated_t),   γ_t = γ (1 - done_t)

    Args:
      reward: [T,E].
      terminated: [T,E] the step ended the episode by the task's own rules.
      truncated: [T,E] a time limit ended it.
      final_value: [T,E] V of the observation that the step led to, before any reset; looked at only
        where the episode was truncated, so it may hold anything elsewhere.
      discount: γ.

    Returns:
      [T,E] rewards and [T,E] discounts.
    """
    cut_short = truncated & ~terminated
    reward = reward + jnp.where(cut_short, discount * final_value, 0.0)
    return reward, jnp.where(terminated | truncated, 0.0, discount)


def generalised_advantages(
    reward: Float[Array, "T E"],
    discount: Float[Array, "T E"],
    values: Float[Array, "T+1 E"],
    trace: Scalar | Float[Array, "T E"],
) -> Float[Array, "T E"]:
    """Generalised advantage estimates (Schulman et al., arXiv 1506.02438, equation 16).

        A_t = δ_t + γ_t λ_t A_{t+1},   δ_t = r_t + γ_t V_{t+1} - V_t,   A_T = 0

    Args:
      reward: [T,E] from `across_resets`.
      discount: [T,E] from `across_resets`.
      values: [T+1,E] V of the observations acted on, and of the one after the last step.
      trace: λ, of all steps or of each; 1 gives the return minus the value, 0 the one-step error.

    Returns:
      [T,E], without gradient.
    """
    traces = jnp.broadcast_to(jnp.asarray(trace, reward.dtype), reward.shape)

    def single(reward, discount, traces, values):
        return lib.truncated_generalized_advantage_estimation(
            reward, discount, traces, values, stop_target_gradients=True
        )

    return jax.vmap(single, in_axes=1, out_axes=1)(reward, discount, traces, values)


def lambda_returns(
    reward: Float[Array, "T E"],
    discount: Float[Array, "T E"],
    values: Float[Array, "T+1 E"],
    trace: Scalar,
) -> Float[Array, "T E"]:
    """λ-returns (Sutton & Barto, second edition, equation 12.18 in its recursive form).

        G_t = r_t + γ_t [(1 - λ) V_{t+1} + λ G_{t+1}],   G_T = V_T

    Args:
      reward: [T,E] from `across_resets`.
      discount: [T,E] from `across_resets`.
      values: [T+1,E] as for `generalised_advantages`; G_t - V_t is what that gives.
      trace: λ.

    Returns:
      [T,E], without gradient.
    """

    def single(reward, discount, following):
        trace_t = jnp.asarray(trace, reward.dtype)
        return lib.lambda_returns(reward, discount, following, trace_t, stop_target_gradients=True)

    return jax.vmap(single, in_axes=1, out_axes=1)(reward, discount, values[1:])


class VTrace(NamedTuple):
    """V-trace's two products: `advantage` [T,E] for the policy, `value_target` [T,E] for the critic."""

    advantage: Array
    value_target: Array


def vtrace(
    reward: Float[Array, "T E"],
    discount: Float[Array, "T E"],
    values: Float[Array, "T+1 E"],
    log_ratio: Float[Array, "T E"],
    trace: Scalar,
) -> VTrace:
    """V-trace for data of an older policy (Espeholt et al., arXiv 1802.01561, equations 1 and 4).

        v_t = V_t + δ_t + γ_t c_t (v_{t+1} - V_{t+1}),   δ_t = ρ_t (r_t + γ_t V_{t+1} - V_t)
        A_t = ρ_t (r_t + γ_t [λ v_{t+1} + (1 - λ) V_{t+1}] - V_t)

    with ρ_t = min(1, π(a_t|s_t) / μ(a_t|s_t)) and c_t = λ ρ_t, μ the behaviour policy. With μ = π the
    targets are `lambda_returns` and the advantages `generalised_advantages`.

    Args:
      reward: [T,E] from `across_resets`.
      discount: [T,E] from `across_resets`.
      values: [T+1,E] V under the parameters that learn.
      log_ratio: [T,E] log π(a_t|s_t) - log μ(a_t|s_t).
      trace: λ.

    Returns:
      Advantages and targets, without gradient.
    """

    def single(reward, discount, values, log_ratio):
        now, following = values[:-1], values[1:]
        found = lib.vtrace_td_error_and_advantage(
            now, following, reward, discount, jnp.exp(log_ratio), jnp.asarray(trace, reward.dtype)
        )
        return VTrace(found.pg_advantage, found.errors + now)

    with jax.numpy_dtype_promotion("standard"):  # rlax multiplies by a mask of bools
        result = jax.vmap(single, in_axes=1, out_axes=1)(reward, discount, values, log_ratio)
    return jax.tree.map(jax.lax.stop_gradient, result)
