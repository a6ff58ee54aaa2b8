"""The learned retriever: its towers and its p(d|x) written out, for tokens and for numbers."""

import functools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import specs_of
from tiny_pretrained import write_pretrained
from user_retriever import Plain, Sparse

from ragjax.errors import UserError
from ragjax.models.encoder import BagEncoder, Encoder, PerceptronEncoder, TransformerEncoder
from ragjax.models.history_encoder import HistoryEncoder
from ragjax.models.pretrained.encoder import PretrainedEncoder
from ragjax.models.retriever import Dense
from ragjax.types import TopK, Vocabulary

V = 12
VOCABULARY = Vocabulary(
    fold=jnp.arange(V).at[11].set(10),
    idf=0.1 * jnp.arange(V, dtype=jnp.float32),
    content=jnp.arange(V) > 6,
)
CORPUS = jnp.array([[4, 7, 0], [5, 8, 9], [6, 10, 4], [9, 9, 0], [7, 5, 0]])
FEATURES = jax.random.normal(jax.random.PRNGKey(1), (5, 3))


def built(spec, **fields):
    """The retriever's functions and its parameters, of which none is 0."""
    retriever = spec.build(**fields)
    params = {"retriever": jax.jit(retriever.init)(jax.random.PRNGKey(0))}

    def moved(leaf):
        return leaf + 0.3 * jnp.sin(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape)

    return retriever, jax.tree.map(moved, params)


@functools.cache
def pretrained_source():
    return str(write_pretrained(Path(tempfile.mkdtemp()) / "bert", hidden_size=4))


def of_kind(kind):
    """(a siamese retriever of an encoder, its keywords, a query, a corpus)."""
    if kind is TransformerEncoder:
        encoder = kind(width=4, heads=2)
    elif kind is PretrainedEncoder:
        encoder = kind(pretrained_source(), question_length=4, passage_length=4)
    else:
        encoder = kind(width=4)
    if encoder.reads_tokens:
        return Dense(encoder), {"vocabulary": VOCABULARY}, jnp.array([[6, 7], [9, 0]]), CORPUS
    widths = {"query_width": 3, "passage_width": 3}
    return Dense(encoder), widths, FEATURES[:2] + 0.1, FEATURES


# A HistoryEncoder asks by numbers and stores tokens: test_history_encoder.py.
ENCODERS = [*(kind for kind in specs_of(Encoder) if kind is not HistoryEncoder), Plain]
each = pytest.mark.parametrize("kind", ENCODERS, ids=lambda kind: kind.__name__)


def test_the_packages_encoders_are_found():
    assert {BagEncoder, TransformerEncoder, PerceptronEncoder} <= set(ENCODERS)


