"""When the index is embedded anew: in the step, beside the training, or never; and how stale it is."""

import dataclasses
import io
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

from ragjax.commands import train
from ragjax.errors import UserError
from ragjax.learners.question_learner import QuestionsLearner
from ragjax.learners.questions import Phase
from ragjax.models.adapters import Split
from ragjax.models.encoder import BagEncoder
from ragjax.models.retrieval_policy import RetrievalPolicy
from ragjax.models.retriever import Dense
from ragjax.objectives.likelihood import RagSequence
from ragjax.printing import PlainConsole
from ragjax.retrieval.base import RetrieverSpec
from ragjax.retrieval.bm25 import BM25
from ragjax.retrieval.corpus import IndexState
from ragjax.retrieval.exact import Exact
from ragjax.run_dir import CHECKPOINTS, load_run
from ragjax.training import program
from ragjax.training.checkpoint import Checkpoints
from ragjax.training.optimizer import AverageState, evaluation_params
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
    found = learner._shared_hits(params, asked, index.embeddings, jnp.asarray(fresh))
    assert 0 < float(found) < 1
    np.testing.assert_allclose(
        found, np.sum(shared) / (len(query) * learner.answerer.depth), rtol=1e-6
    )
    assert float(learner._shared_hits(params, asked, fresh, jnp.asarray(fresh))) == 1.0
    # What is logged: the state's own index against one that is fresh.
    measured = learner.measure(state.replace(index=index))
    assert 0 < measured["dev/index_recall"] < 1


def test_a_result_says_how_much_the_searched_index_found_while_training(beside):
    learner, states = beside
    rows = [{"step": 1, "loss": 2.0}, {"dev/index_recall": 0.5}, {"dev/index_recall": 1.0}]
    assert learner.facts(states[-1], rows, 0)["index_recall"] == 0.75
    assert "index_recall" not in learner.facts(states[-1], rows[:1], 0)


def test_an_index_that_is_not_stale_finds_all_though_parameters_are_averaged(beside):
    """Query and both indexes are of the parameters that training moves, far as the averages may be."""
    learner, states = beside
    state = states[-1]
    assert learner.config.optimizer.average > 0
    other = jax.tree.map(jnp.flip, state.params["retriever"]["query"])
    far = state.params | {"retriever": state.params["retriever"] | {"query": other}}
    opt_state = jax.tree.map(
        lambda node: AverageState(far) if isinstance(node, AverageState) else node,
        state.opt_state,
        is_leaf=lambda node: isinstance(node, AverageState),
    )
    params = state.params
    fresh = IndexState(learner._embed(params, learner.corpus), state.index.built_at_step)
    state = state.replace(opt_state=opt_state, index=fresh)
    assert evaluation_params(state.params, state.opt_state) is far
    assert learner.measure(state)["dev/index_recall"] == 1.0
    aged = fresh.replace(embeddings=learner._embed(far, learner.corpus))
    assert learner.measure(state.replace(index=aged))["dev/index_recall"] < 1


def phases_of(*kinds):
    """Phases of two steps, that search (s) or take what BM25 finds (b)."""
    return tuple(
        Phase(steps=2, batch_size=6, k=3, candidates=BM25() if kind == "b" else None)
        for kind in kinds
    )


def test_after_a_phase_that_searches_nothing_the_step_makes_the_index_anew(beside):
    """Also where a run goes on just there; -1 tells the step to, whatever was being made."""
    learner, states = beside
    config = dataclasses.replace(learner.config, phases=phases_of("s", "b", "s"))

    def fresh():
        return QuestionsLearner(config, learner.text, learner.report, learner.task)

    first = states[1]
    assert int(first.index.built_at_step) == 0
    assert fresh().between_steps(first, 4).index.built_at_step == -1
    one = fresh()
    for step in (1, 2, 3):
        assert one.between_steps(first, step).index is first.index
    assert one.between_steps(first, 4).index.built_at_step == -1
    assert one.between_steps(first, 5).index is first.index
    assert one._background._running is None  # of an age that counts from step 4


def test_where_nothing_is_searched_nothing_is_made_beside():
    retriever = Dense(encoder=BAG, asynchronous=True)
    config = dataclasses.replace(get_config(), retriever=retriever, phases=phases_of("b", "b"))
    for kept in (
        dataclasses.replace(config, objective=RagSequence()),
        dataclasses.replace(config, phases=phases_of("s")),  # over the whole index
    ):
        assert dataclasses.replace(kept, num_seeds=2).refresh_every_beside == 0
        learner = kept.create()
        assert not learner.acts_between_steps
        assert not any("bit" in note for note in learner.notes())
        learner.close()


def test_an_index_is_prepared_before_it_is_swapped_in(beside, monkeypatch):
    learner, states = beside
    prepared = []
    monkeypatch.setattr(Exact, "prepare", lambda self, index: prepared.append(index))
    params = Split(states[-1].params, None)
    assert learner._make_beside(params, learner.corpus) is prepared[0]


@pytest.mark.slow
def test_a_command_s_run_ends_what_runs_beside_it(monkeypatch, tmp_path):
    """Whether it ends well or not; a refresh that failed is said, though no step asks for it."""
    config = dataclasses.replace(
        get_config(),
        retriever=Dense(encoder=BAG, refresh_every=1, asynchronous=True),
        objective=RagSequence(),
        phases=(Phase(steps=2, batch_size=6, k=3),),
        evaluation=dataclasses.replace(get_config().evaluation, every=0),
    )

    def failing(self, params, corpus):
        time.sleep(0.3)
        raise ValueError("no memory")

    monkeypatch.setattr(QuestionsLearner, "_make_beside", failing)
    with pytest.raises(ValueError, match="no memory"):
        train(config, tmp_path / "run", resume=False, console=PlainConsole(file=io.StringIO()))
    assert Checkpoints(tmp_path / "run" / CHECKPOINTS).steps() == [2]


def test_a_run_that_is_one_function_refuses_it(beside):
    learner, _ = beside
    with pytest.raises(UserError, match="between the steps of one run, but this is a whole run"):
        program.train(learner, jax.random.PRNGKey(0), [None], {}, None)
    with pytest.raises(UserError, match="but this is several seeds side by side; set it to false"):
        training_program(learner, (0, 1), learner.config)


def test_a_learned_retriever_of_one_s_own_has_to_say_when_it_is_refreshed():
    class Own(RetrieverSpec):
        learned = True

    with pytest.raises(
        NotImplementedError, match=r"Own is learned, .*define refresh_every_in_step"
    ):
        Own().refresh_every_in_step  # noqa: B018
    assert BM25().refresh_every_in_step == 0


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
            "set policy.retriever.asynchronous to false",
        ),
        (
            lambda: dataclasses.replace(
                get_config(),
                num_seeds=2,
                objective=RagSequence(),
                retriever=Dense(asynchronous=True),
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
