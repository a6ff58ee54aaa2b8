"""The hybrid retriever: its candidates and its p(d|x) written out in NumPy."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from user_retriever import Plain, Sparse

from ragjax.errors import UserError
from ragjax.models.encoder import BagEncoder
from ragjax.models.hybrid import Hybrid
from ragjax.models.retriever import Dense
from ragjax.retrieval.base import Index, RetrieverSpec
from ragjax.retrieval.bm25 import BM25
from ragjax.retrieval.exact import Exact
from ragjax.retrieval.fixed import ClosedBook, Oracle
from ragjax.types import Passage, Question, TopK, Vocabulary

V, N, B, C, K, DEPTH = 30, 12, 4, 5, 4, 3
VOCABULARY = Vocabulary(
    fold=jnp.arange(V), idf=0.1 * jnp.arange(V, dtype=jnp.float32), content=jnp.arange(V) > 6
)
CORPUS = jnp.asarray(np.random.default_rng(0).integers(4, V, (N, 6)), jnp.int32)
QUESTIONS = jnp.asarray(np.random.default_rng(1).integers(4, V, (B, 4)), jnp.int32)
DENSE = Dense(BagEncoder(width=8), initial_scale=3.0)
NONE = -np.inf


def lexical(seed):
    """[B,C] hits of drawn scores, with misses; the last question shares no word with any passage."""
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.choice(N, C, replace=False) for _ in range(B)]).astype(np.int32)
    scores = -np.sort(-rng.uniform(0.5, 12.0, (B, C)).astype(np.float32), axis=-1)
    valid = np.arange(C) < rng.integers(1, C + 1, (B, 1))
    ids, scores = np.where(valid, ids, -1), np.where(valid, scores, NONE)
    ids[-1], scores[-1], valid[-1] = -1, [0.0, *[NONE] * (C - 1)], np.arange(C) == 0
    return TopK(ids, scores, valid)


def on_device(hits):
    return jax.tree.map(jnp.asarray, hits)


def built(spec):
    """The retriever's functions, its parameters and its index, of other parameters."""
    retriever = spec.build(VOCABULARY)
    params = {"retriever": jax.jit(retriever.init)(jax.random.PRNGKey(0))}
    older = {"retriever": jax.jit(retriever.init)(jax.random.PRNGKey(1))}
    return retriever, params, jax.jit(retriever.index)(older, CORPUS)


@pytest.fixture(scope="module")
def hybrid():
    return built(Hybrid(DENSE, lexical_weight=0.2, depth=DEPTH))


def words_of(hits, row):
    """{passage: lexical score}."""
    given = zip(hits.ids[row], hits.scores[row], hits.valid[row], strict=True)
    return {int(passage): float(score) for passage, score, valid in given if valid and passage >= 0}


def double(array):
    return np.asarray(array, np.float64)


def test_the_best_of_both_candidates_by_hand(hybrid):
    """Of each: as many as it proposes, scored alike, ties aside, by an index of other parameters."""
    retriever, params, index = hybrid
    search = jax.jit(
        lambda params, hits: retriever.search(
            index, retriever.query(params, QUESTIONS), K, retriever.weigh(params, hits)
        )
    )
    inner = double(retriever.query(params, QUESTIONS)) @ double(index).T
    only_lexical = 0
    for seed in range(40):
        hits = lexical(seed)
        found = jax.device_get(search(params, hits))
        for row in range(B):
            words = words_of(hits, row)
            proposed = set(np.argsort(-inner[row])[: max(K, DEPTH)].tolist())
            only_lexical += len(set(found.ids[row].tolist()) - proposed)
            totals = {d: inner[row, d] + 0.2 * words.get(d, 0.0) for d in proposed | set(words)}
            best = sorted(totals, key=lambda d: (-totals[d], d))[:K]
            assert found.ids[row].tolist() == best
            np.testing.assert_allclose(found.scores[row], [totals[d] for d in best], rtol=1e-4)
        assert np.all(found.valid)
    assert only_lexical > 40  # passages that the embeddings alone would not have found


