"""Runs of a policy as pure functions: compiled once, side by side, repeatable to the bit."""

import collections
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_env
from tiny_env import TinyMdp

from ragjax.envs import wrappers
from ragjax.envs.lookup import Lookup
from ragjax.errors import UserError
from ragjax.evaluation import play as playing
from ragjax.learners import episode_learner
from ragjax.learners.episodes import (
    EpisodeEvaluation,
    EpisodesConfig,
    EpisodesLearner,
)
from ragjax.models.policy import ActorCritic
from ragjax.models.retrieval_policy import RetrievalPolicy, two_matrices
from ragjax.objectives import algorithm
from ragjax.objectives.a2c import A2C
from ragjax.objectives.algorithm import explained_variance
from ragjax.objectives.ppo import PPO
from ragjax.objectives.reinforce import Reinforce
from ragjax.objectives.vtrace import VTrace
from ragjax.training.monitor import RetrieverMonitor, symptoms
from ragjax.training.optimizer import Adam
from ragjax.training.program import first_state, stack_keys, train, training_program
from ragjax.training.step import make_step
from ragjax.types import Figure, PolicyBatch

PPO_SPEC = PPO(num_envs=2, rollout_length=8, epochs=2, minibatches=2, entropy_coef=0.01)
UPDATES = 5
NORMALISED = {"normalise_observations": True, "normalise_rewards": True}


def configured(algorithm=PPO_SPEC, updates=UPDATES, **fields):
    fields = {
        "env": TinyMdp(time_limit=4, horizon=6),
        "policy": ActorCritic(hidden=(4,)),
        "optimizer": Adam.for_policies(learning_rate=0.02),
        "evaluation": EpisodeEvaluation(every=2, during=3),
    } | fields
    return EpisodesConfig(algorithm=algorithm, env_steps=updates * algorithm.batch_size, **fields)


class Run:
    """A learner and the programs of its runs, compiled at their first use."""

    def __init__(self, learner):
        self.learner, self.hyper, self.data = learner, learner.hyper, learner.data
        [stage] = learner.stages
        self.traced = collections.Counter()
        whole = functools.partial(train, learner)
        self._init = jax.jit(learner.init)
        self._step = jax.jit(self.counted("step", make_step(learner, stage)))
        self._train = jax.jit(self.counted("train", whole))
        self._train_all = jax.jit(
            jax.vmap(self.counted("train_all", whole), in_axes=(0, None, 0, None))
        )

    def counted(self, name, function):
        """The function, which counts how often it is traced."""

        def counting(*args):
            self.traced[name] += 1
            return function(*args)

        return counting

    def init(self, key, hyper):
        return self._init(key, hyper, self.data)

    def step(self, state, hyper):
        """(state, metrics) of one step: a rollout, and what is learned from it."""
        return self._step(state, None, hyper, self.data)

    def train(self, key, hyper):
        """(state, metrics of every step) of a whole run."""
        state, [curve] = self._train(key, [None], hyper, self.data)
        return state, curve

    def train_all(self, keys, hyper):
        """The same of several runs, each with its key and its hyperparameters."""
        states, [curves] = self._train_all(keys, [None], hyper, self.data)
        return states, curves

    @functools.cached_property
    def history(self):
        """([updates + 1] states, [updates] metrics) of seed 0."""
        states, metrics = [self.init(jax.random.PRNGKey(0), self.hyper)], []
        for _ in range(self.learner.config.steps):
            state, row = self.step(states[-1], self.hyper)
            states.append(state)
            metrics.append(row)
        states, metrics = jax.device_get((states, metrics))
        return states, [{name: np.asarray(of) for name, of in row.items()} for row in metrics]


@pytest.fixture(scope="module")
def run():
    """PPO on the tiny process with both normalisers."""
    return Run(configured(**NORMALISED).create())


def close(actual, expected, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), actual, expected)


