"""Composes retriever and reader into one `RagModel` of pure functions."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ragjax.decoding.searching import TextModel
from ragjax.models.layers import ZEROS, Linear
from ragjax.models.reader import Reader
from ragjax.retrieval.base import RetrieverSpec
from ragjax.types import PAD_ID, RagModel, Vocabulary


def build_model(
    retriever: RetrieverSpec,
    reader: Reader,
    vocabulary: Vocabulary,
    *,
    critic: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> RagModel:
    """Builds the model.

    The parameters are {"retriever", "reader"[, "critic"]}. The critic is a linear head on the reader's
    states; it starts at 0 and sends them no gradient. `encode` takes `rename`, [B,V] new token ids
    (`ops.augmentation`), of each question its own; matches are those of the original tokens, so that a
    renaming changes names alone.

    Args:
      retriever: spec of the retriever.
      reader: spec of the reader.
      vocabulary: token statistics; V entries.
      critic: whether `values` has its parameters.
      dtype: of the computation (float32 or bfloat16); parameters, softmaxes and sums are float32.

    Returns:
      The pure functions.
    """
    size = vocabulary.idf.shape[0]
    functions = retriever.build(vocabulary, dtype=dtype)
    reader_module = reader.build(size, dtype)
    head = Linear(1, kernel_init=ZEROS)

    def init(key):
        retriever_key, critic_key, reader_key = jax.random.split(key, 3)
        tokens = jnp.ones((1, 2), jnp.int32)
        passages = tokens[:, None]
        matches = (jnp.zeros((1, 1, 2), bool), jnp.zeros((1, 1, 2), bool))

        def everything(module):
            memory = module.encode(tokens, passages, matches)
            return module.token_logprobs(memory, tokens)

        params = {
            "retriever": functions.init(retriever_key),
            "reader": reader_module.init(reader_key, method=everything)["params"],
        }
        if critic:
            states = jnp.zeros((1, reader.states_width))
            params["critic"] = head.init(critic_key, states)["params"]
        return params

    own = retriever.reads

    def read_of(tokens, side):
        """What the reader reads of questions (0) or passages (1): the retriever's stands behind."""
        return tokens if own is None else tokens[..., : -own.lengths[side]]

    def encode(params, question, passages, rename=None):
        question, passages = read_of(question, 0), read_of(passages, 1)
        folded_question = vocabulary.fold[question][:, None, :, None]
        folded_passages = vocabulary.fold[passages][:, :, None, :]
        same = (folded_question == folded_passages) & (folded_question != PAD_ID)
        matches = (jnp.any(same, axis=-1), jnp.any(same, axis=-2))
        if rename is not None:
            question, passages = jax.vmap(lambda new, *old: (new[old[0]], new[old[1]]))(
                rename, question, passages
            )
        return reader_module.apply(
            {"params": params["reader"]}, question, passages, matches, method="encode"
        )

    def call(method: str) -> Any:
        """A method of the reader as a pure function of the parameters."""
        return lambda params, *arrays: reader_module.apply(
            {"params": params["reader"]}, *arrays, method=method
        )

    states = call("states")

    def valued(params, states) -> Any:
        worth: Any = head.apply({"params": params["critic"]}, jax.lax.stop_gradient(states))
        return worth[..., 0]

    search, text = reader.search_pieces, None
    if search is not None:
        text = TextModel(
            marker=search.marker,
            begin=lambda question: search.begun(read_of(question, 0)),
            found=lambda passages: search.told(read_of(passages, 1)),
            read=call("read_on"),
            init_cache=call("init_cache"),
            step=call("decode_step"),
            states=call("text_states"),
            logprobs=call("next_logprobs"),
            values=valued,
        )

    return RagModel(
        init=init,
        retriever=functions,
        encode=encode,
        token_logprobs=call("token_logprobs"),
        logprobs=call("logprobs"),
        values=lambda params, memory, target: valued(params, states(params, memory, target)),
        init_cache=call("init_cache"),
        decode_step=call("decode_step"),
        attention=call("attention"),
        fuse=call("fuse"),
        text=text,
    )
