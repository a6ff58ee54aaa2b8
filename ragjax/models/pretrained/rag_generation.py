"""Generation of a pretrained RAG model, by the decoders of `ragjax.decoding`.

Those know padding, start and end of sequence as tokens 0, 1 and 2. `seam` renumbers what they read and
write on the way, so that the model's parameters stay as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ragjax.decoding.beam import Beam, beam_by_passage
from ragjax.decoding.greedy import greedy_by_passage
from ragjax.decoding.marginal import (
    Decoded,
    answer_logprobs,
    decode_rag_sequence,
    decode_rag_token,
    nbest_rag_sequence,
    nbest_rag_token,
)
from ragjax.errors import require
from ragjax.models.buckets import read_by_length
from ragjax.models.pretrained.rag_losses import RagKind, Semantics, hf_losses, log_prior
from ragjax.models.pretrained.reader_module import EncoderDecoderMemory
from ragjax.models.pretrained.vocabulary import NOTHING, numbers_here, token_order
from ragjax.ops.marginal import log_posterior, marginal
from ragjax.types import EOS_ID, PAD_ID, Params, RagModel

# Options of transformers' generation that change what is written, and their values that don't.
REFUSED = {
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "constraints": None,
    "diversity_penalty": 0.0,
    "do_sample": False,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "exponential_decay_length_penalty": None,
    "force_words_ids": None,
    "guidance_scale": 1.0,
    "min_length": 0,
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "penalty_alpha": None,
    "repetition_penalty": 1.0,
    "sequence_bias": None,
    "suppress_tokens": None,
}


@dataclass(frozen=True)
class Writing:
    """How a model writes, in its own token ids.

    Attributes:
      vocab_size: V.
      start: the token that decoding starts from.
      end: the token that ends an answer.
      pad: the token after it.
      bos: the token whose score `exclude_bos_score` leaves out, or None.
      first: the token that every answer starts with, or None.
      last: the token that an answer has in the last place, if it gets there, or None.
    """

    vocab_size: int
    start: int
    end: int
    pad: int
    bos: int | None
    first: int | None
    last: int | None

    @property
    def order(self) -> np.ndarray:
        """[V+3] the token of each of the decoders', see `token_order`; padding is one like others."""
        return token_order(self.vocab_size, end=self.end)

    def told(self, tokens: Int[Array, "*batch T"]) -> Int[Array, "*batch T+1"]:
        """A decoder's answer as transformers returns it: after the start, in the model's ids."""
        order = self.order
        theirs = jnp.asarray(np.where(order == NOTHING, self.pad, order))[tokens]
        return jnp.concatenate([jnp.full_like(theirs[..., :1], self.start), theirs], axis=-1)

    def closed(self, tokens: Int[Array, "*batch T"], axis: tuple[int, ...]) -> Array:
        """The answers of transformers' beam search, which ends them over and over where padding is 0.

        It takes 0 for no padding at all. So what is behind an answer, up to the longest one along
        `axis`, is the end of sequence again.
        """
        if self.pad != 0:
            return tokens
        longest = jnp.max(jnp.sum(tokens != PAD_ID, axis=-1), axis=axis, keepdims=True)[..., None]
        behind = (tokens == PAD_ID) & (jnp.arange(tokens.shape[-1]) < longest)
        return jnp.where(behind, EOS_ID, tokens)


def require_supported(options: Mapping[str, Any], where: str) -> None:
    """Checks that a model asks for no option of generation that the decoders do not have.

    Raises:
      UserError: it does.
    """
    for name, harmless in REFUSED.items():
        value = options.get(name)
        require(
            value is None or value == harmless,
            f"{where} asks for generation with {name} {value!r}, which is not supported; take it out of "
            'the configs to generate without it, or choose semantics="paper", which has no such option.',
        )


