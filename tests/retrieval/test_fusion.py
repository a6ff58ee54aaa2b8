"""Fused rankings against dictionaries and fractions, on drawn rankings with misses, repeats and ties."""

from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.errors import UserError
from ragjax.retrieval.fusion import (
    choose_weight,
    listed_scores,
    reciprocal_rank_fusion,
    scores_of_all,
    weighted,
)
from ragjax.types import TopK

N, M, L, C, K = 9, 5, 4, 6, 5
NONE = -np.inf
SEEDS = range(60)


def drawn(seed, width, repeats=False):
    """A ranking [M,width] of N passages, best first, with misses anywhere; scores are small integers."""
    rng = np.random.default_rng((seed, width))
    ids = np.stack([rng.choice(N, width, replace=repeats) for _ in range(M)]).astype(np.int32)
    scores = -np.sort(-rng.integers(-2, 4, size=(M, width)).astype(np.float32), axis=-1)
    valid = rng.random((M, width)) < 0.8
    valid[0] = seed % 3 > 0  # now and then nothing is found
    ids[1, 0], valid[1, 0] = -1, True  # the empty passage
    return TopK(np.where(valid, ids, -1), np.where(valid, scores, NONE), valid)


def listed(topk, row):
    """[(passage, score)] of the hits in their order, repeats left out."""
    found = {}
    for passage, score, valid in zip(topk.ids[row], topk.scores[row], topk.valid[row], strict=True):
        if valid and passage >= 0:
            found.setdefault(int(passage), float(score))
    return list(found.items())


def filled(totals, k):
    """(ids, scores) of the k best by (-score, row)."""
    best = sorted(totals, key=lambda passage: (-totals[passage], passage))[:k]
    fill = [None] * (k - len(best))
    return [*best, *fill], [*(totals[passage] for passage in best), *fill]


def check(found, row, totals, k=K):
    ids, scores = filled(totals, k)
    assert found.ids[row].tolist() == [-1 if passage is None else passage for passage in ids]
    assert found.valid[row].tolist() == [passage is not None for passage in ids]
    expected = [NONE if score is None else float(score) for score in scores]
    np.testing.assert_allclose(found.scores[row], expected, rtol=1e-6)


def scores_by_hand(dense, lexical, row, exact=None):
    """{passage: (dense, lexical score)} of the candidates, by the rule of `weighted`."""
    left, right = dict(listed(dense, row)), dict(listed(lexical, row))
    hit = dense.valid[row] & (dense.ids[row] >= 0)
    lowest = float(dense.scores[row][hit].min()) if hit.any() else 0.0
    if exact is not None:
        left_all, right_all = exact
        return {d: (left_all[row, d], right_all[row, d]) for d in {*left, *right}}
    return {d: (left.get(d, lowest), right.get(d, 0.0)) for d in {*left, *right}}


@partial(jax.jit, static_argnames=("k", "normalise"))
def fused(dense, lexical, weight, k=K, normalise=False):
    return weighted(dense, lexical, weight, k, normalise=normalise)


@pytest.mark.parametrize("k", [1, K, L + C + 2])
def test_weighted_sums_of_the_union(k):
    """Some rankings find nothing, and a k beyond the candidates gives misses."""
    for seed in SEEDS:
        dense, lexical = drawn(seed, L, repeats=True), drawn(seed, C)
        weight = np.float32([0.0, 0.5, 2.0][seed % 3])
        found = jax.device_get(fused(dense, lexical, weight, k))
        assert found.ids.dtype == np.int32
        for row in range(M):
            pairs = scores_by_hand(dense, lexical, row)
            check(found, row, {d: left + weight * right for d, (left, right) in pairs.items()}, k)


@jax.jit
def fused_exactly(dense, lexical, weight, dense_of_lexical, lexical_of_dense):
    return weighted(
        dense,
        lexical,
        weight,
        K,
        dense_of_lexical=dense_of_lexical,
        lexical_of_dense=lexical_of_dense,
    )


