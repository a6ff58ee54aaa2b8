"""The loop that writes answers token by token, and ends with the last of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


def until_finished(
    step: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    finished: Callable[[Any], Bool[Array, "..."]],
    *,
    length: int,
    drawn: Any = None,
) -> Any:
    """Takes up to `length` steps, and none once all answers have ended.

    It is `lax.scan` but for that: what steps put out that are not taken is zeros, as padding is. It has
    no gradient.

    Args:
      step: (carry, (position, what is drawn for it)) -> (carry, a tree of arrays).
      carry: what the first step is given.
      finished: carry -> whether each answer has ended.
      length: T.
      drawn: a tree of arrays [T,...].

    Returns:
      What the steps put out, [T,...].
    """

    def given(position):
        return position, jax.tree.map(lambda leaf: leaf[position], drawn)

    first = jnp.zeros((), jnp.int32)
    _, shapes = jax.eval_shape(lambda carry: step(carry, given(first)), carry)
    out = jax.tree.map(lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype), shapes)

    def proceed(state):
        position, carry, out = state
        carry, new = step(carry, given(position))
        out = jax.tree.map(lambda rows, row: rows.at[position].set(row), out, new)
        return position + 1, carry, out

    def goes_on(state):
        return (state[0] < length) & ~jnp.all(finished(state[1]))

    return jax.lax.while_loop(goes_on, proceed, (first, carry, out))[2]