def same(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def distance(left, right):
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return max(np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in pairs)


HYPER = {
    "learning_rate": np.array([0.02, 0.05, 0.01, 0.03], np.float32),
    "discount": np.array([0.99, 0.9, 0.5, 1.0], np.float32),
    "gae_lambda": np.array([0.95, 0.5, 1.0, 0.0], np.float32),
    "entropy_coef": np.array([0.01, 0.0, 0.1, 0.3], np.float32),
    "clip_eps": np.array([0.2, 0.1, 0.3, 0.05], np.float32),
}


def hyper_of(number):
    """Those of one run of `HYPER`."""
    return {name: jnp.asarray(values[number]) for name, values in HYPER.items()}


def test_steps_that_no_whole_rollout_is_left_for_are_said():
    config = configured(updates=3)
    assert config.create().notes() == []
    [note] = dataclasses.replace(config, env_steps=63).create().notes()
    assert note == "env_steps is 63, of which 48 are made: 3 rollouts of 16"


def test_a_step_compiles_once(run):
    """Over several steps, and for whatever hyperparameters."""
    assert set(run.hyper) == set(HYPER)
    state = run.init(jax.random.PRNGKey(0), run.hyper)
    for number in range(3):
        state, _ = run.step(state, hyper_of(number))
    run.step(state, run.hyper)
    assert run.traced["step"] == 1


def test_metrics_of_a_step(run):
    states, metrics = run.history
    for number, (state, row) in enumerate(zip(states[1:], metrics, strict=True)):
        assert set(row) == {
            *("policy_loss", "value_loss", "entropy", "kl", "clip_fraction", "loss", "grad_norm"),
            *("episode_return", "episode_length", "step_reward"),
            *("explained_variance", "updates_made"),
        }
        assert row["updates_made"] == 1
        assert state.step == number + 1
        moves = {int(n) for _, n in optax.tree.get_all_with_path(state.opt_state, "count")}
        assert moves == {4 * (number + 1)}  # epochs times minibatches
        assert 1 <= row["episode_length"] <= 4
        assert 0 < row["entropy"] <= np.log(2) + 1e-6
        same(state.key, states[0].key)
        assert distance(state.params, states[number].params) > 1e-4


def test_training_is_repeated_steps(run):
    """A scan of them, with the metrics of each."""
    state, curve = run.train(jax.random.PRNGKey(0), run.hyper)
    states, metrics = run.history
    close(state, states[-1], rtol=1e-5, atol=1e-6)
    assert state.step == UPDATES
    curve = {name: np.asarray(of) for name, of in curve.items()}
    expected = {name: np.stack([row[name] for row in metrics]) for name in metrics[0]}
    assert set(curve) == set(expected)
    close(curve, expected, rtol=1e-4, atol=1e-6)


def test_the_same_seed_gives_the_same_bits(run):
    key = jax.random.PRNGKey(0)
    same(run.train(key, run.hyper), run.train(key, run.hyper))
    # Also of a learner built and compiled anew.
    again = Run(configured(**NORMALISED).create())
    states, _ = run.history
    state = again.init(key, again.hyper)
    same(state, states[0])
    same(again.step(state, again.hyper)[0], states[1])
    other = run.train(jax.random.PRNGKey(1), run.hyper)[0]
    assert distance(other.params, states[-1].params) > 0.01


@pytest.fixture(scope="module")
def grid(run):
    """4 runs side by side, each of its own seed and hyperparameters."""
    return run.train_all(stack_keys(range(4)), HYPER)


def test_runs_side_by_side_are_the_single_runs(run, grid):
    """To the bit as these tests compile, but XLA's optimiser adds a batched product up in another order.

    It leaves differences of 1e-7, which is why this asks for closeness and no more.
    """
    states, curves = grid
    for number in range(4):
        expected = run.train(jax.random.PRNGKey(number), hyper_of(number))
        actual = jax.tree.map(lambda leaf, n=number: leaf[n], (states, curves))
        close(actual, expected, rtol=1e-5, atol=1e-6)


def test_seeds_and_hyperparameters_share_one_compilation(run, grid):
    states, _ = grid
    run.train_all(stack_keys(range(4, 8)), jax.tree.map(lambda leaf: leaf[::-1].copy(), HYPER))
    assert run.traced["train_all"] == 1
    assert run.traced["train"] <= 1
    kernels = states.params["policy"]["Dense_0"]["kernel"]
    for left in range(4):
        for right in range(left):
            assert distance(kernels[left], kernels[right]) > 0.01


@pytest.mark.parametrize("name", HYPER)
def test_every_hyperparameter_has_an_effect(run, name):
    states, _ = run.history
    value = {"entropy_coef": 1.0, "clip_eps": 0.0}.get(name, 0.5 * run.hyper[name])
    state, _ = run.step(states[1], run.hyper | {name: jnp.float32(value)})
    assert distance(state.params, states[2].params) > 1e-6


def test_a_traced_number_is_the_specs_own(run):
    """What the hyperparameters say counts; the spec's own numbers only say what they are."""
    own = {"discount": 0.9, "gae_lambda": 0.5, "entropy_coef": 0.0, "clip_eps": 0.1}
    spec = dataclasses.replace(PPO_SPEC, **own)
    optimizer = Adam.for_policies(learning_rate=0.05)
    other = Run(configured(spec, optimizer=optimizer, **NORMALISED).create())
    hyper = hyper_of(1)
    same(other.hyper, hyper)
    state = other.init(jax.random.PRNGKey(0), hyper)
    expected = run.init(jax.random.PRNGKey(0), hyper)
    close(state.params, expected.params)
    close(other.step(state, hyper)[0], run.step(expected, hyper)[0], rtol=1e-6, atol=1e-7)


def test_the_learning_rate_falls_to_zero_linearly(run):
    """Step n of N has the rate times 1 - n/N, in all its epochs and minibatches.

    So each step is that of a run whose rate stays, and is just that.
    """
    optimizer = Adam.for_policies(learning_rate=7.0, schedule="constant")
    constant = Run(configured(optimizer=optimizer, **NORMALISED).create())
    states, _ = run.history
    for number in range(UPDATES):
        rate = jnp.float32(0.02 * (1 - number / UPDATES))
        expected, _ = constant.step(states[number], run.hyper | {"learning_rate": rate})
        close(states[number + 1].params, expected.params, rtol=1e-5, atol=1e-6)
    # It is that of the hyperparameters, whatever the spec says.
    faster, _ = run.step(states[2], run.hyper | {"learning_rate": jnp.float32(0.1)})
    expected, _ = constant.step(states[2], run.hyper | {"learning_rate": jnp.float32(0.06)})
    close(faster.params, expected.params, rtol=1e-5, atol=1e-6)
    assert distance(faster.params, states[3].params) > 0.01
    # After the last step nothing would move.
    done, _ = run.step(states[-1], run.hyper)
    same(done.params, states[-1].params)


def recorded_rollouts(patch):
    """A list to which every rollout is added while a step is traced."""
    rollouts, original = [], episode_learner.rollout

    def recorded(*args, **kwargs):
        carry, steps = original(*args, **kwargs)
        rollouts.append(steps)
        return carry, steps

    patch.setattr(episode_learner, "rollout", recorded)
    return rollouts


LAG = 3


@pytest.fixture(scope="module")
def lagging():
    """([steps + 1] states, [steps] rollouts, the policy) of V-trace at a constant rate."""
    spec = VTrace(num_envs=2, rollout_length=4, refresh_actor_every=LAG)
    optimizer = Adam.for_policies(learning_rate=0.05, schedule="constant")
    own = configured(spec, updates=7, optimizer=optimizer).create()
    hyper, data, [stage] = own.hyper, own.data, own.stages
    states, made = [jax.jit(own.init)(jax.random.PRNGKey(0), hyper, data)], []
    with pytest.MonkeyPatch.context() as patch:
        rollouts, step = recorded_rollouts(patch), make_step(own, stage)
        recorded = jax.jit(lambda state: (step(state, None, hyper, data)[0], rollouts.pop()))
        for _ in range(7):
            state, steps = recorded(states[-1])
            states.append(state)
            made.append(steps)
    return states, made, jax.jit(own.policy(data).apply)


def test_the_actor_lags_by_just_what_it_says(lagging):
    """Steps n, n+1 and n+2 act by the parameters of before step n, for every third n."""
    states, made, apply = lagging
    assert distance(states[0].params, states[1].params) > 0.01
    for number, (state, steps) in enumerate(zip(states[1:], made, strict=True)):
        acted = states[number - number % LAG].params
        same(state.extra, acted)
        expected = apply(acted, steps.observation)[0].log_probs
        np.testing.assert_allclose(steps.log_probs, expected, rtol=1e-5)


def test_a_constant_rate_stays(lagging):
    """Each step moves some parameter by about the rate, as Adam does; the last as far as the first."""
    states, *_ = lagging
    moves = [distance(a.params, b.params) for a, b in itertools.pairwise(states)]
    np.testing.assert_allclose(moves[0], 0.05, rtol=1e-3)
    assert min(moves) > 0.02
    assert max(moves) < 0.2


def test_on_policy_runs_keep_no_actor(run):
    assert run.history[0][-1].extra is None


@pytest.fixture(scope="module")
def evaluated(run):
    """([episodes] returns and lengths by mode, the function)."""
    play = jax.jit(lambda state: run.learner.play(state, 16))
    return play(run.history[0][-1]), play


def test_evaluation_plays_whole_episodes_by_both_modes(run, evaluated):
    played, play = evaluated
    assert set(played) == {"greedy", "sampled"}
    for of in played.values():
        returns, lengths = of["return"], of["length"]
        assert returns.shape == lengths.shape == (16,)
        assert np.all((lengths >= 1) & (lengths <= 4))
        assert len(set(np.asarray(returns).tolist())) > 3
    assert not np.array_equal(played["greedy"]["return"], played["sampled"]["return"])
    # The same state gives the same episodes, a later one others.
    same(play(run.history[0][-1]), played)
    later = run.history[0][-1].replace(step=np.int32(UPDATES + 1))
    assert not np.array_equal(play(later)["greedy"]["return"], played["greedy"]["return"])


@pytest.fixture(scope="module")
def measured_run(run):
    """(the last state, figures after every second step) of the program that the commands run."""
    program = training_program(run.learner, (0,), run.learner.config)
    assert (program.total, program.evaluate_every) == (UPDATES, 2)
    state, figures = first_state(run.learner, (0,)), {}
    for number in range(UPDATES):
        state, _ = program.advance(state, number)
        if number % 2:
            figures[number + 1] = program.evaluate(state, number + 1)
    return state, figures


def test_evaluation_does_not_touch_the_run(run, measured_run):
    """Neither keys, environments nor normalisers: a run that is never measured is the same."""
    state, _ = measured_run
    same(state, run.history[0][-1])
    close(state, run.train(jax.random.PRNGKey(0), run.hyper)[0], rtol=1e-5, atol=1e-6)


def test_what_is_measured_while_training(run, measured_run):
    """Returns of whole development episodes, by both modes, of the state at that step."""
    _, figures = measured_run
    play = jax.jit(lambda state: run.learner.play(state, 3, split="dev"))
    for number, row in figures.items():
        played = play(run.history[0][number])
        assert set(row) == {"eval/greedy_return", "eval/sampled_return"}
        for mode, of in played.items():
            np.testing.assert_allclose(row[f"eval/{mode}_return"], of["return"].mean(), rtol=1e-5)
        same(run.learner.measure(run.history[0][number]), row)


def test_evaluation_uses_the_statistics_of_the_run_as_they_are(run, monkeypatch):
    state = run.history[0][-1]
    policies = []

    def play(env, act, key, limit, greedy, inputs):
        policies.append((env, lambda observation: act(inputs(key, observation)), limit, greedy))
        return {"return": jnp.arange(4.0), "length": jnp.arange(4)}

    with monkeypatch.context() as patch:
        patch.setattr(playing, "play_episodes", play)
        played = run.learner.play(state, 2)
    [(env, act, limit, greedy)] = policies
    assert greedy.tolist() == [True, True, False, False]
    assert played["greedy"]["return"].tolist() == [0, 1]
    assert played["sampled"]["length"].tolist() == [2, 3]
    assert limit == run.learner.config.env.time_limit
    raw = np.eye(3, dtype=np.float32)
    moments = state.carry.env_state.moments
    assert moments.count > 16 * UPDATES
    shown = np.clip((raw - moments.mean) / np.sqrt(moments.variance + 1e-8), -10, 10)
    policy = run.learner.policy(run.data)
    expected = policy.apply(state.params, jnp.asarray(shown))[0].log_probs
    np.testing.assert_allclose(act(jnp.asarray(raw)).log_probs, expected, rtol=1e-4, atol=1e-5)
    # Its environments are as they come: nothing is counted, and rewards are the task's own.
    fresh, _ = env.reset(env.params, jax.random.PRNGKey(0))
    assert wrappers.observation_moments(fresh) is None
    assert not isinstance(fresh, wrappers.NormalisedRewards)

    def forbidden(self, values):
        raise AssertionError("evaluation moved the statistics")

    with monkeypatch.context() as patch:
        patch.setattr(wrappers.Moments, "update", forbidden)
        jax.eval_shape(lambda state: run.learner.play(state, 2), state)


def test_rewards_are_normalised_by_the_runs_own_discount():
    """By the deviation of the return so far, which after two steps is γ r_1 + r_2."""
    fields = {"env": TinyMdp(), "normalise_rewards": True}
    own = configured(dataclasses.replace(PPO_SPEC, discount=0.5), **fields).create()

    @jax.jit
    def played(key, discount):
        env = own.learning_env(own.data, discount)
        (raw, _), (state, _) = (each.reset(each.params, key) for each in (own.raw_env, env))
        expected = jnp.zeros(2)
        for _ in range(2):
            raw, shown = own.raw_env.step(env.params, key, raw, jnp.zeros(2, jnp.int32))
            state, _ = env.step(env.params, key, state, jnp.zeros(2, jnp.int32))
            expected = jnp.where(shown.done, 0.0, 0.5 * expected + shown.reward)
        return state.returns, expected

    returns, expected = played(jax.random.PRNGKey(0), own.hyper["discount"])
    np.testing.assert_allclose(returns, expected, rtol=1e-6)
    assert np.any(expected != 0)


def test_episodic_runs_start_anew_each_rollout_and_keep_their_statistics():
    spec = Reinforce(num_envs=3, rollout_length=5)
    own = Run(configured(spec, updates=3, **NORMALISED).create())
    states, metrics = own.history
    counts = [state.carry.env_state.moments.count for state in states]
    np.testing.assert_allclose(counts, 3 + 3 * 6 * np.arange(4), rtol=1e-3)
    counts = [state.carry.env_state.inner.moments.count for state in states]
    np.testing.assert_allclose(counts, 3 * 5 * np.arange(4), rtol=1e-3, atol=1e-3)
    assert all(np.isfinite(row["episode_return"]) for row in metrics)  # every first episode ended


def test_the_logged_reward_is_of_the_steps_that_count(monkeypatch):
    """Not of those after the first episode, from which nothing is learned."""
    told, batch = [], Reinforce.batch
    monkeypatch.setattr(
        Reinforce,
        "batch",
        lambda self, policy, params, steps, *given, **named: (
            told.append(steps) or batch(self, policy, params, steps, *given, **named)
        ),
    )
    own = configured(Reinforce(num_envs=8, rollout_length=6)).create()
    [stage] = own.stages

    @jax.jit
    def collected(key):
        state = own.init(key, own.hyper, own.data)
        _, _, metrics = own.collect(state, None, stage=stage, hyper=own.hyper, data=own.data)
        return metrics["step_reward"], told[0].reward, told[0].weight > 0

    logged, reward, counts = map(np.asarray, collected(jax.random.PRNGKey(0)))
    assert logged == pytest.approx(reward[counts].mean())
    assert abs(logged - reward.mean()) > 1e-3


def batch_of(value, target, weight):
    nothing = jnp.zeros(len(value))
    fields = dict.fromkeys(("observation", "action", "log_probs", "advantage"), nothing)
    return PolicyBatch(
        **fields,
        value=jnp.asarray(value, jnp.float32),
        value_target=jnp.asarray(target, jnp.float32),
        weight=jnp.asarray(weight, jnp.float32),
    )


def test_explained_variance():
    rng = np.random.default_rng(0)
    value, target = rng.normal(size=(2, 10))
    weight = np.array([1, 1, 0, 1, 1, 0, 1, 1, 1, 1])
    kept = weight > 0
    expected = 1 - np.var((target - value)[kept]) / np.var(target[kept])
    actual = explained_variance(batch_of(value, target, weight))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    # Perfect but for a constant, and where there is nothing to explain.
    np.testing.assert_allclose(explained_variance(batch_of(target - 3, target, weight)), 1.0)
    assert explained_variance(batch_of(value, np.ones(10), weight)) == 0
    assert explained_variance(batch_of(value, target, np.zeros(10))) == 0


def test_seeds_have_keys_of_their_own():
    keys = stack_keys([3, 5])
    np.testing.assert_array_equal(keys, [jax.random.PRNGKey(3), jax.random.PRNGKey(5)])


@pytest.mark.parametrize(
    "algorithm",
    [
        Reinforce(num_envs=16, rollout_length=3, discount=1.0),
        A2C(num_envs=16, rollout_length=3, discount=1.0),
        PPO(num_envs=16, rollout_length=3, discount=1.0, epochs=2, minibatches=2),
        VTrace(num_envs=16, rollout_length=3, discount=1.0, refresh_actor_every=2),
    ],
    ids=["reinforce", "a2c", "ppo", "vtrace"],
)
def test_every_algorithm_finds_the_best_policy(algorithm):
    """Of the tiny process, by exact returns rather than sampled ones."""
    own = configured(
        algorithm,
        updates=120,
        env=TinyMdp(),
        policy=ActorCritic(hidden=(), bias=False),
        optimizer=Adam.for_policies(learning_rate=0.1),
        evaluation=EpisodeEvaluation(every=0),
    ).create()
    train_all = jax.jit(jax.vmap(functools.partial(train, own), in_axes=(0, None, None, None)))
    states, _ = train_all(stack_keys(range(3)), [None], own.hyper, own.data)
    logits = states.params["policy"]["Dense_0"]["kernel"]
    best = tiny_env.best_return()
    start = float(tiny_env.expected_return(jnp.zeros((3, 2))))
    for table in logits:
        reached = float(tiny_env.expected_return(table))
        assert reached - start > 0.95 * (best - start)


@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_an_update_is_adams_step_along_the_mean_gradient(monkeypatch, limit):
    """With the rollout that it made, its targets, and its loss divided once by the steps that count."""
    spec = A2C(num_envs=2, rollout_length=5)
    optimizer = Adam.for_policies(learning_rate=0.02, max_grad_norm=limit)
    own = configured(spec, updates=4, optimizer=optimizer).create()
    hyper, data, [stage] = own.hyper, own.data, own.stages
    rollouts, step = recorded_rollouts(monkeypatch), make_step(own, stage)

    @jax.jit
    def both(key):
        policy, state = own.policy(data), own.init(key, hyper, data)
        params, (new, metrics) = state.params, step(state, None, hyper, data)
        batch = spec.targets(policy, params, rollouts.pop(), hyper)
        batch = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)
        gradient = jax.grad(lambda params: spec.loss(policy, params, key, batch, hyper).sum)(params)
        gradient = jax.tree.map(lambda leaf: leaf / 10, gradient)
        adam = optax.chain(optax.clip_by_global_norm(limit), optax.adam(0.02, eps=1e-5))
        with jax.numpy_dtype_promotion("standard"):
            updates, _ = adam.update(gradient, adam.init(params), params)
        return new.params, metrics, optax.apply_updates(params, updates), gradient

    actual, metrics, expected, gradient = both(jax.random.PRNGKey(0))
    close(actual, expected, rtol=1e-5, atol=1e-6)
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
    assert 1e-3 < norm < 1e3


