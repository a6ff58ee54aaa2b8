"""Policy-gradient algorithms on a process of which every trajectory is known.

Each trajectory is one environment of a rollout, its steps weighted by its probability times the number
of environments. A loss is linear in its weights, so that one divided by the number of environments is an
expectation over trajectories, and its gradient can be compared with that of the exact return.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_env
from tiny_env import ACTIONS, STATES, TinyMdp

from ragjax.errors import UserError
from ragjax.learners import episode_learner
from ragjax.learners.episodes import EpisodesConfig
from ragjax.models.policy import ActorCritic
from ragjax.objectives.a2c import A2C
from ragjax.objectives.actor_critic import PolicyGradient
from ragjax.objectives.algorithm import Algorithm
from ragjax.objectives.ppo import PPO
from ragjax.objectives.reinforce import Reinforce
from ragjax.objectives.vtrace import VTrace
from ragjax.ops.policy_gradient import standardised
from ragjax.training.learner import Stage, traced_scalars
from ragjax.training.optimizer import Adam
from ragjax.training.rollout import rollout, start
from ragjax.training.step import make_step
from ragjax.types import PolicyBatch, Rollout

T = 3
TABULAR = ActorCritic(hidden=(), bias=False)
POLICY = TABULAR.build(TinyMdp().build())
PATHS = tiny_env.trajectories(T)
E = PATHS.chance.size


def parameters(seed=0):
    """Random tables of logits [S,A] and values [S,1]."""
    rng = np.random.default_rng(seed)
    shapes = {"policy": (STATES, ACTIONS), "value": (STATES, 1)}
    return {
        name: {"Dense_0": {"kernel": rng.normal(size=shape).astype(np.float32)}}
        for name, shape in shapes.items()
    }


def table(tree, group):
    return np.asarray(tree[group]["Dense_0"]["kernel"], np.float64)


def log_policy(params):
    """[S+1,A] log π(a|s) in float64; the row of the end is flat."""
    logits = np.append(table(params, "policy"), np.zeros((1, ACTIONS)), axis=0)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def probability(params):
    """[E] of each trajectory under the policy."""
    chosen = log_policy(params)[PATHS.state, PATHS.action]
    return PATHS.chance * np.exp(np.sum(chosen, axis=0, where=PATHS.alive))


def all_trajectories(params):
    """The rollout of all trajectories under the policy of `params`."""
    observation = np.eye(STATES + 1, STATES, dtype=np.float32)[PATHS.state]
    nothing = np.zeros_like(observation)
    return Rollout(
        observation=observation,
        action=PATHS.action,
        log_probs=log_policy(params)[PATHS.state].astype(np.float32),
        reward=PATHS.reward,
        terminated=PATHS.terminated,
        truncated=np.zeros_like(PATHS.terminated),
        final_observation=nothing,
        last_observation=nothing[0],
        weight=(PATHS.alive * probability(params) * E).astype(np.float32),
        metrics={},
    )


@functools.cache
def evaluated(algorithm):
    """(params, rollout, hyper) -> (gradient of Loss.sum, `Loss`, batch), as in the training step."""

    @jax.jit
    def run(params, steps, hyper):
        steps = jax.tree.map(jnp.asarray, steps)
        batch = algorithm.targets(POLICY, params, steps, hyper)
        batch = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)

        def objective(params):
            loss = algorithm.loss(POLICY, params, jax.random.PRNGKey(0), batch, hyper)
            return loss.sum, loss

        gradient, loss = jax.grad(objective, has_aux=True)(params)
        return gradient, loss, batch

    return run


def with_hyper(algorithm, **values):
    hyper = traced_scalars(algorithm.hyper() | values)
    assert set(hyper) == set(algorithm.hyper())
    return hyper


REINFORCE = {
    baseline: Reinforce(num_envs=E, rollout_length=T, discount=1.0, baseline=baseline)
    for baseline in (True, False)
}
ACTOR_CRITIC = {
    "a2c": A2C(num_envs=E, rollout_length=T, discount=1.0),
    "ppo": PPO(
        num_envs=E, rollout_length=T, gae_lambda=1.0, normalise_advantage=False, minibatches=1
    ),
    "vtrace": VTrace(num_envs=E, rollout_length=T),
}


@pytest.fixture(scope="module")
def exact():
    """seed -> -∇J [S,A], by going through states and differentiating."""
    slope = jax.jit(jax.grad(lambda logits: -tiny_env.expected_return(logits, T)))
    return lambda seed: slope(parameters(seed)["policy"]["Dense_0"]["kernel"])


def test_the_trajectories_are_all_there_are():
    """Their probabilities add up to one, and their returns to the return."""
    assert E == 906
    for seed in range(2):
        p = probability(parameters(seed))
        np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-10)
        expected = tiny_env.expected_return(jnp.asarray(table(parameters(seed), "policy"), "f4"), T)
        np.testing.assert_allclose(p @ PATHS.reward.sum(axis=0), expected, rtol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("baseline", [True, False])
def test_reinforces_gradient_is_that_of_the_return(exact, baseline, seed):
    params, algorithm = parameters(seed), REINFORCE[baseline]
    run = evaluated(algorithm)
    gradient, loss, _ = run(params, all_trajectories(params), with_hyper(algorithm))
    assert loss.denom == E
    actual = table(gradient, "policy") / E
    assert np.abs(actual).max() > 0.05
    np.testing.assert_allclose(actual, exact(seed), atol=1e-5)
    # Any critic is as good as any other, on average.
    params["value"] = parameters(seed + 7)["value"]
    gradient, *_ = run(params, all_trajectories(params), with_hyper(algorithm))
    np.testing.assert_allclose(table(gradient, "policy") / E, exact(seed), atol=1e-5)


@pytest.mark.parametrize("name", ACTOR_CRITIC)
def test_actor_critics_with_whole_returns_have_the_same_gradient(exact, name):
    """But for their denominator, the expected number of steps of an episode."""
    params, algorithm = parameters(), ACTOR_CRITIC[name]
    steps = all_trajectories(params)
    gradient, loss, _ = evaluated(algorithm)(params, steps, with_hyper(algorithm, discount=1.0))
    length = probability(params) @ PATHS.alive.sum(axis=0)
    np.testing.assert_allclose(loss.denom / E, length, rtol=1e-5)
    per_step = table(gradient, "policy") / loss.denom
    np.testing.assert_allclose(per_step * length, exact(0), atol=1e-5)


def by_enumeration(params, discount, value_coef, entropy_coef, *, baseline=True):
    """(loss, its gradient by logits [S,A] and values [S]), each an expectation over trajectories."""
    logp, values = log_policy(params), np.append(table(params, "value")[:, 0], 0.0)
    total, by_logits, by_values = 0.0, np.zeros((STATES, ACTIONS)), np.zeros(STATES)
    for path, p in enumerate(probability(params)):
        following = 0.0
        for t in reversed(range(int(PATHS.alive[:, path].sum()))):
            s, a = PATHS.state[t, path], PATHS.action[t, path]
            following = float(PATHS.reward[t, path]) + discount * following
            policy, error = np.exp(logp[s]), following - values[s]
            advantage = error if baseline else following
            entropy = -policy @ logp[s]
            total += p * (
                -logp[s, a] * advantage + value_coef * error**2 / 2 - entropy_coef * entropy
            )
            by_logits[s] += p * (policy - np.eye(ACTIONS)[a]) * advantage
            by_logits[s] += p * entropy_coef * policy * (logp[s] + entropy)
            by_values[s] -= p * value_coef * error
    return total, by_logits, by_values


def test_loss_and_gradient_with_discount_critic_and_entropy():
    """Everything at once, against its formula in float64; the factor γ^t is left out, as is usual."""
    params = parameters(3)
    for algorithm in (REINFORCE[True], REINFORCE[False], ACTOR_CRITIC["a2c"]):
        hyper = with_hyper(algorithm, discount=0.8, entropy_coef=0.3)
        gradient, loss, _ = evaluated(algorithm)(params, all_trajectories(params), hyper)
        total, by_logits, by_values = by_enumeration(
            params, 0.8, 0.5, 0.3, baseline=getattr(algorithm, "baseline", True)
        )
        np.testing.assert_allclose(loss.sum / E, total, rtol=1e-4)
        np.testing.assert_allclose(table(gradient, "policy") / E, by_logits, atol=1e-5)
        np.testing.assert_allclose(table(gradient, "value")[:, 0] / E, by_values, atol=1e-5)


@pytest.mark.parametrize("name", ["ppo", "vtrace"])
@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
def test_on_the_behaviour_policys_own_parameters_all_are_a2c(name, gae_lambda):
    """PPO's first update (every ratio is 1) and V-trace on-policy."""
    params = parameters(1)
    made = {}
    for which in ("a2c", name):
        algorithm = ACTOR_CRITIC[which]
        hyper = with_hyper(algorithm, discount=0.9, gae_lambda=gae_lambda, entropy_coef=0.1)
        made[which] = evaluated(algorithm)(params, all_trajectories(params), hyper)
    (gradient, loss, batch), (expected, expected_loss, expected_batch) = made[name], made["a2c"]
    counts = expected_batch.weight > 0
    for field in ("advantage", "value_target", "value"):
        np.testing.assert_allclose(
            getattr(batch, field)[counts], getattr(expected_batch, field)[counts], atol=1e-5
        )
    assert loss.denom == expected_loss.denom
    for group in ("policy", "value"):
        np.testing.assert_allclose(
            table(gradient, group) / E, table(expected, group) / E, atol=1e-5
        )


