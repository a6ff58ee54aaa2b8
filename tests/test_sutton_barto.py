"""The figures of Sutton & Barto: the recorded numbers, a smaller run of each, and the book's updates.

Bands are read from the printed figures, and orderings from the text around them.
"""

import importlib.util
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ragjax.envs.random_walk import RandomWalk
from ragjax.envs.short_corridor import ShortCorridor
from ragjax.envs.testbed import Testbed
from ragjax.evaluation.plots import FIGURES, load_plots, results_of
from ragjax.objectives.reinforce import Reinforce
from ragjax.ops.distributions import Categorical
from ragjax.training.learner import traced_scalars
from ragjax.training.rollout import rollout, start

PATH = Path(__file__).parents[1] / "experiments" / "sutton_barto.py"
RESULTS = results_of(PATH)


@pytest.fixture(scope="module")
def book():
    """The experiment's file, as a module."""
    spec = importlib.util.spec_from_file_location("sutton_barto", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def numbers():
    return json.loads((RESULTS / FIGURES).read_bytes())


def heights(group):
    """Name -> [n] mean of each curve."""
    return {name: np.asarray(curve["y"]) for name, curve in group["curves"].items()}


# What is recorded


def test_the_record_says_where_it_is_from(numbers):
    assert numbers["seed"] == 0
    assert numbers["versions"].keys() >= {"ragjax", "jax", "rlax", "optax"}
    assert len(numbers["git_commit"]) == 40
    assert (RESULTS / FIGURES).stat().st_size < 100_000


def test_every_plot_is_drawn():
    plots = load_plots(PATH)
    assert [plot.name for plot in plots] == [
        *("figure_2_5", "example_6_2_values", "example_6_2_errors"),
        *("figure_13_1", "figure_13_2"),
    ]
    for plot in plots:
        assert (RESULTS / f"{plot.name}.png").stat().st_size > 10_000


def test_figure_2_5(numbers):
    """A baseline helps at either step size; the larger one is ahead at first, behind in the end."""
    group = numbers["bandits"]
    assert group["runs"] == 2000
    x, curves = np.asarray(group["x"]), heights(group)
    assert x[-1] > 990
    ends = {name: curve[x > 950].mean() for name, curve in curves.items()}
    assert 80 < ends["baseline_0.1"] < 90
    assert 65 < ends["baseline_0.4"] < 80
    assert 40 < ends["plain_0.1"] < 60
    assert 20 < ends["plain_0.4"] < 45
    early = {name: curve[x < 100].mean() for name, curve in curves.items()}
    assert early["baseline_0.4"] > early["baseline_0.1"] + 10
    for curve in curves.values():
        assert 5 < curve[0] < 20  # one of ten arms


def test_example_6_2_values(numbers):
    """After one walk only the value next to its end has moved, by α/2; after 100 all are near."""
    group = numbers["walks"]
    true = np.arange(1, 6) / 6
    np.testing.assert_allclose(group["true_values"], true, atol=1e-4)
    values = {int(after): np.asarray(learned) for after, learned in group["values"].items()}
    assert list(values) == [0, 1, 10, 100]
    np.testing.assert_array_equal(values[0], 0.5)
    moved = values[1] - 0.5
    assert np.flatnonzero(moved).tolist() in ([0], [4])
    np.testing.assert_allclose(np.abs(moved).sum(), 0.05, rtol=1e-4)
    errors = [np.abs(values[after] - true).max() for after in (0, 10, 100)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.12


def test_example_6_2_errors(numbers):
    """TD beats Monte Carlo; its step sizes trade speed for the error that is left."""
    group = numbers["walks"]
    assert group["runs"] == 100
    assert group["x"] == list(range(101))
    curves = heights(group)
    for curve in curves.values():
        assert curve[0] == pytest.approx(np.sqrt(1 / 18), abs=1e-4)
    td = [curves[f"td_{rate}"] for rate in (0.05, 0.1, 0.15)]
    mc = [curves[f"mc_{rate}"] for rate in (0.01, 0.02, 0.03, 0.04)]
    assert np.max(td, 0)[50:].max() < np.min(mc, 0)[50:].min()
    assert td[0][15] > td[1][15] > td[2][15]
    assert td[0][-1] < td[1][-1] < td[2][-1]
    assert 0.03 < td[0][-1] < 0.05
    assert 0.04 < td[1][50] < 0.08
    assert 0.06 < td[2][-1] < 0.09
    assert mc[0][50] > np.max(mc[1:], 0)[50]
    assert 0.08 < np.min(mc, 0)[-1] < 0.11
    assert mc[3][-1] > mc[2][-1] > mc[1][-1]


def test_figure_13_1(numbers):
    """2^-13 is the best step size: 2^-14 is slower, and some runs of 2^-12 never recover."""
    group = numbers["corridors"]
    assert group["runs"] == 100
    x, curves = np.asarray(group["x"]), heights(group)
    end = {name: curve[x > 950].mean() for name, curve in curves.items()}
    assert -14 < end["plain_13"] < -11
    assert -20 < end["plain_14"] < end["plain_13"] - 1
    assert end["plain_12"] < end["plain_14"]
    assert group["stuck"]["plain_12"] < 10
    assert group["stuck"]["plain_13"] == group["stuck"]["plain_14"] == 0
    assert group["cut"]["plain_13"] == group["cut"]["plain_14"] == 0
    assert -13 < end["plain_12_free"] < -11
    for curve in curves.values():
        assert -100 < curve[0] < -60


def test_figure_13_2(numbers):
    """With a baseline it is there before a hundred episodes, without one after hundreds."""
    group = numbers["corridors"]
    x, curves = np.asarray(group["x"]), heights(group)
    plain, baseline = curves["plain_13"], curves.get("baseline_free", curves["baseline"])
    assert group["stuck"]["baseline"] <= 1
    assert baseline[x > 100].min() > -15
    assert -12.5 < baseline[x > 950].mean() < -11
    assert plain[(x > 100) & (x < 300)].max() < -15
    assert x[np.argmax(plain > -15)] > 3 * x[np.argmax(baseline > -15)]


# Smaller runs


@pytest.mark.slow
def test_bandits_live(book):
    group = book.gradient_bandits(runs=100, steps=250)
    end = {name: curve[-10:].mean() for name, curve in heights(group).items()}
    assert 60 < end["baseline_0.1"] < 85
    assert 55 < end["baseline_0.4"] < 80
    assert 30 < end["plain_0.1"] < 55
    assert 12 < end["plain_0.4"] < 40
    assert len(group["x"]) == 50


@pytest.mark.slow
def test_walks_live(book):
    group = book.random_walks(runs=50, episodes=50)
    end = {name: curve[-5:].mean() for name, curve in heights(group).items()}
    td = [end[name] for name in end if name.startswith("td")]
    mc = [end[name] for name in end if name.startswith("mc")]
    assert len(td) == 3
    assert len(mc) == 4
    assert 0.03 < min(td) <= max(td) < min(mc) < 0.13
    assert list(group["values"]) == ["0", "1", "10"]


@pytest.mark.slow
def test_corridors_live(book):
    group = book.short_corridors(runs=20, episodes=60)
    curves = heights(group)
    assert -18 < curves.get("baseline_free", curves["baseline"])[-1] < -9
    for name in ("plain_13", "plain_14"):
        assert -100 < curves[name][0] < -60
        assert curves[name][0] < curves[name][-1] < curves["baseline"][-1] - 10


# The book's updates, by hand


@pytest.mark.parametrize("baseline", [False, True])
def test_gradient_bandits_are_those_of_the_book(book, baseline):
    """Equation 2.12; the baseline is the mean of the rewards before, at first the reward itself."""
    rate, steps, key = 0.4, 40, jax.random.PRNGKey(2)
    found = jax.jit(partial(book._bandit, rate=rate, baseline=baseline, steps=steps))(key)
    env = Testbed(mean=4.0, time_limit=steps).vectorise(1)
    start_key, run_key = jax.random.split(key)

    @jax.jit
    def pull(carry, preferences, step):
        act = lambda _: Categorical(preferences[None])  # noqa: E731
        return rollout(env, act, carry, jax.random.fold_in(run_key, step), 1)

    carry, preferences, rewards = start(env, start_key), np.zeros(10), []
    for step in range(steps):
        arms = jnp.asarray(preferences, jnp.float32)
        carry, made = pull(carry, arms, jnp.asarray(step))
        assert float(found[step]) == float(made.metrics["optimal"][0, 0])
        reward = float(made.reward[0, 0])
        mean = np.mean(rewards or [reward]) if baseline else 0.0
        chances = np.exp(preferences) / np.exp(preferences).sum()
        preferences += rate * (reward - mean) * (np.eye(10)[int(made.action[0, 0])] - chances)
        rewards.append(reward)
    assert len(set(found.tolist())) == 2


@pytest.mark.parametrize("baseline", [False, True])
def test_reinforce_is_that_of_the_books_boxes(book, baseline):
    """Step by step with the newest parameters, sections 13.3 and 13.4."""
    rate, baseline_rate, limit = 0.02, 0.1, 60
    env = ShortCorridor(time_limit=limit).vectorise(1)
    model = book.LINEAR.build(env)
    algorithm = Reinforce(
        num_envs=1, rollout_length=limit, discount=0.9, value_coef=1.0, baseline=baseline
    )
    optimizer = book.sgd(rate, baseline_rate)
    hyper = traced_scalars(algorithm.hyper())
    advance = book.updated(partial(algorithm.loss, model, hyper=hyper), optimizer)

    def run(key):
        state = book.first_state(model.init(key), optimizer, key)
        act = lambda observation: model.apply(state.params, observation)[0]  # noqa: E731
        _, made = rollout(env, act, start(env, key), key, limit, episodic=True)
        return book.learn(algorithm, model, advance, state, made, hyper), made

    state, made = jax.jit(run)(jax.random.PRNGKey(3))
    length = int(made.weight.sum())
    assert 3 <= length < limit
    theta, value = np.zeros(2), 0.0
    rewards = np.asarray(made.reward)[:length, 0]
    for step, action in enumerate(np.asarray(made.action)[:length, 0]):
        total = sum(0.9**later * reward for later, reward in enumerate(rewards[step:]))
        difference = total - value if baseline else total
        value += baseline_rate * (total - value)
        chances = np.exp(theta) / np.exp(theta).sum()
        theta += rate * difference * (np.eye(2)[action] - chances)
    found = state.params
    np.testing.assert_allclose(jax.tree.leaves(found["policy"])[0][0], theta, rtol=1e-4)
    np.testing.assert_allclose(jax.tree.leaves(found["value"])[0][0, 0], value, rtol=1e-4)


@pytest.mark.parametrize("trace", [0.0, 1.0])
def test_predictions_are_those_of_the_books_boxes(book, trace):
    """TD(0), section 6.1, and constant-α Monte Carlo, equation 6.1, on the same walks."""
    rate, episodes, key = 0.1, 6, jax.random.PRNGKey(5)
    run = jax.jit(partial(book._walks, rate=rate, trace=trace, episodes=episodes, limit=50))
    found = run(key)
    env = RandomWalk(time_limit=50).vectorise(1)
    still = book.LINEAR.build(env)

    @jax.jit
    def walk(number):
        start_key, walk_key = jax.random.split(jax.random.fold_in(key, number))
        act = lambda observation: still.apply(still.init(key), observation)[0]  # noqa: E731
        return rollout(env, act, start(env, start_key), walk_key, 50, episodic=True)[1]

    values = np.full(5, 0.5)
    np.testing.assert_allclose(found[0], values)
    for number in range(episodes):
        made = jax.tree.map(np.asarray, walk(jnp.asarray(number)))
        length = int(made.weight.sum())
        assert made.terminated[length - 1, 0]
        places = made.observation[:length, 0].argmax(-1)
        final = made.reward[length - 1, 0]
        for step, place in enumerate(places):
            following = final if step + 1 == length else values[places[step + 1]]
            target = following if trace == 0 else final
            values[place] += rate * (target - values[place])
        np.testing.assert_allclose(found[number + 1], values, rtol=1e-4)