def prior_by_hand(params, hits, ids, valid, log_weight, retriever):
    """[B,K] log p(d|x) in float64, by the definition; the empty passage scores 0."""
    inner = double(retriever.query(params, QUESTIONS)) @ double(retriever.embed(params, CORPUS)).T
    scale = np.exp(double(params["retriever"]["log_scale"]))
    prior = np.full(ids.shape, NONE)
    for row in range(B):
        words = words_of(hits, row)
        scores = [
            scale * (inner[row, d] + np.exp(log_weight) * words.get(int(d), 0.0)) if d >= 0 else 0.0
            for d in ids[row][valid[row]]
        ]
        prior[row, valid[row]] = scores - np.log(np.sum(np.exp(scores)))
    return prior


def test_p_of_d_and_the_gradient_of_the_weight_by_hand(hybrid):
    """The gradient against differences of the definition, in double precision."""
    retriever, params, _ = hybrid
    credit = np.random.default_rng(9).normal(size=(B, K))

    def total(params, hits, topk):
        weighted = retriever.weigh(params, hits)
        query = retriever.query(params, QUESTIONS)
        prior = retriever.log_prior(params, query, CORPUS, topk, None, weighted)
        kept = jnp.where(topk.valid, prior, 0.0) * jnp.asarray(credit, jnp.float32)
        return jnp.sum(kept), prior

    run = jax.jit(jax.grad(total, has_aux=True))
    log_weight = np.log(0.2)
    assert params["retriever"]["log_lexical_weight"] == pytest.approx(log_weight, rel=1e-6)
    for seed in range(30):
        hits, rng = lexical(seed), np.random.default_rng((seed, 1))
        ids = np.stack([rng.choice(N, K, replace=False) for _ in range(B)]).astype(np.int32)
        valid = rng.random((B, K)) < 0.8
        ids[0, 1:], valid[0] = -1, [True, False, False, False]
        ids[1, 0], valid[1, 0] = -1, True  # the empty passage
        ids = np.where(valid, ids, -1)
        gradient, prior = run(params, hits, TopK(ids, np.zeros(ids.shape, np.float32), valid))

        def expected(moved, hits=hits, ids=ids, valid=valid):
            return prior_by_hand(params, hits, ids, valid, log_weight + moved, retriever)

        np.testing.assert_allclose(prior, expected(0.0), rtol=1e-4, atol=1e-5)
        ahead, behind = (np.sum((expected(h) * credit)[valid]) for h in (1e-5, -1e-5))
        slope = gradient["retriever"]["log_lexical_weight"]
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-5, rtol=1e-3, atol=1e-4)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("kind", ["exact", "sparse"])
def test_with_weight_0_it_is_the_dense_retriever_to_the_bit(kind):
    """Whose candidates it has, and more; also through an index that is a tree of other arrays."""
    dense = DENSE if kind == "exact" else Dense(BagEncoder(width=8), index=Sparse(-1.0))
    spec = Hybrid(dense, lexical_weight=0.0, learn_weight=False, depth=DEPTH)
    retriever, params, index = built(spec)
    plain, same, other = built(dense)
    assert params["retriever"].keys() == same["retriever"].keys()
    jax.tree.map(np.testing.assert_array_equal, index, other)  # nothing is held twice
    query, hits = retriever.query(params, QUESTIONS), retriever.weigh(params, on_device(lexical(3)))
    found = retriever.search(index, query, K, hits)
    expected = plain.search(other, query, K)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    np.testing.assert_array_equal(
        retriever.log_prior(params, query, CORPUS, found, None, hits),
        plain.log_prior(params, query, CORPUS, expected),
    )
    np.testing.assert_array_equal(retriever.scores(index, query), plain.scores(other, query))


def test_a_large_weight_leaves_the_words_in_common_alone():
    retriever, params, index = built(Hybrid(DENSE, lexical_weight=1e5, learn_weight=False, depth=2))
    query = retriever.query(params, QUESTIONS)
    for seed in range(10):
        given = lexical(seed)
        hits = retriever.weigh(params, on_device(given))
        found = retriever.search(index, query, 2, hits)
        prior = np.exp(retriever.log_prior(params, query, CORPUS, found, None, hits))
        for row in range(B - 1):
            ranked = list(words_of(given, row))[:2]
            assert found.ids[row].tolist()[: len(ranked)] == ranked
        np.testing.assert_allclose(prior[:-1], [[1.0, 0.0]] * (B - 1), atol=1e-6)
        # Without any word in common the embeddings decide.
        dense = np.argsort(-np.asarray(query[-1] @ index.T))[:2]
        assert found.ids[-1].tolist() == dense.tolist()
        assert 0.01 < prior[-1, 0] < 0.99


