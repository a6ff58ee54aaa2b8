"""Rewards on tokens against the figures of evaluation on words, and a user's own on the host."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.errors import UserError
from ragjax.evaluation.matching import exact_match, strict_match, token_f1
from ragjax.objectives.rewards import ExactMatch, HostReward, LengthCost, RougeL, TokenF1, Total

B, G, Y, T = 6, 50, 3, 5


def sequences(shape, seed):
    """Tokens 4 to 7, an end (2) at a random place, and padding."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(4, 8, size=(*shape, T))
    ends = rng.integers(0, T + 1, size=shape)[..., None]
    place = np.arange(T)
    return np.where(place < ends, tokens, np.where(place == ends, 2, 0)).astype(np.int32)


ANSWERS, ACCEPTED = sequences((B, G), 0), sequences((B, Y), 1)
ACCEPTED[:2, 2] = 0  # no answer
ANSWERS[:, :Y] = ACCEPTED


def text(tokens):
    return " ".join(f"w{token}" for token in tokens if token > 2)


def expected(figure):
    """[B,G] figures of (an answer, its accepted answers), as text."""
    golds = [[text(gold) for gold in rows if gold.any()] for rows in ACCEPTED]
    return np.array(
        [
            [figure(text(answer), gold) for answer in row]
            for row, gold in zip(ANSWERS, golds, strict=True)
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


def rouge(answer, golds):
    one, others = answer.split(), [gold.split() for gold in golds]
    found = [longest(tuple(one), tuple(other)) for other in others]
    return max(
        2 * n / (len(one) + len(other)) if one or other else 1.0
        for n, other in zip(found, others, strict=True)
    )


def scored(reward, accepted=ACCEPTED):
    return np.asarray(jax.jit(reward.score)(jnp.asarray(ANSWERS), jnp.asarray(accepted)))


def test_exact_match_is_that_of_the_evaluation():
    # Where the words agree the tokens do, but for an end that there was no room for.
    found = expected(exact_match)
    said = ANSWERS.any(axis=-1)
    np.testing.assert_array_equal(scored(ExactMatch())[said], found[said])
    assert 0 < found.mean() < 1


def test_a_row_of_padding_is_no_accepted_answer():
    assert not ANSWERS[:2, 2].any()
    for reward in (ExactMatch(), TokenF1(), RougeL()):
        assert not scored(reward)[:2, 2].any()
        assert not scored(reward, np.zeros_like(ACCEPTED)).any()


@pytest.mark.parametrize("reward", [ExactMatch(), TokenF1(), RougeL()])
def test_the_best_of_the_accepted_answers_counts(reward):
    each = np.stack([scored(reward, ACCEPTED[:, [y]]) for y in range(Y)])
    np.testing.assert_allclose(scored(reward), each.max(axis=0), atol=1e-6)
    assert np.any(scored(reward) > each[0])


def test_token_f1_is_that_of_the_evaluation():
    found = expected(token_f1)
    np.testing.assert_allclose(scored(TokenF1()), found, atol=1e-6)
    assert len(np.unique(found)) > 5
    # Two answers without a word are the same.
    wordless = ~(ANSWERS > 2).any(axis=-1) & ~(ACCEPTED > 2).any(axis=-1)[:, :1]
    assert wordless.any()
    for reward in (ExactMatch(), TokenF1(), RougeL()):
        assert np.all(scored(reward)[wordless] == 1)


def test_digits_signs_and_symbols_are_kept_apart_by_tokens():
    """Where "4.2" is 4 . 2 and "42" is 4 2: strict exact match, whatever SQuAD's says."""
    answers = jnp.array([[[44, 42, 2, 0], [44, 40, 42, 2]]])
    accepted = jnp.array([[[44, 40, 42, 2]]])
    np.testing.assert_array_equal(ExactMatch().score(answers, accepted), [[0, 1]])
    assert [exact_match(said, ["4.2"]) for said in ("42", "4.2")] == [1, 1]
    assert [strict_match(said, ["4.2"]) for said in ("42", "4.2")] == [0, 1]


def test_rouge_l_is_that_of_the_longest_common_subsequence():
    found = expected(rouge)
    np.testing.assert_allclose(scored(RougeL()), found, atol=1e-6)
    assert np.any(found < scored(TokenF1()) - 0.1)


def test_length_costs_and_sums():
    words = expected(lambda answer, golds: len(answer.split()))
    np.testing.assert_allclose(scored(LengthCost(0.5)), -0.5 * words, atol=1e-6)
    both = scored(Total((ExactMatch(), LengthCost(0.5))))
    np.testing.assert_allclose(both, scored(ExactMatch()) - 0.5 * words, atol=1e-6)
    with pytest.raises(UserError, match=r"reward.parts is empty"):
        Total(())


@dataclass(frozen=True)
class EvenWords(HostReward):
    """A user's own: 1 for an even number of words, and 2 for every accepted answer."""

    def on_host(self, answers, accepted):
        assert isinstance(answers, np.ndarray)
        count = np.sum(np.any(accepted > 0, axis=-1), axis=-1)
        return (np.sum(answers > 2, axis=-1) % 2 == 0) + 2.0 * count[:, None]


def test_a_users_own_reward_is_called_on_the_host():
    found = expected(lambda answer, golds: (len(answer.split()) % 2 == 0) + 2 * len(golds))
    np.testing.assert_array_equal(scored(EvenWords()), found)