def test_exact_scores_take_the_place_of_the_rule():
    rng = np.random.default_rng(0)
    for seed in SEEDS:
        left, right = rng.integers(-3, 4, size=(2, M, N)).astype(np.float32)
        dense, lexical = (
            TopK(
                topk.ids,
                np.where(topk.valid, np.take_along_axis(all_, topk.ids, -1), NONE),
                topk.valid,
            )
            for topk, all_ in ((drawn(seed, L), left), (drawn(seed, C), right))
        )
        exact = (
            np.take_along_axis(left, lexical.ids, -1),
            np.take_along_axis(right, dense.ids, -1),
        )
        found = jax.device_get(fused_exactly(dense, lexical, np.float32(0.5), *exact))
        for row in range(M):
            pairs = scores_by_hand(dense, lexical, row, (left, right))
            check(found, row, {d: one + 0.5 * other for d, (one, other) in pairs.items()})


def test_normalised_scores_lie_between_0_and_1():
    def unit(values, value):
        low, high = min(values), max(values)
        return (value - low) / (high - low) if high > low else 0.0

    for seed in SEEDS:
        dense, lexical = drawn(seed, L), drawn(seed, C)
        found = jax.device_get(fused(dense, lexical, np.float32(0.3), K, normalise=True))
        for row in range(M):
            pairs = scores_by_hand(dense, lexical, row)
            lefts, rights = ([pair[side] for pair in pairs.values()] for side in (0, 1))
            totals = {d: unit(lefts, a) + 0.3 * unit(rights, b) for d, (a, b) in pairs.items()}
            best = sorted(totals.values(), reverse=True)[:K]
            hits = found.ids[row][found.valid[row]].tolist()
            assert len(set(hits)) == len(hits) == len(best)
            # Each passage has its own score, and together they are the best; ties may round apart.
            own = [totals[passage] for passage in hits]
            np.testing.assert_allclose(found.scores[row][found.valid[row]], own, rtol=1e-5)
            np.testing.assert_allclose(own, best, rtol=1e-5)


def test_reciprocal_ranks_by_fractions():
    run = jax.jit(partial(reciprocal_rank_fusion, k=K, constant=3.0))
    for seed in SEEDS:
        rankings = [drawn(seed, L, repeats=True), drawn(seed, C), drawn(seed + 100, L)]
        found = jax.device_get(run(rankings))
        for row in range(M):
            totals = {}
            for ranking in rankings:
                for place, (passage, _) in enumerate(listed(ranking, row)):
                    share = Fraction(1, 3 + place + 1)
                    totals[passage] = totals.get(passage, 0) + share
            check(found, row, totals)


def test_reciprocal_ranks_by_hand():
    """The constant of the paper, by which being second twice is better than being first once."""
    first = TopK(np.array([[4, 2]], np.int32), np.array([[9.0, 8.0]]), np.ones((1, 2), bool))
    other = TopK(np.array([[7, 2]], np.int32), np.array([[0.2, 0.1]]), np.ones((1, 2), bool))
    found = jax.device_get(reciprocal_rank_fusion([first, other], 3))
    assert found.ids.tolist() == [[2, 4, 7]]
    np.testing.assert_allclose(found.scores, [[2 / 62, 1 / 61, 1 / 61]], rtol=1e-6)


def test_scores_of_given_passages_and_of_all():
    def both(hits, rows):
        return listed_scores(hits, rows), scores_of_all(hits, N)

    run = jax.jit(both)
    rng = np.random.default_rng(3)
    for seed in SEEDS:
        hits, rows = drawn(seed, C, repeats=True), rng.integers(-1, N, (M, 7)).astype(np.int32)
        some, everywhere = run(hits, rows)
        for row in range(M):
            expected = dict(listed(hits, row))
            assert some[row].tolist() == [expected.get(int(d), 0.0) for d in rows[row]]
            assert everywhere[row].tolist() == [expected.get(d, 0.0) for d in range(N)]