RETRIEVING = {
    "env": Lookup(passages=6, actions=3, key_width=4),
    "policy": RetrievalPolicy(k=3, retriever=two_matrices(width=4, refresh_every=2), hidden=(4,)),
}


@pytest.fixture(scope="module")
def retrieving():
    """The states of four steps of a policy that retrieves, and their metrics."""
    run = Run(configured(**RETRIEVING).create())
    states, metrics = [run.init(jax.random.PRNGKey(0), run.hyper)], []
    for _ in range(4):
        state, figures = run.step(states[-1], run.hyper)
        states.append(state)
        metrics.append({name: np.asarray(of) for name, of in figures.items()})
    return run, states, metrics


def test_the_index_is_embedded_anew_every_second_step(retrieving):
    """By the parameters before the step; in between, what is retrieved is scored by newer ones."""
    run, states, _ = retrieving
    embed = jax.jit(run.learner.policy(run.data).embed)
    for number, made_of in ((1, 0), (2, 0), (3, 2), (4, 2)):
        expected = embed(states[made_of].params)
        np.testing.assert_allclose(states[number].index.embeddings, expected, atol=1e-6)
        assert states[number].index.built_at_step == made_of
    assert states[0].index.built_at_step == -1  # a first index is never taken for a fresh one
    same(states[2].index, states[1].index)
    same(states[4].index, states[3].index)
    assert distance(states[3].index.embeddings, states[2].index.embeddings) > 0
    assert run.traced["step"] == 1


