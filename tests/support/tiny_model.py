"""A model so small that NumPy can repeat it: what an objective computes of it can be made by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from ragjax.ops.masking import masked_log_softmax
from ragjax.retrieval.corpus import gather_passages
from ragjax.retrieval.exact import Exact
from ragjax.types import BOS_ID, PAD_ID, RagBatch, RagModel, Retriever, Vocabulary

V, D, H = 10, 3, 4  # tokens; widths of embeddings and of the reader's states
N, P, B, Q, T, K = 6, 3, 4, 4, 3, 3
TEMPLATE, NAMES = (4, 5, 6), (7, 8, 9)
VOCABULARY = Vocabulary(
    fold=jnp.arange(V), idf=jnp.ones(V), content=jnp.asarray(np.isin(np.arange(V), NAMES))
)


def _embed(side):
    def embed(params, tokens, rename=None):
        rows = params["retriever"][side][tokens if rename is None else rename[tokens]]
        return jnp.sum(jnp.where((tokens != PAD_ID)[..., None], rows, 0.0), axis=-2)

    return embed


def _scale(params):
    return jnp.exp(params["retriever"]["log_scale"])


def _retriever():
    """The functions of a `Dense` retriever, around embeddings that can be repeated."""
    query, embed = _embed("query"), _embed("passage")

    def log_prior(params, asked, corpus, topk, rename=None):
        stored = embed(params, gather_passages(corpus, topk.ids), rename)
        scores = _scale(params) * jnp.einsum("bd,bkd->bk", asked, stored)
        return masked_log_softmax(scores, topk.valid)

    return Retriever(
        init=lambda key: tiny_params(0)["retriever"],
        query=query,
        embed=embed,
        index=embed,
        search=Exact().search,
        search_exactly=Exact().search,
        scores=Exact().scores,
        scale=_scale,
        log_prior=log_prior,
    )


def _encode(params, question, passages, rename=None):
    """The reader's memory [B,K,H]: what it read of each question and passage, added up."""
    if rename is not None:
        question = jnp.take_along_axis(rename, question, axis=-1)
        passages = jnp.take_along_axis(rename[:, None], passages, axis=-1)

    def read(side, tokens):
        rows = params["reader"][side][tokens]
        return jnp.sum(jnp.where((tokens != PAD_ID)[..., None], rows, 0.0), axis=-2)

    return read("question", question)[:, None] + read("passage", passages)


def _written(params, memory, target):
    start = jnp.full_like(target[:, :1], BOS_ID)
    previous = jnp.concatenate([start, target[:, :-1]], axis=-1)
    return jnp.tanh(memory[:, :, None] + params["reader"]["previous"][previous][:, None])


def _distribution(params, states):
    logits = states @ params["reader"]["write"]
    return jax.nn.log_softmax(jnp.where(jnp.arange(V) == PAD_ID, -1e9, logits), axis=-1)


def _logprobs(params, memory, target):
    return _distribution(params, _written(params, memory, target))


def _token_logprobs(params, memory, target):
    found = _logprobs(params, memory, target)
    own = jnp.broadcast_to(target[:, None, :, None], (*found.shape[:-1], 1))
    return jnp.take_along_axis(found, own, axis=-1)[..., 0]


def _values(params, memory, target):
    states = jax.lax.stop_gradient(_written(params, memory, target))
    return states @ params["critic"]["kernel"] + params["critic"]["bias"]


def _decode_step(params, memory, cache, token, position):
    states = jnp.tanh(memory + params["reader"]["previous"][token])
    return _distribution(params, states), cache


