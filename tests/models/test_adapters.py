"""What is trained of a model: the split of its parameters, and low-rank adapters by hand."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from ragjax.errors import UserError
from ragjax.models.adapters import All, Lora, QueryOnly
from ragjax.models.encoder import BagEncoder, TransformerEncoder
from ragjax.models.hybrid import Hybrid
from ragjax.models.pretrained import load
from ragjax.models.retriever import Dense
from ragjax.retrieval.bm25 import BM25

GOLDENS = Path(__file__).parents[1] / "goldens"
ENCODER = TransformerEncoder(width=8, layers=1, heads=2)
TWO = Dense(ENCODER, ENCODER)
APART = Dense(ENCODER, ENCODER, train_passages=False)
KEY = jax.random.PRNGKey(5)
RANK, ALPHA = 2, 3.0
LORA = Lora(RANK, ALPHA)
SCALES = {"retriever/log_scale", "critic/kernel", "critic/bias"}


def named(tree):
    return flatten_dict(tree, sep="/")


@pytest.fixture(scope="module")
def toy(make_toy):
    """Two towers of attention, and a reader."""
    return make_toy(encoder=ENCODER, siamese=False)


@pytest.fixture(scope="module")
def params(toy):
    """Those of the toy, and a critic's."""
    return toy.params | {"critic": {"kernel": jnp.ones((8, 1)), "bias": jnp.zeros(1)}}


def drawn(moved, seed):
    """The same adapters with a B that is not 0."""
    rng = np.random.default_rng(seed)
    flat = {
        path: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32) if "lora_b" in path else leaf
        for path, leaf in flatten_dict(moved).items()
    }
    return jax.tree.unflatten(jax.tree.structure(moved), [flat[path] for path in sorted(flat)])


def test_all_parameters_are_the_tree_itself(params):
    moved, frozen = All().split(params, KEY, TWO)
    assert moved is params
    assert frozen is None
    assert All().merged(moved, frozen) is params


@pytest.mark.parametrize(
    "trained", [QueryOnly(), LORA, Lora(parts=("reader",)), Lora(modules="query|value")]
)
def test_merged_undoes_split_to_the_bit(trained, params):
    moved, frozen = trained.split(params, KEY, APART)
    whole = trained.merged(moved, frozen)
    assert jax.tree.structure(whole) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, whole, params)
    assert not set(named(moved)) & set(named(frozen))
    assert set(named(moved)) >= SCALES
    assert set(moved) <= set(params)  # the groups that have rates


def test_the_queries_encoder_alone(params):
    moved, frozen = QueryOnly().split(params, KEY, APART)
    observed = {f"retriever/observed/{name}" for name in named(params["retriever"]["observed"])}
    assert set(named(moved)) == observed | SCALES
    assert set(frozen) == {"reader", "retriever"}
    assert set(frozen["retriever"]) == {"stored"}


def test_kernels_of_attention_and_feed_forward_have_adapters(params):
    moved, frozen = LORA.split(params, KEY, TWO)
    attention = [f"{name}/{part}" for name in ("query", "key", "value", "out") for part in "ab"]
    dense = [f"Dense_{number}/{part}" for number in (0, 1) for part in "ab"]
    modules = {
        **{
            f"{place}/Attention_0": attention
            for place in (
                "reader/encoder_0",
                "retriever/observed/EncoderLayer_0",
                "retriever/stored/EncoderLayer_0",
            )
        },
        **{
            f"{place}/FeedForward_0": dense
            for place in (
                "reader/encoder_0",
                "retriever/observed/EncoderLayer_0",
                "retriever/stored/EncoderLayer_0",
            )
        },
        "reader/decoder_0/self_attention": attention,
        "reader/decoder_0/cross_attention": attention,
        "reader/decoder_0/feed_forward": dense,
    }
    expected = {
        f"{module}/{name[:-1]}lora_{name[-1]}"
        for module, names in modules.items()
        for name in names
    }
    assert set(named(moved)) == expected | SCALES
    for name, leaf in named(frozen).items():
        kernel = params
        for part in name.split("/"):
            kernel = kernel[part]
        assert leaf is kernel
    for name in expected:
        base = named(frozen)[name.rpartition("/")[0] + "/kernel"]
        side = {"a": (base.shape[0], RANK), "b": (RANK, base.shape[1])}[name[-1]]
        assert named(moved)[name].shape == side


