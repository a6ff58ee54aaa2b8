"""One ranking made of several: by weighted scores, or by ranks alone.

A candidate is a passage that any of the rankings lists. Misses are no candidates, a passage that is
listed twice is one candidate, and ties go to the lower row. All but `choose_weight` is traceable.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ragjax.errors import require
from ragjax.types import TopK

Numbers = Array | np.ndarray  # of the device or of the host
_LAST = np.iinfo(np.int32).max  # sorts behind every row


def listed_scores(hits: TopK, rows: Int[Numbers, "*batch R"]) -> Float[Array, "*batch R"]:
    """What a ranking says of given passages.

    Args:
      hits: `TopK` of [...,C].
      rows: [...,R] rows of the corpus.

    Returns:
      [...,R] the scores of those that are listed, with gradient, and 0 for the others.
    """
    hits = _arrays(hits)
    same = (rows[..., :, None] == hits.ids[..., None, :]) & _is_hit(hits)[..., None, :]
    place = jnp.argmax(same, axis=-1)
    scores = jnp.take_along_axis(_hit_scores(hits), place, axis=-1)
    return jnp.where(jnp.any(same, axis=-1), scores, 0.0)


def scores_of_all(hits: TopK, passages: int) -> Float[Array, "*batch N"]:
    """[...,N] what `listed_scores` gives for all N `passages` of the corpus."""
    hits = _arrays(hits)
    counted = _is_hit(hits) & ~_repeated(hits.ids, _is_hit(hits))
    rows = jnp.where(counted, hits.ids, passages)  # beyond the last, which is dropped
    empty = jnp.zeros(passages, hits.scores.dtype)

    def spread(rows, scores):
        return empty.at[rows].set(scores, mode="drop")

    scores = _hit_scores(hits)
    flat = jax.vmap(spread)(rows.reshape(-1, rows.shape[-1]), scores.reshape(-1, scores.shape[-1]))
    return flat.reshape(*rows.shape[:-1], passages)


def weighted(
    dense: TopK,
    lexical: TopK,
    weight: Float[Array, ""] | float,
    k: int,
    *,
    dense_of_lexical: Float[Numbers, "*batch C"] | None = None,
    lexical_of_dense: Float[Numbers, "*batch L"] | None = None,
    normalise: bool = False,
) -> TopK:
    """The k best of all candidates by score(d) = dense(d) + λ · lexical(d).

    A candidate that the lexical ranking lacks has lexical score 0 unless `lexical_of_dense` says more;
    that is its BM25 where it has no word in common with the query, and too little where the ranking was
    cut before it. One that the dense ranking lacks has the lowest score of that ranking, the most that
    it can have, unless `dense_of_lexical` says more.

    Args:
      dense: `TopK` of [...,L].
      lexical: `TopK` of [...,C].
      weight: λ, not negative.
      k: passages wanted; static.
      dense_of_lexical: [...,C] the dense scores of the passages in `lexical`.
      lexical_of_dense: [...,L] the lexical scores of the passages in `dense`.
      normalise: whether both scores are first moved and scaled to [0,1] over the candidates of each
        query, (s - min) / (max - min); scores that are all equal become 0. (Bruch, Gai and Ingber 2023,
        "An Analysis of Fusion Functions for Hybrid Retrieval".)

    Returns:
      `TopK` of [...,k]; the scores are the sums, and misses follow where candidates are fewer.

    Raises:
      UserError: k is below 1.
    """
    dense, lexical = _arrays(dense), _arrays(lexical)
    if lexical_of_dense is None:
        lexical_of_dense = listed_scores(lexical, dense.ids)
    if dense_of_lexical is None:
        lowest = jnp.min(jnp.where(_is_hit(dense), dense.scores, jnp.inf), axis=-1, keepdims=True)
        lowest = jnp.where(jnp.isposinf(lowest), 0.0, lowest)
        dense_of_lexical = jnp.broadcast_to(lowest, lexical.ids.shape)
    ids = jnp.concatenate([dense.ids, lexical.ids], axis=-1)
    valid = jnp.concatenate([_is_hit(dense), _is_hit(lexical)], axis=-1)
    left = jnp.concatenate([_hit_scores(dense), jnp.asarray(dense_of_lexical)], axis=-1)
    right = jnp.concatenate([jnp.asarray(lexical_of_dense), _hit_scores(lexical)], axis=-1)
    if normalise:
        left, right = _min_max(left, valid), _min_max(right, valid)
    return _best_distinct(ids, left + weight * right, valid, k)


def reciprocal_rank_fusion(rankings: Sequence[TopK], k: int, constant: float = 60.0) -> TopK:
    """The k best of all candidates by Σ_rankings 1 / (constant + rank), ranks counted from 1.

    A ranking that lacks a passage adds nothing. Scores are not used, only the order of the hits.
    (Cormack, Clarke and Büttcher 2009, "Reciprocal Rank Fusion Outperforms Condorcet and Individual Rank
    Learning Methods".)

    Args:
      rankings: `TopK`s of [...,C], best first; each may have a C of its own.
      k: passages wanted; static.
      constant: what keeps the first ranks from deciding alone.

    Returns:
      `TopK` of [...,k]; the scores are the sums, and misses follow where candidates are fewer.

    Raises:
      UserError: there is no ranking, k is below 1, or the constant is negative.
    """
    require(len(rankings) > 0, "There are no rankings to fuse; give at least one.")
    require(constant >= 0, f"constant is {constant}; it must not be negative.")
    ids, shares, hits = [], [], []
    for ranking in rankings:
        ranking = _arrays(ranking)
        rows, hit = ranking.ids, _is_hit(ranking)
        hit &= ~_repeated(rows, hit)
        rank = jnp.cumsum(hit, axis=-1).astype(jnp.float32)
        ids.append(rows)
        hits.append(hit)
        shares.append(jnp.where(hit, 1.0 / (constant + jnp.maximum(rank, 1.0)), 0.0))
    rows, share, hit = (jnp.concatenate(parts, axis=-1) for parts in (ids, shares, hits))
    same = (rows[..., :, None] == rows[..., None, :]) & hit[..., None, :]
    # In one order, so that passages of the same ranks have the same sum to the bit.
    parts = jnp.sort(jnp.where(same, share[..., None, :], 0.0), axis=-1)
    return _best_distinct(rows, jnp.sum(parts, axis=-1), hit, k)


class WeightChoice(NamedTuple):
    """The weight of a lexical ranking that was chosen.

    Attributes:
      weight: λ.
      recall: share of the questions with a gold passage among the k best, with that λ.
      table: (λ, recall) of the whole grid, in its order.
      questions: how many name a gold passage; the others count in no figure.
    """

    weight: float
    recall: float
    table: tuple[tuple[float, float], ...]
    questions: int


def choose_weight(
    dense: TopK,
    lexical: TopK,
    gold: Int[np.ndarray, "M R"],
    grid: Sequence[float],
    k: int,
    **options: Any,
) -> WeightChoice:
    """Chooses the λ of `weighted` by which most questions have a gold passage among the k best.

    Give it development questions only: figures of the questions that it was chosen on are too high. Of
    equal λ's the smallest is taken. On the host.

    Args:
      dense: `TopK` of [M,L] of M development questions.
      lexical: `TopK` of [M,C].
      gold: [M,R] rows of the gold passages, padded with -1.
      grid: the λ's to try.
      k: passages that are read.
      **options: further arguments of `weighted`.

    Raises:
      UserError: the grid is empty or holds what is no weight, no question names a gold passage, or the
        rankings are of other numbers of questions.
    """
    require(len(grid) > 0, "grid is empty; give at least one weight.")
    for value in grid:
        require(
            0 <= value < float("inf"),
            f"grid holds {value}; a weight is a number that is not negative.",
        )
    counts = [len(dense.ids), len(lexical.ids), len(gold)]
    require(
        len(set(counts)) == 1,
        f"dense, lexical and gold are of {counts[0]}, {counts[1]} and {counts[2]} questions; give those "
        "of the same ones.",
    )
    known = np.any(gold >= 0, axis=-1)
    require(bool(known.any()), "No question of gold names a gold passage; recall needs some.")

    @jax.jit
    def fused(weight):
        return weighted(dense, lexical, weight, k, **options).ids

    def recall(weight: float) -> float:
        ids = np.asarray(fused(jnp.float32(weight)))
        found = (ids[:, :, None] == gold[:, None, :]) & (gold[:, None, :] >= 0)
        return float(np.mean(found.any(axis=(1, 2))[known]))

    table = tuple((float(weight), recall(weight)) for weight in grid)
    weight, best = min(table, key=lambda row: (-row[1], row[0]))
    return WeightChoice(weight, best, table, int(known.sum()))


def _arrays(topk: TopK) -> TopK:
    """A ranking of the host as one of the device."""
    return jax.tree.map(jnp.asarray, topk)


def _is_hit(topk: TopK) -> Bool[Array, "*batch K"]:
    """Where there is a passage; the empty one (row -1) is none."""
    return topk.valid & (topk.ids >= 0)


def _hit_scores(topk: TopK) -> Float[Array, "*batch K"]:
    """The scores, and 0 where there is no hit: the gradient of a product with -inf would be NaN."""
    return jnp.where(_is_hit(topk), topk.scores, 0.0)


def _repeated(ids: Int[Array, "*batch K"], hit: Bool[Array, "*batch K"]) -> Bool[Array, "*batch K"]:
    """Whether an earlier hit is the same passage."""
    same = (ids[..., :, None] == ids[..., None, :]) & hit[..., None, :]
    return jnp.any(jnp.tril(same, k=-1), axis=-1)


def _min_max(
    scores: Float[Array, "*batch K"], valid: Bool[Array, "*batch K"]
) -> Float[Array, "*batch K"]:
    """Scores in [0,1] over what is valid, and 0 elsewhere or where all are equal."""
    low = jnp.min(jnp.where(valid, scores, jnp.inf), axis=-1, keepdims=True)
    high = jnp.max(jnp.where(valid, scores, -jnp.inf), axis=-1, keepdims=True)
    spread = jnp.where(high > low, high - low, 1.0)
    return jnp.where(valid & (high > low), (scores - low) / spread, 0.0)


def _best_distinct(
    ids: Int[Array, "*batch C"],
    scores: Float[Array, "*batch C"],
    valid: Bool[Array, "*batch C"],
    k: int,
) -> TopK:
    """The k best by (-score, row), without gradient; of a passage that is repeated the first counts."""
    require(k >= 1, f"k is {k}; it must be at least 1.")
    scores = jax.lax.stop_gradient(scores)
    kept = valid & ~_repeated(ids, valid)
    missing = max(k - ids.shape[-1], 0)
    widths = [(0, 0)] * (ids.ndim - 1) + [(0, missing)]
    cost = jnp.pad(jnp.where(kept, -scores, jnp.inf), widths, constant_values=np.inf)
    rows = jnp.pad(jnp.where(kept, ids, _LAST), widths, constant_values=_LAST)
    cost, rows = jax.lax.sort((cost, rows), dimension=-1, num_keys=2)
    cost, rows = cost[..., :k], rows[..., :k]
    hit = rows != _LAST
    return TopK(jnp.where(hit, rows, -1), jnp.where(hit, -cost, -jnp.inf), hit)
