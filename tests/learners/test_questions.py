"""Runs of questions as pure functions: side by side, fed from device or host, the index in between."""

import collections
import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_config import get_config
from tiny_task import TinyTask

from ragjax.data import stream
from ragjax.data.batching import stream_rows
from ragjax.errors import UserError
from ragjax.learners.questions import Phase
from ragjax.models.encoder import BagEncoder
from ragjax.models.retriever import Dense
from ragjax.objectives.likelihood import RagSequence
from ragjax.retrieval.bm25 import BM25
from ragjax.retrieval.fixed import Oracle
from ragjax.training.learner import Stage
from ragjax.training.optimizer import Adam, evaluation_params
from ragjax.training.program import (
    first_state,
    stack_keys,
    stage_feeds,
    state_of_seed,
    train,
    training_program,
)
from ragjax.training.step import make_step
from ragjax.types import RagBatch

REFRESH = 3
PHASES = (Phase(steps=3, batch_size=6, k=3), Phase(steps=5, batch_size=8, k=2))
SEEDS = (0, 1, 2)


def configured(**fields):
    """The tiny run, which searches an index that ages, without measurements."""
    fields = {
        "retriever": Dense(encoder=BagEncoder(width=16), refresh_every=REFRESH),
        "objective": RagSequence(rename_reader=0.5, rename_retriever=0.5, corrupt_words=0.2),
        "optimizer": Adam(warmup_steps=2, average=0.5),
        "phases": PHASES,
    } | fields
    return dataclasses.replace(get_config(), **fields)


@pytest.fixture(scope="module")
def learner():
    return configured().create()


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_gold_passage_that_is_missing_is_named_before_training(split, monkeypatch):
    generate = TinyTask.generate

    def without(self):
        data = generate(self)
        *others, last = data.splits[split]
        splits = data.splits | {split: (*others, dataclasses.replace(last, positives=()))}
        return dataclasses.replace(data, splits=splits)

    monkeypatch.setattr(TinyTask, "generate", without)
    oracle = configured(retriever=Oracle(), objective=RagSequence(documents="retrieved"))
    message = (
        f"Task tiny: {split} question 'q[0-9/]*' names no gold passage, which retriever Oracle"
    )
    with pytest.raises(UserError, match=message):
        oracle.create()
    configured().create()  # another retriever reads none


def run_of(learner, seeds=(0,)):
    """([steps + 1] states, [steps] metrics) of the program that the commands run."""
    program = training_program(learner, seeds, learner.config)
    states, metrics = [first_state(learner, seeds)], []
    for number in range(program.total):
        given = jax.tree.map(jnp.copy, states[-1])  # what is donated is gone afterwards
        state, row = program.advance(given, number)
        states.append(state)
        metrics.append(jax.device_get(row))
    return states, metrics


@pytest.fixture(scope="module")
def history(learner):
    return run_of(learner)


def stacked(curve):
    """The metrics of all stages one after the other."""
    return {name: np.concatenate([np.asarray(stage[name]) for stage in curve]) for name in curve[0]}


class WholeRuns:
    """Whole runs as one function, alone and side by side, and how often each was traced."""

    def __init__(self, learner):
        self.learner, self.traced = learner, collections.Counter()
        self._alone = jax.jit(self.counted("alone"))
        self._together = jax.jit(jax.vmap(self.counted("together"), in_axes=(0, 0, 0, None)))

    def counted(self, name):
        def whole(*given):
            self.traced[name] += 1
            return train(self.learner, *given)

        return whole

    @functools.cache  # noqa: B019 - as long as the tests of this file
    def feeds(self, seed):
        return stage_feeds(self.learner, seed)

    def alone(self, seed, hyper):
        """(the last state, [steps] metrics)."""
        key = jax.random.PRNGKey(seed)
        state, curve = self._alone(key, self.feeds(seed), hyper, self.learner.data)
        return state, stacked(curve)

    def together(self, seeds, hyper):
        """The same with the runs leading, [steps] metrics second."""
        fed = jax.tree.map(lambda *leaves: np.stack(leaves), *map(self.feeds, seeds))
        states, curves = self._together(stack_keys(seeds), fed, hyper, self.learner.data)
        names = curves[0]
        return states, {name: np.concatenate([of[name] for of in curves], axis=1) for name in names}


@pytest.fixture(scope="module")
def whole(learner):
    return WholeRuns(learner)