def test_parts_and_modules_choose(params):
    moved, _ = Lora(parts=("reader",), modules=r"cross_attention/(query|value)$").split(
        params, KEY, TWO
    )
    place = "reader/decoder_0/cross_attention"
    expected = {f"{place}/{name}/lora_{part}" for name in ("query", "value") for part in "ab"}
    assert set(named(moved)) == expected | SCALES


def test_an_encoder_that_is_not_trained_has_no_adapters(params):
    moved, frozen = LORA.split(params, KEY, APART)
    assert set(moved["retriever"]) == {"observed", "log_scale"}
    jax.tree.map(
        np.testing.assert_array_equal, frozen["retriever"]["stored"], params["retriever"]["stored"]
    )


def test_what_is_no_matrix_has_no_adapter():
    """Kernels of three axes, and the rows of an embedding."""
    module = {"kernel": jnp.ones((4, 5))}
    reader = {"attention": module, "attention_3": {"kernel": jnp.ones((2, 4, 5))}}
    reader["attention_e"] = {"embedding": jnp.ones((4, 5))}
    moved, _ = Lora(parts=("reader",)).split({"reader": reader, "retriever": {}}, KEY, BM25())
    assert set(moved["reader"]) == {"attention"}


def test_the_change_is_a_product_of_two_small_matrices(params):
    """W' = W + α/r A B, of rank r."""
    moved, frozen = LORA.split(params, KEY, TWO)
    moved = drawn(moved, 0)
    whole, flat = named(LORA.merged(moved, frozen)), named(moved)
    for name, base in named(params).items():
        left = flat.get(name.rpartition("/")[0] + "/lora_a")
        if left is None or not name.endswith("kernel"):
            np.testing.assert_array_equal(whole[name], base)
            continue
        right = flat[name.rpartition("/")[0] + "/lora_b"]
        change = ALPHA / RANK * np.asarray(left, np.float64) @ np.asarray(right, np.float64)
        np.testing.assert_allclose(whole[name], base + change, rtol=1e-5, atol=1e-6)
        assert np.linalg.matrix_rank(np.asarray(whole[name] - base), tol=1e-4) == RANK


def test_a_is_drawn_for_each_kernel_and_b_is_zero():
    kernels = {f"attention_{n}": {"kernel": jnp.zeros((400, 30))} for n in range(3)}
    params = {"reader": kernels, "retriever": {}}
    lora = Lora(rank=20, parts=("reader",))
    moved, _ = lora.split(params, KEY, BM25())
    left = [np.asarray(moved["reader"][name]["lora_a"]) for name in kernels]
    for each in left:
        assert np.std(each) == pytest.approx(400**-0.5, rel=0.05)
        assert abs(np.mean(each)) < 3 * 400**-0.5 / 8000**0.5
    assert not np.allclose(left[0], left[1])
    assert not np.allclose(left[1], left[2])
    other, _ = lora.split(params, jax.random.PRNGKey(6), BM25())
    assert not np.allclose(left[0], other["reader"]["attention_0"]["lora_a"])
    assert not any(np.any(moved["reader"][name]["lora_b"]) for name in kernels)


def test_gradients_are_those_of_the_chain_rule(toy, params, batch, corpus):
    """∂L/∂A = α/r G Bᵀ and ∂L/∂B = α/r Aᵀ G, of the gradient G of the whole kernel W'."""
    model = toy.model

    def loss(params):
        query = model.retriever.query(params, batch.question)
        prior = model.retriever.log_prior(params, query, corpus, batch.retrieved)
        passages = corpus[jnp.maximum(batch.retrieved.ids, 0)]
        tokens = model.token_logprobs(
            params, model.encode(params, batch.question, passages), batch.target
        )
        real = batch.retrieved.valid
        return -jnp.sum(jnp.where(real, prior + jnp.sum(tokens, axis=-1), 0.0))

    moved, frozen = LORA.split(params, KEY, TWO)
    moved = drawn(moved, 1)
    whole, found = jax.jit(
        lambda moved: (
            jax.grad(loss)(LORA.merged(moved, frozen)),
            jax.grad(lambda moved: loss(LORA.merged(moved, frozen)))(moved),
        )
    )(moved)
    whole, found, flat = named(whole), named(found), named(moved)
    assert set(found) == set(flat)
    checked = 0
    for name in found:
        module, _, last = name.rpartition("/")
        if last not in ("lora_a", "lora_b"):
            np.testing.assert_allclose(found[name], whole[name], rtol=1e-5, atol=1e-6)
            continue
        full = np.asarray(whole[f"{module}/kernel"], np.float64)
        left, right = (np.asarray(flat[f"{module}/lora_{part}"], np.float64) for part in "ab")
        expected = {"lora_a": full @ right.T, "lora_b": left.T @ full}[last] * ALPHA / RANK
        np.testing.assert_allclose(found[name], expected, rtol=2e-3, atol=1e-4)
        checked += np.abs(expected).max() > 1e-3
    assert checked > 40  # of 48