@pytest.mark.parametrize("seeds", [1, 3])
def test_between_refreshes_nothing_is_embedded(seeds):
    """Of several seeds side by side too: the condition stays one branch of the program."""
    embedded = []

    class Counting(EpisodesLearner):
        def policy(self, data):
            policy = super().policy(data)

            def embed(params):
                scale = params["retriever"]["log_scale"]
                jax.debug.callback(lambda scale: embedded.append(float(scale)), scale)
                return policy.embed(params)

            return policy._replace(embed=embed)

    config = configured(**RETRIEVING, updates=5, num_seeds=seeds)
    learner = Counting(config)
    program = training_program(learner, config.seeds, config)
    state = first_state(learner, config.seeds)
    jax.effects_barrier()
    counts = [len(embedded)]
    for number in range(5):
        state, _ = program.advance(state, number)
        jax.block_until_ready(state.step)
        jax.effects_barrier()
        counts.append(len(embedded))
    assert np.diff(counts).tolist() == [seeds, 0, seeds, 0, seeds]


def test_the_actor_finds_the_passages_and_the_learner_values_them():
    """The actor's parameters are all 0 here, so that to it all passages are alike."""

    class Idle(A2C):
        def behave(self, params, extra, step):
            return jax.tree.map(jnp.zeros_like, params), extra

    own = configured(Idle(num_envs=4, rollout_length=2), **RETRIEVING).create()
    [stage] = own.stages

    @jax.jit
    def collected(key):
        state = own.init(key, own.hyper, own.data)
        _, batch, _ = own.collect(state, None, stage=stage, hyper=own.hyper, data=own.data)
        return batch, own.policy(own.data).apply(state.params, batch.observation)[1]

    batch, values = collected(jax.random.PRNGKey(0))
    np.testing.assert_array_equal(batch.observation.ids, np.tile(np.arange(3), (8, 1)))
    np.testing.assert_allclose(batch.log_probs, np.log(1 / 3), rtol=1e-6)
    np.testing.assert_allclose(batch.value, values, rtol=1e-5, atol=1e-6)
    assert np.any(np.abs(values) > 0.01)


