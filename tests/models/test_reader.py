"""The reader: its pointer, its cache against teacher forcing, and what padding may change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ragjax.errors import UserError
from ragjax.models.alignment import align
from ragjax.models.reader import TransformerReader

QUESTION = np.array([[6, 7, 4], [5, 9, 11]], np.int32)
PASSAGES = np.array(
    [[[4, 7, 8, 5], [4, 8, 9, 0]], [[6, 9, 10, 9], [0, 0, 0, 0]]], np.int32
)  # [B=2,K=2,P=4]; the last is empty
# The second target copies, repeats a token and goes on after its end.
TARGET = np.array([[7, 8, 5, 2, 0], [9, 10, 9, 2, 3]], np.int32)


def with_param(toy, name, value):
    """The toy's parameters with one of the reader's top-level entries replaced."""
    old = toy.params["reader"][name]
    new = jax.tree.map(lambda leaf: jnp.full_like(leaf, value), old)
    return toy.params | {"reader": toy.params["reader"] | {name: new}}


def distributions(toy, params, passages=PASSAGES, target=TARGET):
    """[B,K,T,V] probabilities step by step."""
    memory = toy.encode(params, QUESTION, passages)
    return np.exp(np.asarray(toy.stepwise(params, memory, target), np.float64))


def forced_and_stepwise(toy):
    """[B,K,T] log p of the target, by teacher forcing and step by step from the cache."""
    memory = toy.encode(toy.params, QUESTION, PASSAGES)
    forced = np.asarray(toy.logprobs(toy.params, memory, TARGET))
    steps = np.asarray(toy.stepwise(toy.params, memory, TARGET))
    chosen = np.take_along_axis(steps, TARGET[:, None, :, None], axis=-1)[..., 0]
    real = np.broadcast_to(TARGET[:, None] != 0, forced.shape)
    return np.where(real, forced, 0.0), np.where(real, chosen, 0.0)


def test_teacher_forcing_is_stepwise_decoding(toy):
    forced, stepwise = forced_and_stepwise(toy)
    np.testing.assert_allclose(forced, stepwise, atol=1e-5)


def test_whole_distributions_by_teacher_forcing_are_stepwise_decoding(toy):
    memory = toy.encode(toy.params, QUESTION, PASSAGES)
    forced = jax.jit(toy.model.logprobs)(toy.params, memory, TARGET)
    stepwise = toy.stepwise(toy.params, memory, TARGET)
    real = np.broadcast_to((np.asarray(TARGET) != 0)[:, None], forced.shape[:3])
    np.testing.assert_allclose(forced[real], stepwise[real], atol=1e-4)


def test_a_critic_values_prefixes_and_sends_the_reader_no_gradient(toy):
    kernel = jax.random.normal(jax.random.PRNGKey(1), (8, 1))
    params = toy.params | {"critic": {"kernel": kernel, "bias": jnp.ones(1)}}

    @jax.jit
    def values(params, target):
        memory = toy.model.encode(params, jnp.asarray(QUESTION), jnp.asarray(PASSAGES))
        return toy.model.values(params, memory, target)

    found = values(params, jnp.asarray(TARGET))
    other = values(params, jnp.asarray(TARGET).at[:, 1].set(9))
    np.testing.assert_array_equal(found[..., :2], other[..., :2])  # V(y_<t) doesn't know y_t
    assert np.all(found[..., 2] != other[..., 2])
    gradient = jax.jit(jax.grad(lambda params: jnp.sum(values(params, jnp.asarray(TARGET)))))(
        params
    )
    critic = gradient.pop("critic")
    assert critic["bias"] == found.size
    assert np.all(critic["kernel"] != 0)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradient))


def test_bfloat16_is_near_float32(toy, make_toy):
    exact, _ = forced_and_stepwise(toy)
    with jax.numpy_dtype_promotion("standard"):  # Flax's LayerNorm mixes bfloat16 and float32
        rough = make_toy(dtype="bfloat16")
        assert rough.encode(rough.params, QUESTION, PASSAGES).states.dtype == jnp.bfloat16
        forced, stepwise = forced_and_stepwise(rough)
    assert forced.dtype == stepwise.dtype == np.float32
    np.testing.assert_allclose(forced, stepwise, atol=0.15)
    np.testing.assert_allclose(forced, exact, atol=0.15)
    assert np.max(np.abs(forced - exact)) > 1e-4  # it did compute in bfloat16


def test_each_step_is_a_distribution_over_all_but_padding(toy):
    probability = distributions(toy, toy.params)
    np.testing.assert_allclose(np.sum(probability, axis=-1), 1.0, atol=1e-5)
    assert np.all(probability[..., 0] < 1e-20)
    assert np.all(probability[..., 1:] > 1e-9)


def test_two_distributions_and_their_gate(toy):
    """p = g p_vocabulary + (1 - g) p_copy, told apart by a gate forced open or shut."""
    mixed = distributions(toy, toy.params)

    def gated(bias):
        reader = toy.params["reader"]
        gate = {
            "kernel": jnp.zeros_like(reader["gate"]["kernel"]),
            "bias": jnp.full((1,), bias, jnp.float32),
        }
        return distributions(toy, toy.params | {"reader": reader | {"gate": gate}})

    vocabulary, half, copy = gated(60.0), gated(0.0), gated(-60.0)
    np.testing.assert_allclose(half[:, 0], 0.5 * (vocabulary + copy)[:, 0], atol=1e-5)
    # Only tokens of the passage are copied, never those of the question alone.
    for row, column in [(0, 0), (0, 1), (1, 0)]:
        inside = np.isin(np.arange(12), PASSAGES[row, column][PASSAGES[row, column] > 0])
        assert np.all(copy[row, column][:, ~inside] < 1e-9)
        assert np.all(copy[row, column][:, inside] > 1e-6)
    # The gate is one number for all tokens, between 0 and 1.
    difference = vocabulary - copy
    clear = np.abs(difference) > 1e-2
    gate = np.where(clear, (mixed - copy) / np.where(clear, difference, 1.0), np.nan)[:, 0]
    assert np.all(np.nanmax(gate, -1) - np.nanmin(gate, -1) < 1e-3)
    assert np.all((np.nanmin(gate, -1) > 0) & (np.nanmax(gate, -1) < 1))
    # An empty passage leaves the vocabulary alone, whatever the gate says.
    np.testing.assert_allclose(mixed[1, 1], vocabulary[1, 1], atol=1e-6)
    np.testing.assert_allclose(copy[1, 1], vocabulary[1, 1], atol=1e-6)


def test_continuation_in_closed_form(toy):
    """With even copy logits, only the bonus of the position after the last copy is left."""
    reader = toy.params["reader"]
    even = {
        "copy_query": {"kernel": jnp.zeros_like(reader["copy_query"]["kernel"])},
        "gate": jax.tree.map(jnp.zeros_like, reader["gate"]) | {"bias": jnp.array([-60.0])},
        "continuation": jnp.float32(1.5),
    }
    params = toy.params | {"reader": reader | even}
    probability = distributions(toy, params)[0, 0]  # passage 4 7 8 5; 7 8 5 <eos> is written
    bonus = np.exp(1.5)
    for step, favoured in enumerate([None, 8, 5, None]):
        weight = {token: bonus if token == favoured else 1.0 for token in (4, 7, 8, 5)}
        expected = [weight.get(token, 0.0) / sum(weight.values()) for token in range(12)]
        np.testing.assert_allclose(probability[step], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("passage", "written", "expected"),
    [
        ([4, 5, 6, 0], [0, 0, 1], [0, 0, 0, 0]),  # nothing copied yet
        ([4, 5, 6, 0], [0, 1, 5], [0, 1, 0, 0]),
        ([4, 5, 4, 6], [0, 1, 4], [0.5, 0, 0.5, 0]),  # two places alike
        ([4, 5, 7, 5], [1, 7, 5], [0, 8 / 80, 0, 72 / 80]),  # the longer match wins
        ([7, 5, 9, 5], [4, 7, 5], [0, 72 / 80, 0, 8 / 80]),
        ([4, 7, 5, 5], [4, 7, 5], [0, 0, 584 / 592, 8 / 592]),  # depth three: 8 + 64 + 512
        ([5, 0, 0, 0], [4, 7, 5], [1, 0, 0, 0]),  # a match that begins before the passage
        ([4, 5, 0, 0], [5, 0, 0], [0, 0, 0, 0]),  # padding matches nothing
    ],
)
def test_align_by_hand(passage, written, expected):
    arrays = np.array([[passage]], np.int32), np.array([[[written]]], np.int32)
    np.testing.assert_allclose(aligned(*arrays)[0, 0, 0], expected, rtol=1e-6)


aligned = jax.jit(align)


@pytest.mark.parametrize("segment", [0, 1])
def test_question_and_passage_are_marked_apart(toy, segment):
    """Each mark is read: moving either one alone changes how the passage is encoded."""
    own = toy.params["reader"]["segment"]
    reader = toy.params["reader"] | {"segment": own.at[segment, 0].add(1.0)}
    before, after = (
        np.asarray(toy.encode(params, QUESTION, PASSAGES).states)
        for params in (toy.params, toy.params | {"reader": reader})
    )
    assert np.max(np.abs(after - before)[0, 0]) > 1e-3


def test_alignment_reaches_the_decoder(toy):
    """The selective read: with its projection at zero the answer's probability changes."""
    changed = distributions(toy, with_param(toy, "read", 0.0))
    probability = distributions(toy, toy.params)
    np.testing.assert_allclose(changed[0, 0, 0], probability[0, 0, 0], atol=1e-6)  # nothing read
    assert np.max(np.abs(changed[0, 0, 1] - probability[0, 0, 1])) > 1e-3


