"""Beam search with a key-value cache: per passage, or under the marginal of RAG-Token.

The search is that of `generate(num_beams=...)` in transformers: of all continuations of n beams the 2n
best are looked at; those of the first n that end are kept apart, where they take the place of worse
ones, and the n best of those that don't end go on. An ended answer is ranked by

    score(y) = log p(y) / |y|^α

with |y| its tokens, the end of sequence included.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from ragjax.errors import require
from ragjax.ops.marginal import marginal
from ragjax.types import BOS_ID, EOS_ID, PAD_ID, Leaf, Params, RagModel


@dataclass(frozen=True)
class Beam:
    """How answers are searched. Padding and the start token are never written, unless forced.

    Attributes:
      beams: answers that are pursued side by side.
      length_penalty: α of the score; 0 ranks by log p, larger values prefer longer answers.
      returned: n, the best answers that are returned; at most `beams`.
      forced_first: the token that every answer starts with, or None.
      forced_last: the token that an answer has in the last place, T, if it gets there, or None.
      suppressed: tokens that are never written.
      early_stopping: whether a search ends as soon as `beams` answers have ended. Else it ends when the
        best beam, if it ended now, would not be among them, which need not find the best of all.
    """

    beams: int = 4
    length_penalty: float = 1.0
    returned: int = 1
    forced_first: int | None = None
    forced_last: int | None = None
    suppressed: tuple[int, ...] = ()
    early_stopping: bool = False

    def __post_init__(self):
        """Checks the fields."""
        require(self.beams >= 1, f"beam.beams is {self.beams}; it must be at least 1.")
        require(
            1 <= self.returned <= self.beams,
            f"beam.returned is {self.returned}; it must be from 1 to beam.beams, {self.beams}.",
        )
        require(
            math.isfinite(self.length_penalty) and abs(self.length_penalty) <= 10,
            f"beam.length_penalty is {self.length_penalty}; it must be from -10 to 10.",
        )
        for name in ("forced_first", "forced_last"):
            token = getattr(self, name)
            require(
                token is None or (token > PAD_ID and token not in self.suppressed),
                f"beam.{name} is {token}; it must be None or a token that is neither padding "
                f"({PAD_ID}) nor in beam.suppressed.",
            )
        for token in self.suppressed:
            require(
                token >= 0, f"beam.suppressed holds {token}; its entries must be ids of tokens."
            )


@struct.dataclass
class Beams:
    """The best answers of a search, best first, all distinct.

    Attributes:
      tokens: [...,n,T], padding after the end of sequence; nothing else where fewer than n were found.
      log_prob: [...,n] log p of the answer, forced tokens included; -inf where there is none.
      score: [...,n] what it was ranked by, in which a forced token counts as certain; -inf likewise.
      steps: [] the tokens that the search took, at most T.
    """

    tokens: Leaf
    log_prob: Leaf
    score: Leaf
    steps: Leaf


class _Answers(NamedTuple):
    """Answers to each row, ended or not, best first: what they are ordered by, log p, tokens."""

    score: Array  # [*rows,m], -inf where there is none
    log_prob: Array  # [*rows,m]
    tokens: Array  # [*rows,m,T]


class _State(NamedTuple):
    """What a search remembers after `position` tokens."""

    position: Array  # []
    cache: Any  # [n,*rows,...]
    previous: Array  # [*rows,n] the newest token of each beam
    running: _Answers  # by the log p of their tokens, forced ones counted as certain
    ended: _Answers  # by the score
    active: Array  # [*rows] whether the search goes on


def beam_search(
    step: Callable[..., tuple[Array, Any]],
    cache: Any,
    rows: tuple[int, ...],
    *,
    length: int,
    beam: Beam,
) -> Beams:
    """Searches the best answers of each row, until no row has anything to gain.

    Args:
      step: (cache, token [n,*rows], t) -> ([n,*rows,V] log-probabilities of the next token, cache),
        where n are the beams.
      cache: what `step` is first called with: a tree of arrays [n,*rows,...]. It follows its beam;
        arrays of fewer axes than that are the same to all of them.
      rows: shape of what is searched side by side.
      length: T, after which an unfinished answer ends.
      beam: the options.

    Returns:
      The answers, [*rows,n,T].
    """
    lengths = jnp.asarray([n**beam.length_penalty for n in range(1, length + 1)], jnp.float32)

    def proceed(state: _State) -> _State:
        # Continuations
        raw, cache = step(state.cache, jnp.moveaxis(state.previous, -1, 0), state.position)
        raw = jnp.moveaxis(raw, 0, -2).astype(jnp.float32)  # [*rows,n,V]
        vocab = raw.shape[-1]
        total = _constrained(raw, state.position, length, beam) + state.running.score[..., None]
        total, place = jax.lax.top_k(total.reshape(*rows, -1), 2 * beam.beams)
        parent, token = place // vocab, (place % vocab).astype(jnp.int32)
        earlier = _picked(state.running, parent)
        gain = jnp.take_along_axis(raw.reshape(*rows, -1), place, axis=-1)
        tokens = earlier.tokens.at[..., state.position].set(token)
        new = _Answers(total, earlier.log_prob + gain, tokens)

        # Those that end: only among the first n, the others being there to go on
        ends = (token == EOS_ID) | (state.position == length - 1)
        counts = ends & (jnp.arange(2 * beam.beams) < beam.beams) & state.active[..., None]
        score = jnp.where(counts, total / lengths[state.position], -jnp.inf)
        both = jax.tree.map(
            lambda old, new: jnp.concatenate([old, new], axis=len(rows)),
            state.ended,
            new._replace(score=score),
        )
        ended = _picked(both, jax.lax.top_k(both.score, beam.beams)[1])

        # Those that go on
        new = new._replace(score=jnp.where(ends, -jnp.inf, total))
        order = jax.lax.top_k(new.score, beam.beams)[1]
        running, parent = _picked(new, order), jnp.take_along_axis(parent, order, axis=-1)

        # Whether to go on
        best, worst = running.score[..., 0], ended.score[..., -1]
        full = ~jnp.isneginf(worst)
        settled = full if beam.early_stopping else jnp.zeros_like(full)
        settled |= full & ~(best / lengths[state.position] > worst)
        return _State(
            position=state.position + 1,
            cache=_reordered(cache, jnp.moveaxis(parent, -1, 0)),
            previous=jnp.take_along_axis(token, order, axis=-1),
            running=running,
            ended=ended,
            active=state.active & ~settled & ~jnp.isneginf(best),
        )

    nothing = _Answers(
        jnp.full((*rows, beam.beams), -jnp.inf),
        jnp.full((*rows, beam.beams), -jnp.inf),
        jnp.full((*rows, beam.beams, length), PAD_ID, jnp.int32),
    )
    # All beams would write the same, so that only the first one starts.
    begun = jnp.where(jnp.arange(beam.beams) == 0, 0.0, nothing.score)
    state = jax.lax.while_loop(
        lambda state: (state.position < length) & jnp.any(state.active),
        proceed,
        _State(
            position=jnp.zeros((), jnp.int32),
            cache=cache,
            previous=jnp.full((*rows, beam.beams), BOS_ID, jnp.int32),
            running=nothing._replace(score=begun, log_prob=begun),
            ended=nothing,
            active=jnp.ones(rows, bool),
        ),
    )
    score, log_prob, tokens = _picked(
        state.ended, jnp.broadcast_to(jnp.arange(beam.returned), (*rows, beam.returned))
    )
    found = ~jnp.isneginf(score)
    return Beams(
        tokens=jnp.where(found[..., None], tokens, PAD_ID),
        log_prob=jnp.where(found, log_prob, -jnp.inf),
        score=score,
        steps=state.position,
    )


def beam_by_passage(
    model: RagModel,
    params: Params,
    memory: object,
    shape: tuple[int, int],
    *,
    length: int,
    beam: Beam,
) -> Beams:
    """Searches the answers y of largest log p(y|x,d_k) / |y|^α, from each passage by itself.

    Args:
      model: gives `init_cache` and `decode_step`.
      params: its parameters.
      memory: of B*K sources, from `model.encode`; all beams read the same.
      shape: (B, K).
      length: T, after which an unfinished answer ends.
      beam: the options.

    Returns:
      The answers [B,K,n,T]; `log_prob` is log p(y|x,d_k).
    """
    step, cache = _beams_of(model, params, memory, length=length, beam=beam)
    return beam_search(step, cache, shape, length=length, beam=beam)


def beam_marginal(
    model: RagModel,
    params: Params,
    memory: object,
    log_prior: Float[Array, "B K"],
    *,
    length: int,
    beam: Beam,
) -> Beams:
    """Searches the answers of largest score under RAG-Token.

        log p(y|x) = Σ_t log Σ_k p(d_k|x) p(y_t|x,d_k,y_<t)

    Args:
      model: gives `init_cache` and `decode_step`.
      params: its parameters.
      memory: of B*K sources, from `model.encode`; all beams read the same.
      log_prior: [B,K] log p(d_k|x); -inf at a miss. Where all are misses there is no answer.
      length: T, after which an unfinished answer ends.
      beam: the options.

    Returns:
      The answers [B,n,T]; `log_prob` is log p(y|x).
    """
    each, cache = _beams_of(model, params, memory, length=length, beam=beam)

    def step(cache, token, position):
        shared = jnp.broadcast_to(token[..., None], (*token.shape, log_prior.shape[1]))
        logprobs, cache = each(cache, shared, position)
        return marginal(log_prior[:, None, :], jnp.swapaxes(logprobs, -1, -2)), cache

    return beam_search(step, cache, log_prior.shape[:1], length=length, beam=beam)


def _beams_of(
    model: RagModel, params: Params, memory: object, *, length: int, beam: Beam
) -> tuple[Callable[..., tuple[Array, Any]], Any]:
    """(cache, token [n,B,K], t) -> ([n,B,K,V], cache), and its first cache.

    The memory has no axis of beams, so that there is one of it whatever their number.
    """

    def step(cache, token, position):
        return jax.vmap(
            lambda cache, token: model.decode_step(params, memory, cache, token, position)
        )(cache, token)

    cache = model.init_cache(params, memory, length)
    return step, jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (beam.beams, *leaf.shape)), cache)


def _constrained(
    logprobs: Float[Array, "*rows V"], position: Int[Array, ""], length: int, beam: Beam
) -> Float[Array, "*rows V"]:
    """Log-probabilities with -inf at what may not be written, and 0 at what must be."""
    vocab = logprobs.shape[-1]
    for name, token in (("forced_first", beam.forced_first), ("forced_last", beam.forced_last)):
        require(
            token is None or token < vocab,
            f"beam.{name} is {token}; it must be below {vocab}, the size of the vocabulary.",
        )
    ids = jnp.arange(vocab)
    never = jnp.isin(ids, jnp.asarray((PAD_ID, BOS_ID, *beam.suppressed)))
    logprobs = jnp.where(never, -jnp.inf, logprobs)
    for token, place in ((beam.forced_first, 0), (beam.forced_last, length - 1)):
        if token is not None:
            only = jnp.where(ids == token, 0.0, -jnp.inf)
            logprobs = jnp.where(position == place, only, logprobs)
    return logprobs


def _picked(answers: _Answers, index: Int[Array, "*rows m"]) -> _Answers:
    """Those of each row that `index` tells, in its order."""
    axis = index.ndim - 1
    return _Answers(
        jnp.take_along_axis(answers.score, index, axis=axis),
        jnp.take_along_axis(answers.log_prob, index, axis=axis),
        jnp.take_along_axis(answers.tokens, index[..., None], axis=axis),
    )


def _reordered(cache: Any, parent: Int[Array, "n *rows"]) -> Any:
    """The cache [n,*rows,...] of the beam that each one continues."""

    def follow(leaf):
        if leaf.ndim < parent.ndim:
            return leaf
        index = parent.reshape(parent.shape + (1,) * (leaf.ndim - parent.ndim))
        return jnp.take_along_axis(leaf, index, axis=0)

    return jax.tree.map(follow, cache)