def test_a_retrievers_health_is_that_of_the_steps_that_count(monkeypatch):
    """Only the first step of a rollout of three does, where each rollout is one episode."""
    told = []
    monkeypatch.setattr(algorithm, "retrieval_figures", lambda *given: told.append(given) or {})
    own = configured(Reinforce(num_envs=2, rollout_length=3), **RETRIEVING).create()
    [stage] = own.stages

    def collected(state):
        _, batch, _ = own.collect(state, None, stage=stage, hyper=own.hyper, data=own.data)
        [(_, _, ids, weight, count, gold)] = told
        assert weight is batch.weight
        assert ids is batch.observation.ids
        assert count == 6
        assert gold.shape == ids.shape == (6, 3)

    jax.eval_shape(collected, own.state_shapes())


def test_a_retrievers_health_is_reported(retrieving):
    _, _, metrics = retrieving
    for row in metrics:
        assert 0 < row["hub_share"] <= 1
        assert 1 <= row["effective_passages"] <= 3
        assert 0 <= row["posterior_entropy"] <= row["prior_entropy"] + 1
        assert 0 <= row["recall"] <= 1


def perfect(steps=1, *, scale=50.0, shift=0, **fields):
    """A learner on Lookup whose retriever is made by hand, and its state.

    Towers take keys as they are, so that a large scale finds the named passage, or the one `shift` rows
    after it; heads do (what a passage says + step) modulo A.
    """
    env = Lookup(passages=6, actions=3, key_width=8, steps=steps, time_limit=steps)
    if fields.get("latent") == "episode":
        env = dataclasses.replace(env, history=True)
    policy = RetrievalPolicy(k=6, retriever=two_matrices(width=8), hidden=(3 * steps,), **fields)
    own = configured(env=env, policy=policy, evaluation=EpisodeEvaluation(during=200)).create()
    state = jax.jit(own.init)(jax.random.PRNGKey(0), own.hyper, own.data)
    keys = np.asarray(own.raw_env.passages)[:, :8]
    stored = np.zeros((8 + 3, 8), np.float32)
    stored[:8] = np.linalg.lstsq(np.roll(keys, -shift, axis=0), keys)[0]
    asked = np.eye(8 + steps, 8, dtype=np.float32)
    # A hidden unit for each pair of what is said and step, which is 1 where both hold and else -1.
    pairs = [(said, step) for said in range(3) for step in range(steps)]
    hidden = np.zeros((8 + steps + 8 + 3, len(pairs)), np.float32)
    out = np.zeros((len(pairs), 3), np.float32)
    for unit, (said, step) in enumerate(pairs):
        hidden[8 + step, unit] = hidden[-3 + said, unit] = 20.0
        out[unit, (said + step) % 3] = 20.0
    params = state.params | {
        "retriever": {
            "observed": {"Dense_0": {"kernel": asked}},
            "stored": {"Dense_0": {"kernel": stored}},
            "log_scale": np.log(np.float32(scale)),
        },
        "policy": {
            "Dense_0": {"kernel": hidden, "bias": np.full(len(pairs), -30.0, np.float32)},
            "Dense_1": {"kernel": out, "bias": np.zeros(3, np.float32)},
        },
    }
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, state.params)
    return own, state.replace(params=jax.tree.map(jnp.asarray, params))


