"""When the index is embedded anew: in the step, beside the training, or never; and how stale it is."""

import dataclasses
import os
import random
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import kill
from tiny_config import get_config

from ragjax.commands import CHECKPOINTS
from ragjax.errors import UserError
from ragjax.learners.questions import Phase
from ragjax.models.encoder import BagEncoder
from ragjax.models.retrieval_policy import RetrievalPolicy
from ragjax.models.retriever import Dense
from ragjax.objectives.likelihood import RagSequence
from ragjax.retrieval.corpus import IndexState
from ragjax.run_dir import load_run
from ragjax.training.program import first_state, training_program
from ragjax.types import RagBatch

pytest_plugins = ["tiny_run"]

SUPPORT = Path(__file__).parents[1] / "support"
BAG = BagEncoder(width=16)


def learner_of(**fields):
    config = dataclasses.replace(
        get_config(),
        retriever=Dense(**fields),
        objective=RagSequence(),
        phases=(Phase(steps=8, batch_size=6, k=3),),
    )
    return config.create()


def run_of(learner, between=lambda learner, number: None):
    """[steps + 1] states as the commands' program makes them; `between` is called before each step."""
    program = training_program(learner, (0,), learner.config)
    states = [first_state(learner, (0,))]
    for number in range(program.total):
        between(learner, number)
        given = jax.tree.map(jnp.copy, states[-1])  # what is donated is gone afterwards
        states.append(program.advance(given, number)[0])
    return states


@pytest.fixture(scope="module")
def beside():
    """(learner, states) of a run whose index is made beside it; each is ready before the next step."""

    def wait(learner, number):
        del number
        if learner._background._running is not None:
            learner._background._running.join(30)

    learner = learner_of(encoder=BAG, refresh_every=3, asynchronous=True)
    return learner, run_of(learner, wait)


def test_an_index_from_beside_is_whole_and_of_the_parameters_it_says(beside):
    learner, states = beside
    built = [int(state.index.built_at_step) for state in states[1:]]
    # The first step builds; from step 3 on the next is due, ready one step later.
    assert built == [0, 0, 0, 0, 3, 3, 3, 6]
    for state in states[1:]:
        made_of = states[int(state.index.built_at_step)].params
        expected = learner._embed(made_of, learner.corpus)
        np.testing.assert_allclose(state.index.embeddings, expected, rtol=1e-5, atol=1e-6)


def test_it_is_said_that_such_a_run_is_not_repeated_to_the_bit(beside):
    learner, _ = beside
    assert any("no two runs are equal to the bit" in note for note in learner.notes())
    assert not any("bit" in note for note in learner_of(encoder=BAG).notes())


@pytest.fixture(scope="module")
def queries_only():
    learner = learner_of(encoder=BAG, query_encoder=BAG, train_passages=False, refresh_every=2)
    return learner, run_of(learner)


def test_tuning_of_queries_alone_leaves_passages_and_index(queries_only):
    _, states = queries_only
    first, last = states[0].params["retriever"], states[-1].params["retriever"]
    same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), first, last)
    assert all(jax.tree.leaves(same["stored"]))
    assert not any(jax.tree.leaves(same["observed"]))
    assert not same["log_scale"]
    # Embedded once, in the first step; nothing ages it.
    assert [int(state.index.built_at_step) for state in states[1:]] == [0] * 8
    for state in states[2:]:
        np.testing.assert_array_equal(state.index.embeddings, states[1].index.embeddings)


def test_how_much_of_an_exact_search_a_stale_index_finds(beside):
    learner, states = beside
    state = states[-1]
    fresh = np.asarray(learner._embed(state.params, learner.corpus))
    params, question = state.params, jnp.asarray(learner._development.arrays.question)
    asked = RagBatch(question)
    query = np.asarray(learner.model.retriever.query(params, question))
    stale = np.random.default_rng(0).normal(size=fresh.shape).astype(np.float32)

    def top(embeddings):
        return np.argsort(-(query @ embeddings.T), axis=1, kind="stable")[
            :, : learner.answerer.depth
        ]

    shared = [len(set(a) & set(b)) for a, b in zip(top(stale), top(fresh), strict=True)]
    index = IndexState(jnp.asarray(stale), state.index.built_at_step)
    # Both sides take the parameters that are not averaged, so that they can be compared by hand.
    found = learner._shared_hits(params, asked, index.embeddings, jnp.asarray(fresh))
    assert 0 < float(found) < 1
    np.testing.assert_allclose(
        found, np.sum(shared) / (len(query) * learner.answerer.depth), rtol=1e-6
    )
    assert float(learner._shared_hits(params, asked, fresh, jnp.asarray(fresh))) == 1.0
    # What is logged: the state's own index against one that is fresh.
    measured = learner.measure(state.replace(index=index))
    assert 0 < measured["dev/index_recall"] < 1
    assert learner.measure(learner.finish(state))["dev/index_recall"] == 1.0


def test_nothing_is_measured_of_an_index_that_was_never_built(beside):
    learner, states = beside
    never = IndexState(states[0].index.embeddings, jnp.full((), -1, jnp.int32))
    assert "dev/index_recall" not in learner.measure(states[-1].replace(index=never))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dense(train_passages=False), "share one encoder"),
        (
            lambda: Dense(query_encoder=BAG, train_passages=False, asynchronous=True),
            "nothing to refresh",
        ),
        (
            lambda: RetrievalPolicy(retriever=Dense(asynchronous=True)),
            "policy.retriever.asynchronous is true",
        ),
        (
            lambda: dataclasses.replace(
                get_config(), num_seeds=2, retriever=Dense(asynchronous=True)
            ),
            "num_seeds is 2, but retriever.asynchronous",
        ),
    ],
)
def test_what_can_t_be(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.slow
def test_killed_at_twenty_random_moments_the_index_is_whole(processes, tmp_path):
    """Of a run that always embeds an index beside its steps."""
    words = ["train", SUPPORT / "tiny_config.py", "--run-dir", tmp_path / "run"]
    words += ["--objective.documents", "retrieved", "--retriever.asynchronous", "True"]
    words += ["--retriever.refresh_every", "1", "--checkpoint_every", "1"]
    words += ["--phases.1.steps", "4000", "--evaluation.every", "0"]
    chance = random.Random(0)
    reached = 0
    for attempt in range(20):
        process = processes([*words, *["--resume"] * (attempt > 0)])
        deadline = time.time() + 120
        steps = tmp_path / "run" / CHECKPOINTS
        while time.time() < deadline and not newest(steps) > reached:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 1.5))
        kill(process)
        run = load_run(tmp_path / "run")
        assert run.step > reached, "it goes on from where it was killed"
        reached = run.step
        index, learner = run.state.index, run.learner
        assert index.embeddings.shape[0] == learner.corpus.shape[0]
        np.testing.assert_allclose(  # embeddings have length 1: none is torn or missing
            np.linalg.norm(index.embeddings, axis=1), 1.0, rtol=1e-5
        )
        assert 0 <= int(index.built_at_step) <= run.step


def newest(directory):
    """Step of the newest checkpoint that has its name, 0 if there is none."""
    found = (
        [int(name) for name in os.listdir(directory) if name.isdigit()]
        if directory.exists()
        else []
    )
    return max(found, default=0)
