"""Rewards on tokens against the figures of evaluation on words, and a user's own on the host."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.errors import UserError
from ragjax.evaluation.metrics import exact_match, token_f1
from ragjax.objectives.rewards import ExactMatch, HostReward, LengthCost, RougeL, TokenF1, Total

B, G, T = 6, 50, 5


def sequences(shape, seed):
    """Tokens 4 to 7, an end (2) at a random place, and padding."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(4, 8, size=(*shape, T))
    ends = rng.integers(0, T + 1, size=shape)[..., None]
    place = np.arange(T)
    return np.where(place < ends, tokens, np.where(place == ends, 2, 0)).astype(np.int32)


ANSWERS, TARGET = sequences((B, G), 0), sequences((B,), 1)
ANSWERS[:, 0] = TARGET


def text(tokens):
    return " ".join(f"w{token}" for token in tokens if token > 2)


def expected(figure):
    return np.array(
        [
            [figure(answer, gold) for answer in row]
            for row, gold in zip(ANSWERS, TARGET, strict=True)
        ]
    )


def longest(one, other):
    @functools.cache
    def common(i, j):
        if i == len(one) or j == len(other):
            return 0
        if one[i] == other[j]:
            return 1 + common(i + 1, j + 1)
        return max(common(i + 1, j), common(i, j + 1))

    return common(0, 0)


def rouge(answer, gold):
    one, other = text(answer).split(), text(gold).split()
    found = longest(tuple(one), tuple(other))
    return 2 * found / (len(one) + len(other)) if found else 0.0


def scored(reward):
    return np.asarray(jax.jit(reward.score)(jnp.asarray(ANSWERS), jnp.asarray(TARGET)))


def test_exact_match_is_that_of_the_evaluation():
    # Where the words agree the tokens do, but for an end that there was no room for.
    found = expected(lambda answer, gold: exact_match(text(answer), [text(gold)]))
    np.testing.assert_array_equal(scored(ExactMatch()), found)
    assert 0 < found.mean() < 1


def test_token_f1_is_that_of_the_evaluation():
    found = expected(lambda answer, gold: token_f1(text(answer), [text(gold)]))
    np.testing.assert_allclose(scored(TokenF1()), found, atol=1e-6)
    assert len(np.unique(found)) > 5


def test_rouge_l_is_that_of_the_longest_common_subsequence():
    found = expected(rouge)
    np.testing.assert_allclose(scored(RougeL()), found, atol=1e-6)
    assert np.any(found < scored(TokenF1()) - 0.1)


def test_length_costs_and_sums():
    words = expected(lambda answer, gold: len(text(answer).split()))
    np.testing.assert_allclose(scored(LengthCost(0.5)), -0.5 * words, atol=1e-6)
    both = scored(Total((ExactMatch(), LengthCost(0.5))))
    np.testing.assert_allclose(both, scored(ExactMatch()) - 0.5 * words, atol=1e-6)
    with pytest.raises(UserError, match=r"reward.parts is empty"):
        Total(())


@dataclass(frozen=True)
class EvenWords(HostReward):
    """A user's own: 1 for an even number of words."""

    def on_host(self, answers, target):
        assert isinstance(answers, np.ndarray)
        return (np.sum(answers > 2, axis=-1) % 2 == 0).astype(np.float64)


def test_a_users_own_reward_is_called_on_the_host():
    words = expected(lambda answer, gold: len(text(answer).split()))
    np.testing.assert_array_equal(scored(EvenWords()), words % 2 == 0)
