"""A reader whose distributions are tables, so that brute force can follow every step."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.types import RagModel, Retriever

V, T = 4, 4


class TableReader:
    """log p(y_t | d_k, y_{t-1}) of B questions as tables [B,K,T,V,V], `never` (padding) not written."""

    def __init__(self, batch, count, seed=0, *, vocab=V, length=T, never=(0,)):
        rng = np.random.default_rng(seed)
        # Passages share much, so that some propose the same answer.
        logits = 2.0 * rng.normal(size=(batch, 1, length, vocab, vocab))
        logits = logits + 1.0 * rng.normal(size=(batch, count, length, vocab, vocab))
        logits[..., list(never)] = -1e9
        self.tables = np.array(jax.nn.log_softmax(logits.astype(np.float32)))
        log_prior = np.log(rng.dirichlet(np.ones(count), batch)).astype(np.float32)
        if count > 1:
            log_prior[::3, -1] = -np.inf  # a miss in every third question
        self.log_prior = log_prior
        self.question = np.zeros((batch, 1), np.int32)
        self.passages = np.zeros((batch, count, 1), np.int32)

    def total(self, b, k, answer):
        """log p(y | x_b, d_k) in float64."""
        before = (1, *answer[:-1])
        steps = zip(itertools.count(), before, answer, strict=False)
        return sum(np.float64(self.tables[b, k, t, last, token]) for t, last, token in steps)

    def marginal(self, b, answer, only=None):
        """Σ_k p(d_k|x_b) p(y|x_b,d_k), over the passages `only`."""
        count = self.log_prior.shape[1]
        return sum(
            np.exp(self.log_prior[b, k] + self.total(b, k, answer))
            for k in (range(count) if only is None else only)
        )

    def plant(self, b, k, answer):
        """Makes one passage propose a given answer."""
        for t, (last, token) in enumerate(zip((1, *answer[:-1]), answer, strict=True)):
            self.tables[b, k, t, last] = -20.0
            self.tables[b, k, t, last, token] = 0.0

    def greedy(self, b, k):
        """The most probable token after token, up to the end of sequence."""
        answer = [1]
        while answer[-1] != 2 and len(answer) <= T:
            answer.append(int(np.argmax(self.tables[b, k, len(answer) - 1, answer[-1]])))
        return tuple(answer[1:])


def step_tables(tables, token, position):
    """[B,K,V] rows of [B,K,T,V,V] for tokens [B,K] at one position."""
    rows = tables[:, :, position]
    return jnp.take_along_axis(rows, token[..., None, None], axis=2)[:, :, 0]


def forced(params, memory, target):
    previous = jnp.concatenate([jnp.ones_like(target[:, :1]), target[:, :-1]], axis=1)
    batch, count = memory.shape[:2]

    def at(position):
        token = jnp.broadcast_to(previous[:, position, None], (batch, count))
        rows = step_tables(memory, token, position)
        return jnp.take_along_axis(rows, target[:, position, None, None], axis=2)[..., 0]

    return jnp.stack([at(t) for t in range(target.shape[1])], axis=-1)


def unused(*_):
    raise AssertionError("decoding does not need it")


@pytest.fixture(scope="session")
def table_model():
    """A `RagModel` whose parameters are the tables of a `TableReader`."""
    return RagModel(
        init=unused,
        retriever=Retriever(*[unused] * len(Retriever._fields)),
        encode=lambda params, question, passages: params,
        token_logprobs=forced,
        logprobs=unused,
        values=unused,
        init_cache=lambda params, memory, length: jnp.zeros(()),
        decode_step=lambda params, memory, cache, token, position: (
            step_tables(memory, token, position),
            cache,
        ),
    )


@pytest.fixture(scope="session")
def table_reader():
    """(batch, count, seed) -> `TableReader`."""
    return TableReader


def pad(answer):
    return [*answer] + [0] * (T - len(answer))


@pytest.fixture(scope="session")
def padded():
    """An answer as T tokens."""
    return pad
