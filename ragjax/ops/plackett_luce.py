"""Plackett-Luce: ordered slates of distinct candidates, drawn place by place without replacement.

    π(a_1,...,a_P|s) = Π_p exp(z_{a_p}) / Σ_{k not in a_1..a_{p-1}} exp(z_k)

A candidate that is not shown is summed over in every denominator (Plackett 1975; Kool et al., arXiv
1903.06059). Log-probability, entropy and divergence are exact; P, the places, is small.
"""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from ragjax.ops.distributions import ActionDistribution
from ragjax.ops.policy_gradient import policy_gradient_sum, weighted_sum
from ragjax.types import Leaf

CERTAIN = 30.0  # nats by which each item of an all but certain slate is likelier than the next
REMOVED = -1e9  # score of a candidate that can't be chosen: finite, for 0 times -inf would be NaN


@struct.dataclass
class PlackettLuce(ActionDistribution):
    """An ordered slate of distinct candidates by their scores.

    A choice is [...,P] positions among the K candidates, the first place first.

    Attributes:
      scores: [...,K] z; -inf or `REMOVED` for a candidate that can't be shown, of which at least P can.
      places: P, static.
      ids: [...,K] what the environment knows each candidate by; None for its position.
      clicked: [...] the place of the slate before that was clicked, P if none was; None if that isn't
        told.
    """

    scores: Leaf
    places: int = struct.field(pytree_node=False)
    ids: Leaf = None
    clicked: Leaf = None

    @property
    def log_probs(self) -> Array:
        """[...,K] log-probabilities of the first place, which determine all others."""
        return jax.nn.log_softmax(jnp.maximum(self.scores, REMOVED), axis=-1)

    def with_log_probs(self, log_probs: Float[Array, "... K"]) -> "PlackettLuce":
        """The distribution over slates of the same candidates that has these `log_probs`."""
        return PlackettLuce(log_probs, self.places, self.ids)

    def decisions(self, action: Int[Array, "... P"]) -> Float[Array, "... P K"]:
        """[...,P,K] the scores at each place of a slate; `REMOVED` for what stands before it."""
        shown = jax.nn.one_hot(action, self.scores.shape[-1])
        before = jnp.cumsum(shown, axis=-2) - shown
        return jnp.where(before > 0, REMOVED, jnp.maximum(self.scores, REMOVED)[..., None, :])

    def log_prob(self, action: Int[Array, "... P"]) -> Float[Array, "..."]:
        """[...] log π(a|s) of slates [...,P]."""
        each = jax.nn.log_softmax(self.decisions(action), axis=-1)
        return jnp.sum(jnp.take_along_axis(each, action[..., None], axis=-1)[..., 0], axis=-1)

    def entropy(self) -> Float[Array, "..."]:
        """[...] entropy over ordered slates, in nats."""
        return slate_cross_entropy(self.log_probs, self.log_probs, self.places)

    def kl(self, other: "PlackettLuce") -> Float[Array, "..."]:
        """[...] divergence from another distribution over slates of the same candidates, in nats."""
        crossed = slate_cross_entropy(self.log_probs, other.log_probs, self.places)
        return crossed - self.entropy()

    def mode(self) -> Int[Array, "... P"]:
        """[...,P] the likeliest slate: the best candidates, best first."""
        return jax.lax.top_k(self.log_probs, self.places)[1].astype(jnp.int32)

    def perturbed_mode(self, noise: Float[Array, "... K"]) -> Int[Array, "... P"]:
        """[...,P] the best by log-probability + noise: a sample, if the noise is Gumbel's."""
        return jax.lax.top_k(self.log_probs + noise, self.places)[1].astype(jnp.int32)

    def executed(self, choice: Int[Array, "... P"]) -> Int[Array, "... P"]:
        """[...,P] the slate that an environment is shown."""
        return choice if self.ids is None else jnp.take_along_axis(self.ids, choice, axis=-1)

    def policy_gradient_sum(
        self, action: Int[Array, "B P"], advantage: Float[Array, "B"], weight: Float[Array, "B"]
    ) -> Float[Array, ""]:
        """See `ActionDistribution.policy_gradient_sum`: each place is a decision with its advantage."""
        logits = self.decisions(action).reshape(-1, self.scores.shape[-1])
        advantage, weight = (jnp.repeat(of, self.places) for of in (advantage, weight))
        return policy_gradient_sum(logits, action.reshape(-1), advantage, weight)

    def entropy_sum(self, weight: Float[Array, "B"]) -> Float[Array, ""]:
        """See `ActionDistribution.entropy_sum`."""
        return weighted_sum(self.entropy(), weight)


def slate_cross_entropy(
    drawn: Float[Array, "... K"], scored: Float[Array, "... K"], places: int
) -> Float[Array, "..."]:
    """Computes -E[log π(a_1..a_P)] of slates drawn by one distribution and scored by another.

    By the chain rule it is that of the first place and, over each candidate that may stand there, that
    of the other places without it; the last place is one sum over the others for all candidates at
    once, so that time and memory of up to three places go by K^(P-1). Of more places it is the sum over
    sets of what may stand before a place, of which there are fewer than orders.

    Args:
      drawn: [...,K] scores of the distribution that draws; `REMOVED` for what can't be shown.
      scored: [...,K] scores of the distribution π, at least `REMOVED`.
      places: P.

    Returns:
      [...] in nats.
    """
    first = jnp.exp(jax.nn.log_softmax(drawn, axis=-1))
    value = -jnp.sum(first * jax.nn.log_softmax(scored, axis=-1), axis=-1)
    if places == 1:
        return value
    if places > 3:
        return _cross_entropy_by_sets(drawn, scored, places)
    if places == 2:
        others = _cross_entropy_without_each(drawn, scored)
    else:
        others = slate_cross_entropy(_each_removed(drawn), _each_removed(scored), places - 1)
    # What can't stand first says nothing of the others, whatever is computed for it.
    return value + jnp.sum(jnp.where(first > 0, first * others, 0.0), axis=-1)


