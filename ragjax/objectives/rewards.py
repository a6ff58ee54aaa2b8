"""Rewards of sampled answers, as pure functions of token ids; a user's own may look at them on the host.

A reward is a frozen spec with `score(answers [B,G,T], accepted [B,Y,T]) -> [B,G]`. Answers end in an
end-of-sequence token, if they do not run out of room, and are padded with 0; of accepted answers, which
always end, rows of 0 are none. All have their own names, whatever the reader was shown. Where nearly
every word is one token, as in the tasks of this package, these are the figures of `evaluation.matching`,
the best over the accepted answers, but for their folding of case, articles and punctuation: digits,
signs and symbols are kept apart, and two answers without a word are alike.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ragjax.errors import require
from ragjax.types import EOS_ID, PAD_ID

Figure = Callable[[Array, Array], Array]  # (answers [B,G,T], target [B,T]) -> [B,G]


def best_over_accepted(
    figure: Figure, answers: Int[Array, "B G T"], accepted: Int[Array, "B Y T"]
) -> Float[Array, "B G"]:
    """Compares each answer with all accepted ones: max_y figure(answer, y).

    Args:
      figure: (answers [B,G,T], target [B,T]) -> [B,G], never negative.
      answers: G answers to each of B questions.
      accepted: their accepted answers; rows of 0 are none.

    Returns:
      The best figure of each answer; 0 where nothing is accepted.
    """
    figures = jax.vmap(figure, in_axes=(None, 1), out_axes=-1)(answers, accepted)  # [B,G,Y]
    given = jnp.any(accepted != PAD_ID, axis=-1)
    return jnp.max(jnp.where(given[:, None], figures, 0.0), axis=-1)


def _exact_match(answers: Array, target: Array) -> Array:
    return jnp.all(answers == target[:, None], axis=-1).astype(jnp.float32)


def _token_f1(answers: Array, target: Array) -> Array:
    mine, gold = _words(answers), _words(target)
    same = answers[..., :, None] == answers[..., None, :]
    place = jnp.arange(answers.shape[-1])
    earlier = place[None, :] < place[:, None]
    # A word counts as often as it stands in both: its n-th copy if the target has n of it.
    number = jnp.sum(same & earlier & mine[..., None, :], axis=-1)
    held = jnp.sum((answers[..., :, None] == target[:, None, None]) & gold[:, None, None], -1)
    common = jnp.sum(mine & (number < held), axis=-1).astype(jnp.float32)
    return _common_f1(common, answers, target)


def _rouge_l(answers: Array, target: Array) -> Array:
    gold = jnp.broadcast_to(target[:, None], answers.shape)

    def row(longest, column):
        """One word of the answers against all of the target's; longest [B,G,T+1] of prefixes."""
        word = column[..., None]
        match = (word == gold) & _words(word) & _words(gold)

        def cell(left, at):
            above, corner, match = at
            value = jnp.where(match, corner + 1, jnp.maximum(left, above))
            return value, value

        inner = jnp.moveaxis(longest, -1, 0)
        first = jnp.zeros_like(inner[0])
        _, values = jax.lax.scan(cell, first, (inner[1:], inner[:-1], jnp.moveaxis(match, -1, 0)))
        return jnp.moveaxis(jnp.concatenate([first[None], values]), 0, -1), None

    start = jnp.zeros((*answers.shape[:-1], answers.shape[-1] + 1), jnp.int32)
    longest, _ = jax.lax.scan(row, start, jnp.moveaxis(answers, -1, 0))
    return _common_f1(longest[..., -1].astype(jnp.float32), answers, target)


def _words(tokens: Array) -> Array:
    """Which tokens count as words."""
    return (tokens != PAD_ID) & (tokens != EOS_ID)