def test_later_tokens_do_not_change_earlier_ones(toy):
    memory = toy.encode(toy.params, QUESTION, PASSAGES)
    forced = np.asarray(toy.logprobs(toy.params, memory, TARGET))
    other = TARGET.copy()
    other[:, 3:] = [[11, 10], [8, 7]]
    changed = np.asarray(toy.logprobs(toy.params, memory, other))
    np.testing.assert_allclose(changed[..., :3], forced[..., :3], atol=1e-6)
    assert np.all(np.abs(changed[..., 3] - forced[..., 3]) > 1e-4)


def test_padding_does_not_matter(toy):
    memory = toy.encode(toy.params, QUESTION, PASSAGES)
    expected = np.asarray(toy.logprobs(toy.params, memory, TARGET))
    padded = toy.encode(
        toy.params,
        np.pad(QUESTION, ((0, 0), (0, 2))),
        np.pad(PASSAGES, ((0, 0), (0, 1), (0, 3))),  # an empty passage more
    )
    actual = toy.logprobs(toy.params, padded, np.pad(TARGET, ((0, 0), (0, 2))))
    real = np.broadcast_to(TARGET[:, None] != 0, expected.shape)
    np.testing.assert_allclose(np.asarray(actual)[:, :2, :5][real], expected[real], atol=1e-5)


