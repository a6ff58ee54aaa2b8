"""Pretrained architectures against what transformers and torch say of the same weights."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.models.pretrained import load
from ragjax.models.pretrained.bert import Bert, BertModule
from ragjax.models.pretrained.llama import Prefix
from ragjax.models.pretrained.t5 import T5

GOLDENS = Path(__file__).parents[2] / "goldens"
ENCODERS = ("bert", "dpr_context", "dpr_question", "sentence_transformer")
SEQUENCES = ("bart", "t5", "t5_untied")
LANGUAGE = ("llama", "llama_scaled", "qwen2", "qwen3")


def golden(name):
    with np.load(GOLDENS / name / "golden.npz") as arrays:
        return dict(arrays)


def close(got, wanted):
    """To 1e-4 of the golden's scale, and far from it where it is disturbed by a hundredth."""
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max(), rtol=0)


def test_every_golden_is_tested():
    folders = {config.parent.name for config in GOLDENS.glob("*/config.json")}
    assert folders == {*ENCODERS, *SEQUENCES, *LANGUAGE, "rag", "rag_t5"}


@pytest.mark.parametrize("name", ENCODERS)
def test_texts_are_embedded_as_by_transformers(name):
    model, told = load(GOLDENS / name), golden(name)
    apply = jax.jit(lambda *x: model.module.apply({"params": model.params}, *x))
    close(apply(told["tokens"], told["mask"]), told["embedded"])
    # what is under the mask is not read
    other = np.where(told["mask"], told["tokens"], 7)
    np.testing.assert_array_equal(apply(other, told["mask"]), apply(told["tokens"], told["mask"]))


@pytest.mark.parametrize("name", SEQUENCES)
def test_logits_of_encoder_and_decoder_are_those_of_transformers(name):
    model, told = load(GOLDENS / name), golden(name)
    apply = jax.jit(lambda *x: model.module.apply({"params": model.params}, *x))
    close(apply(told["tokens"], told["mask"], told["fed"]), told["logits"])


@pytest.mark.parametrize("name", LANGUAGE)
def test_logits_of_language_models_are_those_of_transformers(name):
    model, told = load(GOLDENS / name), golden(name)
    apply = jax.jit(lambda *x: model.module.apply({"params": model.params}, *x))
    mask = told["mask"]
    close(
        jnp.where(mask[..., None], apply(told["tokens"], mask), 0), told["logits"] * mask[..., None]
    )
    # padded on the left they are the same
    lengths = mask.sum(1)
    rolled = [
        np.stack([np.roll(row, -length) for row, length in zip(part, lengths, strict=True)])
        for part in (told["tokens"], mask)
    ]
    shifted = apply(*rolled)
    for row, length in enumerate(lengths):
        close(shifted[row, -length:], told["logits"][row, :length])


@pytest.mark.parametrize("name", SEQUENCES)
def test_decoding_by_steps_gives_the_logits_and_tokens_of_transformers(name):
    model, told = load(GOLDENS / name), golden(name)
    module, params = model.module, {"params": model.params}
    start, count = told["greedy"][0, 0], told["fed"].shape[1]

    @jax.jit
    def run(tokens, mask, fed):
        """Logits of the fed tokens, step by step, and the greedy continuation of the start."""
        memory = module.apply(params, tokens, mask, method="encode")
        cross = module.apply(params, memory, method="project")
        batch = (tokens.shape[0],)

        def step(carry, token):
            cache, position, last = carry
            token = last if token is None else token
            state, cache = module.apply(params, token, cache, cross, mask, position, method="step")
            logits = module.apply(params, state, method="logits")
            return (cache, position + 1, jnp.argmax(logits, -1)), logits

        begin = (
            module.apply(params, batch, count + 8, method="init_cache"),
            jnp.zeros((), jnp.int32),
            jnp.full(batch, start),
        )
        _, forced = jax.lax.scan(step, begin, fed.T)
        _, free = jax.lax.scan(lambda carry, _: step(carry, None), begin, None, length=8)
        return jnp.moveaxis(forced, 0, 1), jnp.argmax(free, -1).T

    forced, free = run(told["tokens"], told["mask"], told["fed"])
    close(forced, told["logits"])
    end, pad = model.module.sizes.end, model.module.sizes.pad
    wanted = told["greedy"][:, 1:]
    for row in range(len(wanted)):
        mine = list(np.asarray(free[row, : wanted.shape[1]]))
        if end in mine:
            stop = mine.index(end) + 1
            mine[stop:] = [pad] * (len(mine) - stop)
        # transformers forces BART's last token to be the end
        last = len(mine) - (name == "bart")
        assert mine[:last] == list(wanted[row][:last])