def test_vtrace_off_policy_has_the_gradient_of_its_formula():
    """With ratios below 1 alone, nothing is cut: the whole trajectory is weighted by importance."""
    behaviour, params = parameters(0), parameters(5)
    algorithm = ACTOR_CRITIC["vtrace"]
    steps = all_trajectories(behaviour)
    gradient, _, batch = evaluated(algorithm)(params, steps, with_hyper(algorithm, discount=0.9))
    logp, values = log_policy(params), np.append(table(params, "value")[:, 0], 0.0)
    rho = np.minimum(1.0, np.exp(logp - log_policy(behaviour)))
    advantage, target = np.zeros((T, E)), np.zeros((T, E))
    by_logits = np.zeros((STATES, ACTIONS))
    for path in range(E):
        correction = next_target = 0.0  # v - V, and v, of the state that follows
        for t in reversed(range(int(PATHS.alive[:, path].sum()))):
            s, a = PATHS.state[t, path], PATHS.action[t, path]
            after = 0.0 if PATHS.terminated[t, path] else values[PATHS.state[t + 1, path]]
            reward = float(PATHS.reward[t, path])
            advantage[t, path] = rho[s, a] * (reward + 0.9 * next_target - values[s])
            error = rho[s, a] * (reward + 0.9 * after - values[s])
            correction = error + 0.9 * rho[s, a] * correction
            next_target = target[t, path] = values[s] + correction
            score = np.exp(logp[s]) - np.eye(ACTIONS)[a]
            by_logits[s] += steps.weight[t, path] / E * score * advantage[t, path]
    alive = PATHS.alive.reshape(-1)
    np.testing.assert_allclose(batch.advantage[alive], advantage.reshape(-1)[alive], atol=1e-5)
    np.testing.assert_allclose(batch.value_target[alive], target.reshape(-1)[alive], atol=1e-5)
    np.testing.assert_allclose(table(gradient, "policy") / E, by_logits, atol=1e-5)