def test_more_leading_axes_and_none():
    dense, lexical = drawn(1, L), drawn(1, C)
    flat = fused(dense, lexical, np.float32(0.5))
    deep = fused(*jax.tree.map(lambda leaf: leaf[None], (dense, lexical)), np.float32(0.5))
    single = fused(*jax.tree.map(lambda leaf: leaf[2], (dense, lexical)), np.float32(0.5))
    np.testing.assert_array_equal(deep.ids[0], flat.ids)
    np.testing.assert_array_equal(single.ids, flat.ids[2])
    np.testing.assert_array_equal(
        scores_of_all(TopK(*(leaf[2] for leaf in vars(lexical).values())), N),
        scores_of_all(lexical, N)[2],
    )


def test_the_choice_is_no_gradient_but_the_scores_of_given_passages_are_one():
    hits = jax.tree.map(jnp.asarray, drawn(1, C))

    def total(weight):
        scores = jnp.where(hits.valid, weight * jnp.where(hits.valid, hits.scores, 0.0), -jnp.inf)
        own = TopK(hits.ids, scores, hits.valid)
        best = weighted(own, own, weight, 1)
        return jnp.sum(listed_scores(own, hits.ids)) + jnp.sum(
            jnp.where(best.valid, best.scores, 0)
        )

    counted = hits.valid & (hits.ids >= 0)
    expected = np.sum(np.where(counted, hits.scores, 0.0))
    np.testing.assert_allclose(jax.grad(total)(jnp.float32(0.5)), expected, rtol=1e-5)


# Choosing the weight

DENSE = TopK(
    np.array([[0, 1], [2, 3], [4, 5], [6, 7]], np.int32),
    np.array([[1.0, 0.5]] * 4, np.float32),
    np.ones((4, 2), bool),
)
LEXICAL = TopK(
    np.array([[1, -1], [3, -1], [8, -1], [7, -1]], np.int32),
    np.array([[1.0, NONE], [2.0, NONE], [1.0, NONE], [1.0, NONE]], np.float32),
    np.array([[True, False]] * 4),
)
GOLD = np.array([[1, -1], [2, -1], [4, 0], [-1, -1]], np.int32)


def test_the_weight_of_the_highest_recall_is_chosen():
    """Over 0.5 the first question is right, over 0.25 the second wrong, over 1 - 0.5 the third."""
    found = choose_weight(DENSE, LEXICAL, GOLD, [2.0, 0.2, 0.0, 0.24, 0.4], 1)
    assert found.questions == 3  # the fourth names no gold passage
    assert found.table == tuple(
        (weight, pytest.approx(recall))
        for weight, recall in [
            (2.0, 1 / 3),
            (0.2, 2 / 3),
            (0.0, 2 / 3),
            (0.24, 2 / 3),
            (0.4, 1 / 3),
        ]
    )
    assert (found.weight, found.recall) == (0.0, pytest.approx(2 / 3))  # the smallest of the best


def test_the_options_of_the_sum_reach_the_choice():
    """Question 1 is right if its dense score of passage 1 is told to be high."""
    sure = np.array([[9.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], np.float32)
    listed_last = TopK(DENSE.ids, DENSE.scores, DENSE.valid & (DENSE.ids != 1))
    told = choose_weight(listed_last, LEXICAL, GOLD, [0.0], 1, dense_of_lexical=sure)
    assert told.recall == 1.0
    assert choose_weight(listed_last, LEXICAL, GOLD, [0.0], 1).recall == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": []}, "grid is empty"),
        ({"grid": [1.0, -0.5]}, "grid holds -0.5"),
        ({"grid": [float("nan")]}, "grid holds nan"),
        ({"gold": GOLD[3:]}, "of 4, 4 and 1 questions"),
        ({"gold": np.full((4, 1), -1, np.int32)}, "No question of gold names"),
        ({"k": 0}, "k is 0; it must be at least 1"),
    ],
)
def test_what_no_weight_can_be_chosen_from(change, message):
    given = {"dense": DENSE, "lexical": LEXICAL, "gold": GOLD, "grid": [0.1], "k": 1}
    with pytest.raises(UserError, match=message):
        choose_weight(**(given | change))


def test_what_cannot_be_fused_by_ranks():
    with pytest.raises(UserError, match="There are no rankings to fuse"):
        reciprocal_rank_fusion([], 3)
    with pytest.raises(UserError, match="constant is -1"):
        reciprocal_rank_fusion([DENSE], 3, constant=-1.0)