def test_passages_are_read_apart(toy):
    """Neither their order nor their company changes what is read from each."""
    memory = toy.encode(toy.params, QUESTION, PASSAGES)
    expected = np.asarray(toy.logprobs(toy.params, memory, TARGET))
    permuted = toy.encode(toy.params, QUESTION, PASSAGES[:, ::-1])
    actual = np.asarray(toy.logprobs(toy.params, permuted, TARGET))
    real = np.broadcast_to(TARGET[:, None] != 0, expected.shape)
    np.testing.assert_allclose(actual[:, ::-1][real], expected[real], atol=1e-5)
    assert np.max(np.abs(expected[:, 0] - expected[:, 1])[real[:, 0]]) > 0.1


def test_gradients(toy):
    """Finite differences along random directions, through encoder, decoder and pointer."""
    weights = np.random.default_rng(0).normal(size=(2, 2, 5)).astype(np.float32)

    @jax.jit
    def total(reader):
        params = toy.params | {"reader": reader}
        logprobs = toy.model.token_logprobs(
            params, toy.model.encode(params, QUESTION_, PASSAGES_), TARGET_
        )
        return jnp.sum(jnp.where(TARGET_[:, None] != 0, weights * logprobs, 0.0))

    arguments = (toy.params["reader"],)
    check_grads(total, arguments, order=1, modes=["rev"], eps=2e-3, rtol=2e-2, atol=2e-2)


QUESTION_, PASSAGES_, TARGET_ = map(jnp.asarray, (QUESTION, PASSAGES, TARGET))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 10, "heads": 4}, "reader.heads 4"),
        ({"heads": 0}, "reader.heads 0"),
        ({"encoder_layers": 0}, "reader.encoder_layers is 0"),
        ({"decoder_layers": 0}, "reader.decoder_layers is 0"),
    ],
)
def test_bad_sizes_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        TransformerReader(**fields)