def test_an_episode_longer_than_the_rollout_goes_on_in_the_critic():
    """REINFORCE: the last value stands for the rest, V of the final observation after a time limit."""
    params = parameters()
    v = table(params, "value")[:, 0]
    one_hot = np.eye(STATES, dtype=np.float32)
    steps = Rollout(
        observation=one_hot[np.array([[0, 0], [1, 1]])],
        action=np.zeros((2, 2), np.int32),
        log_probs=np.full((2, 2, ACTIONS), np.log(0.5), np.float32),
        reward=np.array([[1.0, 1.0], [2.0, 2.0]], np.float32),
        terminated=np.zeros((2, 2), bool),
        truncated=np.array([[False, False], [False, True]]),
        final_observation=one_hot[np.array([[1, 1], [2, 0]])],
        last_observation=one_hot[np.array([2, 1])],
        weight=np.ones((2, 2), np.float32),
        metrics={},
    )
    for baseline in (True, False):
        algorithm = Reinforce(num_envs=2, rollout_length=2, baseline=baseline)
        _, _, batch = evaluated(algorithm)(params, steps, with_hyper(algorithm, discount=0.9))
        last = np.array([2.0 + 0.9 * v[2], 2.0 + 0.9 * v[0]])
        expected = np.concatenate([1.0 + 0.9 * last, last])
        np.testing.assert_allclose(batch.value_target, expected, rtol=1e-5)
        expected -= np.repeat(v[:2], 2) if baseline else 0.0
        np.testing.assert_allclose(batch.advantage, expected, rtol=1e-5)


