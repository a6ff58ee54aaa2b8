"""Axis glossary, and the structs and protocols that the rooms of this package hand each other.

Axis letters, used in every shape comment and annotation:

    B  examples in a batch             K  passages retrieved for one question
    N  passages in the corpus          D  width of a retrieval embedding
    Q  tokens of a question            P  tokens of a passage
    S  tokens of a reader's source (question and passage together)
    T  tokens of a target answer, its end-of-sequence token included
    V  entries of the vocabulary       R  gold (positive) passages of a question
    M  questions of a split            H  width of the reader's hidden states

Token id 0 is always padding. A passage id (a "row") is an index into the corpus, 0 <= id < N;
-1 marks a miss (nothing retrieved there), which is masked and never wrapped around.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import chex
from flax import struct
from jaxtyping import Array, Float

PAD_ID = 0
BOS_ID = 1
EOS_ID = 2
UNK_ID = 3

Params = Any  # a pytree of parameters
# A field of a pytree struct: an array of the device or of the host, or a tree of them, or whatever a
# transformation puts in their place (shapes, axes). Shapes are checked where functions take arrays.
Leaf = Any
PRNGKey = chex.PRNGKey


@dataclass(frozen=True)
class Passage:
    """A passage of the corpus, as text."""

    id: str
    title: str
    text: str


@dataclass(frozen=True)
class Question:
    """A question, as text.

    Attributes:
      id: unique within its task.
      question: the question.
      answers: the accepted answers, the first one being the training target.
      positives: ids of the passages that hold the answer.
      relation: the kind of fact asked for; metrics are also reported per relation.
      entity: what is asked about; splits never share an entity.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    positives: tuple[str, ...]
    relation: str
    entity: str


@dataclass(frozen=True)
class QaData:
    """A task's corpus and its questions by split: "train", "dev" and "test"."""

    passages: tuple[Passage, ...]
    splits: Mapping[str, tuple[Question, ...]]


@struct.dataclass
class RagBatch:
    """A batch of tokenised questions.

    Attributes:
      question: [B,Q] question tokens, padded with 0.
      target: [B,T] answer tokens with a closing end-of-sequence token, padded with 0.
      positives: [B,R] corpus rows of the gold passages, padded with -1.
      retrieved: `TopK` of [B,K] from a retriever that is not learned, at least as many as are used, or
        None.
      weight: [B] 1 for a real example and 0 for one that fills up the batch.
    """

    question: Leaf
    target: Leaf
    positives: Leaf
    retrieved: Leaf
    weight: Leaf


@struct.dataclass
class TopK:
    """The k best passages of each query, best first.

    Attributes:
      ids: [...,K] corpus rows; -1 where there is no hit.
      scores: [...,K] unscaled scores; -inf where there is no hit.
      valid: [...,K] whether there is a hit.
    """

    ids: Leaf
    scores: Leaf
    valid: Leaf


@struct.dataclass
class Vocabulary:
    """What the model needs to know of the tokens, measured on the corpus.

    Attributes:
      fold: [V] id of the lower-case form of each token where there is one, else its own id.
      idf: [V] inverse document frequency of each folded token, log((n + 1) / (df + 1)) over the n
        passages and training questions; 0 for tokens in none of them.
      content: [V] True for tokens that anonymisation may rename.
    """

    fold: Leaf
    idf: Leaf
    content: Leaf


@struct.dataclass
class Loss:
    """An unreduced loss: divide once, after all micro-batches and devices are summed.

    Attributes:
      sum: [] the sum of the loss over examples.
      denom: [] the number of examples (or tokens) that it sums over.
      metrics: name -> (sum, denom), each divided once in the same way.
    """

    sum: Leaf
    denom: Leaf
    metrics: Leaf


class RagModel(NamedTuple):
    """Encoder, retrieval scorer and generator as pure functions of one tree of parameters.

    Attributes:
      init: (key) -> params.
      embed_query: (params, [B,Q] tokens) -> [B,D], unit length.
      embed_passage: (params, [...,P] tokens) -> [...,D], unit length.
      scale: (params) -> [] the inverse temperature that multiplies scores before the softmax.
      encode: (params, question [B,Q], passages [B,K,P]) -> the reader's memory of B*K sources.
      token_logprobs: (params, memory, target [B,T]) -> [B,K,T] log p(y_t | x, d_k, y_<t).
      init_cache: (params, memory, length) -> an empty cache for `length` decoding steps.
      decode_step: (params, memory, cache, token [B,K], t) -> ([B,K,V] log-probabilities, cache).
    """

    init: Callable[..., Params]
    embed_query: Callable[..., Array]
    embed_passage: Callable[..., Array]
    scale: Callable[..., Array]
    encode: Callable[..., Any]
    token_logprobs: Callable[..., Array]
    init_cache: Callable[..., Any]
    decode_step: Callable[..., tuple[Array, Any]]


class Index(Protocol):
    """A searchable set of passage embeddings; `search` can be traced by `jit`."""

    def search(self, query: Float[Array, "*batch D"], k: int) -> TopK:
        """Returns the k passages with the highest inner product with each query."""
        ...
