"""Reading texts by their length: short ones are not read at the width of the longest.

Texts are sorted by length into groups of one size; each group is read at the narrowest of a few widths
that holds it. All shapes are static, so that one compiled program serves every batch; it holds the
reading once for each width.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

MULTIPLE = 8  # of tokens, that widths are rounded up to


def widths_of(longest: int, buckets: int) -> list[int]:
    """The widths of texts of up to `longest` tokens: evenly spread, the last being `longest`.

    (128, 4) -> [32, 64, 96, 128].
    """
    steps = (-(-longest * part // (buckets * MULTIPLE)) * MULTIPLE for part in range(1, buckets))
    return [*sorted({width for width in steps if width < longest}), longest]


def read_by_length(
    read: Callable[[Array, Array], Any],
    tokens: Int[Array, "n S"],
    mask: Bool[Array, "n S"],
    buckets: int,
    axis: int | None = -2,
) -> Any:
    """Reads texts, each group of similar length at a width of its own.

    Args:
      read: ([m,w] tokens, [m,w] mask) -> arrays of m rows each; what a row gives depends on no other
        row, and on no token that the mask hides.
      tokens: [n,S].
      mask: [n,S] True on what is read; a text ends with the last of it.
      buckets: how many groups and widths there are; 1 reads all at once.
      axis: of the arrays, that the texts' tokens lie along, which is padded to S with zeros; None where
        there is none.

    Returns:
      What `read(tokens, mask)` gives, to rounding; zeros behind the width of a text's group.
    """
    count, longest = tokens.shape
    buckets = min(buckets, count)
    widths = widths_of(longest, buckets)
    if len(widths) == 1:
        return read(tokens, mask)
    lengths = jnp.max(jnp.where(mask, jnp.arange(1, longest + 1), 0), axis=-1)
    order = jnp.argsort(lengths, stable=True)
    size = -(-count // buckets)
    # The longest text again, where the groups have more rows than there are texts.
    places = jnp.minimum(jnp.arange(size * buckets), count - 1)
    groups = [each[order[places]].reshape(buckets, size, longest) for each in (tokens, mask)]
    needed = lengths[order[places]].reshape(buckets, size)[:, -1]

    def narrow(width: int) -> Callable[..., Any]:
        def padded(leaf: Array) -> Array:
            if axis is None or width == longest:
                return leaf
            around = [(0, 0)] * leaf.ndim
            around[axis] = (0, longest - width)
            return jnp.pad(leaf, around)

        return lambda *group: jax.tree.map(padded, read(*(each[:, :width] for each in group)))

    branches = [narrow(width) for width in widths]

    def step(_, given):
        group, longest_of_group = given
        place = jnp.searchsorted(jnp.array(widths), longest_of_group)
        return None, jax.lax.switch(place, branches, *group)

    out = jax.lax.scan(step, None, (groups, needed))[1]
    back = jnp.argsort(order)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[back], out)
