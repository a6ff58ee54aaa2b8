"""Composes encoder, retrieval scorer and generator into one `RagModel` of pure functions."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ragjax.models.encoder import BagEncoder, TransformerEncoder
from ragjax.models.generator import Generator
from ragjax.types import PAD_ID, RagModel, Vocabulary


def build_model(
    encoder: BagEncoder | TransformerEncoder,
    generator: Generator,
    vocabulary: Vocabulary,
    *,
    siamese: bool = True,
    initial_scale: float = 20.0,
    critic: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> RagModel:
    """Builds the model.

    The parameters are {"retriever": {"query"[, "passage"], "log_scale"}, "reader"[, "critic"]}. The
    critic is a linear head on the reader's states; it starts at 0 and sends them no gradient.
    `embed_query`, `embed_passage` and `encode` take `rename`, [V] new token ids (`ops.augmentation`),
    `encode` [B,V], of each question its own; idf weights and matches are those of the original tokens,
    so that a renaming changes names alone.

    Args:
      encoder: spec of the retriever's encoder.
      generator: spec of the reader.
      vocabulary: token statistics; V entries.
      siamese: whether questions and passages share one encoder.
      initial_scale: initial inverse temperature of p(d|x).
      critic: whether `values` has its parameters.
      dtype: of the computation (float32 or bfloat16); parameters, softmaxes and sums are float32.

    Returns:
      The pure functions.
    """
    size = vocabulary.idf.shape[0]
    encoder_module = encoder.build(size, dtype)
    generator_module = generator.build(size, dtype)
    passage_tower = "query" if siamese else "passage"
    head = nn.Dense(1, kernel_init=nn.initializers.zeros)

    def init(key):
        query_key, passage_key, generator_key = jax.random.split(key, 3)
        tokens, idf = jnp.ones((1, 2), jnp.int32), jnp.ones((1, 2))
        retriever = {"query": encoder_module.init(query_key, tokens, idf, 0)["params"]}
        if not siamese:
            retriever["passage"] = encoder_module.init(passage_key, tokens, idf, 1)["params"]
        retriever["log_scale"] = jnp.log(jnp.float32(initial_scale))
        passages = tokens[:, None]
        matches = (jnp.zeros((1, 1, 2), bool), jnp.zeros((1, 1, 2), bool))

        def everything(module):
            memory = module.encode(tokens, passages, matches)
            return module.token_logprobs(memory, tokens)

        reader = generator_module.init(generator_key, method=everything)["params"]
        params = {"retriever": retriever, "reader": reader}
        if critic:
            states = jnp.zeros((1, generator.width))
            params["critic"] = head.init(generator_key, states)["params"]
        return params

    def embed(params, tokens, rename, tower, side) -> Any:
        folded = vocabulary.fold[tokens]
        renamed = folded if rename is None else rename[folded]
        return encoder_module.apply(
            {"params": params["retriever"][tower]}, renamed, vocabulary.idf[folded], side
        )

    def embed_query(params, tokens, rename=None):
        return embed(params, tokens, rename, "query", 0)

    def embed_passage(params, tokens, rename=None):
        return embed(params, tokens, rename, passage_tower, 1)

    def scale(params):
        return jnp.exp(params["retriever"]["log_scale"])

    def encode(params, question, passages, rename=None):
        folded_question = vocabulary.fold[question][:, None, :, None]
        folded_passages = vocabulary.fold[passages][:, :, None, :]
        same = (folded_question == folded_passages) & (folded_question != PAD_ID)
        matches = (jnp.any(same, axis=-1), jnp.any(same, axis=-2))
        if rename is not None:
            question, passages = jax.vmap(lambda new, *old: (new[old[0]], new[old[1]]))(
                rename, question, passages
            )
        return generator_module.apply(
            {"params": params["reader"]}, question, passages, matches, method="encode"
        )

    def token_logprobs(params, memory, target) -> Any:
        return generator_module.apply(
            {"params": params["reader"]}, memory, target, method="token_logprobs"
        )

    def logprobs(params, memory, target) -> Any:
        return generator_module.apply(
            {"params": params["reader"]}, memory, target, method="logprobs"
        )

    def values(params, memory, target) -> Any:
        states: Any = generator_module.apply(
            {"params": params["reader"]}, memory, target, method="states"
        )
        worth: Any = head.apply({"params": params["critic"]}, jax.lax.stop_gradient(states))
        return worth[..., 0]

    def init_cache(params, memory, length):
        return generator_module.apply(
            {"params": params["reader"]}, memory, length, method="init_cache"
        )

    def decode_step(params, memory, cache, token, position):
        return generator_module.apply(
            {"params": params["reader"]}, memory, cache, token, position, method="decode_step"
        )

    return RagModel(
        init=init,
        embed_query=embed_query,
        embed_passage=embed_passage,
        scale=scale,
        encode=encode,
        token_logprobs=token_logprobs,
        logprobs=logprobs,
        values=values,
        init_cache=init_cache,
        decode_step=decode_step,
    )