def test_where_neither_finds_anything_the_empty_passage_is_read():
    dense = Dense(Plain(4), index=Sparse(least=2.0))
    retriever, params, index = built(Hybrid(dense, depth=2))
    query = retriever.query(params, QUESTIONS)
    hits = retriever.weigh(params, on_device(lexical(0)))
    found = retriever.search(index, query, 3, hits)
    assert found.ids[-1].tolist() == [-1, -1, -1]
    assert found.valid[-1].tolist() == [True, False, False]
    assert found.scores[-1].tolist() == [0.0, NONE, NONE]
    for row in range(B - 1):  # the words in common are there all the same
        assert found.ids[row][found.valid[row]].tolist()
        assert set(found.ids[row][found.valid[row]].tolist()) <= set(words_of(lexical(0), row))


def test_the_host_looks_up_as_many_as_there_are():
    passages = tuple(Passage(str(n), "", f"alpha {'beta ' * n}") for n in range(4))
    asked = [Question("q", "beta alpha", ("!",), (), "r", "e")]
    found = Hybrid(depth=2).lexical_hits(passages, asked)
    np.testing.assert_array_equal(found.ids, BM25().lookup(passages, asked, 2).ids)
    assert Hybrid(depth=9).lexical_hits(passages, asked).ids.shape == (1, 4)
    with pytest.raises(NotImplementedError, match="Dense goes by one ranking"):
        Dense().lexical_hits(passages, asked)
    with pytest.raises(NotImplementedError, match="Hybrid is searched inside"):
        Hybrid().lookup(passages, asked, 1)


def test_what_a_run_needs_to_know_of_it():
    spec = Hybrid(Dense(refresh_every=7), lexical_weight=0.3)
    assert (spec.learned, spec.fuses, spec.needs_gold) == (True, True, False)
    assert (spec.refresh_every_in_step, spec.refresh_every_beside) == (7, 0)
    assert Hybrid(Dense(refresh_every=7, asynchronous=True)).refresh_every_beside == 7
    assert spec.scores_all
    assert spec.weights == Dense().weights | {
        "lexical": BM25(),
        "lexical_weight": 0.3,
        "learn_weight": True,
    }
    assert not any(kind.fuses for kind in (RetrieverSpec, Dense, BM25, ClosedBook))


def test_an_index_of_another_shape_has_to_give_back_its_rows():
    @dataclass(frozen=True)
    class Halves(Sparse):
        rows = Index.rows

    retriever, params, index = built(Hybrid(Dense(BagEncoder(width=8), index=Halves())))
    hits = retriever.weigh(params, on_device(lexical(0)))
    with pytest.raises(NotImplementedError, match=r"Halves does not give back .*; define rows"):
        retriever.search(index, retriever.query(params, QUESTIONS), 2, hits)


def test_its_index_is_prepared_as_that_of_the_dense_retriever():
    prepared = []

    @dataclass(frozen=True)
    class Slow(Exact):
        def prepare(self, index):
            prepared.append(index)

    Hybrid(Dense(index=Slow())).prepare("an index")
    Hybrid().prepare("no matter")
    assert prepared == ["an index"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"lexical_weight": 0.0},
            "retriever.lexical_weight is 0.0; it must be positive, or 0 where",
        ),
        ({"lexical_weight": -1.0, "learn_weight": False}, "retriever.lexical_weight is -1.0"),
        ({"lexical_weight": float("inf")}, "retriever.lexical_weight is inf"),
        ({"depth": 0}, "retriever.depth is 0; it must be at least 1"),
        ({"lexical": Oracle()}, "retriever.lexical is a Oracle, which reads the gold passages"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        Hybrid(**fields)
