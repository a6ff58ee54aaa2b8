"""RAG models of transformers (Lewis et al., arXiv 2005.11401): DPR and a BART or T5 that generates.

They speak the token ids of their own tokenizers, and compute by one of two semantics: "paper", the
formulas as published, or "hf", transformers' with its peculiarities. The README beside this file lists
every difference between them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ragjax.decoding.beam import Beam
from ragjax.decoding.marginal import Decoded
from ragjax.errors import require
from ragjax.models.pretrained.layers import EncoderDecoder
from ragjax.models.pretrained.rag_generation import (
    Writing,
    generated,
    hf_sequences,
    logits_of,
    memory_of,
    require_supported,
    shifted_left,
)
from ragjax.models.pretrained.rag_losses import (
    RagKind,
    Semantics,
    hf_losses,
    log_prior,
    next_token_logprobs,
    paper_losses,
)
from ragjax.models.pretrained.reader_module import EncoderDecoderMemory
from ragjax.models.pretrained.text_encoder import TextEncoderModule
from ragjax.types import Params

MAX_LENGTH = 20  # of transformers, where nothing says otherwise


@dataclass(frozen=True, eq=False)
class PretrainedRag:
    """A RAG model with its weights; its methods are pure functions of parameters and arrays.

    Contexts are passage and question together, as the generator reads them: [B*K,S] ids, those of a
    question's K passages one after another, and a mask that is nonzero on tokens. Passages are scored by
    `doc_scores` [B,K]; or by `input_ids` and `attention_mask` [B,Q] of the question and
    `retrieved_doc_embeds` [B,K,D], whose inner products with `query` they then are.

    Attributes:
      config: config.json of the model.
      kind: RAG-Sequence or RAG-Token.
      semantics: paper or hf.
      question_encoder: embeds questions.
      generator: a `BartModule` or `T5Module`.
      params: {"question_encoder", "generator"}.
      writing: the generator's tokens.
      generation: the options of generation that its files name.
      source: the directory that it came from.
      buckets: widths at which contexts are read, see `models.buckets`.
    """

    config: Mapping[str, Any]
    kind: RagKind
    semantics: Semantics
    question_encoder: TextEncoderModule
    generator: EncoderDecoder
    params: Params = field(repr=False)
    writing: Writing
    generation: Mapping[str, Any]
    source: Path
    buckets: int = 1

    def query(
        self, params: Params, input_ids: Int[Array, "B Q"], attention_mask: Array
    ) -> Float[Array, "B D"]:
        """Embeds [B,Q] tokens of questions as [B,D]."""
        mask = jnp.asarray(attention_mask) != 0
        variables = {"params": params["question_encoder"]}
        embedded: Any = self.question_encoder.apply(variables, jnp.asarray(input_ids), mask)
        return embedded

    def doc_scores(
        self, query: Float[Array, "B D"], retrieved_doc_embeds: Float[Array, "B K D"]
    ) -> Float[Array, "B K"]:
        """The unscaled scores q·d_k, whose softmax over the K passages is p(d_k|x)."""
        return jnp.einsum("bd,bkd->bk", query, retrieved_doc_embeds)

    def logits(
        self,
        params: Params,
        *,
        context_input_ids: Int[Array, "BK S"],
        context_attention_mask: Array,
        decoder_input_ids: Int[Array, "B T"],
    ) -> Float[Array, "BK T V"]:
        """The generator's scores of the token after each that its decoder is fed, in every context."""
        fed = jnp.asarray(decoder_input_ids)
        memory = self._read(params, context_input_ids, context_attention_mask, len(fed))
        logits = logits_of(self.generator, params, memory, fed)
        return logits.reshape(-1, *logits.shape[2:])

    def marginal_logprobs(
        self,
        params: Params,
        *,
        context_input_ids: Int[Array, "BK S"],
        context_attention_mask: Array,
        labels: Int[Array, "B T"],
        **passages: Array,
    ) -> Float[Array, "B T V"]:
        """Computes log p(· | x,y_<t), summed over passages; see `next_token_logprobs`.

        In "paper" semantics entry t is before labels[t]; in "hf" it is after it, and so before
        labels[t+1].

        Args:
          params: of the model.
          context_input_ids: [B*K,S].
          context_attention_mask: [B*K,S].
          labels: [B,T] as of `loss`.
          **passages: doc_scores, or what they are computed from.

        Returns:
          [B,T,V].
        """
        scores = self._scores(params, **passages)
        memory = self._read(params, context_input_ids, context_attention_mask, len(scores))
        fed, targets = self._fed(labels)
        logprobs = jax.nn.log_softmax(logits_of(self.generator, params, memory, fed), axis=-1)
        mask = targets != self.writing.pad
        return next_token_logprobs(self.kind, log_prior(scores), logprobs, targets, mask)

    def loss(
        self,
        params: Params,
        *,
        context_input_ids: Int[Array, "BK S"],
        context_attention_mask: Array,
        labels: Int[Array, "B T"],
        reduce_loss: bool | None = None,
        label_smoothing: float | None = None,
        exclude_bos_score: bool | None = None,
        **passages: Array,
    ) -> Float[Array, "*batch"]:
        """Computes -log p(y|x), see `paper_losses` and `hf_losses`.

        In "paper" semantics the labels are the answer, its end of sequence included, and padding, for
        which negative numbers may stand. In "hf" they begin with the token that decoding starts from,
        for they are fed as they are, and all but the first are predicted.

        Args:
          params: of the model.
          context_input_ids: [B*K,S].
          context_attention_mask: [B*K,S].
          labels: [B,T].
          reduce_loss: whether the sum over the batch is returned. Where this or the next two are None,
            config.json tells.
          label_smoothing: ε.
          exclude_bos_score: whether the generator's bos is not counted where it is an answer's first
            token; in "hf" where it is that of all answers, and never in RAG-Token.
          **passages: doc_scores, or what they are computed from.

        Returns:
          [B], or [] if it is reduced.
        """
        reduced = self._option("reduce_loss", reduce_loss, False)
        smoothing = self._option("label_smoothing", label_smoothing, 0.0)
        excludes = self._option("exclude_bos_score", exclude_bos_score, False)
        require(
            0 <= smoothing < 1, f"label_smoothing is {smoothing}; it must be from 0 to below 1."
        )
        scores = self._scores(params, **passages)
        memory = self._read(params, context_input_ids, context_attention_mask, len(scores))
        fed, targets = self._fed(labels)
        logits = logits_of(self.generator, params, memory, fed)
        begins = jnp.zeros(len(fed), bool)
        if excludes and self.writing.bos is not None:
            begins = targets[:, 0] == self.writing.bos
        pad = self.writing.pad
        if self.semantics == "hf":
            losses = hf_losses(
                self.kind,
                logits,
                scores,
                targets,
                pad=pad,
                exclude_first=jnp.all(begins, keepdims=True),
                label_smoothing=smoothing,
            )
        else:
            mask = (targets != pad).at[:, 0].set((targets[:, 0] != pad) & ~begins)
            losses = paper_losses(
                self.kind, logits, scores, targets, mask, label_smoothing=smoothing
            )
        return jnp.sum(losses) if reduced else losses

    def generate(
        self,
        params: Params,
        *,
        context_input_ids: Int[Array, "BK S"],
        context_attention_mask: Array,
        num_beams: int | None = None,
        max_length: int | None = None,
        length_penalty: float | None = None,
        early_stopping: bool | None = None,
        num_return_sequences: int | None = None,
        thorough: bool = True,
        **passages: Array,
    ) -> Decoded:
        """Writes answers: greedily with one beam, else by beam search.

        RAG-Token searches by the marginals of its tokens. In RAG-Sequence each passage proposes answers,
        among which all passages choose. Every context is encoded once.

        Args:
          params: of the model.
          context_input_ids: [B*K,S].
          context_attention_mask: [B*K,S].
          num_beams: beams. This and the next four are those of the model's files where they are None.
          max_length: L, the most tokens with the one that decoding starts from.
          length_penalty: α; beams rank by log p / |y|^α. In "paper" semantics 0 where it is None.
          early_stopping: see `Beam`.
          num_return_sequences: n, the best answers that are returned.
          thorough: in "paper" semantics of RAG-Sequence, whether all passages score every proposal; else
            those that propose it ("fast").
          **passages: doc_scores, or what they are computed from.

        Returns:
          The answers [B,n,L] in the generator's ids, the start before them and padding behind, with log
          p(y|x) and log p(d_k|x,y) by the published formula.
        """
        if self.semantics == "hf":
            require_supported(self.generation, str(self.source))
        stated = self.generation.get
        length = max_length or stated("max_length") or MAX_LENGTH
        require(length >= 2, f"max_length is {length}; it must be at least 2.")
        if length_penalty is None:
            default = stated("length_penalty")
            length_penalty = 1.0 if default is None else float(default)
            length_penalty = length_penalty if self.semantics == "hf" else 0.0
        early = stated("early_stopping") if early_stopping is None else early_stopping
        require(
            early in (None, False, True),
            f"early_stopping is {early!r}; only true and false are supported.",
        )
        beam = Beam(
            beams=num_beams or stated("num_beams") or 1,
            length_penalty=length_penalty,
            returned=num_return_sequences or stated("num_return_sequences") or 1,
            early_stopping=bool(early),
        )
        scores = self._scores(params, **passages)
        memory = self._read(params, context_input_ids, context_attention_mask, len(scores))
        if self.semantics == "hf" and self.kind == "sequence":
            return hf_sequences(
                self.generator,
                params,
                self._read_again(params, context_input_ids, memory),
                memory,
                scores,
                writing=self.writing,
                beam=beam,
                length=length - 1,
                label_smoothing=self._option("label_smoothing", None, 0.0),
            )
        return generated(
            self.kind,
            self.generator,
            params,
            memory,
            scores,
            writing=self.writing,
            beam=beam,
            length=length - 1,
            semantics=self.semantics,
            thorough=thorough,
        )

    def _option(self, name: str, given: Any, default: Any) -> Any:
        """An option as it is given, or as config.json has it."""
        stated = self.config.get(name)
        return given if given is not None else default if stated is None else stated

    def _scores(
        self,
        params: Params,
        doc_scores: Array | None = None,
        input_ids: Array | None = None,
        attention_mask: Array | None = None,
        retrieved_doc_embeds: Array | None = None,
    ) -> Float[Array, "B K"]:
        if doc_scores is not None:
            return jnp.asarray(doc_scores)
        require(
            input_ids is not None and attention_mask is not None,
            "Passages have no scores; give doc_scores, or input_ids, attention_mask and "
            "retrieved_doc_embeds.",
        )
        require(
            retrieved_doc_embeds is not None,
            "Passages have no scores; give doc_scores or retrieved_doc_embeds.",
        )
        query = self.query(params, input_ids, attention_mask)  # pyright: ignore
        return self.doc_scores(query, jnp.asarray(retrieved_doc_embeds))

    def _read(self, params: Params, ids: Array, mask: Array, batch: int) -> EncoderDecoderMemory:
        ids, mask = jnp.asarray(ids), jnp.asarray(mask) != 0
        require(
            len(ids) % batch == 0 and ids.shape == mask.shape,
            f"context_input_ids are {ids.shape} and their mask {mask.shape}, for {batch} questions; "
            "both must be [B*K,S], the K contexts of a question one after another.",
        )
        shape = (batch, -1, ids.shape[-1])
        contexts = ids.reshape(shape), mask.reshape(shape)
        return memory_of(self.generator, params, *contexts, self.buckets)

    def _read_again(
        self, params: Params, ids: Array, memory: EncoderDecoderMemory
    ) -> EncoderDecoderMemory:
        """The contexts as transformers' RAG-Sequence proposes from them: padding is read as tokens.

        It does not hand the mask on. Only where that makes a difference are they encoded again.
        """
        ids, mask = jnp.asarray(ids).reshape(memory.mask.shape), jnp.ones_like(memory.mask)
        return jax.lax.cond(
            jnp.all(memory.mask),
            lambda: memory._replace(mask=mask),
            lambda: memory_of(self.generator, params, ids, mask, self.buckets),
        )

    def _fed(self, labels: Array) -> tuple[Int[Array, "B T"], Int[Array, "B T"]]:
        """What the decoder is fed, and what it is to say."""
        labels, writing = jnp.asarray(labels), self.writing
        if self.semantics == "hf":
            return labels, shifted_left(labels, writing.pad)
        targets = jnp.where(labels < 0, writing.pad, labels)
        start = jnp.full_like(targets[:, :1], writing.start)
        return jnp.concatenate([start, targets[:, :-1]], axis=-1), targets