@each
def test_every_encoder_embeds_with_unit_length_and_a_finite_gradient(kind):
    spec, fields, query, corpus = of_kind(kind)
    retriever, params = built(spec, **fields)
    empty = jnp.zeros_like(corpus[:1])

    @jax.jit
    def run(params):
        asked, stored = retriever.query(params, query), retriever.embed(params, corpus)
        nothing = retriever.embed(params, empty)
        return jnp.sum(asked @ stored.T) + jnp.sum(nothing), (asked, stored, nothing)

    gradient, (asked, stored, nothing) = jax.grad(run, has_aux=True)(params)
    assert asked.shape == (2, 4)
    assert stored.dtype == jnp.float32
    for embedded in (asked, stored):
        np.testing.assert_allclose(jnp.linalg.norm(embedded, axis=-1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(nothing, np.zeros((1, 4)))  # of the empty passage
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    leading = jax.jit(retriever.embed)(params, jnp.stack([corpus, corpus]))
    np.testing.assert_allclose(leading, jnp.stack([stored, stored]), atol=1e-5)
    assert (spec.reads is None) == (kind is not PretrainedEncoder)


@each
def test_what_an_encoder_cannot_read_is_refused(kind):
    spec, fields, _, corpus = of_kind(kind)
    retriever, params = built(spec, **fields)
    wrong = corpus.astype(jnp.float32 if spec.encoder.reads_tokens else jnp.int32)
    with pytest.raises(UserError, match=rf"retriever.encoder is a {kind.__name__}, which reads"):
        retriever.embed(params, wrong)
    if spec.encoder.reads_tokens:
        with pytest.raises(UserError, match="reads tokens, but there is no text here"):
            spec.build()


@each
def test_p_of_d_by_hand(kind):
    spec, fields, query, corpus = of_kind(kind)
    retriever, params = built(spec, **fields)
    index = jax.jit(retriever.index)(params, corpus)
    asked = jax.jit(retriever.query)(params, query)
    topk = jax.jit(retriever.search, static_argnums=2)(index, asked, 3)
    stored = np.asarray(retriever.embed(params, corpus), np.float64)
    scores = float(retriever.scale(params)) * np.asarray(asked, np.float64) @ stored.T
    best = np.argsort(-scores, axis=-1)[:, :3]
    np.testing.assert_array_equal(topk.ids, best)
    chosen = np.exp(np.take_along_axis(scores, best, -1))
    expected = chosen / chosen.sum(-1, keepdims=True)
    prior = jax.jit(retriever.log_prior)(params, asked, corpus, topk)
    np.testing.assert_allclose(np.exp(prior), expected, rtol=1e-4)
    # A miss has no mass, and the empty passage scores 0.
    missed = TopK(topk.ids.at[:, 1].set(-1).at[1].set(-1), None, topk.valid.at[:, 1].set(False))
    prior = np.exp(retriever.log_prior(params, asked, corpus, missed))
    np.testing.assert_allclose(prior[0], expected[0] * [1, 0, 1] / expected[0, [0, 2]].sum(), 1e-4)
    np.testing.assert_allclose(prior[1], [0.5, 0.0, 0.5], rtol=1e-5)


def test_two_towers_learn_apart():
    spec = Dense(PerceptronEncoder((5,), 4), PerceptronEncoder(width=4), initial_scale=3.0)
    retriever, params = built(spec, query_width=2, passage_width=3)
    assert params["retriever"].keys() == {"observed", "stored", "log_scale"}
    tower = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["retriever"])
    query = jnp.array([[0.3, -1.0]])
    linear = query @ tower["observed"]["Dense_0"]["kernel"]
    expected = linear / np.linalg.norm(linear)
    np.testing.assert_allclose(retriever.query(params, query), expected, rtol=1e-4)
    hidden = np.tanh(FEATURES @ tower["stored"]["Dense_0"]["kernel"])
    stored = hidden @ tower["stored"]["Dense_1"]["kernel"]
    stored /= np.linalg.norm(stored, axis=-1, keepdims=True)
    np.testing.assert_allclose(retriever.embed(params, FEATURES), stored, rtol=1e-4)
    fresh = retriever.init(jax.random.PRNGKey(0))
    np.testing.assert_allclose(np.exp(fresh["log_scale"]), 3.0, rtol=1e-6)


def test_one_encoder_or_two_of_one_kind():
    """A siamese retriever finds matching words untrained; two encoders have to learn what matches."""
    bag, tokens = BagEncoder(width=64), jnp.array([[4, 7]])

    def similarity(spec):
        retriever = spec.build(VOCABULARY)
        params = {"retriever": retriever.init(jax.random.PRNGKey(0))}
        asked, stored = retriever.query(params, tokens), retriever.embed(params, tokens)
        return float(jnp.sum(asked * stored))

    assert similarity(Dense(bag)) == pytest.approx(1.0, rel=1e-5)
    assert abs(similarity(Dense(bag, bag))) < 0.5


def test_tokens_and_numbers_together():
    """Observations ask for text."""
    spec = Dense(BagEncoder(width=4), PerceptronEncoder(width=4))
    retriever, params = built(spec, vocabulary=VOCABULARY, query_width=2)
    asked = retriever.query(params, jnp.ones((3, 2)))
    topk = retriever.search(retriever.index(params, CORPUS), asked, 2)
    assert retriever.log_prior(params, asked, CORPUS, topk).shape == (3, 2)


def test_an_index_that_finds_nothing_gives_the_empty_passage():
    spec = Dense(Plain(4), index=Sparse(least=2.0))
    retriever, params = built(spec, vocabulary=VOCABULARY)
    index = jax.jit(retriever.index)(params, CORPUS)
    assert set(index) == {"left", "right"}
    asked = retriever.query(params, jnp.array([[6, 7]]))
    topk = retriever.search(index, asked, 3)
    assert topk.ids.tolist() == [[-1, -1, -1]]
    assert topk.valid.tolist() == [[True, False, False]]

    def certain(params):
        prior = retriever.log_prior(params, asked, CORPUS, topk)
        return prior[0, 0], prior

    gradient, prior = jax.grad(certain, has_aux=True)(params)
    assert prior.tolist() == [[0.0, -np.inf, -np.inf]]
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_the_index_says_whether_all_passages_are_scored():
    assert Dense().scores_all
    assert Dense(index=Sparse()).scores_all


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"refresh_every": 0}, "retriever.refresh_every is 0"),
        ({"initial_scale": 0.0}, "retriever.initial_scale is 0.0; it must be positive"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        Dense(**fields)
