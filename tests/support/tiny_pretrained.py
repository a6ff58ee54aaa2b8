"""Directories of encoders with drawn weights: a tiny BERT of sentence-transformers, and DPR's two."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from ragjax.models.pretrained.bert import Bert
from ragjax.models.pretrained.checkpoint import write_checkpoint
from ragjax.models.pretrained.parameters import tensors_of
from ragjax.models.pretrained.text_encoder import Pooling, TextEncoderModule

LETTERS = "abcdefghijklmnopqrstuvwxyz?.,0123456789"
TOKENS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]"),
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS),
    *("where", "does", "live", "lives", "in", "town", "quiet", "which"),
)
CONFIG = {
    "model_type": "bert",
    "vocab_size": len(TOKENS),
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}


def write_tokenizer(path, tokens=TOKENS):
    """A WordPiece tokenizer that falls back on letters, in lower case, as BERT's."""
    vocabulary = {token: number for number, token in enumerate(tokens)}
    inner = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    # Some models' files have these switched on.
    inner.enable_truncation(7)
    if tokens[0] == "[PAD]":
        inner.enable_padding(length=9)
    inner.save(str(path))


def write_pretrained(path: Path, seed: int = 0, tokens=TOKENS, **fields) -> Path:
    """Writes the directory: mean over tokens, at unit length."""
    config = CONFIG | fields
    module = TextEncoderModule(Bert.from_config(config, "", ()), Pooling("mean", unit=True))
    given = jnp.ones((1, 2), jnp.int32)
    params = jax.jit(module.init)(jax.random.PRNGKey(seed), given, given > 0)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # else biases are zero
    write_checkpoint(path, config, tensors_of(params, strip="bert_model."))
    write_tokenizer(path / "tokenizer.json", tokens)
    kinds = ("Transformer", "Pooling", "Normalize")
    steps = [{"type": f"st.{kind}", "path": f"{n}_{kind}"} for n, kind in enumerate(kinds)]
    (path / "modules.json").write_text(json.dumps(steps))
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return path


def write_dpr(path: Path, seed: int = 0, tokens=TOKENS, **fields) -> Path:
    """Writes the directory of DPR's encoder of questions or passages: the first state of a text."""
    config = CONFIG | {"model_type": "dpr", "projection_dim": 0} | fields
    module = TextEncoderModule(Bert.from_config(config, "", ()), Pooling())
    given = jnp.ones((1, 2), jnp.int32)
    params = jax.jit(module.init)(jax.random.PRNGKey(seed), given, given > 0)["params"]
    keys = iter(jax.random.split(jax.random.PRNGKey(seed + 1), len(jax.tree.leaves(params))))
    params = jax.tree.map(
        lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape), params
    )
    write_checkpoint(path, config, tensors_of(params, "question_encoder."))
    (path / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    return path
