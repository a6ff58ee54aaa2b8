"""Policies that name rows: what they find, by the posterior and by words."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.envs.catch import Catch
from ragjax.envs.dialogue.kb_infobot import KBInfoBot, made_table
from ragjax.envs.dialogue.tables import Generated
from ragjax.errors import UserError
from ragjax.models.encoder import BagEncoder
from ragjax.models.retriever import Dense
from ragjax.models.row_retrieval import RowRetrieval, belief_and_rows
from ragjax.retrieval.scann import Scann

ROWS = 30
TABLE = Generated(rows=ROWS, values=(6, 5, 4), seed=1)
BY_WORDS = Dense(BagEncoder(width=64), initial_scale=20.0, refresh_every=1)


def begun(sees, policy, count=8):
    """The functions, and what is retrieved for `count` users who have said something."""
    env = KBInfoBot(table=TABLE, sees=sees, replaced=0.0, corrupted=0.0).build()
    model = policy.build(env)

    @jax.jit
    def begin(keys):
        params = model.init(jax.random.key(0))
        states, seen = jax.vmap(lambda key: env.reset(env.params, key))(keys)
        return params, states, model.retrieve(params, model.embed(params), None, seen.observation)

    return env, model, *begin(jax.random.split(jax.random.key(1), count))


def test_rows_are_those_of_the_posterior_where_nothing_is_learned_yet():
    """With every row found and τ near 0 p(d|s) is q, and the K best of it are what is found."""
    retriever = dataclasses.replace(belief_and_rows(8), initial_scale=1e-6)
    env, model, params, _, found = begun("rows", RowRetrieval(k=ROWS, retriever=retriever))
    log_q = np.asarray(found.observation)[:, -ROWS:]
    ranked = np.take_along_axis(log_q, np.asarray(found.ids), -1)
    np.testing.assert_allclose(ranked, -np.sort(-log_q, axis=-1), atol=1e-5)
    distribution, value = jax.jit(model.apply)(params, found)
    np.testing.assert_allclose(distribution.log_prior, ranked, atol=1e-4)
    assert value.shape == (8,)
    assert distribution.log_probs.shape == (8, 3 + ROWS)
    assert env.slate == 5


def test_what_is_learned_is_added_to_the_posterior():
    """log p(d|s) - log q(d|s) is τ <f(s), g(d)> up to what normalises it, and decides what is found."""
    retriever = dataclasses.replace(belief_and_rows(8), initial_scale=50.0)
    env, model, params, _, found = begun("rows", RowRetrieval(k=6, retriever=retriever))
    built = retriever.build(env.vocabulary, query_width=18, passage_width=3)
    observation = np.asarray(found.observation)
    log_q, belief = observation[:, -ROWS:], observation[:, -ROWS - 18 : -ROWS]
    query, rows = built.query(params, jnp.asarray(belief)), built.embed(params, env.passages)
    scores = log_q + 50.0 * np.asarray(query) @ np.asarray(rows).T
    kept = np.take_along_axis(scores, np.asarray(found.ids), -1)
    np.testing.assert_allclose(kept, -np.sort(-scores, axis=-1)[:, :6], atol=1e-4)
    assert np.any(np.diff(np.take_along_axis(log_q, np.asarray(found.ids), -1)) > 0)
    expected = kept - np.log(np.sum(np.exp(kept - kept.max(-1, keepdims=True)), -1, keepdims=True))
    expected -= kept.max(-1, keepdims=True)
    np.testing.assert_allclose(model.apply(params, found)[0].log_prior, expected, atol=1e-3)


def test_by_words_the_row_is_found_that_has_them():
    """Untrained, the user's words find rows that hold them, by the encoder of question answering."""
    env, _, _, states, found = begun("words", RowRetrieval(k=5, retriever=BY_WORDS))
    table, full = made_table(TABLE), np.asarray(env.params.knowledge.full)
    cells = np.asarray(env.params.knowledge.cells)
    agree = []
    for target, said, ids in zip(
        np.asarray(states.target), np.asarray(states.history.words[:, 0]), np.asarray(found.ids),
        strict=True,
    ):  # fmt: skip
        slots = np.flatnonzero(said.any(-1))
        known = [j for j in slots if cells[target, j] == full[target, j]]
        if known:
            agree.append(np.mean(cells[ids[0], known] == full[target, known]))
    assert len(agree) >= 4
    assert np.mean(agree) > 0.9
    assert env.passages.shape[0] == len(table.names)


def test_gradients_reach_every_part():
    _, model, params, _, found = begun("rows", RowRetrieval(k=6, hidden=(8,)))

    def loss(params):
        distribution, value = model.apply(params, found)
        return -jnp.mean(distribution.log_prob(distribution.mode())) + jnp.mean(value**2)

    gradient = jax.jit(jax.grad(loss))(params)
    for group in ("retriever", "policy", "value"):
        largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient[group]))
        assert 0 < largest < np.inf, group


@pytest.mark.parametrize(
    ("spec", "changes", "message"),
    [
        (Catch(), {}, "is one of dialogues about the rows of a table"),
        (KBInfoBot(table=TABLE, sees="soft"), {}, "env.sees rows or words"),
        (KBInfoBot(table=TABLE, sees="rows"), {"k": 31}, r"policy\.k is 31, .* 30 passages"),
        (KBInfoBot(table=TABLE, sees="rows"), {"k": 4}, r"policy\.k is 4, fewer rows than the 5"),
        (
            KBInfoBot(table=TABLE, sees="rows"),
            {"retriever": dataclasses.replace(belief_and_rows(), index=Scann())},
            r"policy\.retriever\.index can't score all rows",
        ),
    ],
)
def test_other_worlds_are_refused(spec, changes, message):
    with pytest.raises(UserError, match=message):
        RowRetrieval(**changes).build(spec.build())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, r"policy\.k is 0"),
        ({"hidden": (0,)}, r"policy\.hidden is \(0,\)"),
        (
            {"retriever": dataclasses.replace(belief_and_rows(), asynchronous=True)},
            r"set policy\.retriever\.asynchronous to false",
        ),
    ],
)
def test_fields_are_checked(changes, message):
    with pytest.raises(UserError, match=message):
        RowRetrieval(**changes)