EPISODES = 4000


@pytest.fixture(scope="module")
def sampled():
    """baseline -> [EPISODES,S,A] gradients of single episodes, and that of all as one rollout."""
    env = TinyMdp().vectorise(EPISODES)

    @jax.jit
    def play(params, key):
        act = lambda observation: POLICY.apply(params, observation)[0]  # noqa: E731
        start_key, key = jax.random.split(key)
        return rollout(env, act, start(env, start_key), key, T, episodic=True)[1]

    params = parameters()
    steps = play(params, jax.random.PRNGKey(0)).replace(metrics={})

    def gradients(baseline):
        whole = Reinforce(
            num_envs=EPISODES, rollout_length=T, discount=1.0, entropy_coef=0.0, baseline=baseline
        )
        single = dataclasses.replace(whole, num_envs=1)
        columns = jax.tree.map(lambda leaf: np.swapaxes(leaf, 0, 1)[:, :, None], steps)
        columns = columns.replace(last_observation=np.asarray(steps.last_observation)[:, None])
        hyper = with_hyper(whole)
        each = jax.vmap(lambda column: evaluated(single)(params, column, hyper)[0])(columns)
        all_, loss, _ = evaluated(whole)(params, steps, hyper)
        return table(each, "policy"), table(all_, "policy") / float(loss.denom)

    return gradients


@pytest.mark.parametrize("baseline", [True, False])
def test_a_sampled_gradient_is_within_its_standard_error(sampled, exact, baseline):
    """Every component within 4 standard errors: 6 of them, so 4 seeds in 10^4 would fail by chance."""
    each, all_ = sampled(baseline)
    assert len(each) == EPISODES
    np.testing.assert_allclose(all_, each.mean(axis=0), atol=1e-5)
    error = each.std(axis=0) / np.sqrt(EPISODES)
    assert np.all(error > 1e-3)
    assert np.all(error < 0.05)
    assert np.all(np.abs(each.mean(axis=0) - exact(0)) < 4 * error)


def episodic(kind):
    """The algorithm, counting each environment's first episode only."""
    return type(f"Episodic{kind.__name__}", (kind,), {"episodic": True})


def learner(algorithm, steps=4, rate=0.1, **kwargs):
    return EpisodesConfig(
        env=TinyMdp(),
        algorithm=algorithm,
        policy=ActorCritic(hidden=(4,), policy_scale=1.0),
        optimizer=Adam.for_policies(learning_rate=rate, schedule="constant"),
        env_steps=steps * algorithm.batch_size,
        **kwargs,
    ).create()


def run_of(learner):
    """(the first state, (state, hyper) -> (state, metrics))."""
    [stage] = learner.stages
    step, data = make_step(learner, stage), learner.data
    state = jax.jit(learner.init)(jax.random.PRNGKey(0), learner.hyper, data)
    return state, lambda state, hyper: step(state, None, hyper, data)