def returns(own, state, episodes=200, **kwargs):
    """Mode -> mean return."""
    played = jax.jit(lambda state: own.play(state, episodes, **kwargs))(state)
    return {mode: float(of["return"].mean()) for mode, of in played.items()}


@pytest.mark.parametrize(
    ("steps", "fields"),
    [(1, {}), (1, {"estimator": "attention"}), (2, {"latent": "episode"})],
    ids=["step", "attention", "episode"],
)
def test_the_gain_of_a_perfect_retriever_is_large(steps, fields):
    """Also where all passages are retrieved: the blind policy trusts the same, and reads another."""
    own, state = perfect(steps, **fields)
    assert returns(own, state)["sampled"] > 0.99 * steps
    # The passages read are in a random order, so that about a third of them say the same by chance.
    assert returns(own, state, blind=True)["sampled"] < 0.6 * steps
    figures = jax.jit(own.figures)(state)
    assert figures["eval/retrieval_gain"] > 0.4 * steps
    assert symptoms({name: float(value) for name, value in figures.items()}) == []


def measured(own, state, times=60):
    """The figures of a state while training, at several steps: each has keys of its own."""
    figures = jax.jit(own.figures)
    states = (state.replace(step=jnp.int32(n)) for n in range(times))
    return [{name: float(value) for name, value in figures(s).items()} for s in states]


