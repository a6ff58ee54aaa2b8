"""A run as programs: the states of several seeds, their stages, and a whole run as one function."""

import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from loss_learner import LossLearner

from ragjax.retrieval.corpus import IndexState
from ragjax.training.learner import Stage, stage_at, traced_scalars
from ragjax.training.program import (
    first_state,
    seed_axes,
    stack_keys,
    stack_states,
    stage_feeds,
    starting_state,
    state_of_seed,
    state_shapes,
    train,
    training_program,
)
from ragjax.types import Loss

STAGES = (Stage(3), Stage(2, minibatches=2, phase="late"), Stage(4, epochs=2))
SEEDS = (3, 5, 8)
HYPER = {"rate": 0.05, "slope": 1.5}


def scheduled():
    """Plain gradient descent whose rate is traced."""

    def update(updates, state, params=None, *, hyper, step, **_):
        del params, step
        return jax.tree.map(lambda leaf: -hyper["rate"] * leaf, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


class Noted(LossLearner):
    """Everything that a learner has: drawn parameters, an index, a carry, feeds by seed and step."""

    def __init__(self):
        super().__init__(None, scheduled(), stages=STAGES, hyper=traced_scalars(HYPER))
        self.data = {"corpus": jnp.arange(4.0)}
        self.traced = []

    def init(self, key, hyper, data):
        assert set(data) == {"corpus"}
        begun = self.begun(key, {"w": jax.random.normal(key, (2,)) * hyper["slope"]})
        index = IndexState(jnp.zeros((4, 2)), jnp.full((), -1, jnp.int32))
        return begun.replace(index=index, carry=jnp.zeros(3), extra={"w": begun.params["w"] + 1})

    def feed(self, seed, step):
        return {"x": np.float32([seed, step, seed * step, 1])}

    def collect(self, state, fed, *, stage, hyper, data):
        self.traced.append(stage)
        due = state.step % 2 == 0
        embeddings = jax.lax.cond(
            due,
            lambda: jnp.outer(data["corpus"], state.params["w"]),
            lambda: state.index.embeddings,
        )
        index = IndexState(embeddings, jnp.where(due, state.step, state.index.built_at_step))
        state = state.replace(index=index, carry=state.carry + fed["x"][0])
        return state, fed["x"], {"age": state.step - index.built_at_step}

    def loss(self, params, key, batch, *, stage, state, hyper, data):
        noise = jax.random.normal(key, batch.shape)
        late = 2.0 if stage.phase else 1.0
        error = late * (params["w"][0] * batch / 40 + params["w"][1] - hyper["slope"]) + 0.1 * noise
        anchor = jnp.sum(jnp.square(params["w"] - state.extra["w"])) + jnp.sum(
            state.index.embeddings * params["w"]
        )
        count = jnp.float32(len(batch))
        return Loss(jnp.sum(error**2) + 0.01 * count * anchor, count, {})

    def measure(self, state):
        return {"dev/w": state.params["w"][0], "dev/step": float(state.step)}


CONFIG = types.SimpleNamespace(steps=9, log_every=2, checkpoint_every=3, evaluate_every=4)


@pytest.fixture(scope="module")
def learner():
    return Noted()


@pytest.fixture(scope="module")
def states(learner):
    """The single states of all seeds, by their first states, after some steps."""
    return [run_of(learner, (seed,), 3)[0] for seed in SEEDS]


def run_of(learner, seeds, steps=9):
    """(the last state, [steps] metrics) of the program of some seeds."""
    program, state = training_program(learner, seeds, CONFIG), first_state(learner, seeds)
    metrics = []
    for number in range(steps):
        state, row = program.advance(state, number)
        metrics.append(jax.device_get(row))
    return state, metrics


def test_what_depends_on_the_step_alone_has_no_axis_of_seeds(states):
    """All else leads with the seeds; a condition on the step stays one branch of the program."""
    axes = seed_axes(states[0])
    assert (axes.step, axes.index.built_at_step) == (None, None)
    none = lambda leaf: leaf is None  # noqa: E731
    leaves = [
        jax.tree.leaves(tree, is_leaf=none) for tree in (axes, stack_states(states), states[0])
    ]
    for axis, together, single in zip(*leaves, strict=True):
        assert np.shape(together) == (np.shape(single) if axis is None else (3, *np.shape(single)))
    assert sum(axis is None for axis in leaves[0]) == 2
    assert seed_axes(states[0].replace(index=None)).index is None


def test_states_are_stacked_and_taken_apart(states):
    together = stack_states(states)
    for number, state in enumerate(states):
        chex.assert_trees_all_equal(state_of_seed(together, number), state)
    again = stack_states([state_of_seed(together, number) for number in range(3)])
    chex.assert_trees_all_equal(again, together)


def test_the_first_state_of_several_seeds_is_that_of_each(learner):
    together = first_state(learner, SEEDS)
    for number, seed in enumerate(SEEDS):
        alone = first_state(learner, (seed,))
        chex.assert_trees_all_equal(state_of_seed(together, number), alone)
        expected = learner.init(jax.random.PRNGKey(seed), learner.hyper, learner.data)
        chex.assert_trees_all_close(alone, expected, rtol=1e-6)
    np.testing.assert_array_equal(together.key, stack_keys(SEEDS))


@pytest.mark.parametrize("seeds", [(3,), SEEDS])
def test_shapes_are_those_of_the_first_state(learner, seeds):
    expected = first_state(learner, seeds)
    shapes = state_shapes(learner, seeds)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, expected)
    assert jax.tree.structure(shapes) == jax.tree.structure(expected)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))