@pytest.mark.parametrize("name", LANGUAGE)
def test_language_models_go_on_as_in_transformers(name):
    model, told = load(GOLDENS / name), golden(name)
    module, params, mask = model.module, {"params": model.params}, told["mask"]
    count, new = mask.shape[1], told["greedy"].shape[1] - mask.shape[1]
    tokens = np.flip(told["tokens"], 1)  # as they were given: padded on the left
    mask = np.flip(mask, 1)

    @jax.jit
    def run(tokens, mask):
        states, kvs = module.apply(params, tokens, mask, method="read")
        logits = module.apply(params, states[:, -1], method="logits")
        prefix = Prefix(kvs, jnp.asarray(mask))
        cache = module.apply(params, (len(tokens),), new, method="init_cache")

        def step(carry, number):
            cache, logits = carry
            token = jnp.argmax(logits, -1)
            state, cache = module.apply(params, token, cache, number, prefix, method="step")
            return (cache, module.apply(params, state, method="logits")), token

        _, written = jax.lax.scan(step, (cache, logits), jnp.arange(new))
        return written.T

    written = np.asarray(run(tokens, mask))
    for mine, wanted in zip(written, told["greedy"][:, count:], strict=True):
        stop = list(wanted).index(2) + 1 if 2 in wanted else new
        assert list(mine[:stop]) == list(wanted[:stop])


@pytest.mark.parametrize("name", ["bert", "bart", "t5", "llama"])
def test_bfloat16_computes_and_stays_near(name):
    told = golden(name)
    given = [jnp.asarray(told[part]) for part in ("tokens", "mask", "fed") if part in told]
    wanted = told["embedded"] if "embedded" in told else told["logits"]
    with jax.numpy_dtype_promotion("standard"):  # Flax's LayerNorm mixes bfloat16 and float32
        model = load(GOLDENS / name, compute=jnp.bfloat16)
        got = np.asarray(jax.jit(model.module.apply)({"params": model.params}, *given))
    if name == "llama":
        got, wanted = got[told["mask"]], wanted[told["mask"]]
    apart = np.abs(got - wanted).mean() / np.abs(wanted).mean()
    assert 1e-4 < apart < 0.05


def test_gradients_reach_every_parameter_but_the_buffer():
    for name in ("bart", "t5_untied"):
        model, told = load(GOLDENS / name), golden(name)
        given = [jnp.asarray(told[part]) for part in ("tokens", "mask", "fed")]

        def loss(params, model=model, given=given):
            logits = model.module.apply({"params": params}, *given)
            return jnp.sum(jax.nn.log_softmax(logits)[..., 5])

        gradients = jax.jit(jax.grad(loss))(model.params)
        still = [
            jax.tree_util.keystr(path)
            for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
            if not np.any(leaf)
        ]
        # A bias of keys moves all scores of a query alike.
        assert all("final_logits_bias" in path or "k_proj" in path for path in still), still
        assert (name == "bart") == any("final_logits_bias" in path for path in still)


@pytest.mark.parametrize(
    ("fields", "tied"),
    [
        ({}, True),
        ({"tie_word_embeddings": False}, False),
        # As transformers 5 writes one with a head of its own.
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, False),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": True}, True),
    ],
)
def test_a_t5_with_a_head_of_its_own_is_told_by_its_config(fields, tied):
    """Its output is scaled and shares the embedding, or neither."""
    given = json.loads((GOLDENS / "t5_untied" / "config.json").read_text())
    for name in ("tie_word_embeddings", "scale_decoder_outputs"):
        given.pop(name, None)
    sizes = T5.from_config(given | fields, "", {"lm_head.weight"})
    assert (sizes.scaled, sizes.tied) == (tied, tied)


def test_the_epsilon_of_bert_s_layer_norms_is_that_of_its_config():
    """A large one keeps the states of a drawn model, which are small, from their length of 1."""
    sizes = Bert(
        9, 4, layers=0, heads=1, hidden=4, positions=5, types=1, activation="gelu", epsilon=1e-12
    )
    tokens = jnp.array([[1, 2, 3]])
    stds = []
    for epsilon in (1e-12, 1e4):
        module = BertModule(dataclasses.replace(sizes, epsilon=epsilon))
        params = jax.jit(module.init)(jax.random.PRNGKey(0), tokens, tokens > 0)
        stds.append(jnp.std(module.apply(params, tokens, tokens > 0), axis=-1))
    np.testing.assert_allclose(stds[0], 1.0, rtol=1e-4)
    assert np.all(stds[1] < 0.1)