def test_figures_by_hand(monkeypatch):
    """Means over the episodes played, other figures than returns over those that have them."""
    own = configured(**RETRIEVING).create()
    seeing = {
        "greedy": {
            "return": jnp.array([5.0, 7.0]),
            "score": Figure(jnp.array([0.0, 2.0]), jnp.array([False, True])),
        },
        "sampled": {"return": jnp.array([3.0, 5.0]), "score": jnp.array([8.0, 9.0])},
    }
    unseeing = {"greedy": {"return": jnp.zeros(2)}, "sampled": {"return": jnp.array([1.0, 2.0])}}

    def play(state, episodes, *, split, blind=False, data=None):
        assert (episodes, split) == (3, "dev")
        return unseeing if blind else seeing

    monkeypatch.setattr(own, "play", play)
    figures = own.figures(own.state_shapes())
    assert {name: float(value) for name, value in figures.items()} == {
        "eval/greedy_return": 6,
        "eval/sampled_return": 4,
        "eval/greedy_score": 2,
        "eval/retrieval_gain": 4 - 1.5,
    }


@pytest.mark.parametrize("shift", [0, 1])
def test_the_retrieval_gain_is_what_random_passages_lose(shift):
    """A perfect retriever, and one that finds the passage after the named one.

    A random passage says what the named one does in a third of cases. The one after it does so less
    often, which is harm that the alarm tells of.
    """
    own, state = perfect(shift=shift)
    said = np.argmax(np.asarray(own.raw_env.passages)[:, 8:], axis=-1)
    right = np.mean(np.roll(said, -shift) == said)
    assert right == 1 if shift == 0 else right < 0.25
    rows = measured(own, state)
    seeing = [row["eval/sampled_return"] for row in rows]
    np.testing.assert_allclose(seeing, right, atol=0.1)
    gains = [row["eval/retrieval_gain"] for row in rows]
    assert len(set(gains)) > 3
    np.testing.assert_allclose(np.mean(gains), right - 1 / 3, atol=0.1)
    alarm = RetrieverMonitor()
    told = [symptom for row in rows for symptom in alarm.observe(row)]
    assert [symptom.partition(":")[0] for symptom in told[:1]] == ["useless"][:shift]


