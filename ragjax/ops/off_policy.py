"""Off-policy evaluation: what a policy would earn, from the log of another one.

A log holds n independent rounds: a context x, an action a drawn by the logging policy μ(a|x), and its
reward r. With the weights w = π(a|x) / μ(a|x) the value E[r] of the policy π is estimated by

    IPS     (1/n) Σ_i w_i r_i
    SNIPS   Σ_i w_i r_i / Σ_i w_i
    DR      (1/n) Σ_i [ Σ_a π(a|x_i) q(x_i,a) + w_i (r_i - q(x_i,a_i)) ]

with q a model of the reward (Horvitz and Thompson, 1952; Swaminathan and Joachims, 2015; Dudik et al.,
arXiv 1103.4601). IPS is unbiased where μ is right and positive wherever π is, DR where either μ or q is
right, and SNIPS tends to the value with n; so does DR with its second sum divided by Σ_i w_i in place of
n (Thomas and Brunskill, arXiv 1604.00923), which a large weight moves less. The direct method,
(1/n) Σ_i Σ_a π(a|x_i) q(x_i,a), is `ips` of that sum with weights of one.

An ordered slate of P places has a reward and a ratio π / μ of the conditional probabilities at each
place, and [n,P] weights by what a place's reward may depend on:

    whole        all places         the product of all ratios (or that of the slates' probabilities)
    cascade      places 1..p        the product of the ratios up to p
    independent  place p alone      the ratio at p, of marginal probabilities

(McInerney et al., arXiv 2007.12986; Li et al., arXiv 1804.10488, for the last).
The fewer places, the smaller the variance, and the bias if the reward depends on more. Where a slate
has no such place the ratio is 1, and the reward and the model's are 0. Written "n *P", a shape is [n]
for one action a round and for whole slates, or [n,P].

Logs of unequal lengths run in one program if they are padded to one length: the rounds of `valid` count.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

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
    reward: Float[Array, "n *P"],
    weight: Float[Array, "n *P"],
    clip: float | None = None,
    *,
    valid: Bool[Array, "n"] | None = None,
) -> Estimate:
    """Inverse propensity scores: (1/n) Σ_i Σ_p min(w_ip, clip) r_ip.

    Args:
      reward: [n] or [n,P] r.
      weight: [n] or [n,P] π / μ.
      clip: the largest weight, which lowers the variance and biases rewards of one sign towards zero
        (Ionides, 2008); None to leave the weights as they are.
      valid: [n] which rounds count, whatever the others hold; None for all.

    Returns:
      Its standard error is that of a mean of n independent terms, NaN where fewer than two are valid.

    Raises:
      UserError: there are fewer than two rounds, shapes differ, or `clip` isn't positive.
    """
    _check(reward, clip, valid, weight=weight)
    return _mean_of(_by_round(_clipped(weight, clip) * reward), weight, clip, valid)


def snips(
    reward: Float[Array, "n *P"],
    weight: Float[Array, "n *P"],
    clip: float | None = None,
    *,
    valid: Bool[Array, "n"] | None = None,
) -> Estimate:
    """Self-normalised inverse propensity scores: Σ_p Σ_i w_ip r_ip / Σ_i w_ip.

    Args:
      reward: [n] or [n,P] r.
      weight: [n] or [n,P] π / μ.
      clip: see `ips`.
      valid: see `ips`.

    Returns:
      NaN where all weights of a place are zero, since then the log says nothing of the policy. Its
      standard error is that of the ratio's linear part, sqrt(Σ_i e_i² / (n (n-1))) with
      e_i = Σ_p w_ip (r_ip - v_p) / mean_i w_ip (Owen, Monte Carlo theory, 2013, chapter 9).

    Raises:
      UserError: see `ips`.
    """
    _check(reward, clip, valid, weight=weight)
    terms = _self_normalised(_clipped(weight, clip), reward, _rows(valid, weight))
    return _mean_of(_by_round(terms), weight, clip, valid)


def doubly_robust(
    reward: Float[Array, "n *P"],
    weight: Float[Array, "n *P"],
    predicted: Float[Array, "n *P"],
    expected: Float[Array, "n *P"],
    *,
    before: Float[Array, "n *P"] | None = None,
    self_normalised: bool = False,
    clip: float | None = None,
    valid: Bool[Array, "n"] | None = None,
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
      self_normalised: whether the second sum of each place is divided by its Σ_i w_ip in place of n.
      clip: see `ips`.
      valid: see `ips`.

    Returns:
      Its standard error is that of a mean of n independent terms, the model taken as given; of what is
      self-normalised as for `snips`, and NaN where that is.

    Raises:
      UserError: see `ips`.
    """
    before = jnp.ones_like(weight) if before is None else before
    models = {"predicted": predicted, "expected": expected, "before": before}
    _check(reward, clip, valid, weight=weight, **models)
    used, residual = _clipped(weight, clip), reward - predicted
    if self_normalised:
        corrections = _self_normalised(used, residual, _rows(valid, weight))
    else:
        corrections = used * residual
    return _mean_of(_by_round(before * expected + corrections), weight, clip, valid)