RATES = {
    "learning_rate": np.array([1e-3, 1e-3, 1e-3], np.float32),
    "retriever_rate": np.array([1e-2, 3e-2, 1e-3], np.float32),
    "reader_rate": np.array([5e-3, 1e-3, 2e-2], np.float32),
    "critic_rate": np.array([1e-2, 1e-2, 1e-2], np.float32),
}


def rates_of(number):
    return {name: jnp.asarray(values[number]) for name, values in RATES.items()}


def test_a_whole_run_is_the_steps_of_the_program(whole, learner, history):
    state, curve = whole.alone(0, learner.hyper)
    states, metrics = history
    assert set(curve) == set(metrics[0])
    for name, values in curve.items():
        expected = [row[name] for row in metrics]
        np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-5, err_msg=name)
    chex.assert_trees_all_close(state.params, states[-1].params, rtol=1e-3, atol=1e-4)
    assert state.step == states[-1].step == learner.config.steps == 8


def test_seeds_and_rates_side_by_side_are_the_single_runs(whole, learner):
    """Each with its own questions in its own order; all of it is compiled once."""
    states, curves = whole.together(SEEDS, RATES)
    for number, seed in enumerate(SEEDS):
        expected, curve = whole.alone(seed, rates_of(number))
        for name, values in curve.items():
            np.testing.assert_allclose(
                curves[name][number], values, rtol=1e-3, atol=1e-5, err_msg=f"{name} of {seed}"
            )
        found = jax.tree.map(lambda leaf, n=number: leaf[n], states)
        chex.assert_trees_all_close(found.params, expected.params, rtol=1e-3, atol=1e-4)
    assert {tuple(curves["index_age"][n].tolist()) for n in range(3)} == {(0, 1, 2, 0, 1, 2, 0, 1)}
    # Other seeds and rates are other inputs; the rates of the config are those of the first run.
    assert rates_of(0) == learner.hyper
    others, _ = whole.together((5, 6, 7), jax.tree.map(lambda leaf: leaf[::-1].copy(), RATES))
    assert (
        np.abs(others.params["reader"]["embedding"] - states.params["reader"]["embedding"])
        .max(axis=(1, 2))
        .min()
        > 0.01
    )
    assert whole.traced == {"alone": 1, "together": 1}


def test_seed_0_alone_and_among_three_give_the_same_curve(whole, learner):
    hyper = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), learner.hyper)
    _, curves = whole.together(SEEDS, hyper)
    _, curve = whole.alone(0, learner.hyper)
    for name, values in curve.items():
        np.testing.assert_allclose(curves[name][0], values, rtol=1e-3, atol=1e-5, err_msg=name)
    losses = curves["loss"]
    assert np.abs(losses[0] - losses[1]).max() > 0.1
    assert np.abs(losses[1] - losses[2]).max() > 0.1


def test_the_program_of_several_seeds_moves_each_as_its_own(learner, history):
    together, rows = run_of(learner, SEEDS)
    states, metrics = history
    for number in (1, 4, 8):
        single = state_of_seed(together[number], 0)
        chex.assert_trees_all_close(single.params, states[number].params, rtol=1e-3, atol=1e-4)
        assert single.index.built_at_step == states[number].index.built_at_step
        np.testing.assert_allclose(
            single.index.embeddings, states[number].index.embeddings, rtol=1e-3, atol=1e-4
        )
    for row, several in zip(metrics, rows, strict=True):
        np.testing.assert_allclose(several["loss"][0], row["loss"], rtol=1e-3)
        np.testing.assert_array_equal(several["index_age"], [row["index_age"]] * 3)


def test_another_rate_compiles_nothing(learner):
    """And is what a config with that rate would have, whatever the config says."""
    assert set(learner.hyper) == set(RATES)
    stage = learner.stages[0]
    step = jax.jit(make_step(learner, stage))
    state, fed, data = first_state(learner, (0,)), learner.feed(0, 0), learner.data
    state, _ = step(state, fed, learner.hyper, data)  # the first rate of a warm-up is 0
    moved = []
    for name in ("retriever_rate", "reader_rate"):
        hyper = learner.hyper | {name: jnp.float32(0)}
        after, _ = step(state, learner.feed(0, 1), hyper, data)
        group = name.removesuffix("_rate")
        chex.assert_trees_all_equal(after.params[group], state.params[group])
        moved.append(after)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(moved[0].params, moved[1].params)
    assert step._cache_size() == 1
    optimizer = Adam(warmup_steps=2, average=0.5, retriever_rate=0.03, reader_rate=0.001)
    other = configured(optimizer=optimizer).create()
    assert rates_of(1) == other.hyper
    expected, _ = jax.jit(make_step(other, other.stages[0]))(
        state, other.feed(0, 1), other.hyper, other.data
    )
    after, _ = step(state, learner.feed(0, 1), rates_of(1), data)
    chex.assert_trees_all_close(after.params, expected.params, rtol=1e-6)
    assert step._cache_size() == 1