def test_sampled_episodes_draw_passages_as_rollouts_do():
    """With Gumbel noise, where an estimator draws passages first; likeliest actions go without."""
    own, state = perfect(estimator="gumbel", scale=2.0)
    policy, params = own.policy(own.data), state.params
    passages = np.asarray(own.raw_env.passages)
    said = np.argmax(passages[:, 8:], axis=-1)
    observation = jnp.asarray(np.append(passages[:, :8], np.ones((6, 1), np.float32), axis=-1))
    seen = policy.retrieve(params, policy.embed(params), None, observation)
    prior = np.exp(policy.apply(params, seen)[0].log_prior)
    expected = np.sum(prior * (said[seen.ids] == said[:, None]), axis=-1).mean()
    assert 0.2 < expected < 0.8
    episodes = 1000
    play = jax.jit(lambda state: own.play(state, episodes))
    played = play(state)
    assert played["greedy"]["return"].mean() == 1.0
    drawn = played["sampled"]["return"]
    error = np.sqrt(expected * (1 - expected) / episodes)
    assert abs(drawn.mean() - expected) < 4 * error
    same(play(state), played)
    # A policy that answers a question, without a key, reads the likeliest passages too.
    np.testing.assert_array_equal(own.acting(state)(observation).mode(), said)


def test_a_history_is_not_normalised():
    with pytest.raises(
        UserError, match=r"normalise_observations is on together with env\.history.*turn one"
    ):
        configured(env=TinyMdp(history=True), normalise_observations=True)


def test_a_warm_up_ends_within_the_updates_of_a_policy_s_run():
    """2 rollouts of 16 steps, from each of which 4 updates are made."""
    configured(updates=2, optimizer=Adam.for_policies(counts="updates", warmup_steps=8))
    with pytest.raises(UserError, match=r"warmup_steps is 9, more than the 8 updates"):
        configured(updates=2, optimizer=Adam.for_policies(counts="updates", warmup_steps=9))


def test_a_rollout_is_not_accumulated():
    """It is divided into minibatches instead."""
    with pytest.raises(UserError, match=r"optimizer\.accumulate is 2, .* algorithm\.minibatches"):
        configured(optimizer=Adam.for_policies(accumulate=2))
