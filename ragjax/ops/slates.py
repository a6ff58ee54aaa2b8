"""Slates by the values of their items, where the user clicks at most one of them: SlateQ's rules.

Item i of a slate A is clicked with the chance s_i / (Σ_{j in A} s_j + s_0), none with the rest, and q_i
is what a click on it is worth in the long run. So a slate is worth

    V(A) = Σ_{i in A} s_i q_i / (Σ_{i in A} s_i + s_0)

(Ie et al., arXiv 1905.12767). A slate is [...,P] positions among the K candidates, all
different; a place that no candidate is left for holds -1, after all others, and counts for nothing.
Scores are not negative and s_0 is positive; values may have any sign. All places are filled while
there are candidates, even with an item that lowers V.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ragjax.errors import require

SlateRule = Callable[..., Array]  # `top_slate`, `greedy_slate`, `optimal_slate`, or one like them


def slate_value(
    scores: Float[Array, "... K"],
    no_click: Float[Array, "..."],
    values: Float[Array, "... K"],
    slate: Int[Array, "... P"],
) -> Float[Array, "..."]:
    """Computes V(A) = Σ_{i in A} s_i q_i / (Σ_{i in A} s_i + s_0).

    Args:
      scores: [...,K] s_i; looked at only where the slate points.
      no_click: [...] s_0.
      values: [...,K] q_i, likewise.
      slate: [...,P] positions; -1 for an empty place.

    Returns:
      [...] in the unit of the values.
    """
    score, value = (
        jnp.where(slate >= 0, jnp.take_along_axis(of, jnp.maximum(slate, 0), axis=-1), 0.0)
        for of in (scores, values)
    )
    return jnp.sum(score * value, axis=-1) / (jnp.sum(score, axis=-1) + no_click)


def top_slate(
    scores: Float[Array, "... K"],
    no_click: Float[Array, "..."],
    values: Float[Array, "... K"],
    places: int,
    valid: Bool[Array, "... K"] | None = None,
) -> Int[Array, "... P"]:
    """The P candidates of the largest s_i q_i, the largest first; of equal ones the earlier.

    Args:
      scores: [...,K] s_i.
      no_click: [...] s_0, which this rule does not look at.
      values: [...,K] q_i.
      places: P, at most K.
      valid: [...,K] False where there is no candidate, whatever stands there; None for all.

    Returns:
      [...,P] positions; -1 for an empty place.

    Raises:
      UserError: there are fewer candidates than places.
    """
    del no_click
    scores, values, valid = _candidates(scores, values, places, valid)
    return _largest(scores * values, places, valid)


def greedy_slate(
    scores: Float[Array, "... K"],
    no_click: Float[Array, "..."],
    values: Float[Array, "... K"],
    places: int,
    valid: Bool[Array, "... K"] | None = None,
) -> Int[Array, "... P"]:
    """Fills place by place with the candidate that makes V of the slate so far the largest.

    Args:
      scores: [...,K] s_i.
      no_click: [...] s_0.
      values: [...,K] q_i.
      places: P, at most K.
      valid: [...,K] False where there is no candidate, whatever stands there; None for all.

    Returns:
      [...,P] positions in the order in which they were chosen; -1 for an empty place.

    Raises:
      UserError: there are fewer candidates than places.
    """
    scores, values, valid = _candidates(scores, values, places, valid)
    worth = scores * values

    def fill(
        carry: tuple[Array, Array, Array], _: None
    ) -> tuple[tuple[Array, Array, Array], Array]:
        numerator, denominator, left = carry
        after = (numerator[..., None] + worth) / (denominator[..., None] + scores)
        best = jnp.argmax(jnp.where(left, after, -jnp.inf), axis=-1)
        one = (jnp.arange(scores.shape[-1]) == best[..., None]) & left
        numerator = numerator + jnp.sum(jnp.where(one, worth, 0.0), axis=-1)
        denominator = denominator + jnp.sum(jnp.where(one, scores, 0.0), axis=-1)
        place = jnp.where(jnp.any(left, axis=-1), best, -1).astype(jnp.int32)
        return (numerator, denominator, left & ~one), place

    begin = (jnp.zeros_like(no_click), no_click, valid)
    _, slate = jax.lax.scan(fill, begin, length=places)
    return jnp.moveaxis(slate, 0, -1)


def optimal_slate(
    scores: Float[Array, "... K"],
    no_click: Float[Array, "..."],
    values: Float[Array, "... K"],
    places: int,
    valid: Bool[Array, "... K"] | None = None,
) -> Int[Array, "... P"]:
    """The slate of P candidates of the largest V, to rounding, without listing them.

    A slate A is worth at least λ iff Σ_{i in A} s_i (q_i - λ) >= λ s_0, and the P largest s_i (q_i - λ)
    make the left side the largest. With λ the worth of the best slate so far, they are a better one
    unless there is none (Dinkelbach, 1967); each λ is larger than the one before, so that it ends, in
    practice after three to five sorts.

    Args:
      scores: [...,K] s_i.
      no_click: [...] s_0.
      values: [...,K] q_i.
      places: P, at most K.
      valid: [...,K] False where there is no candidate, whatever stands there; None for all.

    Returns:
      [...,P] positions by s_i (q_i - λ), the largest first; -1 for an empty place.

    Raises:
      UserError: there are fewer candidates than places.
    """
    scores, values, valid = _candidates(scores, values, places, valid)

    def improve(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        slate, worth, _ = carry
        other = _largest(scores * (values - worth[..., None]), places, valid)
        other_worth = slate_value(scores, no_click, values, other)
        better = other_worth > worth
        slate = jnp.where(better[..., None], other, slate)
        return slate, jnp.where(better, other_worth, worth), better

    first = _largest(scores * values, places, valid)
    worth = slate_value(scores, no_click, values, first)
    begin = (first, worth, jnp.ones(worth.shape, bool))
    return jax.lax.while_loop(lambda carry: jnp.any(carry[2]), improve, begin)[0]


def slateq_target(
    reward: Float[Array, "..."],
    discount: Float[Array, "..."],
    scores: Float[Array, "... K"],
    no_click: Float[Array, "..."],
    values: Float[Array, "... K"],
    *,
    rule: SlateRule,
    places: int,
    valid: Bool[Array, "... K"] | None = None,
) -> Float[Array, "..."]:
    """Computes SlateQ's target r + γ V(A') for the value of the item that was clicked.

    A' is the slate that the rule makes of the candidates of the next step; an item that was shown and
    not clicked has no target.

    Args:
      reward: [...] r, of the step with the click.
      discount: [...] γ; 0 where the episode terminated, and then the next step may hold anything.
      scores: [...,K] s_i of the next step.
      no_click: [...] s_0 of the next step.
      values: [...,K] q_i of the next step's candidates.
      rule: which slate is shown next.
      places: P, at most K.
      valid: [...,K] False where there is no candidate; None for all.

    Returns:
      [...] without gradient.

    Raises:
      UserError: there are fewer candidates than places.
    """
    slate = rule(scores, no_click, values, places, valid)
    following = slate_value(scores, no_click, values, slate)
    following = jnp.where(discount != 0, discount * following, 0.0)
    return jax.lax.stop_gradient(reward + following)


def _candidates(
    scores: Array, values: Array, places: int, valid: Array | None
) -> tuple[Array, Array, Array]:
    """Scores and values, zero where there is no candidate, and where there is one."""
    count = scores.shape[-1]
    require(
        1 <= places <= count,
        f"A slate has {places} places for {count} candidates; give it 1 to {count} places.",
    )
    valid = jnp.ones(scores.shape, bool) if valid is None else valid
    return jnp.where(valid, scores, 0.0), jnp.where(valid, values, 0.0), valid


def _largest(keys: Array, places: int, valid: Array) -> Array:
    """[...,P] the positions of the largest keys among what is valid, then -1."""
    keys = jnp.where(keys == 0, 0.0, keys)  # sorting puts -0.0 below 0.0, which it equals
    slate = jax.lax.top_k(jnp.where(valid, keys, -jnp.inf), places)[1]
    there = jnp.take_along_axis(valid, slate, axis=-1)
    return jnp.where(there, slate, -1).astype(jnp.int32)
