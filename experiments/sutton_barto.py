"""Figures of Sutton & Barto, "Reinforcement Learning", second edition, made by this package's code.

    figure 2.5     gradient bandits with and without a baseline
    example 6.2    TD(0) and Monte Carlo on the random walk
    figure 13.1    REINFORCE on the short corridor, by step size
    figure 13.2    REINFORCE with a baseline

`ragjax plot experiments/sutton_barto.py` draws them from the recorded numbers, `--run` measures these
anew. What the book computes by hand is here the work of the package: environments of `ragjax.envs`,
`training.rollout`, returns and losses of `Reinforce` or `ops.returns.lambda_returns`, and plain SGD in
`training.step.make_update` on parameters that are linear in a constant or one-hot observation, hence
the book's tables.

The book updates after every single step, with the newest parameters (its boxes do so within an
episode that is already over, too), and so does this file: the targets of a rollout are made at once,
then a scan goes through its steps. One update an episode from all its steps, as `EpisodesLearner`
makes it, is another algorithm at the step sizes of the book: it multiplies the error of the baseline
by 1 - 2^-6 T in an episode of T steps, which is below -1 for T > 128. First episodes take 82 on average.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from ragjax.envs.random_walk import RandomWalk
from ragjax.envs.short_corridor import ShortCorridor
from ragjax.envs.testbed import Testbed
from ragjax.evaluation.plots import Curve, Line, Plot, read_figures, results_of
from ragjax.models.policy import ActorCritic
from ragjax.objectives.actor_critic import rollout_values
from ragjax.objectives.reinforce import Reinforce
from ragjax.ops.policy_gradient import value_sum
from ragjax.ops.returns import lambda_returns
from ragjax.training.learner import State, traced_scalars
from ragjax.training.rollout import rollout, start
from ragjax.training.step import LossFunction, update
from ragjax.types import Loss, Params, PolicyModel, Rollout

BOOK = "Sutton & Barto 2018"
SEED = 0
NORMAL = 1.96  # a 95% interval reaches so many standard errors to either side

# Linear in the observation, and zero at first: V and preferences of a single state where that is 1.
LINEAR = ActorCritic(hidden=(), bias=False, policy_scale=0.0, value_scale=0.0)

BANDITS = {  # key -> step size, baseline
    "baseline_0.1": (0.1, True),
    "baseline_0.4": (0.4, True),
    "plain_0.1": (0.1, False),
    "plain_0.4": (0.4, False),
}
WALKS = {  # key -> step size, λ
    **{f"td_{rate}": (rate, 0.0) for rate in (0.05, 0.1, 0.15)},
    **{f"mc_{rate}": (rate, 1.0) for rate in (0.01, 0.02, 0.03, 0.04)},
}
CORRIDORS = {  # key -> step size of the policy, step size of the baseline or None
    "plain_12": (2.0**-12, None),
    "plain_13": (2.0**-13, None),
    "plain_14": (2.0**-14, None),
    "baseline": (2.0**-9, 2.0**-6),
}
FIRST_RIGHT = 0.05  # probability of a move to the right that the corridor's policy starts with
SHOWN_AFTER = (0, 1, 10, 100)  # episodes, in the left panel of example 6.2
BLOCK = 5  # steps or episodes that are averaged to one point of a curve


def measure() -> dict[str, Any]:
    """All numbers of the figures."""
    return {
        "seed": SEED,
        "bandits": gradient_bandits(runs=2000, steps=1000),
        "walks": random_walks(runs=100, episodes=100),
        "corridors": short_corridors(runs=100, episodes=1000),
    }


def run_keys(runs: int) -> Array:
    """[runs,2] PRNG keys; the same ones for every setting, so that all meet the same chances."""
    return jax.random.split(jax.random.PRNGKey(SEED), runs)


def summary(values: Array | np.ndarray, block: int = 1) -> dict[str, list[float]]:
    """Mean over runs and its 95% interval.

    Args:
      values: [runs,n].
      block: successive points that are averaged first.

    Returns:
      y, low and high of [n / block].
    """
    found = np.asarray(values, np.float64)
    found = found[:, : found.shape[1] // block * block].reshape(len(found), -1, block).mean(-1)
    mean = found.mean(0)
    error = NORMAL * found.std(0, ddof=1) / math.sqrt(len(found))
    return {"y": mean.tolist(), "low": (mean - error).tolist(), "high": (mean + error).tolist()}


def block_centres(first: int, count: int) -> list[float]:
    """Positions of the points of `summary` for `count` values, the first of which stands at `first`."""
    return [first + block * BLOCK + (BLOCK - 1) / 2 for block in range(count // BLOCK)]


def sgd(policy: Any, value: Any) -> optax.GradientTransformation:
    """Plain gradient descent with step sizes of its own for policy and baseline."""
    groups: dict[Hashable, optax.GradientTransformation]
    groups = {"policy": optax.sgd(policy), "value": optax.sgd(value)}
    return optax.partition(groups, {"policy": "policy", "value": "value"})


Update = Callable[[State, Any], State]


def first_state(params: Params, optimizer: optax.GradientTransformation, key: Array) -> State:
    """The state before the first update."""
    return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), key)


def updated(loss: LossFunction, optimizer: optax.GradientTransformation) -> Update:
    """(state, batch) -> the state after one update."""

    def advance(state: State, batch: Any) -> State:
        state, _ = update(loss, optimizer, state, state.key, batch)
        return state.replace(step=state.step + 1)

    return advance


def learn(
    algorithm: Reinforce,
    model: PolicyModel,
    advance: Update,
    state: State,
    made: Rollout,
    hyper: dict[str, Array],
) -> State:
    """REINFORCE as in the book's boxes: an update for each step of a rollout, in their order.

        δ = G_t - V(s_t),   w += α_w δ ∇V(s_t),   θ += α_θ δ ∇log π(a_t|s_t)

    with θ and w as the steps before have left them.
    """
    batch = algorithm.targets(model, state.params, made, hyper)

    def one(state: State, row):  # its axis E, of one environment, serves as that of the batch
        if algorithm.baseline:
            value = model.apply(state.params, row.observation)[1]
            row = dataclasses.replace(row, advantage=row.value_target - value)
        return advance(state, row), None

    return jax.lax.scan(one, state, batch)[0]


# Figure 2.5


def gradient_bandits(runs: int, steps: int) -> dict[str, Any]:
    """Share of optimal actions, in per cent."""
    curves = {}
    for name, (rate, baseline) in BANDITS.items():
        run = jax.jit(jax.vmap(partial(_bandit, rate=rate, baseline=baseline, steps=steps)))
        curves[name] = summary(100.0 * run(run_keys(runs)), BLOCK)
    return {"runs": runs, "x": block_centres(1, steps), "curves": curves}


def _bandit(key: Array, rate: float, baseline: bool, steps: int) -> Array:
    """[steps] 1 where the best arm was pulled.

    A pull is an episode of one step, which its reward is the return of. The baseline is the mean of the
    rewards before, hence SGD on ½ (V - R)² with step size 1/n; at the first pull it is the reward
    itself, as in the book.
    """
    env = Testbed(mean=4.0, time_limit=steps).vectorise(1)
    model = LINEAR.build(env)
    algorithm = Reinforce(
        num_envs=1, rollout_length=1, discount=0.0, value_coef=1.0, baseline=baseline
    )
    hyper = traced_scalars(algorithm.hyper())
    optimizer = sgd(rate, lambda count: 1.0 / (count + 1.0))
    advance = updated(partial(algorithm.loss, model, hyper=hyper), optimizer)
    start_key, run_key = jax.random.split(key)

    def pull(loop, step):
        state, carry = loop
        act = lambda observation: model.apply(state.params, observation)[0]  # noqa: E731
        carry, made = rollout(env, act, carry, jax.random.fold_in(run_key, step), 1)
        batch = algorithm.targets(model, state.params, made, hyper)
        if baseline:
            batch = dataclasses.replace(batch, advantage=jnp.where(step == 0, 0.0, batch.advantage))
        batch = jax.tree.map(lambda leaf: leaf[0], batch)
        return (advance(state, batch), carry), made.metrics["optimal"][0, 0]

    first = first_state(model.init(key), optimizer, run_key), start(env, start_key)
    return jax.lax.scan(pull, first, jnp.arange(steps))[1]


# Example 6.2


def random_walks(runs: int, episodes: int) -> dict[str, Any]:
    """Learned values of the first run by TD(0) with α = 0.1, and errors of all settings."""
    states = RandomWalk().states
    true = np.arange(1, states + 1) / (states + 1)
    errors, values = {}, {}
    for name, (rate, trace) in WALKS.items():
        run = jax.jit(jax.vmap(partial(_walks, rate=rate, trace=trace, episodes=episodes)))
        learned = np.asarray(run(run_keys(runs)))  # [runs,episodes+1,states]
        errors[name] = summary(np.sqrt(np.square(learned - true).mean(-1)))
        if name == "td_0.1":
            shown = [after for after in SHOWN_AFTER if after <= episodes]
            values = {str(after): learned[0, after].tolist() for after in shown}
    return {
        "runs": runs,
        "x": list(range(episodes + 1)),
        "curves": errors,
        "values": values,
        "true_values": true.tolist(),
    }


def _walks(key: Array, rate: float, trace: float, episodes: int, limit: int = 100) -> Array:
    """[episodes+1,states] the values before and after each episode.

    An episode is one rollout, in which the values take no part, so it is made first. TD(0) goes through
    it in windows of one step, each with its λ-return for λ = 0 from the values of that moment: the
    online algorithm of the book. Monte Carlo has one window, the episode, with the λ-returns for λ = 1.
    Either way values are updated visit by visit. A walk in a million is longer than the limit.
    """
    env = RandomWalk(time_limit=limit).vectorise(1)
    model = LINEAR.build(env)
    hyper = traced_scalars(Reinforce(discount=1.0).hyper())
    window = 1 if trace == 0.0 else limit

    def loss(params: Params, key: Array, visit) -> Loss:
        del key
        observation, target, weight = visit
        value = model.apply(params, observation)[1]
        return Loss(value_sum(value, target, weight), jnp.ones(()), {})

    advance = updated(loss, sgd(rate, rate))

    def learn_window(state: State, steps: Rollout):
        reward, discount, values = rollout_values(model, state.params, steps, hyper)
        target = lambda_returns(reward, discount, values, trace)
        visits = (steps.observation, target, steps.weight)
        return jax.lax.scan(lambda state, visit: (advance(state, visit), None), state, visits)

    def table(state: State) -> Array:
        return model.apply(state.params, jnp.eye(len(env.low)))[1]

    def episode(state: State, number):
        start_key, walk_key = jax.random.split(jax.random.fold_in(key, number))
        act = lambda observation: model.apply(state.params, observation)[0]  # noqa: E731
        carry, walk = rollout(env, act, start(env, start_key), walk_key, limit, episodic=True)
        del carry
        state, _ = jax.lax.scan(learn_window, state, windows(walk, window))
        return state, table(state)

    params = model.init(key)
    params |= {"value": jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.5), params["value"])}
    state = first_state(params, sgd(rate, rate), key)
    _, tables = jax.lax.scan(episode, state, jnp.arange(episodes))
    return jnp.concatenate([table(state)[None], tables])


def windows(made: Rollout, length: int) -> Rollout:
    """[T/length,length,E,...] a rollout in parts, each with the observation that follows it."""
    made = dataclasses.replace(made, last_observation=made.final_observation)
    parts = jax.tree.map(lambda leaf: leaf.reshape(-1, length, *leaf.shape[1:]), made)
    return dataclasses.replace(parts, last_observation=parts.last_observation[:, -1])


# Figures 13.1 and 13.2


def short_corridors(runs: int, episodes: int, limit: int = 1000) -> dict[str, Any]:
    """Total reward per episode, the share of episodes that were cut at the limit, and stuck runs.

    A run is stuck if more than half of its episodes are cut: after a long episode its policy takes one
    of the two actions so rarely that the next episode hardly ends, and learns next to nothing from what
    it does all the time. That is the algorithm's doing, not the limit's: 50,000 steps don't free such
    runs either. Curves are over all runs; where some are stuck, `<name>_free` is over the others.
    """
    curves, cut, stuck = {}, {}, {}
    for name, (rate, baseline_rate) in CORRIDORS.items():
        options = {"rate": rate, "baseline_rate": baseline_rate}
        run = jax.jit(jax.vmap(partial(_corridor, **options, episodes=episodes, limit=limit)))
        total, unfinished = run(run_keys(runs))
        curves[name] = summary(total, BLOCK)
        cut[name] = float(unfinished.mean())
        free = np.asarray(unfinished.mean(1)) <= 0.5
        stuck[name] = int(np.sum(~free))
        if stuck[name]:
            curves[f"{name}_free"] = summary(np.asarray(total)[free], BLOCK)
    x = block_centres(1, episodes)
    return {"runs": runs, "limit": limit, "x": x, "curves": curves, "cut": cut, "stuck": stuck}


def _corridor(
    key: Array, rate: float, baseline_rate: float | None, episodes: int, limit: int
) -> tuple[Array, Array]:
    """[episodes] G_0, and [episodes] 1 where the limit cut an episode.

    The observation is always 1, so the two weights of the linear policy are the book's θ, whose
    features tell left from right. Without a baseline V stays 0, and the return of an episode that is
    cut is what it has paid until then; with one, V stands for the rest.
    """
    env = ShortCorridor(time_limit=limit).vectorise(1)
    model = LINEAR.build(env)
    algorithm = Reinforce(
        num_envs=1,
        rollout_length=limit,
        discount=1.0,
        value_coef=0.0 if baseline_rate is None else 1.0,
        baseline=baseline_rate is not None,
    )
    hyper = traced_scalars(algorithm.hyper())
    optimizer = sgd(rate, baseline_rate or 0.0)
    advance = updated(partial(algorithm.loss, model, hyper=hyper), optimizer)

    def episode(state: State, number):
        start_key, episode_key = jax.random.split(jax.random.fold_in(key, number))
        act = lambda observation: model.apply(state.params, observation)[0]  # noqa: E731
        carry = start(env, start_key)
        _, made = rollout(env, act, carry, episode_key, limit, episodic=True)
        state = learn(algorithm, model, advance, state, made, hyper)
        cut = jnp.where(made.truncated & ~made.terminated, made.weight, 0.0)
        return state, (jnp.sum(made.reward * made.weight), jnp.sum(cut))

    params = model.init(key)
    preference = math.log(FIRST_RIGHT / (1 - FIRST_RIGHT)) / 2
    kernel = jnp.asarray([-preference, preference])
    params |= {"policy": jax.tree.map(lambda leaf: kernel.reshape(leaf.shape), params["policy"])}
    state = first_state(params, optimizer, key)
    return jax.lax.scan(episode, state, jnp.arange(episodes))[1]


# The plots


def get_plots() -> tuple[Plot, ...]:
    """Declares the plots of the recorded numbers."""
    numbers = read_figures(results_of(Path(__file__)))
    return (
        _bandits_plot(numbers["bandits"]),
        *_walks_plots(numbers["walks"]),
        *_corridors_plots(numbers["corridors"]),
    )


def _curve(group: dict[str, Any], key: str, label: str, style: Any = "solid") -> Curve:
    return Curve(label, group["x"], **group["curves"][key], style=style)


def _band(group: dict[str, Any]) -> str:
    return f"Mean over {group['runs']:,} runs; bands: its 95% interval."


def _bandits_plot(group: dict[str, Any]) -> Plot:
    curves = []
    for key, (rate, baseline) in BANDITS.items():
        words = "with" if baseline else "without"
        style = "solid" if baseline else "dashed"
        curves.append(_curve(group, key, f"{words} baseline, α = {rate}", style))
    return Plot(
        name="figure_2_5",
        title="Figure 2.5: gradient bandits on the 10-armed testbed, true values near +4",
        x_label="step",
        y_label="% optimal action",
        curves=curves,
        note=f"{_band(group)} Points are means of {BLOCK} steps.",
        y_range=(0, 100),
    )


def _walks_plots(group: dict[str, Any]) -> tuple[Plot, Plot]:
    places = list(range(1, len(group["true_values"]) + 1))
    values = [
        Curve(f"after {after} episode{'s' * (after != '1')}", places, learned)
        for after, learned in group["values"].items()
    ]
    methods = {0.0: ("TD", "solid"), 1.0: ("MC", "dashed")}
    errors = []
    for key, (rate, trace) in WALKS.items():
        method, style = methods[trace]
        errors.append(_curve(group, key, f"{method}, α = {rate}", style))
    return (
        Plot(
            name="example_6_2_values",
            title="Example 6.2: values learned by TD(0) on the random walk, α = 0.1",
            x_label="state",
            y_label="estimated value",
            curves=(*values, Curve("true values", places, group["true_values"], style="dotted")),
            note="The first of the runs behind the errors.",
            x_names={place: chr(ord("A") + place - 1) for place in places},
        ),
        Plot(
            name="example_6_2_errors",
            title="Example 6.2: TD(0) and Monte Carlo on the random walk",
            x_label="walks",
            y_label="RMS error, averaged over states",
            curves=errors,
            note=_band(group),
        ),
    )


def _corridors_plots(group: dict[str, Any]) -> tuple[Plot, Plot]:
    best = Line("v*(start) = -11.6", -11.6, f"{BOOK}, example 13.1")
    runs, stuck = group["runs"], group["stuck"]

    def curves(labels: dict[str, str]) -> list[Curve]:
        found = []
        for key, label in labels.items():
            if not stuck[key]:
                found.append(_curve(group, key, label))
                continue
            free = f"{label}, the {runs - stuck[key]} runs that don't get stuck"
            found.append(_curve(group, f"{key}_free", free))
            # No band: a normal interval says nothing about a mean that a few runs at the limit move.
            every = Curve(f"{label}, all {runs} runs", group["x"], group["curves"][key]["y"])
            found.append(dataclasses.replace(every, style="dotted", like=free))
        return found

    def plot(name: str, title: str, labels: dict[str, str]) -> Plot:
        shares = [f"{group['cut'][key]:.2%} with {labels[key]}" for key in labels if stuck[key]]
        cut = f"Episodes are cut at {group['limit']:,} steps"
        return Plot(
            name=name,
            title=title,
            x_label="episode",
            y_label="total reward of the episode",
            curves=curves(labels),
            lines=(best,),
            note=f"{_band(group)} Points are means of {BLOCK} episodes. "
            + (f"{cut}: {', '.join(shares)}." if shares else f"{cut}."),
            y_range=(-100, 0),
        )

    first = "Figure 13.1: REINFORCE on the short corridor"
    second = "Figure 13.2: a baseline makes REINFORCE learn faster"
    rates = {f"plain_{power}": f"α = $2^{{-{power}}}$" for power in (12, 13, 14)}
    compared = {
        "plain_13": "no baseline, α = $2^{-13}$",
        "baseline": "a baseline, α = $2^{-9}$, $α_w$ = $2^{-6}$",
    }
    return plot("figure_13_1", first, rates), plot("figure_13_2", second, compared)
