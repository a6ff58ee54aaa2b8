"""Distributions over actions: a categorical one, and the mixture over passages that is the marginal.

    π(a|s) = Σ_k p(d_k|s) π(a|s,d_k)

Both give exact log-probabilities, entropy and divergence, since both are tables of log π(a|s).
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from ragjax.ops.marginal import log_posterior, marginal
from ragjax.ops.masking import masked_log_softmax
from ragjax.ops.policy_gradient import entropy_sum, policy_gradient_sum
from ragjax.types import Leaf


class ActionDistribution:
    """What follows from `log_probs`, [...,A] the normalised log π(a|s)."""

    @property
    def log_probs(self) -> Array:
        """[...,A] log π(a|s), normalised."""
        raise NotImplementedError

    @property
    def log_acts(self) -> Array:
        """[...,A] log-probabilities of what a choice begins with, each shown by a name: `log_probs`."""
        return self.log_probs

    def log_prob(self, action: Int[Array, "..."]) -> Float[Array, "..."]:
        """[...] log π(a|s) of actions [...]."""
        return jnp.take_along_axis(self.log_probs, action[..., None], axis=-1)[..., 0]

    def entropy(self) -> Float[Array, "..."]:
        """[...] -Σ_a π(a|s) log π(a|s), in nats."""
        return -jnp.sum(_expected(self.log_probs, self.log_probs), axis=-1)

    def kl(self, other: "ActionDistribution") -> Float[Array, "..."]:
        """[...] Σ_a π(a|s) [log π(a|s) - log π'(a|s)], in nats."""
        mine = self.log_probs
        return jnp.sum(_expected(mine, mine - other.log_probs), axis=-1)

    def mode(self) -> Int[Array, "..."]:
        """[...] the likeliest action."""
        return jnp.argmax(self.log_probs, axis=-1).astype(jnp.int32)

    def executed(self, choice: Int[Array, "..."]) -> Int[Array, "..."]:
        """[...] the action that an environment makes of a choice: the choice itself."""
        return choice

    def sample(self, key: Array) -> Int[Array, "..."]:
        """[...] one action each."""
        return self.perturbed_mode(jax.random.gumbel(key, self.log_probs.shape))

    def perturbed_mode(self, noise: Float[Array, "... A"]) -> Int[Array, "..."]:
        """[...] the action of the largest log π(a|s) + noise: a sample, if the noise is Gumbel's."""
        return jnp.argmax(self.log_probs + noise, axis=-1).astype(jnp.int32)

    def with_log_probs(self, log_probs: Float[Array, "... A"]) -> "ActionDistribution":
        """The distribution over the same choices that has these `log_probs`, such as stored ones."""
        return Categorical(log_probs)

    def policy_gradient_sum(
        self, action: Int[Array, "B"], advantage: Float[Array, "B"], weight: Float[Array, "B"]
    ) -> Float[Array, ""]:
        """[] Σ_b w_b [-log π(a_b|s_b) A_b], see `ops.policy_gradient.policy_gradient_sum`."""
        return policy_gradient_sum(self.log_probs, action, advantage, weight)

    def entropy_sum(self, weight: Float[Array, "B"]) -> Float[Array, ""]:
        """[] Σ_b w_b H(π(·|s_b)), see `ops.policy_gradient.entropy_sum`."""
        return entropy_sum(self.log_probs, weight)


def _expected(log_probs: Array, values: Array) -> Array:
    """π(a) · value(a), and 0 where π(a) is 0, whatever the value."""
    possible = ~jnp.isneginf(log_probs)
    return jnp.where(possible, jnp.exp(log_probs) * jnp.where(possible, values, 0.0), 0.0)


@struct.dataclass
class Categorical(ActionDistribution):
    """π(a|s) = softmax(logits)_a.

    Attributes:
      logits: [...,A], -inf for an impossible action.
    """

    logits: Leaf

    @property
    def log_probs(self) -> Array:
        """[...,A] log π(a|s)."""
        return jax.nn.log_softmax(self.logits, axis=-1)


@struct.dataclass
class MarginalCategorical(ActionDistribution):
    """π(a|s) = Σ_k p(d_k|s) softmax(logits_k)_a.

    Attributes:
      log_prior: [...,K] log p(d_k|s), normalised over the K passages; -inf at a miss.
      logits: [...,K,A] of the policy that has read each passage.
    """

    log_prior: Leaf
    logits: Leaf

    @property
    def component_log_probs(self) -> Array:
        """[...,K,A] log π(a|s,d_k)."""
        return jax.nn.log_softmax(self.logits, axis=-1)

    @property
    def log_probs(self) -> Array:
        """[...,A] log π(a|s)."""
        components = jnp.swapaxes(self.component_log_probs, -1, -2)
        # An action impossible with every passage would have a NaN gradient; as a miss it has none.
        prior = jnp.where(jnp.isneginf(components), -jnp.inf, self.log_prior[..., None, :])
        return marginal(prior, components)

    def log_posterior(self, action: Int[Array, "..."]) -> Array:
        """[...,K] log p(d_k|s,a), the weight of each passage in the gradient of log π(a|s)."""
        chosen = jnp.take_along_axis(self.component_log_probs, action[..., None, None], axis=-1)
        return log_posterior(self.log_prior, chosen[..., 0])


@struct.dataclass
class JointCategorical(MarginalCategorical):
    """Passage and action drawn together: p(d_k,a|s) = p(d_k|s) softmax(logits_k)_a.

    A choice is k·A + a. Its score ∇[log p(d_k|s) + log π(a|s,d_k)] is that of the estimator that samples
    a passage; in the mean over d it is the score of the marginal.
    """

    @property
    def log_probs(self) -> Array:
        """[...,K·A] log p(d_k,a|s)."""
        # A finite floor, for an entropy multiplies by exp of it: 0 times -inf would be NaN.
        prior = jnp.maximum(self.log_prior, -1e9)[..., None]
        joint = prior + self.component_log_probs
        return joint.reshape(*joint.shape[:-2], -1)

    def mode(self) -> Int[Array, "..."]:
        """[...] the likeliest action of the marginal, with the first passage."""
        return MarginalCategorical(self.log_prior, self.logits).mode()

    def executed(self, choice: Int[Array, "..."]) -> Int[Array, "..."]:
        """[...] the action a of a choice k·A + a."""
        return choice % self.logits.shape[-1]


@struct.dataclass
class StraightThroughCategorical(MarginalCategorical):
    """A mixture over drawn passages alone, with the gradient of relaxed weights (arXiv 1611.01144).

    The m passages with the largest log p(d_k|s) + g_k, g Gumbel noise, are a sample without replacement
    (Kool et al., arXiv 1903.06059). Forward they share the weight as p(d|s) does; backward the weights
    are softmax((log p(d_k|s) + g_k) / τ), also of those that were not drawn. The gradient is biased.

    Attributes:
      noise: [...,K] g.
      drawn: m, static.
      temperature: τ.
    """

    noise: Leaf
    drawn: int = struct.field(pytree_node=False, default=1)
    temperature: float = struct.field(pytree_node=False, default=1.0)

    @property
    def log_probs(self) -> Array:
        """[...,A] log π(a|s) of the drawn passages."""
        valid = ~jnp.isneginf(self.log_prior)
        perturbed = jnp.where(valid, jnp.where(valid, self.log_prior, 0.0) + self.noise, -jnp.inf)
        soft = jnp.exp(masked_log_softmax(perturbed / self.temperature, valid))
        least = jax.lax.top_k(perturbed, self.drawn)[0][..., -1:]
        chosen = valid & (perturbed >= least)
        hard = masked_log_softmax(jax.lax.stop_gradient(self.log_prior), chosen)
        components = jnp.swapaxes(self.component_log_probs, -1, -2)  # [...,A,K]
        value = marginal(jnp.broadcast_to(hard[..., None, :], components.shape), components)
        # ∂ log Σ_k w_k π_k(a) / ∂ w_k = π_k(a) / π(a), for weights of 0 too.
        slope = jax.lax.stop_gradient(jnp.exp(components - value[..., None]))
        through = (soft - jax.lax.stop_gradient(soft))[..., None, :]
        return value + jnp.sum(through * slope, axis=-1)
