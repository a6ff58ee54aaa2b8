"""Which slate to show by the values of its items: the three rules of SlateQ, and its target.

A user who is shown a slate A chooses item i with s_i / (Σ_{j in A} s_j + s_0), and nothing with the rest
(scores s of a choice model). The value of a slate is that of what is chosen,

    Q(A) = Σ_{i in A} s_i q_i / (Σ_{i in A} s_i + s_0)     (Ie et al. 2019, arXiv 1905.12767)

so that item values q_i, long-term returns of an item that is chosen, are all that has to be learned.
"""

from typing import Literal, get_args

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ragjax.errors import require

Rule = Literal["top", "greedy", "optimal"]
RULES = get_args(Rule)


def slate_value(
    scores: Float[Array, "... P"], no_click: Float[Array, "..."], values: Float[Array, "... P"]
) -> Float[Array, "..."]:
    """[...] Q of slates, of their items' scores s and values q."""
    return jnp.sum(scores * values, axis=-1) / (jnp.sum(scores, axis=-1) + no_click)


def chosen_slate(
    rule: Rule,
    scores: Float[Array, "... K"],
    no_click: Float[Array, "..."],
    values: Float[Array, "... K"],
    places: int,
) -> Int[Array, "... P"]:
    """The slate of P of K candidates that a rule shows.

    - `top`: the candidates of the largest s_i q_i.
    - `greedy`: one after another the candidate that makes the slate so far worth most.
    - `optimal`: the slate of the largest Q. It maximises Σ s_i (q_i - λ) for λ = Q of itself, and with a
      λ below that a better slate is found, so that λ grows to the optimum in a few steps (Dinkelbach
      1967).

    Args:
      rule: see above.
      scores: [...,K] s, positive; 0 or less for a candidate that can't be shown, of which only as many
        as necessary are taken, last.
      no_click: [...] s_0, positive.
      values: [...,K] q, anything for a candidate that can't be shown.
      places: P, at most K.

    Returns:
      [...,P] distinct positions, in the order in which the rule prefers them.

    Raises:
      UserError: there are fewer candidates than places, or no place.
    """
    chex.assert_equal_shape([scores, values])
    require(
        1 <= places <= scores.shape[-1],
        f"places is {places} for {scores.shape[-1]} candidates; show at least one and at most all.",
    )
    values = jnp.where(scores > 0, values, 0.0)
    if rule == "top":
        return _best(scores, scores * values, places)
    if rule == "greedy":
        return _greedy(scores, no_click, values, places)

    def improve(_, lagrangian):
        best = _best(scores, scores * (values - lagrangian[..., None]), places)
        return jnp.maximum(_value_of(best, scores, no_click, values), lagrangian)

    # Of negative values every slate is worth more than their smallest.
    start = jnp.minimum(jnp.min(values, axis=-1), 0.0)
    lagrangian = jax.lax.fori_loop(0, _steps(scores.shape[-1]), improve, start)
    return _best(scores, scores * (values - lagrangian[..., None]), places)


def _value_of(slate: Array, scores: Array, no_click: Array, values: Array) -> Array:
    """[...] Q of slates [...,P] of candidates [...,K]; those that can't be shown count for nothing."""
    shown = jnp.take_along_axis(jnp.maximum(scores, 0.0), slate, axis=-1)
    worth = jnp.take_along_axis(values, slate, axis=-1)
    return slate_value(shown, no_click, jnp.where(shown > 0, worth, 0.0))


def _steps(candidates: int) -> int:
    """Steps of Dinkelbach's iteration, which converges faster than linearly: more than enough."""
    return 8 + candidates.bit_length()


def _best(scores: Array, gains: Array, places: int) -> Int[Array, "... P"]:
    """The candidates of the largest gains, those that can be shown first."""
    gains = jnp.where(scores > 0, gains, -jnp.inf)
    return jax.lax.top_k(gains, places)[1].astype(jnp.int32)


def _greedy(scores: Array, no_click: Array, values: Array, places: int) -> Int[Array, "... P"]:
    taken = jnp.zeros(scores.shape, bool)
    gained, mass = jnp.zeros_like(no_click), no_click
    slate = []
    for _ in range(places):
        worth = (gained[..., None] + scores * values) / (mass[..., None] + scores)
        # What can't be shown comes after all that can, and what is taken is not taken again.
        worth = jnp.where(taken, -jnp.inf, jnp.where(scores > 0, worth, jnp.finfo(worth.dtype).min))
        item = jnp.argmax(worth, axis=-1).astype(jnp.int32)
        one = jax.nn.one_hot(item, scores.shape[-1], dtype=scores.dtype)
        added = jnp.maximum(jnp.sum(one * scores, axis=-1), 0.0)
        gained = gained + added * jnp.sum(one * values, axis=-1)
        mass = mass + added
        taken = taken | (one > 0)
        slate.append(item)
    return jnp.stack(slate, axis=-1)


def decomposed_target(
    reward: Float[Array, "..."],
    discount: Float[Array, "..."],
    scores: Float[Array, "... K"],
    no_click: Float[Array, "..."],
    values: Float[Array, "... K"],
    rule: Rule,
    places: int,
) -> Float[Array, "..."]:
    """Computes r + γ Q(A') of the item that was chosen, A' the slate that the rule shows next.

    Args:
      reward: [...] of the item that was chosen.
      discount: [...] γ, and 0 where the episode has terminated.
      scores: [...,K] s of the next candidates.
      no_click: [...] s_0 then.
      values: [...,K] q of the next candidates, of the target network.
      rule: by which the next slate is shown.
      places: P.
    """
    slate = chosen_slate(rule, scores, no_click, values, places)
    return reward + discount * _value_of(slate, scores, no_click, values)