def seam(
    generator: nn.Module,
    memory: EncoderDecoderMemory,
    writing: Writing,
    *,
    never: tuple[int, ...] = (),
    forced: tuple[int, int, int] | None = None,
) -> RagModel:
    """A generator that has read its contexts, under the seam that the decoders call.

    Args:
      generator: a `BartModule` or `T5Module`, whose parameters are params["generator"].
      memory: the [B,K] contexts, which `encode` returns whatever it is given.
      writing: its tokens.
      never: tokens of the model's that are never written.
      forced: of a greedy search, the decoders' first and last token, -1 for none, and T.
    """
    order = writing.order
    ids = jnp.asarray(np.where(order == NOTHING, writing.pad, order)).at[1].set(writing.start)
    writes = jnp.asarray((order != NOTHING) & ~np.isin(order, never))
    place = jnp.asarray(np.maximum(order, 0))

    def apply(params, *arguments, method) -> Any:
        return generator.apply({"params": params["generator"]}, *arguments, method=method)

    def scored(params, states):
        logprobs = jax.nn.log_softmax(apply(params, states, method="logits"), axis=-1)
        return jnp.where(writes, jnp.take(logprobs, place, axis=-1), -jnp.inf)

    def logprobs(params, memory, target):
        start = jnp.full_like(target[:, :1], writing.start)
        fed = jnp.concatenate([start, ids[target[:, :-1]]], axis=-1)[:, None]
        return scored(params, apply(params, fed, memory.cross, memory.mask, method="decode"))

    def token_logprobs(params, memory, target):
        told = logprobs(params, memory, target)
        own = jnp.broadcast_to(target[:, None, :, None], (*told.shape[:-1], 1))
        return jnp.take_along_axis(told, own, axis=-1)[..., 0]

    def decode_step(params, memory, cache, token, position):
        states, cache = apply(
            params, ids[token], cache, memory.cross, memory.mask, position, method="step"
        )
        told = scored(params, states)
        if forced is not None:
            first, last, length = forced
            for wanted, at in ((first, 0), (last, length - 1)):
                only = jnp.where(jnp.arange(len(order)) == wanted, 0.0, -jnp.inf)
                told = jnp.where((position == at) & (wanted >= 0), only, told)
        return told, cache

    def absent(*_, **__) -> Any:
        raise NotImplementedError

    return RagModel(
        init=absent,
        retriever=absent,  # pyright: ignore[reportArgumentType]
        encode=lambda *_: memory,
        token_logprobs=token_logprobs,
        logprobs=logprobs,
        values=absent,
        init_cache=lambda params, memory, length: apply(
            params, memory.mask.shape[:2], length, method="init_cache"
        ),
        decode_step=decode_step,
    )


def generated(
    kind: RagKind,
    generator: nn.Module,
    params: Params,
    memory: EncoderDecoderMemory,
    doc_scores: Float[Array, "B K"],
    *,
    writing: Writing,
    beam: Beam,
    length: int,
    semantics: Semantics,
    thorough: bool = True,
) -> Decoded:
    """Answers [B,n,T+1] by the decoders of `ragjax.decoding`, greedily where there is one beam.

    In "paper" semantics the model's padding is never written.
    """
    never = (writing.pad,) if semantics == "paper" else ()
    prior = log_prior(doc_scores)
    options = {
        "question": jnp.zeros((len(prior), 1), jnp.int32),  # read already, in the memory
        "passages": jnp.zeros((*prior.shape, 1), jnp.int32),
        "log_prior": prior,
        "length": length,
    }
    if kind == "sequence":
        options["rescore_all"] = thorough
    if beam.beams > 1:
        model = seam(generator, memory, writing, never=never)
        nbest = nbest_rag_sequence if kind == "sequence" else nbest_rag_token
        found = nbest(model, params, beam=_forcing(beam, writing), **options)
    else:
        model = seam(generator, memory, writing, never=never, forced=_forced(writing, length))
        decode = decode_rag_sequence if kind == "sequence" else decode_rag_token
        found = jax.tree.map(lambda leaf: leaf[:, None], decode(model, params, **options))
    tokens = found.tokens
    if semantics == "hf" and beam.beams > 1:
        tokens = writing.closed(tokens, axis=(0, 1))
    return Decoded(writing.told(tokens), found.log_prob, found.log_posterior)


