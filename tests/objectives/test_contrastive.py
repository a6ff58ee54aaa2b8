"""The contrastive objective made by hand, what it can move, and what it leaves out."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from tiny_model import TINY, VOCABULARY, B, Hand, K, tiny_batch, tiny_params

from ragjax.errors import UserError
from ragjax.models.hybrid import Hybrid
from ragjax.models.retriever import Dense
from ragjax.objectives.base import Context
from ragjax.objectives.contrastive import Contrastive
from ragjax.objectives.likelihood import RagSequence, RagToken
from ragjax.ops.augmentation import corrupt_words, random_renaming, without_span
from ragjax.retrieval.bm25 import BM25
from ragjax.retrieval.exact import Exact
from ragjax.types import TopK

SEED = 6
KEY = jax.random.PRNGKey(SEED)
CONTEXT = Context(TINY, VOCABULARY, Dense(), K)
PARAMS = {room: tiny_params(SEED)[room] for room in ("retriever", "reader")}
BATCH, CORPUS, INDEX = tiny_batch(SEED)
REAL = (0, 1, 3)
NOISE = {"rename_reader": 1.0, "rename_retriever": 1.0, "corrupt_words": 0.5}
PLAIN, NOISY = Contrastive(), Contrastive(RagSequence(**NOISE), likelihood_weight=0.6)
IDS = np.array([[3, 0, -1], [2, 5, 4], [1, 2, 3], [0, 4, 0]], np.int32)
GIVEN = TopK(jnp.asarray(IDS), jnp.zeros(IDS.shape), jnp.asarray(IDS >= 0))


@functools.cache
def differentiate(objective):
    """Jitted (params, key, batch, corpus) -> (gradient, `Loss`)."""

    def total(params, key, batch, corpus):
        loss = objective.loss(CONTEXT, params, key, batch, corpus=corpus, index=INDEX)
        return loss.sum, loss

    return jax.jit(jax.grad(total, has_aux=True))


def run(objective, batch=BATCH, params=PARAMS, key=KEY, corpus=CORPUS):
    return differentiate(objective)(params, key, batch, corpus)


def hand(objective, params, ids=None):
    """What is retrieved and read with the noise of the key."""
    reader, retriever, words = jax.random.split(jax.random.split(KEY)[0], 3)
    content, likelihood = VOCABULARY.content, objective.likelihood
    asked = corrupt_words(words, BATCH.question, content, likelihood.corrupt_words)
    names = (
        random_renaming(reader, content, likelihood.rename_reader),
        random_renaming(retriever, content, likelihood.rename_retriever),
    )
    made = Hand(params, asked, CORPUS, INDEX, names, documents="retrieved", ids=ids)
    table, names = made.params["retriever"], np.asarray(names[1])
    query = made._bag(table["query"], np.asarray(asked), names)
    stored = made._bag(table["passage"], np.asarray(CORPUS), names)
    made.scores = np.exp(table["log_scale"]) * query @ stored.T  # [B,N]
    return made


def contrast(now, ids, batch):
    """The costs of the real questions, each passage of the batch counted once."""
    positives = np.asarray(batch.positives)
    rows = [b for b in REAL if positives[b, 0] >= 0]
    there = {i for b in rows for i in [positives[b, 0], *ids[b]] if i >= 0}
    costs = []
    for b in rows:
        own = np.exp(now.scores[b, positives[b, 0]])
        others = [i for i in there if i not in positives[b]]
        costs.append(-np.log(own / (own + sum(np.exp(now.scores[b, i]) for i in others))))
    return costs


def by_hand(objective, now, base):
    """The loss, where `base` is the prior that the reader learns with."""
    answers, reader = now.names[np.asarray(BATCH.target)], 0.0
    for b in REAL:
        reader -= np.log(base.prior[b] @ np.prod(now.tokens(b, answers[b]), axis=-1))
    return sum(contrast(now, base.ids, BATCH)) + objective.likelihood_weight * reader


@pytest.mark.parametrize("objective", [PLAIN, NOISY], ids=["plain", "noisy"])
def test_loss_and_gradient_by_hand(objective):
    """With negatives from the index; the gradient along random directions, by finite differences."""
    gradient, loss = run(objective)
    base = hand(objective, PARAMS)
    np.testing.assert_allclose(loss.sum, by_hand(objective, base, base), rtol=1e-4)
    np.testing.assert_allclose(
        loss.metrics["contrastive"][0], sum(contrast(base, base.ids, BATCH)), rtol=1e-4
    )
    assert loss.denom == 3
    found = [int(BATCH.positives[b, 0]) in base.ids[b] for b in REAL]
    assert loss.metrics["recall"] == (sum(found), 3)
    rng = np.random.default_rng(0)
    for _ in range(6):
        direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), PARAMS)
        ends = []
        for step in (1e-4, -1e-4):
            moved = jax.tree.map(
                lambda leaf, by, s=step: np.asarray(leaf, np.float64) + s * by, PARAMS, direction
            )
            ends.append(by_hand(objective, hand(objective, moved, base.ids), base))
        expected = (ends[0] - ends[1]) / 2e-4
        slope = np.asarray(ravel_pytree(gradient)[0]) @ ravel_pytree(direction)[0]
        np.testing.assert_allclose(slope, expected, rtol=2e-3, atol=2e-3)


def zero_leaves(gradient):
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    return {
        path[0].key + "." + path[1].key for path, leaf in leaves if np.all(np.asarray(leaf) == 0)
    }


def test_it_moves_the_retriever_alone():
    gradient, loss = run(PLAIN)
    assert zero_leaves(gradient) == {f"reader.{name}" for name in PARAMS["reader"]}  # exactly
    assert "reader_loss" not in loss.metrics


def test_the_likelihood_moves_the_reader_alone():
    objective = dataclasses.replace(PLAIN, likelihood_weight=0.6)
    gradient, _ = run(objective)
    jax.tree.map(
        lambda *both: np.testing.assert_allclose(*both, rtol=1e-4, atol=1e-6),
        gradient["retriever"],
        run(PLAIN)[0]["retriever"],
    )
    assert not zero_leaves(gradient)


def test_passages_of_the_batch_are_the_negatives():
    """Misses, repeated passages and other gold passages of the question among them."""
    positives = jnp.asarray([[0, 3], [2, -1], [1, -1], [4, -1]], jnp.int32)
    batch = BATCH.replace(retrieved=GIVEN, positives=positives.at[:, 1].set(-1))
    _, loss = run(PLAIN, batch)
    now = hand(PLAIN, PARAMS)
    np.testing.assert_allclose(loss.sum, sum(contrast(now, IDS, batch)), rtol=1e-4)
    # Two gold passages: one of them is drawn, the other is no negative.
    drawn = set()
    for seed in range(8):
        _, loss = run(PLAIN, batch.replace(positives=positives), key=jax.random.PRNGKey(seed))
        for gold in (0, 3):
            rest = [0, 2, 3, 4, 5]
            others = sum(np.exp(now.scores[0, i]) for i in rest if i not in (0, 3))
            own = np.exp(now.scores[0, gold])
            # Passages 0 and 3 are in the batch either way, so that the other costs are the same.
            first = -np.log(own / (own + others))
            if np.isclose(loss.sum, first + sum(contrast(now, IDS, batch)[1:]), rtol=1e-4):
                drawn.add(gold)
    assert drawn == {0, 3}


def test_questions_without_gold_are_left_out_and_counted():
    bare = BATCH.replace(positives=BATCH.positives.at[1].set(-1))
    for objective in (PLAIN, NOISY):
        gradient, loss = run(objective, bare)
        weightless = run(objective, BATCH.replace(weight=BATCH.weight.at[1].set(0.0)))
        assert loss.metrics["without_gold"] == (1.0, 3.0)
        assert loss.denom == 2
        np.testing.assert_array_equal(loss.sum, weightless[1].sum)
        jax.tree.map(np.testing.assert_array_equal, gradient, weightless[0])
    gradient, loss = run(PLAIN, BATCH.replace(positives=jnp.full_like(BATCH.positives, -1)))
    assert (loss.sum, loss.denom) == (0.0, 0.0)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(gradient))


def test_a_filling_row_adds_nothing():
    gradient, loss = run(NOISY)
    other = BATCH.replace(
        question=BATCH.question.at[2].set(0),
        target=BATCH.target.at[2].set(0),
        positives=BATCH.positives.at[2].set(5),
    )
    jax.tree.map(np.testing.assert_array_equal, (gradient, loss), run(NOISY, other))


def test_the_question_is_removed_from_its_passage():
    """From the gold passage alone, and only where it stands there as it is."""
    corpus = jnp.asarray(
        [[7, 8, 9], [4, 5, 6], [6, 7, 8], [5, 5, 4], [9, 9, 9], [8, 4, 7]], jnp.int32
    )
    question = jnp.asarray([[7, 8, 0, 0], [5, 0, 0, 0], [9, 9, 0, 0], [7, 4, 0, 0]], jnp.int32)
    positives = jnp.asarray([[2], [3], [4], [5]], jnp.int32)
    batch = BATCH.replace(question=question, positives=positives, retrieved=GIVEN)
    _, loss = run(Contrastive(remove_question=1.0), batch, corpus=corpus)
    assert loss.metrics["removed"] == (2.0, 3.0)
    # By hand: passage 2 comes first as a gold one, so that it is without its question for all others.
    table = {name: np.asarray(leaf, float) for name, leaf in PARAMS["retriever"].items()}

    def bag(side, words):
        return sum(table[side][int(word)] for word in words if word)

    # Question 0 brings 2, 3, 0; question 1 brings 3, 2, 5, 4; question 3 brings 5, 0, 4.
    stored = {2: [6], **{i: corpus[i] for i in (3, 0, 5, 4)}}
    expected = 0.0
    for b, gold, shown in ((0, 2, [6]), (1, 3, [5, 4]), (3, 5, corpus[5])):
        asked = np.exp(table["log_scale"]) * bag("query", question[b])
        own = np.exp(asked @ bag("passage", shown))
        others = [np.exp(asked @ bag("passage", stored[i])) for i in stored if i != gold]
        expected -= np.log(own / (own + sum(others)))
    np.testing.assert_allclose(loss.sum, expected, rtol=1e-4)
    half = [
        float(
            run(Contrastive(remove_question=0.5), batch, key=jax.random.PRNGKey(s), corpus=corpus)[
                1
            ].metrics["removed"][0]
        )
        for s in range(20)
    ]
    assert 10 <= sum(half) <= 30
    assert len(set(half)) > 1
    # What is looked for are the question's own words, also where it is asked in corrupted ones.
    corrupted = Contrastive(RagSequence(corrupt_words=1.0), remove_question=1.0)
    for seed in range(8):
        _, loss = run(corrupted, batch, key=jax.random.PRNGKey(seed), corpus=corpus)
        assert loss.metrics["removed"] == (2.0, 3.0)


def test_a_span_is_taken_out():
    rng = np.random.default_rng(0)
    take = jax.jit(without_span)
    hits = 0
    for _ in range(100):
        length, size = rng.integers(1, 7), rng.integers(0, 4)
        passage, span = np.zeros((1, 6), np.int32), np.zeros((1, 3), np.int32)
        passage[0, :length], span[0, :size] = (
            rng.integers(1, 3, length if length < 7 else 6)[:6],
            rng.integers(1, 3, size),
        )
        words, wanted = passage[0].tolist(), span[0, :size].tolist()
        start = next(
            (i for i in range(6 - size + 1) if size and words[i : i + size] == wanted), None
        )
        expected = (
            words if start is None else words[:start] + words[start + size :] + [0] * int(size)
        )
        rest, found = take(passage, span)
        assert rest[0].tolist() == expected
        assert bool(found[0]) == (start is not None)
        hits += start is not None
    assert 20 < hits < 80


def test_training_finds_the_gold_passages():
    """Measured as it will be used: by searching an index of the trained passages."""
    batch = BATCH.replace(
        positives=jnp.asarray([[0], [3], [1], [5]], jnp.int32), weight=jnp.ones(B), retrieved=GIVEN
    )  # all six passages are among those of the batch

    def first(params):
        index = TINY.retriever.index(params, CORPUS)
        found = Exact().search(index, TINY.retriever.query(params, batch.question), 1).ids
        return np.mean(np.asarray(found) == np.asarray(batch.positives))

    optimizer, params, losses = optax.adam(0.05), PARAMS, []
    state = optimizer.init(params)
    for _ in range(100):
        gradient, loss = run(PLAIN, batch, params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradient, state)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss.sum))
    assert first(PARAMS) <= 0.5
    assert first(params) == 1.0
    assert losses[-1] < 0.1 * losses[0]
    assert loss.metrics["first"] == (4.0, 4.0)


def test_answers_are_those_of_the_likelihood():
    """Evaluation retrieves and decodes as ever."""
    arrays = {"corpus": CORPUS, "index": INDEX}
    for one, other in zip(
        PLAIN.retrieve(CONTEXT, PARAMS, BATCH, **arrays),
        RagSequence().retrieve(CONTEXT, PARAMS, BATCH, **arrays),
        strict=True,
    ):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    topk, prior = PLAIN.retrieve(CONTEXT, PARAMS, BATCH, **arrays)
    read = {"passages": CORPUS[topk.ids], "log_prior": prior, "length": 3}
    both = [each.decode(TINY, PARAMS, BATCH.question, **read) for each in (PLAIN, RagSequence())]
    jax.tree.map(np.testing.assert_array_equal, *both)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PLAIN.check(BM25(), 3), "retriever is a BM25, which is fixed, but Contrastive"),
        (
            lambda: PLAIN.check(Hybrid(), 3),
            "retriever is a Hybrid, which also counts words in common",
        ),
        (lambda: Contrastive(remove_question=1.5), "objective.remove_question is 1.5; it is a"),
        (
            lambda: Contrastive(RagSequence(documents="index")),
            "documents is 'index', for which no index",
        ),
        (lambda: Contrastive(Halved()), "objective.likelihood is a Halved, but Contrastive"),
    ],
)
def test_what_cannot_be_learned_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


class Halved(RagSequence):
    log_marginal = RagToken.log_marginal
