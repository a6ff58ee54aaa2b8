"""Directories as transformers writes them: tiny language models with drawn weights, and a tokenizer."""

from pathlib import Path

import jax
import jax.numpy as jnp
import tokenizers
from tiny_task import TinyTask
from tokenizers import decoders, models, pre_tokenizers, trainers

from ragjax.models.pretrained.checkpoint import write_checkpoint
from ragjax.models.pretrained.loading import KINDS
from ragjax.models.pretrained.parameters import tensors_of

VOCAB = 310
# As these models number them; BART's padding is not 0, T5's end is 1, and Llama has no padding.
SPECIAL = {
    "bart": ("<s>", "<pad>", "</s>", "<unk>"),
    "t5": ("<pad>", "</s>", "<unk>"),
    "llama": ("<unk>", "<|im_start|>", "<|im_end|>"),
}
CONFIGS = {
    "bart": {
        "vocab_size": VOCAB,
        "d_model": 16,
        **{f"{side}_layers": 1 for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": 24 for side in ("encoder", "decoder")},
        "max_position_embeddings": 64,
        "activation_function": "gelu",
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    },
    "t5": {
        "vocab_size": VOCAB + 6,  # rows that no token has, as in the real ones
        "d_model": 16,
        "d_kv": 6,
        "d_ff": 24,
        "num_layers": 1,
        "num_decoder_layers": 1,
        "num_heads": 2,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 12,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    },
    "llama": {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 96,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "eos_token_id": 2,
        "pad_token_id": 2,
    },
}


def tokenizer_of(kind: str) -> tokenizers.Tokenizer:
    """Byte-level BPE, trained on the tiny task's passages."""
    unknown = "<unk>"
    inner = tokenizers.Tokenizer(models.BPE(unk_token=unknown))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=list(SPECIAL[kind]),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([passage.text for passage in TinyTask().generate().passages], trainer)
    return inner


def write_reader(path: Path, kind: str, seed: int = 0, **fields) -> Path:
    """Writes a directory of a model of type `kind`."""
    config = {"model_type": kind} | CONFIGS[kind] | fields
    module = KINDS[kind].module(KINDS[kind].sizes.from_config(config, "", ()))
    given = jnp.ones((1, 2), jnp.int32)
    arguments = (given, given > 0, given)[: KINDS[kind].arguments]
    params = jax.jit(module.init)(jax.random.PRNGKey(seed), *arguments)["params"]
    # Away from zeros and ones, so that no bias or norm could be left out unseen.
    keys = iter(jax.random.split(jax.random.PRNGKey(seed + 1), len(jax.tree.leaves(params))))
    params = jax.tree.map(
        lambda leaf: leaf + 0.2 * jax.random.normal(next(keys), leaf.shape), params
    )
    write_checkpoint(path, config, tensors_of(params))
    tokenizer_of(kind).save(str(path / "tokenizer.json"))
    return path
