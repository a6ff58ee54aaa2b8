"""Texts in which a language model searches: query, what is found, and answer in one sequence.

As in Search-R1 (Jin et al., arXiv 2503.09516): the model writes; where it ends with the marker, what it
has written is a query, and what is found for it goes on in the text; where it ends with the end of
sequence, what it has written last is its answer. Tokens stay as they were drawn and are never tokenised
again.

A text has a fixed layout, in which what is not used is padding that nothing attends to:

    prompt | written, T tokens | found, F tokens | written | found | ... | written
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from ragjax.decoding.sampling import drawn_token
from ragjax.decoding.stepping import until_finished
from ragjax.ops.sequence_policy import GENERATED, PADDING, PROMPT, RETRIEVED
from ragjax.types import EOS_ID, PAD_ID, Leaf, Params, TopK


class TextModel(NamedTuple):
    """A decoder-only reader as it reads and writes G running texts of each of B questions.

    Attributes:
      marker: the token that ends a query.
      begin: question [B,Q] -> tokens [B,S] that a text begins with, the last of which is no padding.
      found: passages [B,G,K,P] -> tokens [B,G,F] that tell of them, the last of which is no padding.
      read: (params, tokens [B,G,n], text so far or None) -> the text with them; padding is passed over.
      init_cache: (params, text so far, length) -> an empty cache for `length` steps of writing.
      step: (params, text so far, cache, token [B,G], t) -> ([B,G,V] log p of the next one, cache).
      states: (params, tokens [B,G,L]) -> [B,G,L,H] after each token of whole texts.
      logprobs: (params, states [...,H]) -> [...,V] log p of the next token.
      values: (params, states [...,H]) -> [...] a critic's, for its own parameters.
    """

    marker: int
    begin: Callable[[Array], Array]
    found: Callable[[Array], Array]
    read: Callable[..., Any]
    init_cache: Callable[..., Any]
    step: Callable[..., tuple[Array, Any]]
    states: Callable[..., Array]
    logprobs: Callable[..., Array]
    values: Callable[..., Array]


@struct.dataclass
class Texts:
    """G texts of each of B questions.

    Attributes:
      tokens: [B,G,L].
      source: [B,G,L] where each token comes from, see `ops.sequence_policy`.
      behaviour: [B,G,W] log p of what was written, in the order of `written_places`; 0 at padding.
      answers: [B,G,T] what was written last, if it is no query.
      searches: [B,G] how often was searched.
      query: [B,G,T] what was searched for last; padding where nothing was.
      topk: [B,G,K] what was found last; misses where nothing was.
    """

    tokens: Leaf
    source: Leaf
    behaviour: Leaf
    answers: Leaf
    searches: Leaf
    query: Leaf
    topk: Leaf


def written_places(prompt: int, found: int, searches: int, length: int) -> np.ndarray:
    """[W] where in a text the model writes, W = (searches + 1) * length.

    Args:
      prompt: tokens that a text begins with.
      found: F, tokens of what a search finds.
      searches: at most so many.
      length: T, tokens that are written at a time.
    """
    starts = prompt + np.arange(searches + 1) * (length + found)
    return (starts[:, None] + np.arange(length)).ravel()


def write_texts(
    model: TextModel,
    params: Params,
    key: Array | None,
    *,
    question: Int[Array, "B Q"],
    search: Callable[[Array], tuple[TopK, Array]],
    k: int,
    texts: int,
    searches: int,
    length: int,
) -> Texts:
    """Writes G texts to each question, without gradient.

    Args:
      model: reads and writes.
      params: its parameters.
      key: PRNG key of what is drawn, token by token from p; None for the likeliest tokens.
      question: [B,Q].
      search: queries [B,G,T], of padding alone where none is asked -> `TopK` [B,G,K] and their passages
        [B,G,K,P].
      k: K.
      texts: G.
      searches: at most so many in a text. A query that is one too many is no answer.
      length: T, tokens that are written at a time; what has not ended by then is an answer cut short.

    Returns:
      The texts.
    """
    params, batch = jax.lax.stop_gradient(params), question.shape[0]
    shape = (batch, texts)
    begun = model.begin(question)[:, None]
    text = model.read(params, begun[..., :-1], None)  # once for all texts of a question
    text = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*shape, *leaf.shape[2:])), text)
    begun = jnp.broadcast_to(begun, (*shape, begun.shape[-1]))
    parts, sources, gains = [begun], [PROMPT], []
    last, active = begun[..., -1:], jnp.ones(shape, bool)
    answers = asked = jnp.full((*shape, length), PAD_ID, jnp.int32)
    nothing = jnp.zeros((*shape, k))
    misses = TopK(nothing.astype(jnp.int32) - 1, nothing - jnp.inf, nothing > 0)
    count, topk = jnp.zeros(shape, jnp.int32), misses
    for number in range(searches + 1):
        part_key = None if key is None else jax.random.fold_in(key, number)
        written, gain = _write(model, params, part_key, text, last[..., 0], active, length)
        parts, sources, gains = [*parts, written], [*sources, GENERATED], [*gains, gain]
        asks = jnp.any(written == model.marker, axis=-1)
        answers = jnp.where((active & ~asks)[..., None], written, answers)
        if number == searches:
            break
        asks = active & asks
        query = jnp.where(asks[..., None] & (written != model.marker), written, PAD_ID)
        hits, passages = jax.lax.stop_gradient(search(query))
        here = asks[..., None]
        asked, topk = jnp.where(here, query, asked), _where(here, hits, topk)
        told = jnp.where(here, model.found(jnp.where(here[..., None], passages, PAD_ID)), PAD_ID)
        parts, sources = [*parts, told], [*sources, RETRIEVED]
        since = jnp.concatenate(
            [jnp.where(active[..., None], last, PAD_ID), written, told], axis=-1
        )
        text = model.read(params, since[..., :-1], text)
        last, active, count = told[..., -1:], asks, count + asks.astype(jnp.int32)
    source = [
        jnp.where(part != PAD_ID, kind, PADDING) for part, kind in zip(parts, sources, strict=True)
    ]
    return Texts(
        tokens=jnp.concatenate(parts, axis=-1),
        source=jnp.concatenate(source, axis=-1),
        behaviour=jnp.concatenate(gains, axis=-1),
        answers=answers,
        searches=count,
        query=asked,
        topk=topk,
    )


def _where(chosen: Array, new: TopK, old: TopK) -> TopK:
    return jax.tree.map(lambda a, b: jnp.where(chosen, a, b), new, old)


def _write(
    model: TextModel,
    params: Params,
    key: Array | None,
    text: Any,
    last: Int[Array, "B G"],
    active: Bool[Array, "B G"],
    length: int,
) -> tuple[Int[Array, "B G T"], Float[Array, "B G T"]]:
    """What active texts go on with after their `last` token, and log p of it; padding elsewhere."""

    def step(carry, given):
        (cache, previous, finished), (position, key) = carry, given
        logprobs, cache = model.step(params, text, cache, previous, position)
        token = jnp.argmax(logprobs, axis=-1) if key is None else drawn_token(key, logprobs)
        gain = jnp.take_along_axis(logprobs, token[..., None], axis=-1)[..., 0]
        token = jnp.where(finished, PAD_ID, token).astype(jnp.int32)
        gain = jnp.where(finished, 0.0, gain)
        ends = (token == EOS_ID) | (token == model.marker)
        return (cache, token, finished | ends), (token, gain)

    start = (model.init_cache(params, text, length), last, ~active)
    keys = None if key is None else jax.random.split(key, length)
    tokens, gains = until_finished(step, start, lambda carry: carry[2], length=length, drawn=keys)
    return jnp.moveaxis(tokens, 0, -1), jnp.moveaxis(gains, 0, -1)