@pytest.mark.parametrize("kind", ["bert", "dpr_question", "bart", "t5", "llama", "qwen2", "qwen3"])
def test_the_modules_of_pretrained_models_are_known(kind):
    """All matrices of their layers, and none of their heads."""
    params = load(GOLDENS / kind).params
    moved, _ = Lora(parts=("reader",)).split({"reader": params, "retriever": {}}, KEY, BM25())
    adapted = {name.rpartition("/")[0] for name in named(moved) if name.endswith("lora_a")}
    kernels = {
        f"reader/{name}".rpartition("/")[0]
        for name, leaf in named(params).items()
        if name.endswith("/kernel") and leaf.ndim == 2
    }
    assert {name.rpartition("/")[2] for name in kernels - adapted} <= {"lm_head", "encode_proj"}
    assert len(adapted) >= 6


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"rank": 0}, "trained.rank is 0; it must be at least 1."),
        ({"alpha": 0.0}, "trained.alpha is 0.0; it must be positive and finite."),
        ({"alpha": float("nan")}, "trained.alpha is nan; it must be positive and finite."),
        ({"parts": ()}, "trained.parts is empty; choose of reader and retriever."),
        (
            {"parts": ("reader", "critic")},
            "trained.parts.1 is 'critic'; choose reader or retriever.",
        ),
        (
            {"parts": ("reader", "reader")},
            "trained.parts is ('reader', 'reader'); name each part once.",
        ),
        (
            {"modules": "(query"},
            "trained.modules is '(query', which is no regular expression (missing ), unterminated "
            "subpattern at position 0); give one, such as 'query|value'.",
        ),
    ],
)
def test_a_field_that_is_wrong_is_told(fields, sentence):
    lora = Lora()
    for name, value in fields.items():
        object.__setattr__(lora, name, value)  # past the annotation that tests check
    with pytest.raises(UserError) as error:
        lora.__post_init__()
    assert str(error.value) == sentence


def test_an_expression_that_is_found_nowhere_is_told(params):
    with pytest.raises(UserError) as error:
        Lora(modules="FeedForward_7").split(params, KEY, TWO)
    assert str(error.value) == (
        "trained.modules is 'FeedForward_7', which is found in none of the reader's 21 modules "
        "(copy_key, copy_query, decoder_0/cross_attention/key, ...); give another expression, or leave "
        "reader out of trained.parts."
    )


def test_a_part_without_kernels_is_told(params):
    bag = params | {"retriever": {"query": {"embedding": jnp.ones((3, 2))}}}
    with pytest.raises(UserError) as error:
        LORA.split(bag, KEY, Dense(BagEncoder(width=2)))
    assert str(error.value) == (
        "trained.parts has 'retriever', but the retriever has no kernels that could have adapters; "
        "leave retriever out."
    )


def test_queries_alone_want_passages_that_stay():
    QueryOnly().check(APART)
    QueryOnly().check(Hybrid(dense=APART))
    for retriever in (TWO, Dense(ENCODER), Hybrid(dense=TWO), BM25()):
        with pytest.raises(UserError) as error:
            QueryOnly().check(retriever)
        assert str(error.value) == (
            f"trained is QueryOnly, but retriever {type(retriever).__name__} has no encoder of passages "
            "that stays as it is; use a Dense one with a query_encoder, and train_passages false."
        )
