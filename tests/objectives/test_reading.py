"""What noise shows retriever and reader, by hand, and that decoding does as the objective says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import TINY, VOCABULARY, Hand, K, P, Q, T, V, tiny_batch, tiny_params

from ragjax.decoding.marginal import decode_rag_sequence, decode_rag_token
from ragjax.models.retriever import Dense
from ragjax.objectives.base import Context
from ragjax.objectives.joint import Joint
from ragjax.objectives.likelihood import RagSequence, RagToken
from ragjax.ops.augmentation import corrupt_words, random_renaming

PARAMS = tiny_params(0)
NOISES = {
    "none": {},
    "rename_reader": {"rename_reader": 1.0},
    "rename_retriever": {"rename_retriever": 1.0},
    "corrupt_words": {"corrupt_words": 0.6},
    "all": {"rename_reader": 1.0, "rename_retriever": 1.0, "corrupt_words": 0.3},
}


def by_sequence(hand, b, answer):
    return np.log(hand.likelihood(b, answer))


def by_token(hand, b, answer):
    return np.sum(np.log(hand.prior[b] @ hand.tokens(b, answer))[answer != 0])


@functools.cache
def loss_of(objective):
    """Jitted (key, batch, corpus, index) -> `Loss`."""
    context = Context(TINY, VOCABULARY, Dense(), K)

    def loss(key, batch, corpus, index):
        return objective.loss(context, PARAMS, key, batch, corpus=corpus, index=index)

    return jax.jit(loss)


@pytest.fixture(scope="module")
def by_hand():
    """(objective, key, batch, corpus, index) -> the `Hand` that reads with the key's noise."""

    def read(objective, key, batch, corpus, index):
        reader, retriever, words = jax.random.split(key, 3)
        content = VOCABULARY.content
        names = (
            random_renaming(reader, content, objective.rename_reader),
            random_renaming(retriever, content, objective.rename_retriever),
        )
        asked = corrupt_words(words, batch.question, content, objective.corrupt_words)
        return Hand(PARAMS, asked, corpus, index, names, documents=objective.documents)

    return read


@pytest.mark.parametrize(
    ("kind", "documents", "noise"),
    [
        *((RagSequence, "index", noise) for noise in NOISES),
        (RagSequence, "retrieved", "all"),
        (RagSequence, "in_batch", "all"),
        (RagToken, "retrieved", "all"),
        (RagToken, "index", "all"),
    ],
)
def test_the_loss_in_the_words_and_names_of_each_key(by_hand, kind, documents, noise):
    """Retriever and reader have names of their own, and of the words the same are left."""
    objective = kind(documents=documents, **NOISES[noise])
    explained = by_token if kind is RagToken else by_sequence
    batch, corpus, index = tiny_batch(11)
    real = np.flatnonzero(batch.weight)
    for seed in range(4):
        arrays = jax.random.PRNGKey(seed), batch, corpus, index
        loss = loss_of(objective)(*arrays)
        hand = by_hand(objective, *arrays)
        answers = hand.names[np.asarray(batch.target)]
        exact = -sum(explained(hand, b, answers[b]) for b in real)
        np.testing.assert_allclose(loss.sum, exact, rtol=1e-4)
        found = np.any(hand.ids[real] == np.asarray(batch.positives)[real], axis=-1)
        np.testing.assert_array_equal(loss.metrics["recall"], (found.sum(), 3))


def test_the_noises_of_a_key_differ(by_hand):
    """Without this the test above would not notice one of them in the place of another."""
    objective, arrays = RagSequence(**NOISES["all"]), tiny_batch(11)
    hands = [by_hand(objective, jax.random.PRNGKey(seed), *arrays) for seed in range(4)]
    plain = by_hand(RagSequence(), jax.random.PRNGKey(0), *arrays)
    assert all(np.any(hand.question != plain.question) for hand in hands)
    swapped = [
        Hand(PARAMS, hand.question, *arrays[1:], (hand.names, hand.names), documents="retrieved")
        for hand in hands
    ]
    assert any(np.any(a.prior != b.prior) for a, b in zip(hands, swapped, strict=True))
    assert any(np.any(hand.names != plain.names) for hand in hands)


@pytest.mark.parametrize("rescore_all", [False, True])
def test_decoding_scores_proposals_as_the_objective_says(rescore_all):
    rng, count = np.random.default_rng(12), 40
    question = jnp.asarray(rng.integers(4, V, size=(count, Q)), jnp.int32)
    given = {
        "passages": jnp.asarray(rng.integers(4, V, size=(count, K, P)), jnp.int32),
        "log_prior": jnp.log(jnp.asarray(rng.dirichlet(np.ones(K), count), jnp.float32)),
    }
    sequence = RagSequence(rescore_all=rescore_all)
    joint = Joint(likelihood=sequence)

    @jax.jit
    def run(question, given):
        asked, given = (TINY, PARAMS, question), given | {"length": T}
        return (
            [objective.decode(*asked, **given) for objective in (sequence, joint)],
            [decode_rag_sequence(*asked, **given, rescore_all=all_) for all_ in (False, True)],
            [RagToken().decode(*asked, **given), decode_rag_token(*asked, **given)],
        )

    mine, both, token = jax.device_get(run(question, given))
    for found in mine:
        np.testing.assert_array_equal(found.tokens, both[rescore_all].tokens)
    assert 0 < np.sum(np.any(both[0].tokens != both[1].tokens, axis=-1)) < count
    np.testing.assert_array_equal(token[0].tokens, token[1].tokens)
    assert np.any(token[0].tokens != mine[0].tokens)
