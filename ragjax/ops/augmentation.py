"""Random orders, and noise on training tokens: anonymisation, and wordings that vary.

Anonymisation is a random, consistent renaming of the tokens that carry names. A small reader learns
names by heart instead of learning to copy, and a small retriever learns names instead of learning to
match them. Renaming every content token by a random permutation in each step leaves only the template
words to be learned by heart (compare the anonymised entities of Hermann et al., arXiv 1506.03340).
Since a permutation is a bijection, equality of tokens is preserved.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ragjax.types import PAD_ID, UNK_ID


def random_order(key: Array, size: int) -> Int[Array, "n"]:
    """Draws an order of `size` things: the places of sorted random numbers.

    A number and its place share 32 bits, so that one array is sorted and not two: on a CPU a fifth of
    the time of `jax.random.permutation`, which takes over where fewer than 16 bits are left to chance.

    Args:
      key: a PRNG key.
      size: n, static.

    Returns:
      [n] a permutation of 0 to n-1. Numbers that are equal by chance keep their order.
    """
    width = max(size - 1, 1).bit_length()
    if width > 16:
        return jax.random.permutation(key, size)
    place = jnp.arange(size, dtype=jnp.uint32)
    low = jnp.uint32(2**width - 1)
    drawn = jax.random.bits(key, (size,), jnp.uint32)
    return (jnp.sort((drawn & ~low) | place) & low).astype(jnp.int32)


def random_renaming(
    key: Array, content: Bool[Array, "V"], probability: float | Float[Array, ""]
) -> Int[Array, "V"]:
    """Draws a permutation of the content tokens, or the identity.

    Args:
      key: a PRNG key.
      content: [V] True for tokens that may be renamed.
      probability: of drawing a permutation rather than the identity.

    Returns:
      [V] the new id of each token; tokens outside `content` keep theirs.
    """
    permute_key, coin_key = jax.random.split(key)
    size = content.shape[0]
    ids = jnp.arange(size)
    # Content tokens in random order are dealt to the content slots in order.
    noise = jax.random.uniform(permute_key, (size,))
    shuffled = jnp.argsort(jnp.where(content, noise, 2.0))
    slots = jnp.argsort(jnp.where(content, 0, 1), stable=True)
    permutation = ids.at[slots].set(jnp.where(content[slots], shuffled, slots))
    return jnp.where(jax.random.bernoulli(coin_key, probability), permutation, ids)


def corrupt_words(
    key: Array,
    question: Int[Array, "B Q"],
    content: Bool[Array, "V"],
    probability: float | Float[Array, ""],
) -> Int[Array, "B Q"]:
    """Leaves out or replaces template words, each with half of `probability`.

    Args:
      key: a PRNG key.
      question: [B,Q] tokens.
      content: [V] True for tokens that carry names; they are never touched.
      probability: of corrupting a template word.

    Returns:
      [B,Q]; a word left out is padding in its place, a replacement a random template token.
    """
    where_key, how_key, word_key = jax.random.split(key, 3)
    template = ~content & (jnp.arange(content.shape[0]) > UNK_ID)
    weights = template.astype(jnp.float32)
    weights = weights / jnp.maximum(jnp.sum(weights), 1.0)
    words = jax.random.choice(word_key, content.shape[0], question.shape, p=weights)
    kept_out = jax.random.bernoulli(how_key, 0.5, question.shape)
    noise = jnp.where(kept_out, PAD_ID, words).astype(question.dtype)
    hit = jax.random.bernoulli(where_key, probability, question.shape) & template[question]
    return jnp.where(hit, noise, question)


def without_span(
    passage: Int[Array, "B P"], span: Int[Array, "B Q"]
) -> tuple[Int[Array, "B P"], Bool[Array, "B"]]:
    """Takes a span of tokens out of a passage, the first time that it stands there as a whole.

    Args:
      passage: [B,P] tokens, padded with 0.
      span: [B,Q] tokens, padded with 0.

    Returns:
      [B,P] what is left, moved together and padded, and [B] whether the span was there.
    """
    length, places = jnp.sum(span != PAD_ID, axis=-1), jnp.arange(passage.shape[-1])
    windows = jnp.pad(passage, ((0, 0), (0, span.shape[-1])))
    windows = windows[:, places[:, None] + jnp.arange(span.shape[-1])]  # [B,P,Q]
    same = (windows == span[:, None]) | (span == PAD_ID)[:, None]
    starts = jnp.all(same, axis=-1) & (length > 0)[:, None]
    found, start = jnp.any(starts, axis=-1), jnp.argmax(starts, axis=-1)
    after = places - start[:, None]
    out = found[:, None] & (after >= 0) & (after < length[:, None])
    order = jnp.argsort(out, axis=-1, stable=True)
    return jnp.take_along_axis(jnp.where(out, PAD_ID, passage), order, axis=-1), found