class Warm(Noted):
    """Begins with the parameters of another run, of the seeds that have one."""

    def __init__(self, warm):
        super().__init__()
        self.warm = warm

    def warm_start(self, state, seed):
        if seed not in self.warm:
            return state
        return state.replace(params={"w": jnp.float32([seed, -seed])})


@pytest.mark.parametrize("seeds", [(3,), SEEDS])
@pytest.mark.parametrize("warm", [(), SEEDS])
def test_every_seed_starts_from_its_own_run(seeds, warm):
    learner = Warm(warm)
    state, cold = starting_state(learner, seeds), first_state(learner, seeds)
    if not warm:
        chex.assert_trees_all_equal(state, cold)
    else:
        own = np.float32([[seed, -seed] for seed in seeds])
        np.testing.assert_array_equal(np.reshape(state.params["w"], (-1, 2)), own)
        chex.assert_trees_all_equal(state.replace(params=cold.params), cold)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, state_shapes(learner, seeds))


def test_each_stage_is_compiled_once_and_has_its_steps():
    learner = Noted()
    run_of(learner, (3,))
    assert [stage_at(learner, step) for step in range(9)] == [
        *([STAGES[0]] * 3),
        *([STAGES[1]] * 2),
        *([STAGES[2]] * 4),
    ]
    assert stage_at(learner, 99) == STAGES[2]  # of a run that is over
    assert learner.traced == list(STAGES)


def test_seeds_side_by_side_are_the_single_runs(learner):
    """Each with its own feed; their metrics lead with the seeds."""
    together, metrics = run_of(learner, SEEDS)
    for number, seed in enumerate(SEEDS):
        alone, rows = run_of(learner, (seed,))
        chex.assert_trees_all_close(state_of_seed(together, number), alone, rtol=1e-5, atol=1e-6)
        for row, several in zip(rows, metrics, strict=True):
            assert set(row) == set(several)
            for name, value in row.items():
                np.testing.assert_allclose(several[name][number], value, rtol=1e-4, atol=1e-6)
    assert [row["age"].tolist() for row in metrics[:4]] == [[0] * 3, [1] * 3, [0] * 3, [1] * 3]


def test_a_program_is_what_the_config_says(learner, states):
    program = training_program(learner, SEEDS, CONFIG)
    assert (program.total, program.seeds) == (9, SEEDS)
    assert (program.log_every, program.checkpoint_every, program.evaluate_every) == (2, 3, 4)
    figures = program.evaluate(stack_states(states), 3)
    np.testing.assert_array_equal(figures["dev/w"], [state.params["w"][0] for state in states])
    np.testing.assert_array_equal(figures["dev/step"], [3.0] * 3)
    assert training_program(learner, (3,), CONFIG).evaluate(states[0], 3)["dev/step"] == 3.0