# What a step is fed


def test_steps_go_through_the_shuffled_questions_without_a_gap(learner):
    """Across phases of other sizes, as one stream that its seed and its position decide."""
    assert learner.stream.on_device
    rows = [learner.feed(1, step) for step in range(8)]
    assert [len(of) for of in rows] == [6] * 3 + [8] * 5
    count = len(learner.task.splits["train"])
    assert count == 60 > 58 == sum(map(len, rows))
    np.testing.assert_array_equal(np.concatenate(rows), stream_rows(1, 0, 58, count))
    assert len(set(np.concatenate(rows).tolist())) == 58
    assert not np.array_equal(np.concatenate(rows), stream_rows(0, 0, 58, count))
    # A step beyond the last goes on with the last phase: none is fed twice.
    np.testing.assert_array_equal(learner.feed(1, 8), stream_rows(1, 58, 8, count))


@pytest.fixture(scope="module")
def from_host():
    """The same run whose questions are too many for the device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "ON_DEVICE", 0)
        learner = configured().create()
        assert not learner.stream.on_device
        assert learner.data["questions"] == []
        yield learner


def test_rows_on_the_device_are_the_batches_of_the_host(learner, from_host, history):
    """The one feeds 4 bytes a question, the other its tokens.

    What is fed is the same to the bit; the two programs differ in the order of some sums.
    """
    rows, batch = learner.feed(0, 4), from_host.feed(0, 4)
    assert rows.dtype == np.int32
    assert isinstance(batch, RagBatch)
    gathered = jax.tree.map(lambda leaf: leaf[rows], learner.data["questions"][0])
    chex.assert_trees_all_equal(gathered, batch)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(batch))
    states, metrics = run_of(from_host)
    for found, expected in zip(states, history[0], strict=True):
        chex.assert_trees_all_close(found.params, expected.params, rtol=1e-3, atol=1e-5)
    chex.assert_trees_all_close(metrics, history[1], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_batches_of_the_host_serve_whole_runs_side_by_side_too(from_host, whole, learner):
    """They are stacked over steps and seeds, as rows are."""
    hyper = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), learner.hyper)
    _, expected = whole.alone(1, learner.hyper)
    _, curves = WholeRuns(from_host).together((0, 1), hyper)
    np.testing.assert_allclose(curves["loss"][1], expected["loss"], rtol=1e-3)


# The index


def test_the_index_ages_and_is_embedded_anew(learner, history):
    """By the parameters before the step; in between not a bit of it changes."""
    states, metrics = history
    embed = jax.jit(lambda params: learner.model.retriever.index(params, learner.corpus))
    assert states[0].index.built_at_step == -1
    for number in range(8):
        built = number - number % REFRESH
        index = states[number + 1].index
        assert metrics[number]["index_age"] == number - built
        assert index.built_at_step == built
        expected = embed(states[built].params)
        np.testing.assert_allclose(index.embeddings, expected, rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_equal(index, states[built + 1].index)
    assert np.abs(states[4].index.embeddings - states[3].index.embeddings).max() > 1e-4


def counted_embeddings(learner):
    """A list to which every embedding of the corpus that the learner computes adds a number."""
    embedded, retriever = [], learner.model.retriever

    def counted(params, corpus):
        scale = params["retriever"]["log_scale"]
        jax.debug.callback(lambda scale: embedded.append(float(scale)), scale)
        return retriever.index(params, corpus)

    learner.model = learner.model._replace(retriever=retriever._replace(index=counted))
    return embedded


@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param((0,), id="alone"),
        pytest.param(SEEDS, id="side_by_side", marks=pytest.mark.slow),
    ],
)
def test_between_refreshes_nothing_is_embedded(seeds):
    """Of several seeds neither: the condition stays one branch of the program, and not both."""
    learner = configured().create()
    embedded = counted_embeddings(learner)
    program = training_program(learner, seeds, learner.config)
    state, counts = first_state(learner, seeds), []
    for number in range(8):
        state, metrics = program.advance(state, number)
        jax.block_until_ready(metrics)
        jax.effects_barrier()
        counts.append(len(embedded))
    refreshed = np.diff(counts, prepend=0)
    np.testing.assert_array_equal(refreshed, [len(seeds) * (n % REFRESH == 0) for n in range(8)])


def test_a_phase_that_takes_its_passages_elsewhere_embeds_nothing():
    """The index is embedded when it is first searched, whatever step of the run that is."""
    phases = (Phase(2, batch_size=6, k=2, candidates=BM25()), Phase(2, batch_size=6, k=2))
    learner = configured(phases=phases).create()
    embedded = counted_embeddings(learner)
    assert [learner.config.searches(phase) for phase in phases] == [False, True]
    program, state = training_program(learner, (0,), learner.config), first_state(learner, (0,))
    for number, (age, built, times) in enumerate(
        [(None, -1, 0), (None, -1, 0), (0, 2, 1), (1, 2, 1)]
    ):
        state, metrics = program.advance(state, number)
        jax.block_until_ready(metrics)
        jax.effects_barrier()
        assert metrics.get("index_age") == age
        assert state.index.built_at_step == built
        assert len(embedded) == times


def test_an_objective_over_the_whole_index_searches_none():
    learner = configured(objective=RagSequence(documents="index")).create()
    assert not any(map(learner.config.searches, PHASES))


def test_answers_are_drawn_from_as_many_passages_as_the_phase_reads():
    read = []

    class Drawing(RagSequence):
        updates = 2

        def sample(self, context, params, key, batch, *, corpus, index):
            read.append(context.k)
            return batch, batch.weight

    phases = (Phase(1, batch_size=6, k=2), Phase(1, batch_size=6, k=3))
    learner = configured(phases=phases, objective=Drawing()).create()
    assert learner.config.evaluation.k not in (2, 3)
    for step, stage in enumerate(learner.stages):

        def collect(state, fed, stage=stage):
            return learner.collect(state, fed, stage=stage, hyper=learner.hyper, data=learner.data)

        jax.eval_shape(collect, learner.state_shapes(), learner.feed(0, step))
    assert read == [2, 3]


def test_answers_are_drawn_and_scored_with_one_key():
    """So that names and corrupted words are the same in both, in every update."""

    class Keyed(RagSequence):
        updates = 2

        def sample(self, context, params, key, batch, *, corpus, index):
            return batch, jnp.broadcast_to(key, (len(batch.weight), 2))

        def loss(self, context, params, key, batch, *, samples=None, **arrays):
            loss = super().loss(context, params, key, batch, **arrays)
            same = jnp.all(samples == key, axis=-1).astype(jnp.float32)
            metrics = {**loss.metrics, "same": (jnp.sum(same), jnp.float32(len(same)))}
            return dataclasses.replace(loss, metrics=metrics)

    learner = configured(phases=PHASES[:1], objective=Keyed()).create()
    _, metrics = run_of(learner)
    assert [float(row["same"].value) for row in metrics] == [1.0] * len(metrics)


def test_a_finished_state_has_an_index_of_its_own_parameters(learner, history):
    """Of those that are evaluated, the moving average; made once, and only if there is none."""
    last = history[0][-1]
    done = learner.finish(last)
    assert done.index.built_at_step == last.step == 8
    params = evaluation_params(last.params, last.opt_state)
    expected = learner.model.retriever.index(params, learner.corpus)
    np.testing.assert_allclose(done.index.embeddings, expected, rtol=1e-5, atol=1e-6)
    assert learner.finish(done) is done
    chex.assert_trees_all_equal(done.replace(index=last.index), last)


# Stages


def test_a_phase_is_a_stage():
    """Each with the updates that its objective makes of a batch, and its micro-batches."""
    learner = configured(optimizer=Adam(accumulate=2, warmup_steps=2)).create()
    assert learner.stages == tuple(
        Stage(phase.steps, accumulate=2, phase=phase) for phase in PHASES
    )
    with pytest.raises(
        UserError, match=r"phases\.0\.batch_size is 6, which .*accumulate 4 does not"
    ):
        configured(optimizer=Adam(accumulate=4))