def spoilt(steps, garbage):
    """A rollout whose steps of weight 0 hold garbage throughout."""
    masked = steps.weight == 0

    def put(leaf, value, rows=masked):
        rows = rows.reshape(rows.shape + (1,) * (leaf.ndim - rows.ndim))
        return jnp.where(rows, jnp.asarray(value, leaf.dtype), leaf)

    return steps.replace(
        **{
            name: put(getattr(steps, name), garbage)
            for name in ("observation", "log_probs", "reward", "final_observation")
        },
        action=put(steps.action, 7),
        terminated=steps.terminated ^ masked,
        truncated=steps.truncated ^ masked,
        last_observation=put(steps.last_observation, garbage, masked[-1]),
        metrics={name: put(leaf, 99) for name, leaf in steps.metrics.items()},
    )


SIZES = {"num_envs": 4, "rollout_length": 6, "entropy_coef": 0.01}


@pytest.mark.parametrize(
    "algorithm",
    [
        Reinforce(**SIZES),
        episodic(A2C)(**SIZES),
        episodic(PPO)(**SIZES, epochs=2, minibatches=2, clip_value=True, target_kl=1.0),
        episodic(VTrace)(**SIZES, refresh_actor_every=2),
    ],
    ids=["reinforce", "a2c", "ppo", "vtrace"],
)
def test_what_masked_steps_hold_changes_no_bit(monkeypatch, algorithm):
    """Neither of the parameters after an update nor of its metrics."""
    run = learner(algorithm)
    state, step = run_of(run)

    def masked_rollout(*args, **kwargs):
        carry, steps = rollout(*args, **kwargs)
        taken.append(steps.weight)
        changed = spoilt(steps, garbage.pop())
        return carry, jax.tree.map(lambda new, old: jnp.where(on, new, old), changed, steps)

    @jax.jit
    def update(state, hyper, on_, value):
        nonlocal on
        on = on_
        garbage.append(value)
        return *step(state, hyper), taken.pop()

    on, garbage, taken = None, [], []
    monkeypatch.setattr(episode_learner, "rollout", masked_rollout)
    new, metrics, weight = update(state, run.hyper, False, 0.0)
    assert 0 < np.mean(weight) < 1
    assert all(np.isfinite(value) for value in metrics.values())
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), new.params, state.params)
    assert all(leaf > 0 for leaf in jax.tree.leaves(moved))
    for value in (np.nan, np.inf, -1e30, 3.0):
        other, other_metrics, _ = update(state, run.hyper, True, value)
        for part in ("params", "opt_state", "extra"):
            jax.tree.map(np.testing.assert_array_equal, getattr(other, part), getattr(new, part))
        jax.tree.map(np.testing.assert_array_equal, other_metrics, metrics)


# PPO's own parts.


def ppo_batch(size=8, seed=0):
    """Steps in no order, two of them of weight 0, whose policy and critic are not those of `params`."""
    rng = np.random.default_rng(seed)
    weight = np.ones(size, np.float32)
    weight[[2, 5]] = 0
    normal = lambda: rng.normal(size=size).astype(np.float32)  # noqa: E731
    near = jax.tree.map(lambda a, b: 0.6 * a + 0.4 * b, parameters(), parameters(8))
    behaviour = log_policy(near)
    state = rng.integers(STATES, size=size)
    return state, PolicyBatch(
        observation=np.eye(STATES, dtype=np.float32)[state],
        action=rng.integers(ACTIONS, size=size).astype(np.int32),
        log_probs=behaviour[state].astype(np.float32),
        value=normal(),
        advantage=3 * normal() + 1,
        value_target=normal(),
        weight=weight,
    )


@functools.cache
def ppo_loss(algorithm):
    key, hyper = jax.random.PRNGKey(0), with_hyper(algorithm)
    return jax.jit(lambda params, batch: algorithm.loss(POLICY, params, key, batch, hyper))


