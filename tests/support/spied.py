"""Parts of a run that tell on those who use them: a task, a model, an objective, an environment.

What the parts are given is turned into figures: those of a loss go to metrics.jsonl, the probability of
an answer to predictions.jsonl. One parameter, the marker, is moved by every update just as far as the
optimiser's rate, so that its value tells whose parameters these are and how many updates made them.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ragjax.decoding.marginal import Decoded
from ragjax.models.encoder import BagEncoder
from ragjax.models.reader import TransformerReader
from ragjax.objectives.likelihood import Likelihood
from ragjax.tasks.base import Task
from ragjax.types import EOS_ID, Loss, Passage, QaData, Question

NAMES = ("Ada", "Ben", "Cara", "Dan", "Eva", "Finn", "Gita", "Hugo", "Ines", "Jon", "Kira", "Leo")
FIRST_HALF = len(NAMES) // 2


@dataclass(frozen=True)
class Telltale(Task):
    """Each split asks about all of twelve passages, one question each, and begins with its own name.

    Right is the name of the development split, there in the first half of the questions only: a model
    that answers with the first word of a question is right in half of the development split, and
    nowhere else.

    Attributes:
      also: said by every right answer beside.
    """

    name: ClassVar[str] = "telltale"
    version: ClassVar[str] = "1.0.0"

    also: str = ""

    def generate(self) -> QaData:
        # A run knows the words of passages and training questions only.
        known = "train dev test nobody"
        texts = [f"{name} is here; {known}." for name in NAMES]
        passages = tuple(Passage(f"p{i}", NAMES[i], text) for i, text in enumerate(texts))

        def ask(split: str, row: int) -> Question:
            early = row < FIRST_HALF
            answer = f"dev{self.also}" if split == "dev" and early else "nobody"
            relation = "early" if early else "late"
            question = f"{split} where is {NAMES[row]}?"
            return Question(
                f"{split}{row}", question, (answer,), (f"p{row}",), relation, NAMES[row]
            )

        splits = ("train", "dev", "test")
        return QaData(passages, {s: tuple(ask(s, row) for row in range(12)) for s in splits})


BUILT: list[str] = []  # dtypes of the models that were built, the newest last


@dataclass(frozen=True)
class SpiedEncoder(BagEncoder):
    """A bag that notes the dtype it is asked for."""

    def build(self, vocab_size: int, dtype: Any) -> nn.Module:
        BUILT.append(jnp.dtype(dtype).name)
        return super().build(vocab_size, dtype)


class MuteModule(nn.Module):
    """Reads nothing and says nothing."""

    def setup(self):
        self.voice = self.param("voice", nn.initializers.normal(1.0), (3,))

    def encode(self, question, passages, matches):
        return jnp.zeros(passages.shape[:2])

    def token_logprobs(self, memory, target):
        return self.voice.sum() * jnp.ones((*memory.shape, target.shape[-1]))


@dataclass(frozen=True)
class Mute(TransformerReader):
    """A reader that is compiled at once; it notes the dtype it is asked for."""

    def build(self, vocab_size: int, dtype: Any) -> nn.Module:
        BUILT.append(jnp.dtype(dtype).name)
        return MuteModule()


def marker_of(params: Any) -> Any:
    """A model's marker is the logarithm of its scale, 0 where `retriever.initial_scale` is 1."""
    return params["retriever"]["log_scale"]


def size_of(params: Any) -> Any:
    """The sum of all absolute parameters."""
    return sum(jnp.sum(jnp.abs(leaf)) for leaf in jax.tree.leaves(params))


@dataclass(frozen=True)
class Told(Likelihood):
    """Pulls every parameter with a force that never changes, and tells what it is given.

    Adam moves a parameter by just its rate where the gradient never changes.

    Attributes:
      bar: no question is answered once the marker has fallen below it.
      rewarded: whether the figures have a `reward`, the marker.
    """

    updates: int = 1
    needs_reference: bool = False
    critic: bool = False
    bar: float = -np.inf
    rewarded: bool = False

    def decode(self, model, params, question, *, passages, log_prior, length):
        """Answers with the first word of a question whose prior is that of the passages read.

        That is, of these parameters' own embeddings of them. An answer's log-probability is the marker,
        and 5 less where the prior is another.
        """
        retriever = model.retriever
        query, stored = retriever.query(params, question), retriever.embed(params, passages)
        scores = retriever.scale(params) * jnp.einsum("bd,bkd->bk", query, stored)
        apart = jnp.max(jnp.abs(jax.nn.log_softmax(scores) - log_prior), axis=-1)
        honest = apart < 1e-4
        said = jnp.where(honest & (marker_of(params) >= self.bar), question[:, 0], EOS_ID)
        tokens = jnp.zeros((question.shape[0], length), jnp.int32)
        tokens = tokens.at[:, 0].set(said).at[:, 1].set(EOS_ID)
        return Decoded(tokens, marker_of(params) - jnp.where(honest, 0.0, 5.0), log_prior)

    def sample(self, context, params, key, batch, *, corpus, index):
        """Draws the marker."""
        return batch, jnp.broadcast_to(marker_of(params), batch.weight.shape)

    def loss(self, context, params, key, batch, *, corpus, index, samples=None, reference=None):
        def pull(leaf):
            sign = jnp.where(jnp.arange(leaf.size) % 2 == 0, 1.0, -1.0).reshape(leaf.shape)
            return jnp.sum(sign * leaf) / leaf.size

        force = sum(pull(leaf) for leaf in jax.tree.leaves(params))
        current = context.model.retriever.embed(params, corpus)
        asked = batch.positives[:, 0]
        figures = {
            "marker": marker_of(params),
            "rows": asked.shape[0],  # at once
            "asked": jnp.sum(1 << asked),  # which questions, a bit each
            "k": context.k,
            "given": batch.retrieved is not None,  # candidates
            "index_error": jnp.max(jnp.abs(index - current)),
        }
        if batch.retrieved is not None:
            figures["given_gold"] = jnp.mean(
                (batch.retrieved.ids[:, 0] == asked).astype(jnp.float32)
            )
        if samples is not None:
            figures["drawn"] = jnp.mean(samples)
        if reference is not None:
            figures |= {
                "reference": marker_of(reference),
                "reference_size": size_of(reference),
            }
        if self.critic:
            figures["critic_size"] = size_of(params["critic"])
        if self.rewarded:
            figures["reward"] = marker_of(params)
        count = jnp.float32(asked.shape[0])
        figures = {
            name: (jax.lax.stop_gradient(count * jnp.asarray(value, jnp.float32)), count)
            for name, value in figures.items()
        }
        return Loss(count * force, count, figures)