def _common_f1(common: Array, answers: Array, target: Array) -> Array:
    """2 · common / (words of the answer + words of the target); 1 where neither has any."""
    lengths = jnp.sum(_words(answers), axis=-1) + jnp.sum(_words(target), axis=-1)[:, None]
    shared = 2.0 * common / jnp.maximum(lengths, 1).astype(jnp.float32)
    return jnp.where(lengths == 0, 1.0, shared)


@dataclass(frozen=True)
class Reward:
    """Base of the rewards."""

    def score(
        self, answers: Int[Array, "B G T"], accepted: Int[Array, "B Y T"]
    ) -> Float[Array, "B G"]:
        """Rewards of G answers to each of B questions, which have up to Y accepted answers."""
        raise NotImplementedError


@dataclass(frozen=True)
class ExactMatch(Reward):
    """1 if the answer's tokens are those of an accepted one, else 0."""

    def score(
        self, answers: Int[Array, "B G T"], accepted: Int[Array, "B Y T"]
    ) -> Float[Array, "B G"]:
        """See the class."""
        return best_over_accepted(_exact_match, answers, accepted)


@dataclass(frozen=True)
class TokenF1(Reward):
    """Harmonic mean of precision and recall of the answer's words, as bags; of the nearest accepted."""

    def score(
        self, answers: Int[Array, "B G T"], accepted: Int[Array, "B Y T"]
    ) -> Float[Array, "B G"]:
        """See the class."""
        return best_over_accepted(_token_f1, answers, accepted)


@dataclass(frozen=True)
class RougeL(Reward):
    """ROUGE-L's F1: the longest common subsequence of words in the place of common words (Lin, 2004)."""

    def score(
        self, answers: Int[Array, "B G T"], accepted: Int[Array, "B Y T"]
    ) -> Float[Array, "B G"]:
        """See the class."""
        return best_over_accepted(_rouge_l, answers, accepted)


@dataclass(frozen=True)
class LengthCost(Reward):
    """Minus `cost` for each word of the answer.

    Attributes:
      cost: of a word.
    """

    cost: float = 0.01

    def __post_init__(self):
        """Checks the fields."""
        require(self.cost >= 0, f"reward.cost is {self.cost}; it must not be negative.")

    def score(
        self, answers: Int[Array, "B G T"], accepted: Int[Array, "B Y T"]
    ) -> Float[Array, "B G"]:
        """See the class."""
        del accepted
        return -self.cost * jnp.sum(_words(answers), axis=-1).astype(jnp.float32)


@dataclass(frozen=True)
class Total(Reward):
    """The sum of several rewards.

    Attributes:
      parts: the rewards.
    """

    parts: tuple[Reward, ...] = (ExactMatch(), LengthCost())

    def __post_init__(self):
        """Checks the fields."""
        require(len(self.parts) > 0, "reward.parts is empty; name at least one reward.")

    def score(
        self, answers: Int[Array, "B G T"], accepted: Int[Array, "B Y T"]
    ) -> Float[Array, "B G"]:
        """See the class."""
        total = self.parts[0].score(answers, accepted)
        for part in self.parts[1:]:
            total = total + part.score(answers, accepted)
        return total


@dataclass(frozen=True)
class HostReward(Reward):
    """A user's own function on the host, called once a step with NumPy arrays.

    Subclass it with a frozen dataclass, so that a config can name it.
    """

    def on_host(self, answers: np.ndarray, accepted: np.ndarray) -> np.ndarray:
        """[B,G,T] answers and [B,Y,T] accepted -> [B,G]; pure: equal arguments, equal rewards."""
        raise NotImplementedError

    def score(
        self, answers: Int[Array, "B G T"], accepted: Int[Array, "B Y T"]
    ) -> Float[Array, "B G"]:
        """See the class."""
        function: Callable[..., np.ndarray] = lambda *given: np.asarray(  # noqa: E731
            self.on_host(*(np.asarray(array) for array in given)), np.float32
        )
        shape = jax.ShapeDtypeStruct(answers.shape[:2], jnp.float32)
        return jax.pure_callback(function, shape, answers, accepted)