def ppo_by_hand(algorithm, params, state, batch):
    """name -> sum over the steps that count, one step at a time in float64."""
    logp, values = log_policy(params), table(params, "value")[:, 0]
    rows = np.flatnonzero(batch.weight)
    advantage = batch.advantage.astype(np.float64)
    if algorithm.normalise_advantage:
        kept = advantage[rows]
        advantage = (advantage - kept.mean()) / kept.std()
    clip = algorithm.clip_eps
    out = dict.fromkeys(("policy_loss", "value_loss", "entropy", "kl", "clip_fraction"), 0.0)
    for b in rows:
        s, a, old = state[b], batch.action[b], batch.log_probs[b].astype(np.float64)
        ratio = np.exp(logp[s, a] - old[a])
        bounded = np.clip(ratio, 1 - clip, 1 + clip)
        out["policy_loss"] -= min(ratio * advantage[b], bounded * advantage[b])
        moved = batch.value[b] + np.clip(values[s] - batch.value[b], -clip, clip)
        errors = [values[s] - batch.value_target[b]]
        errors += [moved - batch.value_target[b]] if algorithm.clip_value else []
        out["value_loss"] += max(error**2 / 2 for error in errors)
        out["entropy"] -= np.exp(logp[s]) @ logp[s]
        out["kl"] += np.exp(old) @ (old - logp[s])
        out["clip_fraction"] += abs(ratio - 1) > clip
    return out, len(rows)


@pytest.mark.parametrize("clip_value", [False, True])
@pytest.mark.parametrize("normalise_advantage", [False, True])
def test_ppos_parts_by_hand(clip_value, normalise_advantage):
    algorithm = PPO(
        clip_value=clip_value, normalise_advantage=normalise_advantage, entropy_coef=0.2
    )
    params, (state, batch) = parameters(), ppo_batch()
    loss = ppo_loss(algorithm)(params, batch)
    expected, count = ppo_by_hand(algorithm, params, state, batch)
    assert 0 < expected["clip_fraction"] < count
    assert set(loss.metrics) == set(expected)
    for name, (value, denom) in loss.metrics.items():
        assert denom == count
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, err_msg=name)
    total = expected["policy_loss"] + 0.5 * expected["value_loss"] - 0.2 * expected["entropy"]
    np.testing.assert_allclose(loss.sum, total, rtol=1e-4)
    assert loss.denom == count
    # What else the steps of weight 0 hold leaves no trace, in the metrics either.
    spoilt = {}
    for name in ("log_probs", "value", "advantage", "value_target"):
        leaf = getattr(batch, name).copy()
        leaf[batch.weight == 0] = np.nan
        spoilt[name] = leaf
    jax.tree.map(
        np.testing.assert_array_equal, ppo_loss(algorithm)(params, batch.replace(**spoilt)), loss
    )


def test_advantages_are_normalised_over_the_steps_that_count():
    values, weight = np.array([1.0, np.nan, 3.0, np.inf, 8.0]), np.array([1.0, 0, 1, 0, 1])
    actual = standardised(jnp.asarray(values, jnp.float32), jnp.asarray(weight, jnp.float32))
    kept = np.array([1.0, 3.0, 8.0])
    np.testing.assert_allclose(actual[::2], (kept - kept.mean()) / kept.std(), rtol=1e-5)
    # A deviation of zero, and no step at all, give zeros rather than NaN.
    same, ones = jnp.full(4, 2.0), jnp.ones(4)
    np.testing.assert_array_equal(standardised(same, ones), 0.0)
    assert np.all(np.isfinite(standardised(same, 0 * ones)))


def updates_of(state):
    """How often the optimiser has moved the parameters."""
    [count] = {int(leaf) for _, leaf in optax.tree.get_all_with_path(state.opt_state, "count")}
    return count


def test_a_target_divergence_puts_the_rest_of_the_rollout_aside():
    """The first minibatch has divergence 0 and is always learned from; the second is too far already."""
    ppo = PPO(num_envs=4, rollout_length=8, epochs=3, minibatches=2, target_kl=1e-9)
    run = learner(ppo)
    state, step = run_of(run)
    update = jax.jit(step)
    stopped, metrics = update(state, run.hyper)
    assert updates_of(stopped) == 1
    assert stopped.step == 1
    np.testing.assert_allclose(metrics["updates_made"], 1 / 6)
    assert float(metrics["kl"]) > 1e-9
    # At a rate of 0 the policy never moves, and all updates are made.
    at_rest, metrics = update(state, run.hyper | {"learning_rate": jnp.float32(0)})
    assert updates_of(at_rest) == 6
    assert metrics["updates_made"] == 1
    # The one update is of the learning rate's size, as Adam's first; without a target more are made.
    _, step = run_of(learner(dataclasses.replace(ppo, target_kl=0.0)))
    plain, metrics = jax.jit(step)(state, run.hyper)
    assert updates_of(plain) == 6
    assert metrics["updates_made"] == 1

    def moved(new):
        pairs = zip(*map(jax.tree.leaves, (new.params, state.params)), strict=True)
        return max(np.abs(a - b).max() for a, b in pairs)

    assert moved(at_rest) == 0
    assert 0.09 < moved(stopped) < 0.1001
    assert moved(plain) > 0.11


