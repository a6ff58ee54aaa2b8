"""Either one of a few acts, such as a question to the user, or an ordered list of what was retrieved.

    π(act j|s) = Σ_k p(d_k|s) π(j|s,d_k)
    π(d_1,...,d_P|s) = p(d_1|s) π(list|s,d_1) Π_{p>1} PlackettLuce(d_p | those before)

The passages that a list names are part of the action; for any other act they are summed over. The chance
that a list begins with a passage is that of the passage and of naming it at once, and the places after
the first are drawn by the same chances without those that stand before.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from ragjax.ops.distributions import MarginalCategorical
from ragjax.ops.marginal import log_posterior
from ragjax.ops.plackett_luce import REMOVED
from ragjax.ops.policy_gradient import weighted_sum
from ragjax.types import Leaf


@struct.dataclass
class RequestOrList(MarginalCategorical):
    """One of M requests, or a list of P of K passages.

    Entropy and divergence are exact for what comes first, a request or the first passage; of the places
    after it they say nothing, for these have too many orders.

    A choice is [...,P] numbers: j < M for request j, M + k for passage k. One that begins with a request
    is that request, whatever follows; another is a list. The environment is shown M + `ids` in place of
    M + k.

    Attributes:
      log_prior: [...,K] log p(d_k|s); -inf at a miss, of which K has at most K - P.
      logits: [...,K,M+1] of the acts, with each passage read; the last act is to give a list.
      ids: [...,K] what the environment knows each passage by.
      places: P, static.
    """

    ids: Leaf
    places: int = struct.field(pytree_node=False)

    @property
    def requests(self) -> int:
        """M."""
        return self.logits.shape[-1] - 1

    @property
    def log_probs(self) -> Array:
        """[...,M+K] log-probabilities of what comes first: a request, or the first passage of a list."""
        prior = jnp.maximum(self.log_prior, REMOVED)
        acts = prior[..., None] + self.component_log_probs
        requests = jax.nn.logsumexp(acts[..., :-1], axis=-2)
        return jnp.concatenate([requests, acts[..., -1]], axis=-1)

    @property
    def log_acts(self) -> Array:
        """[...,M+1] log-probabilities of the requests, and of giving a list."""
        first = self.log_probs
        lists = jax.nn.logsumexp(first[..., self.requests :], axis=-1, keepdims=True)
        return jnp.concatenate([first[..., : self.requests], lists], axis=-1)

    def log_prob(self, action: Int[Array, "... P"]) -> Float[Array, "..."]:
        """[...] log π(a|s) of choices [...,P]."""
        first = self.log_probs
        begins = jnp.take_along_axis(first, action[..., :1], axis=-1)[..., 0]
        rows = jnp.maximum(action - self.requests, 0)
        shown = jax.nn.one_hot(rows, self.log_prior.shape[-1])
        before = jnp.cumsum(shown, axis=-2) - shown
        scores = jnp.where(before > 0, REMOVED, first[..., None, self.requests :])
        each = jax.nn.log_softmax(scores, axis=-1)
        each = jnp.take_along_axis(each, rows[..., None], axis=-1)[..., 0]
        listed = action[..., 0] >= self.requests
        return begins + jnp.where(listed, jnp.sum(each[..., 1:], axis=-1), 0.0)

    def log_posterior(self, action: Int[Array, "... P"]) -> Array:
        """[...,K] log p(d_k|s,a) of what the environment is shown: of a list its first passage alone."""
        first = action[..., :1]
        request = jnp.minimum(first, self.requests - 1)[..., None]
        read = jnp.take_along_axis(self.component_log_probs, request, axis=-1)[..., 0]
        named = jnp.where(self.ids == first - self.requests, 0.0, -jnp.inf)
        return jnp.where(first < self.requests, log_posterior(self.log_prior, read), named)

    def with_log_probs(self, log_probs: Float[Array, "... A"]) -> "RequestOrList":
        """The distribution over the same choices that has these `log_probs` [...,M+K]."""
        requests, rows = log_probs[..., : self.requests], log_probs[..., self.requests :]
        lists = jax.nn.logsumexp(rows, axis=-1, keepdims=True)
        acts = jnp.concatenate([requests, lists], axis=-1)[..., None, :]
        logits = jnp.broadcast_to(acts, (*rows.shape, acts.shape[-1]))
        return RequestOrList(rows - lists, logits, self.ids, self.places)

    def mode(self) -> Int[Array, "... P"]:
        """[...,P] the likeliest act; if that is a list, the likeliest passages, best first."""
        return self._choice(jnp.argmax(self.log_acts, axis=-1), self.log_probs)

    def perturbed_mode(self, noise: Float[Array, "... A"]) -> Int[Array, "... P"]:
        """[...,P] the best by log-probability + noise [...,M+K]: a sample, if the noise is Gumbel's."""
        scores = self.log_probs + noise
        return self._choice(jnp.argmax(scores, axis=-1), scores)

    def _choice(self, act: Array, scores: Array) -> Array:
        """The request `act` [...], or the best passages by their scores [...,M+K] if it is none."""
        rows = jax.lax.top_k(scores[..., self.requests :], self.places)[1] + self.requests
        asked = jnp.concatenate([act[..., None], rows[..., :-1]], axis=-1)
        return jnp.where(act[..., None] < self.requests, asked, rows).astype(jnp.int32)

    def executed(self, choice: Int[Array, "... P"]) -> Int[Array, "... P"]:
        """[...,P] what the environment is shown."""
        rows = jnp.maximum(choice - self.requests, 0)
        named = self.requests + jnp.take_along_axis(self.ids, rows, axis=-1)
        return jnp.where(choice < self.requests, choice, named)

    def policy_gradient_sum(
        self, action: Int[Array, "B P"], advantage: Float[Array, "B"], weight: Float[Array, "B"]
    ) -> Float[Array, ""]:
        """See `ActionDistribution.policy_gradient_sum`."""
        return -weighted_sum(self.log_prob(action) * jax.lax.stop_gradient(advantage), weight)