def hf_sequences(
    generator: nn.Module,
    params: Params,
    read: EncoderDecoderMemory,
    memory: EncoderDecoderMemory,
    doc_scores: Float[Array, "B K"],
    *,
    writing: Writing,
    beam: Beam,
    length: int,
    label_smoothing: float,
) -> Decoded:
    """RAG-Sequence's answers as transformers finds them.

    Each passage proposes answers; equal ones are one candidate, and the candidate of least `hf_losses`
    wins, the first target left out if it is `writing.bos` in all candidates of the question.

    Args:
      generator: as of `seam`.
      params: its parameters are params["generator"].
      read: the [B,K] contexts that propose.
      memory: the same contexts as those that score, which may be masked otherwise.
      doc_scores: [B,K].
      writing: the model's tokens.
      beam: how answers are searched, and n.
      length: T.
      label_smoothing: ε of the losses, which here as there take part.

    Returns:
      The answers [B,n,T+1]; log p(y|x) and the posterior are those of the published formula.
    """
    batch, count = doc_scores.shape
    if beam.beams > 1:
        model = seam(generator, read, writing)
        search = replace(_forcing(beam, writing), returned=beam.beams)
        found = beam_by_passage(model, params, read, (batch, count), length=length, beam=search)
        proposals, exists = found.tokens, ~jnp.isneginf(found.score).reshape(batch, -1)
    else:
        model = seam(generator, read, writing, forced=_forced(writing, length))
        proposals, _ = greedy_by_passage(model, params, read, (batch, count), length)
        exists = jnp.ones((batch, count), bool)
    tokens = proposals.reshape(batch, -1, length)  # [B,C,T], C = K beams
    same = jnp.all(tokens[:, :, None] == tokens[:, None, :], axis=-1)
    first = exists & ~jnp.any(jnp.tril(same, -1) & exists[:, None, :], axis=-1)

    written = writing.closed(tokens, axis=(1,)) if beam.beams > 1 else tokens
    labels = writing.told(written)
    all_begin = jnp.zeros((batch,), bool)
    if writing.bos is not None:
        all_begin = jnp.all((labels[:, :, 1] == writing.bos) | ~exists, axis=-1)

    def loss(labels: Int[Array, "B L"]) -> Float[Array, "B"]:
        logits = logits_of(generator, params, memory, labels)
        return hf_losses(
            "sequence",
            logits,
            doc_scores,
            shifted_left(labels, writing.pad),
            pad=writing.pad,
            exclude_first=all_begin,
            label_smoothing=label_smoothing,
        )

    score = jnp.where(first, -jax.vmap(loss, 1, 1)(labels), -jnp.inf)
    score, best = jax.lax.top_k(score, beam.returned)
    some = ~jnp.isneginf(score)
    tokens, written = (
        jnp.where(some[..., None], jnp.take_along_axis(part, best[..., None], axis=1), PAD_ID)
        for part in (tokens, written)
    )
    model, prior = seam(generator, memory, writing), log_prior(doc_scores)[:, None, :]

    each = answer_logprobs(model, params, memory, tokens)
    log_prob = jnp.where(some, marginal(prior, each), -jnp.inf)
    return Decoded(writing.told(written), log_prob, log_posterior(prior, each))


def shifted_left(labels: Int[Array, "B T"], pad: int) -> Int[Array, "B T"]:
    """What transformers predicts while it is fed the labels: those after the first, then padding."""
    return jnp.concatenate([labels[:, 1:], jnp.full_like(labels[:, :1], pad)], axis=-1)


def logits_of(
    generator: nn.Module, params: Params, memory: EncoderDecoderMemory, fed: Int[Array, "B T"]
) -> Float[Array, "B K T V"]:
    """Scores of the token after each that is fed; all passages share what is fed."""
    variables = {"params": params["generator"]}
    states = generator.apply(variables, fed[:, None], memory.cross, memory.mask, method="decode")
    logits: Any = generator.apply(variables, states, method="logits")
    return logits


def memory_of(
    generator: nn.Module,
    params: Params,
    ids: Int[Array, "B K S"],
    mask: Bool[Array, "B K S"],
    buckets: int = 1,
) -> EncoderDecoderMemory:
    """Encodes each context once, short ones at narrow widths, see `read_by_length`."""
    variables = {"params": params["generator"]}

    def read(ids: Array, mask: Array) -> Any:
        states = generator.apply(variables, ids, mask, method="encode")
        return generator.apply(variables, states, method="project")

    flat, kept = (each.reshape(-1, each.shape[-1]) for each in (ids, mask))
    cross = read_by_length(read, flat, kept, buckets)
    shaped = jax.tree.map(lambda leaf: leaf.reshape(*ids.shape[:2], *leaf.shape[1:]), cross)
    return EncoderDecoderMemory(shaped, mask)


def _number(writing: Writing, token: int | None) -> int | None:
    return None if token is None else int(numbers_here(writing.order)[token])


def _forcing(beam: Beam, writing: Writing) -> Beam:
    first, last = (_number(writing, token) for token in (writing.first, writing.last))
    return replace(beam, forced_first=first, forced_last=last)


def _forced(writing: Writing, length: int) -> tuple[int, int, int]:
    first, last = (_number(writing, token) for token in (writing.first, writing.last))
    return -1 if first is None else first, -1 if last is None else last, length