def test_a_seed_whose_parameters_are_not_finite_is_found(learner, states):
    bad = states[1].replace(params={"w": jnp.float32([1.0, np.nan])})
    program = training_program(learner, SEEDS, CONFIG)
    assert program.finite(stack_states(states)).tolist() == [True] * 3
    assert program.finite(stack_states([states[0], bad, states[2]])).tolist() == [True, False, True]
    alone = training_program(learner, (3,), CONFIG)
    assert (alone.finite(states[0]).tolist(), alone.finite(bad).tolist()) == ([True], [False])


def test_a_seed_that_has_failed_is_marked_by_its_parameters(learner, states):
    """Its own alone, whatever they were."""
    program, together = training_program(learner, SEEDS, CONFIG), stack_states(states)
    marked = program.mark_failed(together, [1])
    assert program.finite(marked).tolist() == [True, False, True]
    for number in (0, 2):
        chex.assert_trees_all_equal(state_of_seed(marked, number), states[number])
    chex.assert_trees_all_equal(marked.replace(params=None), together.replace(params=None))


def test_feeds_are_those_of_each_step(learner):
    feeds = stage_feeds(learner, 5)
    assert [len(fed["x"]) for fed in feeds] == [3, 2, 4]
    rows = np.concatenate([fed["x"] for fed in feeds])
    np.testing.assert_array_equal(rows, [[5, step, 5 * step, 1] for step in range(9)])
    fedless = LossLearner(None, None, stages=STAGES)
    assert stage_feeds(fedless, 5) == [None] * 3


def test_a_whole_run_is_one_function(learner):
    """The steps of the program one after the other, and the metrics of each, by stage."""
    run = jax.jit(lambda key, fed, hyper, data: train(learner, key, fed, hyper, data))
    state, curve = run(jax.random.PRNGKey(5), stage_feeds(learner, 5), learner.hyper, learner.data)
    expected, rows = run_of(learner, (5,))
    chex.assert_trees_all_close(state, expected, rtol=1e-5, atol=1e-6)
    assert [len(metrics["loss"]) for metrics in curve] == [3, 2, 4]
    for name in ("loss", "grad_norm", "age"):
        found = np.concatenate([metrics[name] for metrics in curve])
        np.testing.assert_allclose(found, [row[name] for row in rows], rtol=1e-4, atol=1e-6)


def test_runs_of_other_seeds_feeds_and_rates_share_one_compilation():
    """Mapped over keys, feeds and scalars at once; each is the run that it is alone."""
    learner, traces = Noted(), []

    def whole(key, fed, hyper, data):
        traces.append(key)
        return train(learner, key, fed, hyper, data)

    feeds = [stage_feeds(learner, seed) for seed in SEEDS]
    fed = jax.tree.map(lambda *leaves: np.stack(leaves), *feeds)
    hyper = {"rate": jnp.float32([0.05, 0.01, 0.0]), "slope": jnp.float32([1.5, -1.0, 0.5])}
    together = jax.jit(jax.vmap(whole, in_axes=(0, 0, 0, None)))
    states, curves = together(stack_keys(SEEDS), fed, hyper, learner.data)
    together(stack_keys(SEEDS[::-1]), fed, jax.tree.map(lambda leaf: leaf * 2, hyper), learner.data)
    assert len(traces) == 1
    single = jax.jit(lambda *given: train(learner, *given))
    for number, seed in enumerate(SEEDS):
        own = jax.tree.map(lambda leaf, n=number: leaf[n], hyper)
        expected = single(jax.random.PRNGKey(seed), feeds[number], own, learner.data)
        found = jax.tree.map(lambda leaf, n=number: leaf[n], (states, curves))
        chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)
    # A rate of 0 moves nothing.
    still = learner.init(jax.random.PRNGKey(8), {"slope": jnp.float32(0.5)}, learner.data)
    np.testing.assert_allclose(states.params["w"][2], still.params["w"], rtol=1e-6)
