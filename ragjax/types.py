"""Axis glossary, and the structs that the rooms of this package hand each other.

Axis letters, used in every shape comment and annotation:

    B  examples in a batch             K  passages retrieved for one question
    N  passages in the corpus          D  width of a retrieval embedding
    Q  tokens of a question            P  tokens of a passage
    S  tokens of question and passage  F  numbers of a passage that is no text
    T  tokens of a target answer, its end-of-sequence token included
    V  entries of the vocabulary       R  gold (positive) passages of a question
    M  questions of a split            H  width of the reader's hidden states
    E  environments side by side       A  actions of an environment
    O  numbers of an observation       T  also: time steps of a rollout
    Y  accepted answers of a question  G  answers sampled to a question

Token id 0 is padding. A passage id (a "row") is an index into the corpus; -1 is a miss, which is masked.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import chex
from flax import struct
from jaxtyping import Array

from ragjax.figure import Figure as Figure

PAD_ID = 0
BOS_ID = 1
EOS_ID = 2
UNK_ID = 3

Params = Any  # a pytree of parameters
Leaf = Any  # a field of a pytree struct: arrays, or what a transformation puts in their place
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
      positives: ids of its gold passages, which hold the answer; none where they are not known.
      relation: the kind of fact asked for; metrics are also reported per relation.
      entity: what is asked about; the splits of our own tasks never share one.
      patterns: regular expressions that say which answers match, in place of `answers`; none of most.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    positives: tuple[str, ...]
    relation: str
    entity: str
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True)
class QaData:
    """A task's corpus and its questions by split.

    Attributes:
      passages: the corpus.
      splits: "train", "dev" and "test" -> questions.
      notes: what was left out while it was made, one sentence each.
    """

    passages: tuple[Passage, ...]
    splits: Mapping[str, tuple[Question, ...]]
    notes: tuple[str, ...] = ()


@struct.dataclass
class RagBatch:
    """A batch of tokenised questions; those that are only asked need no more than `question`.

    Attributes:
      question: [B,Q] question tokens, padded with 0.
      target: [B,T] answer tokens with a closing end-of-sequence token, padded with 0.
      accepted: [B,Y,T] right answers that are not cut, like `target`; rows of 0 where there are fewer.
      positives: [B,R] corpus rows of the gold passages, padded with -1.
      retrieved: `TopK` of [B,K] or more found before, used in place of a search, or None.
      lexical: `TopK` of [B,C] by words in common, for a learned retriever that fuses both rankings.
      weight: [B] 1 for a real example and 0 for one that fills up the batch.
      label_weight: [B] what the likelihood of each target counts: B / n of n labelled questions, 0 of
        the others, so that a mean over B is one over n; None where all are labelled.
    """

    question: Leaf
    target: Leaf = None
    accepted: Leaf = None
    positives: Leaf = None
    retrieved: Leaf = None
    weight: Leaf = None
    lexical: Leaf = None
    label_weight: Leaf = None

    @property
    def target_weight(self) -> Leaf:
        """[B] what the likelihood of each target counts, in a sum to divide by that of `weight`."""
        return self.weight if self.label_weight is None else self.weight * self.label_weight


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


@struct.dataclass
class Timestep:
    """What an environment shows after a reset or a step.

    The episode has ended if `terminated` (by the task's rules: nothing follows, its value is 0) or else
    `truncated` (by a time limit: the value of `final_observation` stands for what would have followed).

    Attributes:
      observation: [O...] what the policy acts on next; after an automatic reset that of the new episode.
      reward: [] reward of the step; 0 after a reset.
      terminated: [] bool.
      truncated: [] bool.
      final_observation: [O...] the observation that the step led to, also where a reset replaced it.
      metrics: name -> [] what wrappers report; a `Figure` where it is about some episodes only.
    """

    observation: Leaf
    reward: Leaf
    terminated: Leaf
    truncated: Leaf
    final_observation: Leaf
    metrics: Leaf

    @property
    def done(self) -> Leaf:
        """Whether the episode has ended, either way."""
        return self.terminated | self.truncated


class Env(NamedTuple):
    """An environment as pure functions of one episode; batching is `vmap`'s work (`envs.wrappers`).

    Attributes:
      params: the constants of its dynamics, a tree of arrays, traced and batched like anything else.
      reset: (params, key) -> (state, `Timestep`), the first of an episode.
      step: (params, key, state, action []) -> (state, `Timestep`).
      num_actions: A; actions are the integers 0 <= a < A, or slates of distinct ones.
      low: [O...] smallest value of each number of an observation, -inf where there is none.
      high: [O...] largest value.
      passages: [N,F] features or [N,P] tokens of the passages that a policy may retrieve from, or None.
      vocabulary: `Vocabulary` of the passages' tokens, None where they are features.
      slate: places of a slate [slate], which is what an action then is; 0 for single actions [].
      parts: name -> shape of what observations [O] are joined of, in order; None if of one thing.
      passage_parts: name -> width of what passages' features [F] are joined of, in order; None if of one
        thing. "key" is what they are found by; "action" [A] is what was done, or is to be done, one-hot.
    """

    params: Any
    reset: Callable[..., tuple[Any, Timestep]]
    step: Callable[..., tuple[Any, Timestep]]
    num_actions: int
    low: Any
    high: Any
    passages: Any = None
    vocabulary: Any = None
    slate: int = 0
    parts: Mapping[str, tuple[int, ...]] | None = None
    passage_parts: Mapping[str, int] | None = None


@struct.dataclass
class Rollout:
    """T steps in each of E environments, as the behaviour policy made them.

    Attributes:
      observation: [T,E,O...] what was acted on; of a policy that retrieves a `Retrieved`.
      action: [T,E] or [T,E,slate] the choice, of which `distribution.executed` was carried out.
      log_probs: [T,E,A] of the behaviour policy's distribution, all choices or a slate's first place.
      reward: [T,E].
      terminated: [T,E] bool.
      truncated: [T,E] bool.
      final_observation: [T,E,O...] what each step led to, before any reset.
      last_observation: [E,O...] what comes after the last step.
      weight: [T,E] 1 for a step that counts and 0 for one that doesn't.
      metrics: name -> [T,E] of the environments' wrappers.
    """

    observation: Leaf
    action: Leaf
    log_probs: Leaf
    reward: Leaf
    terminated: Leaf
    truncated: Leaf
    final_observation: Leaf
    last_observation: Leaf
    weight: Leaf
    metrics: Leaf


@struct.dataclass
class PolicyBatch:
    """Steps in no order, B of them: what a policy-gradient loss looks at.

    Attributes:
      observation: [B,O...], or a `Retrieved` of them.
      action: [B] or [B,slate].
      log_probs: [B,A], see `Rollout`.
      value: [B] V(s) when the targets were made.
      advantage: [B].
      value_target: [B].
      weight: [B] 1 for a step that counts and 0 for one that doesn't.
    """

    observation: Leaf
    action: Leaf
    log_probs: Leaf
    value: Leaf
    advantage: Leaf
    value_target: Leaf
    weight: Leaf


@struct.dataclass
class Retrieved:
    """An observation with the passages that were retrieved for it.

    Learning scores these very passages anew: the ratio of two policies is that of one and the same sum.

    Attributes:
      observation: [...,O...].
      ids: [...,K] rows of the environment's passages; -1 a miss, -2 the empty one, if none is found.
      noise: [...,K] what was drawn with the passages, None if nothing is; all 0 as if nothing were.
    """

    observation: Leaf
    ids: Leaf
    noise: Leaf


class PolicyModel(NamedTuple):
    """A policy and its critic as pure functions of one tree of parameters.

    Attributes:
      init: (key) -> params, with the groups "policy" and "value" ("retriever" too, where it retrieves).
      apply: (params, what `retrieve` gives) -> (action distribution, V [...]).
      embed: (params) -> the index, a tree of arrays; None of a policy that retrieves nothing.
      retrieve: (params, index, key, observation [...,O...]) -> what `apply` acts on; by default that.
      refresh_every: updates after which the index is embedded anew.
      guide: (observation [...,O...]) -> action distribution of one to begin by, or None.
    """

    init: Callable[..., Params]
    apply: Callable[..., tuple[Any, Array]]
    embed: Callable[..., Any] | None = None
    retrieve: Callable[..., Any] = lambda params, index, key, observation: observation
    refresh_every: int = 1
    guide: Callable[..., Any] | None = None


class Retriever(NamedTuple):
    """p(d|x) as pure functions of the whole tree of parameters, for questions and observations alike.

    Queries x and passages d are tokens or numbers, as their encoders read them. `rename` are [V] new
    token ids (`ops.augmentation`). A retriever that is not learned has no more than `init`, `scale`
    and `log_prior`, which takes the scores that it found. One that fuses its ranking with words in
    common has `weigh`; its searches and `log_prior` take what that gives as a last argument.

    Attributes:
      init: (key) -> params["retriever"].
      query: (params, x [...,Q], rename=None) -> [...,D].
      embed: (params, passages [...,P], rename=None) -> [...,D], with gradient.
      index: (params, corpus [N,P]) -> what is searched, a tree of arrays.
      search: (index, query [...,D], k) -> `TopK` [...,K], no gradient; row -1 alone if nothing is found.
      search_exactly: as `search`, also of an index whose own search is approximate.
      scores: (index, query [...,D]) -> [...,N] unscaled scores of all passages; not of every index.
      scale: (params) -> [] the inverse temperature that multiplies scores before the softmax.
      log_prior: (params, query [...,D], corpus, `TopK`, rename=None) -> [...,K] log p(d|x) over the
        hits, their embeddings computed anew and with gradient; -inf at a miss.
      weigh: (params, lexical `TopK` [B,C]) -> the same with its scores weighted, with gradient, or None.
    """

    init: Callable[..., Params]
    query: Callable[..., Array]
    embed: Callable[..., Array]
    index: Callable[..., Any]
    search: Callable[..., TopK]
    search_exactly: Callable[..., TopK]
    scores: Callable[..., Array]
    scale: Callable[..., Array]
    log_prior: Callable[..., Array]
    weigh: Callable[..., TopK] | None = None


class RagModel(NamedTuple):
    """Retriever and reader as pure functions of one tree of parameters.

    Attributes:
      init: (key) -> params.
      retriever: the retriever's functions.
      encode: (params, question [B,Q], passages [B,K,P]) -> the reader's memory of B*K sources.
      token_logprobs: (params, memory, target [B,T]) -> [B,K,T] log p(y_t | x, d_k, y_<t).
      logprobs: (params, memory, target [B,T]) -> [B,K,T,V] log p(· | x, d_k, y_<t).
      values: (params, memory, target [B,T]) -> [B,K,T] a critic's V(x, d_k, y_<t), for its parameters.
      init_cache: (params, memory, length) -> an empty cache for `length` decoding steps.
      decode_step: (params, memory, cache, token [B,K], t) -> ([B,K,V] log-probabilities, cache).
      attention: (params, memory, target [B,T]) -> cross-attention's scores before the softmax
        [B,K,J,T,S], norms of its values [B,K,J,S], the source's mask [B,K,S]; J heads in all layers.
      fuse: (params, memory, read [B,K]) -> the memory [B,1] of those of the K sources that are read.
      text: `decoding.searching.TextModel` of a reader that searches in its own text, or None.
    """

    init: Callable[..., Params]
    retriever: Retriever
    encode: Callable[..., Any]
    token_logprobs: Callable[..., Array]
    logprobs: Callable[..., Array]
    values: Callable[..., Array]
    init_cache: Callable[..., Any]
    decode_step: Callable[..., tuple[Array, Any]]
    attention: Callable[..., tuple[Array, Array, Array]] | None = None
    fuse: Callable[..., Any] | None = None
    text: Any = None
