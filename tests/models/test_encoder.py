"""The retriever's encoders: the bag in closed form, and what padding and order may change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.errors import UserError
from ragjax.models.encoder import (
    BagEncoder,
    PerceptronEncoder,
    TransformerEncoder,
    TransformerModule,
)
from ragjax.models.layers import sinusoidal_positions, unit_length

BAG, TRANSFORMER = BagEncoder(width=8), TransformerEncoder(width=8, layers=1, heads=2)


def functions_of(toy):
    return {"query": toy.model.retriever.query, "passage": toy.model.retriever.embed}


@pytest.fixture(scope="module")
def embed(make_toy):
    """(encoder, tokens [...,n], side) -> [...,D] NumPy."""
    functions = {}

    def run(encoder, tokens, side="passage"):
        toy = make_toy(encoder=encoder)
        if (encoder, side) not in functions:
            functions[encoder, side] = jax.jit(functions_of(toy)[side])
        return np.asarray(functions[encoder, side](toy.params, np.asarray(tokens, np.int32)))

    return run


@pytest.mark.parametrize(("row", "side"), [(0, "query"), (1, "passage")])
def test_bag_in_closed_form(make_toy, embed, row, side):
    toy = make_toy(encoder=BAG)
    params = jax.tree.map(np.asarray, toy.params["retriever"]["query"])
    total = np.zeros(8)
    for token in (4, 9):
        direction = params["embedding"][token] / np.linalg.norm(params["embedding"][token])
        idf = np.float64(toy.vocabulary.idf[token])
        weight = np.exp(params["log_weight"][row, token]) * (idf + 0.05) ** params["idf_power"]
        total += weight * direction
    expected = total / np.linalg.norm(total)
    actual = embed(BAG, [[4, 9, 4, 4]], side)[0]  # a repeated token counts once
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("encoder", [BAG, TRANSFORMER], ids=["bag", "transformer"])
def test_padding_and_leading_axes_do_not_matter(embed, encoder, corpus):
    expected = embed(encoder, corpus)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=-1), 1.0, rtol=1e-5)
    padded = np.pad(corpus, ((0, 0), (0, 3)))
    np.testing.assert_allclose(embed(encoder, padded), expected, atol=1e-5)
    folded = embed(encoder, corpus.reshape(2, 3, 5))
    np.testing.assert_allclose(folded.reshape(6, 8), expected, atol=1e-5)


def test_order_matters_to_the_transformer_alone(embed, corpus):
    full = np.asarray(corpus)[[2, 4]]
    backwards = full[:, ::-1]
    np.testing.assert_allclose(embed(BAG, backwards), embed(BAG, full), atol=1e-5)
    assert np.all(np.abs(embed(TRANSFORMER, backwards) - embed(TRANSFORMER, full)).max(-1) > 1e-3)


def test_the_untrained_bag_finds_shared_rare_words():
    """Cold start: the passage with the question's name wins over one with its template words."""
    vocab, idf = 500, jnp.where(jnp.arange(500) < 20, 0.1, 4.0)
    module = BagEncoder(width=256).build(vocab, jnp.float32)

    @jax.jit
    def scores(key, question, passages):
        params = module.init(key, passages, idf[passages], 1)
        embedded = module.apply(params, passages, idf[passages], 1)
        return embedded @ module.apply(params, question, idf[question], 0)

    question = np.array([4, 5, 6, 100], np.int32)
    passages = np.array([[4, 5, 6, 200], [8, 9, 100, 300], [10, 11, 400, 12]], np.int32)
    for seed in range(3):
        name, template, neither = np.asarray(scores(jax.random.PRNGKey(seed), question, passages))[
            [1, 0, 2]
        ]
        assert name > template + 0.2
        assert name > neither + 0.2


