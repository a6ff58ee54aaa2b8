"""Off-policy evaluation: what a policy would earn, from the log of another one.

A log holds n independent rounds: a context x, an action a drawn by the logging policy μ(a|x), and its
reward r. With the weights w = π(a|x) / μ(a|x) the value E[r] of the policy π is estimated by

    IPS     (1/n) Σ_i w_i r_i
    SNIPS   Σ_i w_i r_i / Σ_i w_i
    DR      (1/n) Σ_i [ Σ_a π(a|x_i) q(x_i,a) + w_i (r_i - q(x_i,a_i)) ]

with q a model of the reward (Horvitz and Thompson, 1952; Swaminathan and Joachims, 2015; Dudik et al.,
arXiv 1103.4601). IPS is unbiased where μ is right and positive wherever π is, DR where either μ or q is
right, and SNIPS tends to the value with n. The direct method, (1/n) Σ_i Σ_a π(a|x_i) q(x_i,a), is
`ips` of that sum with weights of one.

An ordered slate of P places has a reward and a ratio π / μ of the conditional probabilities at each
place, and [n,P] weights by what a place's reward may depend on:

    whole        all places         the product of all ratios (or that of the slates' probabilities)
    cascade      places 1..p        the product of the ratios up to p
    independent  place p alone      the ratio at p, of marginal probabilities

(McInerney et al., arXiv 2007.12986; Li et al., arXiv 1804.10488, for the last).
The fewer places, the smaller the variance, and the bias if the reward depends on more. Where a slate
has no such place the ratio is 1 and the reward 0. Written "n *P", a shape is [n] for one action a round
and for whole slates, or [n,P].
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ragjax.errors import require


class Estimate(NamedTuple):
    """An estimate of a policy's value, and how far it is to be trusted.

    Attributes:
      value: [] in the unit of the reward, for a slate summed over its places.
      standard_error: [] of the value.
      mean_weight: [] over rounds and places, as used; 1 in expectation if μ is right, reaches all that
        π does, and nothing is clipped.
      effective_size: [] (Σ w)² / Σ w², the number of rounds that equal weights would have as much
        variance with; of the place where it is smallest.
      largest_weight: [] before clipping.
      clipped: [] share of the weights that were clipped.
    """

    value: Array
    standard_error: Array
    mean_weight: Array
    effective_size: Array
    largest_weight: Array
    clipped: Array


def whole_weights(ratio: Float[Array, "n P"]) -> Float[Array, "n"]:
    """[n] Π_p π/μ of whole slates, from the [n,P] ratios of each place given those before it."""
    return jnp.prod(ratio, axis=-1)


def cascade_weights(
    ratio: Float[Array, "n P"],
) -> tuple[Float[Array, "n P"], Float[Array, "n P"]]:
    """The products of ratios up to each place, [n,P], and up to the one before it, [n,P]."""
    weight = jnp.cumprod(ratio, axis=-1)
    return weight, jnp.concatenate([jnp.ones_like(weight[:, :1]), weight[:, :-1]], axis=-1)


def ips(
    reward: Float[Array, "n *P"], weight: Float[Array, "n *P"], clip: float | None = None
) -> Estimate:
    """Inverse propensity scores: (1/n) Σ_i Σ_p min(w_ip, clip) r_ip.

    Args:
      reward: [n] or [n,P] r.
      weight: [n] or [n,P] π / μ.
      clip: the largest weight, which lowers the variance and biases rewards of one sign towards zero
        (Ionides, 2008); None to leave the weights as they are.

    Returns:
      Its standard error is that of a mean of n independent terms.

    Raises:
      UserError: there are fewer than two rounds.
    """
    return _mean_of(_by_round(_clipped(weight, clip) * reward), weight, clip)


def snips(
    reward: Float[Array, "n *P"], weight: Float[Array, "n *P"], clip: float | None = None
) -> Estimate:
    """Self-normalised inverse propensity scores: Σ_p Σ_i w_ip r_ip / Σ_i w_ip.

    Args:
      reward: [n] or [n,P] r.
      weight: [n] or [n,P] π / μ.
      clip: see `ips`.

    Returns:
      NaN where all weights of a place are zero, since then the log says nothing of the policy. Its
      standard error is that of the ratio's linear part, sqrt(Σ_i e_i² / (n (n-1))) with
      e_i = Σ_p w_ip (r_ip - v_p) / mean_i w_ip (Owen, Monte Carlo theory, 2013, chapter 9).

    Raises:
      UserError: there are fewer than two rounds.
    """
    used = _clipped(weight, clip)
    mean = jnp.mean(used, axis=0)
    values = jnp.mean(used * reward, axis=0) / mean
    linear = _by_round(used * (reward - values) / mean)
    return _mean_of(linear, weight, clip)._replace(value=jnp.sum(values))


def doubly_robust(
    reward: Float[Array, "n *P"],
    weight: Float[Array, "n *P"],
    predicted: Float[Array, "n *P"],
    expected: Float[Array, "n *P"],
    *,
    before: Float[Array, "n *P"] | None = None,
    clip: float | None = None,
) -> Estimate:
    """Doubly robust: (1/n) Σ_i Σ_p [ b_ip E_π[q_p] + min(w_ip, clip) (r_ip - q_ip) ].

    Args:
      reward: [n] or [n,P] r.
      weight: [n] or [n,P] π / μ.
      predicted: [n] or [n,P] q of what was shown: a model of the reward, that a cascade's is of the
        rewards of the place and of all after it under π.
      expected: [n] or [n,P] Σ_a π(a|x) q(x,a), over slates or over the items at the place given those
        before it.
      before: [n,P] b, a cascade's weights of the places before (see `cascade_weights`; Kiyohara et al.,
        arXiv 2202.01562); None for ones.
      clip: see `ips`.

    Returns:
      Its standard error is that of a mean of n independent terms, the model taken as given.

    Raises:
      UserError: there are fewer than two rounds.
    """
    model = expected if before is None else before * expected
    return _mean_of(_by_round(model + _clipped(weight, clip) * (reward - predicted)), weight, clip)


def _clipped(weight: Array, clip: float | None) -> Array:
    return weight if clip is None else jnp.minimum(weight, clip)


def _by_round(terms: Array) -> Array:
    """[n] the sum over places, if there are several."""
    return jnp.sum(terms.reshape(terms.shape[0], -1), axis=-1)


def _mean_of(terms: Array, weight: Array, clip: float | None) -> Estimate:
    """The mean of n independent terms, and the figures of the weights."""
    count = terms.shape[0]
    require(count >= 2, f"The log has {count} rounds; an estimate with an error needs at least 2.")
    used = _clipped(weight, clip)
    squares = jnp.sum(jnp.square(used), axis=0)
    size = jnp.square(jnp.sum(used, axis=0)) / jnp.where(squares > 0, squares, 1.0)
    return Estimate(
        value=jnp.mean(terms),
        standard_error=jnp.std(terms, ddof=1) / count**0.5,
        mean_weight=jnp.mean(used),
        effective_size=jnp.min(size),
        largest_weight=jnp.max(weight),
        clipped=jnp.mean((used < weight).astype(terms.dtype)),
    )
