"""The reader's cross-attention as it is shown to objectives, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from ragjax.models.reader import TransformerReader

QUESTION = np.array([[6, 7, 4], [5, 9, 0]], np.int32)
PASSAGES = np.array([[[4, 7, 8, 5], [4, 8, 9, 0]], [[6, 9, 10, 9], [0, 0, 0, 0]]], np.int32)
TARGET = np.array([[7, 8, 5, 2, 0], [9, 10, 9, 2, 3]], np.int32)
HEADS, WIDTH = 2, 8


def norm(x, params):
    mean, spread = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(spread + 1e-6) * params["scale"] + params["bias"]


def heads(x, kernel):
    """[...,n,H] -> [...,heads,n,H/heads]."""
    projected = (x @ kernel).reshape(*x.shape[:-1], HEADS, WIDTH // HEADS)
    return np.swapaxes(projected, -2, -3)


def test_scores_norms_and_mask(toy):
    """One decoder layer by hand: causal self-attention, then what each head asks of the source."""
    memory = toy.encode(toy.params, QUESTION, PASSAGES)
    module = TransformerReader(WIDTH, HEADS, 1, 1).build(12, np.float32)
    reader = {"params": toy.params["reader"]}
    fed, _ = jax.jit(lambda m, t: module.apply(reader, m, t, method="_begun"))(memory, TARGET)
    logits, norms, source = jax.jit(toy.model.attention)(toy.params, memory, TARGET)
    assert logits.shape == (2, 2, HEADS, 5, 7)
    layer = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), toy.params["reader"]["decoder_0"]
    )
    x, own = np.asarray(fed, np.float64), layer["self_attention"]
    normed = norm(x, layer["self_norm"])
    query, key, value = (heads(normed, own[name]["kernel"]) for name in ("query", "key", "value"))
    scores = query @ np.swapaxes(key, -1, -2) / np.sqrt(WIDTH // HEADS)
    weights = np.where(np.tril(np.ones((5, 5), bool)), np.exp(scores), 0.0)
    mixed = np.swapaxes(weights / weights.sum(-1, keepdims=True) @ value, -2, -3)
    x = x + mixed.reshape(x.shape) @ own["out"]["kernel"]
    asked = heads(norm(x, layer["cross_norm"]), layer["cross_attention"]["query"]["kernel"])
    stored = np.asarray(memory.cross[0].key, np.float64)
    expected = asked @ np.swapaxes(stored, -1, -2) / np.sqrt(WIDTH // HEADS)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    lengths = np.sqrt(np.sum(np.asarray(memory.cross[0].value, np.float64) ** 2, axis=-1))
    np.testing.assert_allclose(norms, lengths, rtol=1e-5)
    tokens = np.concatenate([np.broadcast_to(QUESTION[:, None], (2, 2, 3)), PASSAGES], axis=-1)
    np.testing.assert_array_equal(source, tokens != 0)


def test_heads_of_all_layers_are_shown():
    module = TransformerReader(WIDTH, HEADS, 1, 3).build(12, np.float32)

    question, passages, target = map(jnp.asarray, (QUESTION, PASSAGES, TARGET))
    matches = jnp.zeros((2, 2, 3), bool), jnp.zeros((2, 2, 4), bool)

    def attention(module):
        return module.attention(module.encode(question, passages, matches), target)

    def shown():
        return module.init_with_output(jax.random.PRNGKey(0), method=attention)[0]

    logits, norms, _ = jax.eval_shape(shown)
    assert logits.shape == (2, 2, 3 * HEADS, 5, 7)
    assert norms.shape == (2, 2, 3 * HEADS, 7)