@pytest.mark.parametrize("encoder", [BAG, TRANSFORMER], ids=["bag", "transformer"])
def test_an_empty_text_is_zero_with_a_finite_gradient(make_toy, encoder):
    toy = make_toy(encoder=encoder)
    tokens = jnp.zeros((1, 3), jnp.int32)

    def total(params):
        out = toy.model.retriever.query(params, tokens)
        return jnp.sum(out), out

    gradient, out = jax.jit(jax.grad(total, has_aux=True))(toy.params)
    np.testing.assert_array_equal(out, np.zeros((1, 8)))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("smooth", [False, True])
def test_unit_length_of_hand_values(smooth):
    out = jax.jit(lambda x: unit_length(x, smooth=smooth))(np.array([[3.0, 4.0], [0, 0]], "f"))
    np.testing.assert_allclose(out, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: BagEncoder(width=0), "encoder.width is 0"),
        (lambda: TransformerEncoder(layers=0), "encoder.layers is 0"),
        (lambda: TransformerEncoder(width=10, heads=4), "encoder.heads 4"),
        (lambda: TransformerEncoder(heads=0), "encoder.heads 0"),
        (lambda: PerceptronEncoder((8, 0)), r"encoder.hidden is \(8, 0\)"),
        (lambda: PerceptronEncoder(width=0), "encoder.width is 0"),
        (lambda: PerceptronEncoder(first=-1), "encoder.first is -1"),
    ],
)
def test_bad_sizes_are_named(build, field):
    with pytest.raises(UserError, match=field):
        build()


def test_the_first_numbers_alone_are_read():
    """So that observations and passages of other lengths are embedded by one matrix."""
    module = PerceptronEncoder(width=4, first=2).build(0, jnp.float32)
    x = jnp.array([[1.0, -2.0, 3.0], [1.0, -2.0, 5.0], [2.0, 2.0, 3.0]])
    variables = module.init(jax.random.key(0), x, None, 0)
    embedded = module.apply(variables, x, None, 0)
    np.testing.assert_array_equal(embedded[0], embedded[1])
    np.testing.assert_array_equal(embedded, module.apply(variables, x[:, :2], None, 1))
    assert np.any(embedded[0] != embedded[2])


def test_leading_positions_weigh_passages_by_place_and_leave_questions_alone():
    module = BagEncoder(width=8, leading=2).build(12, jnp.float32)
    tokens, idf = jnp.array([[4, 5, 6, 0]]), jnp.ones((1, 4))
    params = module.init(jax.random.key(0), tokens, idf, 0)["params"]
    moved = {**params, "log_position": jnp.array([jnp.log(3.0), 0.0])}

    def embed(params, tokens, side):
        return np.asarray(module.apply({"params": params}, tokens, idf[:, : tokens.shape[1]], side))

    table = unit_length(params["embedding"])
    expected = unit_length(3 * table[4] + table[5] + table[6])
    np.testing.assert_allclose(embed(moved, tokens, 1)[0], expected, atol=1e-6)
    np.testing.assert_array_equal(embed(moved, tokens, 0), embed(params, tokens, 0))
    np.testing.assert_allclose(
        embed(moved, tokens[:, :1], 1), embed(params, tokens[:, :1], 1), atol=1e-6
    )  # shorter than `leading`; one token has unit length whatever its weight


def test_the_transformer_averages_by_idf():
    """Without a layer it is the weighted bag that it starts near to; padding weighs nothing."""
    module = TransformerModule(vocab_size=12, width=8, layers=0, heads=1)
    tokens, idf = jnp.array([[4, 9, 0]]), jnp.array([[0.2, 3.0, 5.0]])
    params = module.init(jax.random.key(0), tokens, idf, 1)
    table = np.asarray(params["params"]["embedding"])
    read = table[[4, 9]] + 0.1 * np.asarray(sinusoidal_positions(2, 8))
    total = 0.25 * read[0] + 3.05 * read[1]
    expected = total / np.linalg.norm(total)
    np.testing.assert_allclose(module.apply(params, tokens, idf, 1)[0], expected, atol=1e-5)
