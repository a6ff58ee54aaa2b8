"""TextLookup: what its sentences say, word for word, and that the right direction is paid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.envs.text_lookup import ADJECTIVES, DIRECTIONS, NOUNS, TextLookup, tokenise
from ragjax.errors import UserError

SPEC = TextLookup(adjectives=3, nouns=2)


def test_each_sentence_names_one_subject_and_one_direction():
    sentences, answers = SPEC.write()
    subjects = [(a, n) for a in ADJECTIVES[:3] for n in NOUNS[:2]]
    for sentence, answer, subject in zip(sentences, answers, subjects, strict=True):
        words = sentence.split()
        assert words[words.index(subject[0]) + 1] == subject[1]
        assert [word for word in words if word in DIRECTIONS] == [DIRECTIONS[answer]]
    assert sorted(answers) == [0, 0, 1, 1, 2, 3]
    assert TextLookup(adjectives=3, nouns=2, passage_seed=1).write()[0] != sentences
    assert len({" ".join(s.split()[:2]) for s in TextLookup().write()[0]}) > 3  # wordings differ


def test_tokens_are_the_words():
    tokens, vocabulary = tokenise(["go east", "the bell lies east"])
    # In the order of the alphabet behind four special tokens: bell, east, go, lies, the.
    assert tokens.tolist() == [[6, 5, 0, 0], [8, 4, 7, 5]]
    idf = np.log(3 / np.array([2, 3, 2, 2, 2]))
    np.testing.assert_allclose(vocabulary.idf, [0, 0, 0, 0, *idf], rtol=1e-6)
    assert vocabulary.fold.tolist() == list(range(9))
    assert vocabulary.content.tolist() == [False] * 4 + [True] * 5


def test_an_episode():
    env = SPEC.build()
    sentences, _ = SPEC.write()
    assert env.passages.shape == (6, max(len(sentence.split()) for sentence in sentences))
    seen = set()
    for seed in range(60):
        passage, shown = env.reset(env.params, jax.random.PRNGKey(seed))
        adjective, noun = divmod(int(passage), 2)
        expected = np.zeros(5)
        expected[[adjective, 3 + noun]] = 1
        np.testing.assert_array_equal(shown.observation, expected)
        assert int(shown.metrics["gold"]) == int(passage)
        paid = []
        for action in range(4):
            _, after = env.step(env.params, jax.random.PRNGKey(0), passage, jnp.int32(action))
            assert after.terminated
            paid.append(float(after.reward))
        said = sentences[int(passage)].split()
        assert paid == [float(direction in said) for direction in DIRECTIONS]
        seen.add(int(passage))
    assert seen == set(range(6))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"adjectives": 0}, "env.adjectives is 0; it must be at least 1 and at most 8"),
        ({"nouns": 9}, "env.nouns is 9; it must be at least 1 and at most 8"),
        ({"actions": 5}, "env.actions is 5; it must be at least 1 and at most 4"),
        ({"passage_seed": -1}, "env.passage_seed is -1"),
    ],
)
def test_bad_fields_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        TextLookup(**fields)