def tiny_params(seed):
    """Random parameters, of which none is 0."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "retriever": {"query": draw(V, D), "passage": draw(V, D), "log_scale": jnp.float32(-0.7)},
        "reader": {
            "question": 0.3 * draw(V, H),
            "passage": 0.5 * draw(V, H),
            "previous": 0.7 * draw(V, H),
            "write": draw(H, V),
        },
        "critic": {"kernel": draw(H), "bias": jnp.float32(0.3)},
    }


TINY = RagModel(
    init=lambda key: tiny_params(0),
    retriever=_retriever(),
    encode=_encode,
    token_logprobs=_token_logprobs,
    logprobs=_logprobs,
    values=_values,
    init_cache=lambda params, memory, length: jnp.zeros(()),
    decode_step=_decode_step,
)


def tiny_answers(rng, *shape):
    """Answers [...,T] of 1 to T tokens, of which some end."""
    tokens = rng.integers(2, V, size=(*shape, T))
    ended = np.cumsum(tokens == 2, axis=-1) - (tokens == 2) > 0
    return np.where(ended, PAD_ID, tokens).astype(np.int32)


def tiny_batch(seed):
    """B questions, of which the third fills up, the corpus [N,P] and an index [N,D] that has aged."""
    rng = np.random.default_rng(seed)
    question = rng.integers(4, V, size=(B, Q))
    question[0, -1] = PAD_ID
    accepted = tiny_answers(rng, B, 2)
    batch = RagBatch(
        question=question.astype(np.int32),
        target=accepted[:, 0],
        accepted=accepted,
        positives=rng.integers(0, N, size=(B, 1)).astype(np.int32),
        retrieved=None,
        weight=np.array([1, 1, 0, 1], np.float32),
    )
    corpus = rng.integers(4, V, size=(N, P)).astype(np.int32)
    return jax.tree.map(jnp.asarray, (batch, corpus, rng.normal(size=(N, D)).astype(np.float32)))


class Hand:
    """The formulas of the tiny model in NumPy and float64, one answer at a time.

    Attributes:
      ids: [B,K] passages of each question.
      prior: [B,K] p(d|x), which is less than one in all over an index.
    """

    def __init__(self, params, question, corpus, index, names, *, documents, ids=None):
        """Retrieves for questions.

        Args:
          params: parameters.
          question: [B,Q] in the words that are read.
          corpus: [N,P].
          index: [N,D], which is searched unless p(d|x) is over all passages.
          names: [V] that the reader is shown, and [V] that the retriever is shown.
          documents: what p(d|x) is over: `retrieved`, `in_batch` or `index`.
          ids: [B,K] passages to take instead of searching, or None.
        """
        self.params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
        self.question, self.corpus = np.asarray(question), np.asarray(corpus)
        self.names, other = map(np.asarray, names)
        retriever = self.params["retriever"]
        query = self._bag(retriever["query"], self.question, other)
        passages = self._bag(retriever["passage"], self.corpus, other)
        chance = np.exp(np.exp(retriever["log_scale"]) * query @ passages.T)
        if ids is None:
            if documents != "index":  # by names as they are, which the index holds
                query, passages = self._bag(retriever["query"], self.question, np.arange(V)), index
            similarity = query @ np.asarray(passages, np.float64).T
            ids = np.argsort(-similarity, axis=-1)[:, :K]
        self.ids = np.asarray(ids)
        prior = np.take_along_axis(chance, self.ids, axis=-1)
        batch = chance[:, np.unique(self.ids)]
        over = {"retrieved": prior, "in_batch": batch, "index": chance}[documents]
        self.prior = prior / over.sum(axis=-1, keepdims=True)

    @staticmethod
    def _bag(table, tokens, names):
        return np.sum(np.where((tokens != PAD_ID)[..., None], table[names[tokens]], 0.0), axis=-2)

    def states(self, b, answer):
        """[K,T,H] before each token of an answer."""
        reader = self.params["reader"]
        read = self._bag(reader["question"], self.question[b], self.names)
        read = read + self._bag(reader["passage"], self.corpus[self.ids[b]], self.names)
        previous = np.concatenate([[BOS_ID], answer[:-1]])
        return np.tanh(read[:, None] + reader["previous"][previous])

    def distributions(self, b, answer):
        """[K,T,V] p(·|x,d,y_<t)."""
        logits = self.states(b, answer) @ self.params["reader"]["write"]
        weight = np.exp(logits) * (np.arange(V) != PAD_ID)
        return weight / weight.sum(axis=-1, keepdims=True)

    def tokens(self, b, answer):
        """[K,T] p(y_t|x,d,y_<t), and 1 at padding."""
        found = self.distributions(b, answer)[:, np.arange(T), answer]
        return np.where(answer == PAD_ID, 1.0, found)

    def likelihood(self, b, answer):
        """p(y|x) = Σ_d p(d|x) Π_t p(y_t|x,d,y_<t)."""
        return self.prior[b] @ np.prod(self.tokens(b, answer), axis=-1)

    def upto(self, b, answer):
        """[K,T+1] of each passage and the first t tokens of the answer, over the K retrieved."""
        among = self.prior[b] / self.prior[b].sum()
        grown = np.cumprod(self.tokens(b, answer), axis=-1)
        return among[:, None] * np.concatenate([np.ones((K, 1)), grown], axis=-1)

    def marginals(self, b, answer):
        """[T] log p(y_t|x,y_<t), and 0 at padding."""
        return np.diff(np.log(self.upto(b, answer).sum(axis=0)))

    def weights(self, b, answer):
        """[K,T] p(d|x,y_<t)."""
        before = self.upto(b, answer)[:, :-1]
        return before / before.sum(axis=0)

    def entropies(self, b, answer):
        """[T] of Σ_d p(d|x,y_<t) p(·|x,d,y_<t), in nats."""
        mixed = np.einsum("kt,ktv->tv", self.weights(b, answer), self.distributions(b, answer))
        return -np.sum(mixed * np.log(np.where(mixed > 0, mixed, 1.0)), axis=-1)

    def values(self, b, answer, critic=None):
        """[T] V(x,y_<t) = Σ_d p(d|x,y_<t) V(x,d,y_<t)."""
        critic = critic or self.params["critic"]
        each = self.states(b, answer) @ critic["kernel"] + critic["bias"]
        return np.sum(self.weights(b, answer) * each, axis=0)