def _cross_entropy_by_sets(
    drawn: Float[Array, "... K"], scored: Float[Array, "... K"], places: int
) -> Float[Array, "..."]:
    """[...] Σ_S P(S) (-E[log π of the next place]), over the sets S of up to P - 1 candidates.

    P(S), the chance that S is what stands first in some order, is Σ_{k in S} P(S - k) π(k | S - k).
    """
    count = drawn.shape[-1]
    value = jnp.zeros(drawn.shape[:-1])
    sets: list[tuple[int, ...]] = [()]
    log_chance, log_next = jnp.zeros((*drawn.shape[:-1], 1)), drawn[..., None, :]
    for size in range(places):
        if size:
            place = {of: number for number, of in enumerate(sets)}
            sets = list(combinations(range(count), size))
            before = np.array([[place[of[:i] + of[i + 1 :]] for i in range(size)] for of in sets])
            ways = log_chance[..., before] + log_next[..., before, np.array(sets)]
            log_chance = jax.nn.logsumexp(ways, axis=-1)
        taken = np.array([[k in of for k in range(count)] for of in sets])
        mine, others = (jnp.where(taken, REMOVED, of[..., None, :]) for of in (drawn, scored))
        log_next = jax.nn.log_softmax(mine, axis=-1)
        surprise = -jnp.sum(jnp.exp(log_next) * jax.nn.log_softmax(others, axis=-1), axis=-1)
        value = value + jnp.sum(jnp.exp(log_chance) * surprise, axis=-1)
    return value


def _each_removed(scores: Float[Array, "... K"]) -> Float[Array, "... K K"]:
    """[...,K,K] the scores without candidate i, in row i."""
    return jnp.where(jnp.eye(scores.shape[-1], dtype=bool), REMOVED, scores[..., None, :])


def _cross_entropy_without_each(
    drawn: Float[Array, "... K"], scored: Float[Array, "... K"]
) -> Float[Array, "... K"]:
    """[...,K] log Σ_j exp(scored_j) - E[scored] of one place from which candidate i is removed.

    The mean is a ratio of sums of positive numbers, of the distance from one above the largest score.
    """
    top = jax.lax.stop_gradient(jnp.max(scored, axis=-1, keepdims=True)) + 1.0
    distance = _logsumexp_without_each(drawn + jnp.log(top - scored))
    mean = top - jnp.exp(distance - _logsumexp_without_each(drawn))
    return _logsumexp_without_each(scored) - mean


def _logsumexp_without_each(values: Float[Array, "... K"]) -> Float[Array, "... K"]:
    """[...,K] log Σ_{j≠i} exp(values_j).

    A term other than the largest is at most half of the sum, so that subtracting it costs no precision;
    without the largest the others are added up anew.
    """
    largest = jnp.arange(values.shape[-1]) == jnp.argmax(values, axis=-1, keepdims=True)
    top = jax.lax.stop_gradient(jnp.max(values, axis=-1, keepdims=True))
    terms = jnp.exp(values - top)
    total = jnp.sum(terms, axis=-1, keepdims=True)
    others = top + jnp.log(jnp.where(largest, 1.0, total - terms))
    without_largest = jax.nn.logsumexp(jnp.where(largest, REMOVED, values), axis=-1, keepdims=True)
    return jnp.where(largest, without_largest, others)


def log_inclusion(
    scores: Float[Array, "N"], item: Int[Array, ""], places: int, nodes: int = 256
) -> Float[Array, ""]:
    """Computes log P(item among the first `places` of an order drawn by Plackett-Luce).

    The items arrive as independent exponential clocks of rates exp(z), so that

        P = ∫ w exp(-w t) P(fewer than `places` of the others have arrived by t) dt

    with a Poisson-binomial chance that is added up item by item. The integral is over log t, by the
    trapezoidal rule, which converges fast for it. Time and memory go by N · places · nodes.

    Args:
      scores: [N] z.
      item: [] which.
      places: K, at most N.
      nodes: of the integral.

    Returns:
      [] with gradient.
    """
    others = jnp.arange(scores.shape[0]) != item
    log_rates = jax.nn.log_softmax(scores)
    rate = jnp.exp(log_rates[item])
    log_times = jnp.linspace(-12.0, 24.0, nodes)
    times = jnp.exp(log_times)

    def arrive(counts: Array, arriving: tuple[Array, Array]) -> tuple[Array, None]:
        log_rate, other = arriving
        chance = jnp.where(other, -jnp.expm1(-jnp.exp(log_rate) * times), 0.0)[:, None]
        one_more = jnp.pad(counts, ((0, 0), (1, 0)))[:, :-1]
        return counts * (1.0 - chance) + one_more * chance, None

    nobody = jnp.zeros((nodes, places)).at[:, 0].set(1.0)
    counts, _ = jax.lax.scan(arrive, nobody, (log_rates, others))
    in_time = rate * times * jnp.exp(-rate * times) * jnp.sum(counts, axis=-1)
    return jnp.log(jnp.sum(in_time) * (log_times[1] - log_times[0]))
