"""Policy gradients on whole answers: G sampled answers to each of B questions, token by token.

Everything is [B,G,...]: a group is a row, so that no group can hold two questions. A source mask says of
every token where it comes from; only tokens that the policy generated count, in every term.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ragjax.ops.marginal import log_posterior, marginal
from ragjax.ops.policy_gradient import clipped_surrogate_sum, standardised, value_sum
from ragjax.ops.returns import Scalar, generalised_advantages

PADDING, GENERATED, RETRIEVED, PROMPT = 0, 1, 2, 3


def marginal_token_logprobs(
    log_prior: Float[Array, "*#batch K"], token_logprobs: Float[Array, "*#batch K T"]
) -> Float[Array, "*batch T"]:
    """The marginal log p(y_t|x,y_<t) of RAG-Sequence, whose passage spans the answer.

        log p(y_t|x,y_<t) = log Σ_d p(d|x) p(y_≤t|x,d) - log Σ_d p(d|x) p(y_<t|x,d)

    so that they add up to log p(y|x): the weights of later tokens are the posterior given earlier ones.

    Args:
      log_prior: [...,K] log p(d|x); -inf at a miss.
      token_logprobs: [...,K,T] log p(y_t|x,d,y_<t); 0 at tokens that do not count.

    Returns:
      [...,T].
    """
    prefixes = jnp.swapaxes(jnp.cumsum(token_logprobs, axis=-1), -1, -2)  # [...,T,K]
    upto = marginal(log_prior[..., None, :], prefixes)
    first = marginal(log_prior, jnp.zeros_like(log_prior))  # 0 where the prior sums to one
    before = jnp.concatenate(
        [jnp.broadcast_to(first[..., None], upto[..., :1].shape), upto[..., :-1]], axis=-1
    )
    return upto - before


def prefix_posterior(
    log_prior: Float[Array, "*#batch K"], token_logprobs: Float[Array, "*#batch K T"]
) -> Float[Array, "*batch T K"]:
    """The weights log p(d|x,y_<t) that passages have once the tokens before t are written.

    Args:
      log_prior: [...,K] log p(d_k|x), normalised here where it is not; -inf at a miss.
      token_logprobs: [...,K,T] log p(y_t|x,d_k,y_<t); 0 at tokens that do not count.

    Returns:
      [...,T,K].
    """
    before = jnp.cumsum(token_logprobs, axis=-1) - token_logprobs
    return log_posterior(log_prior[..., None, :], jnp.swapaxes(before, -1, -2))


def marginal_token_entropy(
    log_weights: Float[Array, "*batch T K"], logprobs: Float[Array, "*batch K T V"]
) -> Float[Array, "*batch T"]:
    """H(p(·|x,y_<t)) in nats, of the marginal over passages Σ_k p(d_k|x,y_<t) p(·|x,d_k,y_<t).

    Args:
      log_weights: [...,T,K] from `prefix_posterior`.
      logprobs: [...,K,T,V] log p(·|x,d_k,y_<t), finite.

    Returns:
      [...,T].
    """
    mixed = marginal(log_weights[..., None, :], jnp.moveaxis(logprobs, -3, -1))  # [...,T,V]
    return -jnp.sum(jnp.exp(mixed) * mixed, axis=-1)


def leave_one_out(reward: Float[Array, "B G"]) -> Float[Array, "B G"]:
    """RLOO's advantages: each reward minus the mean of its group's others (arXiv 2402.14740, section 2).

    Raises:
      ValueError: groups of one have no others.
    """
    size = reward.shape[-1]
    if size < 2:
        raise ValueError(f"groups have {size} sample; leave-one-out needs at least 2")
    others = (jnp.sum(reward, axis=-1, keepdims=True) - reward) / (size - 1)
    return reward - others


def minus_other_questions(
    reward: Float[Array, "B G"], weight: Float[Array, "B"]
) -> Float[Array, "B G"]:
    """REINFORCE's advantages: each reward minus the mean of those of the other questions.

    Args:
      reward: [B,G]; rewards of rows that weigh nothing may be anything.
      weight: [B] of the questions.

    Returns:
      [B,G]; of an only question the rewards themselves.
    """
    real = weight > 0
    mean = jnp.where(real, jnp.mean(reward, axis=-1) * weight, 0.0)
    others = jnp.sum(weight) - weight
    baseline = (jnp.sum(mean) - mean) / jnp.where(others > 0, others, 1.0)
    return reward - baseline[:, None]


def group_normalised(reward: Float[Array, "B G"], epsilon: float = 1e-6) -> Float[Array, "B G"]:
    """GRPO's advantages: (r - mean) / (deviation + ε) of the group (arXiv 2402.03300, section 4.1.2).

    A group whose rewards are all equal has advantages of exactly 0.
    """
    # Equal rewards may differ from their own rounded mean, which a tiny deviation would blow up.
    varied = jnp.max(reward, axis=-1, keepdims=True) > jnp.min(reward, axis=-1, keepdims=True)
    centred = reward - jnp.mean(reward, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    deviation = jnp.sqrt(jnp.where(varied, variance, 1.0))
    return jnp.where(varied, centred / (deviation + epsilon), 0.0)


class TokenAdvantages(NamedTuple):
    """`advantage` of each token for the policy and its `target` for the critic, both [B,G,T]."""

    advantage: Array
    target: Array


def token_advantages(
    reward: Float[Array, "B G"],
    values: Float[Array, "B G T"],
    source: Int[Array, "B G T"],
    gae_lambda: Scalar,
) -> TokenAdvantages:
    """Generalised advantage estimates over the generated tokens of each answer, undiscounted.

    The steps are the generated tokens alone. The reward is given at the last of them; what follows a
    token is the next generated one, however many retrieved ones stand between:

        A_t = δ_t + λ A_{t'},   δ_t = V_{t'} - V_t, or R - V_t at the last,   target A_t + V_t

    Args:
      reward: [B,G] of each answer.
      values: [B,G,T] V(x,y_<t); may hold anything at tokens that are not `GENERATED`.
      source: [B,G,T] where each token comes from.
      gae_lambda: λ; 1 gives R - V_t.

    Returns:
      The advantages, without gradient; 0 at tokens that are not generated.
    """
    length, kept = source.shape[-1], source == GENERATED
    one_more = ((0, 0), (0, 0), (0, 1))
    place = jnp.where(kept, jnp.arange(length), length)
    nearest = jax.lax.cummin(place, axis=place.ndim - 1, reverse=True)  # generated, or T
    nearest = jnp.pad(nearest, one_more, constant_values=length)
    gained = jnp.where(kept & (nearest[..., 1:] == length), reward[..., None], 0.0)
    # A token in between has the value of the generated one after it, and hands on its advantage whole.
    worth = jnp.pad(jnp.where(kept, values, 0.0), one_more)
    worth = jnp.take_along_axis(worth, nearest, axis=-1)

    def steps(array):
        return array.reshape(-1, array.shape[-1]).T

    estimates = generalised_advantages(
        steps(gained),
        jnp.ones_like(steps(gained)),
        steps(worth),
        steps(jnp.where(kept, jnp.asarray(gae_lambda, values.dtype), 1.0)),
    )
    advantage = jnp.where(kept, estimates.T.reshape(source.shape), 0.0)
    return TokenAdvantages(advantage, jax.lax.stop_gradient(advantage + worth[..., :-1]))


def whitened(
    advantage: Float[Array, "B G T"], source: Int[Array, "B G T"], weight: Float[Array, "B"]
) -> Float[Array, "B G T"]:
    """Advantages shifted and scaled to mean 0 and deviation 1 over the generated tokens of a batch.

    Args:
      advantage: [B,G,T].
      source: [B,G,T] where each token comes from; other tokens than generated ones become 0.
      weight: [B] of the questions.

    Returns:
      [B,G,T].
    """
    kept = source == GENERATED
    counts = jnp.where(kept, weight[:, None, None], 0.0)
    return jnp.where(kept, standardised(advantage, counts), 0.0)


class SequenceLoss(NamedTuple):
    """Sums over generated tokens, and how many there are; all are [].

    Attributes:
      policy: Σ of the policy loss.
      kl: Σ of the estimated KL(π || reference), 0 without one; its gradient is estimated by itself.
      entropy: Σ of the entropies, 0 without any.
      value: Σ of ½ (V - target)², 0 without a critic.
      clipped: Σ of tokens whose ratio is clipped.
      count: generated tokens.
    """

    policy: Array
    kl: Array
    entropy: Array
    value: Array
    clipped: Array
    count: Array


def sequence_policy_loss(
    log_probs: Float[Array, "B G T"],
    behaviour: Float[Array, "B G T"],
    advantage: Float[Array, "B G"] | Float[Array, "B G T"],
    source: Int[Array, "B G T"],
    *,
    clip_eps: Scalar | None = None,
    reference: Float[Array, "B G T"] | None = None,
    entropy: Float[Array, "B G T"] | None = None,
    critic: tuple[Float[Array, "B G T"], Float[Array, "B G T"]] | None = None,
) -> SequenceLoss:
    """The terms of sampled answers, each Σ over the tokens that the policy generated.

    Without `clip_eps` -log π(y_t) A_t, whose gradient is REINFORCE's; with it PPO's clipped surrogate
    -min(ρ_t A_t, clip(ρ_t, 1-ε, 1+ε) A_t), ρ_t = π(y_t) / μ(y_t) (arXiv 1707.06347, equation 7).

    The divergence KL(π || ref) of answers has the value Σ_t exp(-l_t) - 1 + l_t, l_t = log π(y_t) -
    log ref(y_t), which is never negative and unbiased for samples of π (Schulman, "Approximating KL
    divergence", k3). The gradient of that value would be the one of KL(ref || π); it is instead

        ∇KL(π || ref) = E[Σ_t ∇log π(y_t) Σ_{s≥t} l_s]

    the score function with what each token's successors add. With `clip_eps` both are weighted by ρ_t,
    as the samples are those of μ.

    Args:
      log_probs: [B,G,T] log π(y_t|x,y_<t), differentiated.
      behaviour: [B,G,T] the same of the policy that sampled.
      advantage: of each answer or of each token; without gradient.
      source: [B,G,T] where each token comes from. What the other arrays hold at tokens that are not
        `GENERATED` changes no bit of the sums or their gradients.
      clip_eps: ε, or None.
      reference: [B,G,T] the same of the reference model, or None.
      entropy: [B,G,T] of the distribution that each token was drawn from, differentiated, or None.
      critic: [B,G,T] V(x,y_<t), differentiated, and [B,G,T] their targets, or None.

    Returns:
      The sums.
    """
    kept = source == GENERATED

    def counted(values):
        return jnp.where(kept, values, 0.0)

    log_probs, behaviour = counted(log_probs), counted(jax.lax.stop_gradient(behaviour))
    if advantage.ndim < source.ndim:
        advantage = advantage[..., None]
    advantage = counted(jax.lax.stop_gradient(jnp.broadcast_to(advantage, source.shape)))
    log_ratio = log_probs - behaviour
    clipped, ratio = jnp.zeros(source.shape, bool), jnp.ones(source.shape)
    weight = kept.astype(jnp.float32).ravel()
    if clip_eps is None:
        policy = -jnp.sum(log_probs * advantage)
    else:
        policy = clipped_surrogate_sum(log_ratio.ravel(), advantage.ravel(), clip_eps, weight)
        ratio = jax.lax.stop_gradient(jnp.exp(log_ratio))
        bounded = jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps)
        clipped = kept & (bounded * advantage < ratio * advantage)
    kl = value = jnp.zeros(())
    if reference is not None:
        gap = jax.lax.stop_gradient(log_probs - counted(reference))
        to_come = jax.lax.cumsum(gap, axis=gap.ndim - 1, reverse=True)
        score = counted(ratio * to_come) * log_probs
        kl = jnp.sum(ratio * (jnp.exp(-gap) - 1.0 + gap) + score - jax.lax.stop_gradient(score))
    if critic is not None:
        value = value_sum(critic[0].ravel(), critic[1].ravel(), weight)
    return SequenceLoss(
        policy,
        kl,
        jnp.zeros(()) if entropy is None else jnp.sum(counted(entropy)),
        value,
        jnp.sum(clipped, dtype=jnp.float32),
        jnp.sum(kept, dtype=jnp.float32),
    )