def test_every_epoch_sees_every_step_once(monkeypatch):
    """Minibatches are of equal size, and drawn anew each epoch."""
    ppo = PPO(num_envs=2, rollout_length=6, epochs=3, minibatches=4)
    size, seen = ppo.batch_size, []

    def numbered(self, policy, params, steps, hyper, *, key, extra):
        batch, extra = A2C.batch(self, policy, params, steps, hyper, key=key, extra=extra)
        return batch.replace(value=jnp.arange(float(size))), extra

    def recording(self, policy, params, key, batch, hyper, *, extra=None):
        jax.debug.callback(lambda rows: seen.append(np.asarray(rows)), batch.value, ordered=True)
        return A2C.loss(self, policy, params, key, batch, hyper)

    monkeypatch.setattr(PPO, "batch", numbered)
    monkeypatch.setattr(PPO, "loss", recording)
    run = learner(ppo)
    assert run.stages == (Stage(4, epochs=3, minibatches=4, shuffle=True),)
    state, step = run_of(run)
    jax.block_until_ready(jax.jit(step)(state, run.hyper))
    jax.effects_barrier()
    assert [len(rows) for rows in seen] == [size // 4] * 12
    epochs = [np.concatenate(seen[4 * n : 4 * n + 4]) for n in range(3)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(size))
    assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (A2C, {"num_envs": 0}, "algorithm.num_envs is 0; it must be at least 1"),
        (A2C, {"rollout_length": 0}, "algorithm.rollout_length is 0; it must be at least 1"),
        (PPO, {"epochs": 0}, "algorithm.epochs is 0; it must be at least 1"),
        (PPO, {"minibatches": 0}, "algorithm.minibatches is 0; it must be at least 1"),
        (VTrace, {"refresh_actor_every": 0}, "algorithm.refresh_actor_every is 0"),
        (Reinforce, {"discount": 1.1}, "algorithm.discount is 1.1; it must lie between 0 and 1"),
        (A2C, {"gae_lambda": -0.1}, "algorithm.gae_lambda is -0.1; it must lie between 0 and 1"),
        (A2C, {"entropy_coef": -1.0}, "algorithm.entropy_coef is -1.0; it must not be negative"),
        (Reinforce, {"value_coef": -1.0}, "algorithm.value_coef is -1.0"),
        (PPO, {"clip_eps": -0.2}, "algorithm.clip_eps is -0.2; it must not be negative"),
        (PPO, {"target_kl": -1.0}, "algorithm.target_kl is -1.0; it must not be negative"),
        (
            PPO,
            {"num_envs": 3, "rollout_length": 5},
            r"algorithm.minibatches is 4, which does not divide the 15 steps of a rollout",
        ),
    ],
)
def test_bad_fields_are_named(kind, fields, message):
    with pytest.raises(UserError, match=message):
        kind(**fields)


def test_hyperparameters_are_the_specs_own():
    """The algorithm's and the optimiser's, by their names."""
    ppo = PPO(discount=0.5, gae_lambda=0.25, entropy_coef=0.125, clip_eps=0.75)
    own = {"discount": 0.5, "gae_lambda": 0.25, "entropy_coef": 0.125, "clip_eps": 0.75}
    assert ppo.hyper() == own
    hyper = learner(ppo, rate=2.0).hyper
    assert hyper == own | {"learning_rate": 2.0}
    assert all(leaf.dtype == jnp.float32 for leaf in hyper.values())
    assert isinstance(ppo, PolicyGradient)
    assert isinstance(ppo, Algorithm)