def _self_normalised(used: Array, reward: Array, rows: Array | None) -> Array:
    """[n] or [n,P] v_p + w_ip (r_ip - v_p) / mean_i w_ip, of mean v_p = Σ_i w_ip r_ip / Σ_i w_ip."""
    mean = jnp.mean(used, axis=0, where=rows)
    values = jnp.mean(used * reward, axis=0, where=rows) / mean
    return values + used * (reward - values) / mean


def _check(reward: Array, clip: float | None, valid: Array | None, **others: Array) -> None:
    """Refuses what would be broadcast, [n] by [n,1] to [n,n] for one, and a clip that turns signs."""
    for name, other in others.items():
        require(
            other.shape == reward.shape,
            f"{name} has the shape {other.shape}, but reward {reward.shape}; give both as [n], or as "
            "[n,P] with an entry for each place.",
        )
    if valid is not None:
        require(
            valid.shape == reward.shape[:1],
            f"valid has the shape {valid.shape}, but reward {reward.shape}; give it as [n].",
        )
    require(clip is None or clip > 0, f"clip is {clip}; the largest weight must be positive.")


def _rows(valid: Array | None, weight: Array) -> Array | None:
    """[n] or [n,1], as `where` of the weights; None for all."""
    return None if valid is None else valid.reshape(-1, *[1] * (weight.ndim - 1))


def _clipped(weight: Array, clip: float | None) -> Array:
    return weight if clip is None else jnp.minimum(weight, clip)


def _by_round(terms: Array) -> Array:
    """[n] the sum over places, if there are several."""
    return jnp.sum(terms.reshape(terms.shape[0], -1), axis=-1)


def _mean_of(terms: Array, weight: Array, clip: float | None, valid: Array | None) -> Estimate:
    """The mean of n independent terms, and the figures of the weights."""
    length = terms.shape[0]
    require(
        length >= 2, f"The log has {length} rounds; an estimate with an error needs at least 2."
    )
    count = length if valid is None else jnp.sum(valid.astype(terms.dtype))
    used, rows = _clipped(weight, clip), _rows(valid, weight)
    squares = jnp.sum(jnp.square(used), axis=0, where=rows)
    size = jnp.square(jnp.sum(used, axis=0, where=rows)) / jnp.where(squares > 0, squares, 1.0)
    return Estimate(
        value=jnp.mean(terms, where=valid),
        standard_error=jnp.std(terms, ddof=1, where=valid) / count**0.5,
        mean_weight=jnp.mean(used, where=rows),
        effective_size=jnp.min(size),
        largest_weight=jnp.max(weight, where=rows, initial=0.0),
        clipped=jnp.mean((used < weight).astype(terms.dtype), where=rows),
    )
