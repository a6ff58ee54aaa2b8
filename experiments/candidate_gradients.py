"""Learning to retrieve candidates, K = 5 to 100: three estimators of the retriever's gradient.

A retriever finds K of N items for a state, a ranker that is not learned shows one of them, and the
reward is that item's. `ragjax plot experiments/candidate_gradients.py --run` measures all three.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from ragjax.evaluation.plots import Curve, Plot, read_figures, recorded_by, results_of
from ragjax.evaluation.statistics import bootstrap_interval
from ragjax.evaluation.tables import MarkdownTable
from ragjax.ops.plackett_luce import PlackettLuce, log_inclusion

ESTIMATORS = {
    "set": "log p(candidates)",
    "inclusion": "log P(shown item among the candidates)",
    "marginal": "marginal over the candidates",
}
KS = (5, 20, 100)
SEEDS = (0, 1, 2, 3, 4)
ITEMS, WIDTH, STATES = 200, 8, 64
SHARPNESS = 8.0  # of the ranker: its scores are this times its guess of the reward
DOUBT = 0.3  # deviation of that guess
DRAWS = 1024
BATCH, STEPS, RATE = 64, 200, 3e-3
MEASURED = 20  # points of a learning curve
NOTES = """\
The candidates of a slate come from a retriever p(d|s), and a ranker chooses among them. There are three
ways to give the retriever its credit for the reward r of the item a that was shown:

| estimator | gradient | candidates |
| --- | --- | --- |
| `set` | (r - b) ∇log p(candidates\\|s), a product of K factors | drawn by p(d\\|s) |
| `inclusion` | (r - b) ∇log P(a among the candidates\\|s), as in arXiv 2605.26385 | drawn by p(d\\|s) |
| `marginal` | (r - b) ∇log π(a\\|s), π(a\\|s) ∝ p(a\\|s) e^ranker(a) over the K best | found |

The last is a `SlateRetrieval` with one place: the passages that are found but not shown are summed over,
and the retriever has a say in what is shown."""


class World(NamedTuple):
    """Items [N,D], states [S,D], and of each state and item the reward and the ranker's score [S,N]."""

    items: Array
    states: Array
    reward: Array
    ranker: Array


def make_world(key: Array) -> World:
    """Rewards are σ of a bilinear form that the retriever can learn; the ranker guesses them."""
    keys = jax.random.split(key, 4)
    items = jax.random.normal(keys[0], (ITEMS, WIDTH)) / np.sqrt(WIDTH)
    states = jax.random.normal(keys[1], (STATES, WIDTH))
    taste = jax.random.normal(keys[2], (WIDTH, WIDTH))
    reward = jax.nn.sigmoid(2.0 * states @ taste @ items.T - 2.0)
    guess = reward + DOUBT * jax.random.normal(keys[3], reward.shape)
    return World(items, states, reward, SHARPNESS * guess)


def first_weights(key: Array) -> Array:
    """The matrix [D,D] before training."""
    return 0.1 * jax.random.normal(jax.random.fold_in(key, 0), (WIDTH, WIDTH))


def scores_of(world: World, weights: Array, state: Array) -> Array:
    """[N] log p(d|s) of one state, by the matrix [D,D] that is learned."""
    return jax.nn.log_softmax((world.states[state] @ weights) @ world.items.T)


def surrogate(
    estimator: str, k: int, world: World, weights: Array, state: Array, key: Array, baseline: Array
) -> tuple[Array, Array]:
    """One draw of one state: (what is differentiated, the reward)."""
    found_key, shown_key = jax.random.split(key)
    scores = scores_of(world, weights, state)
    if estimator == "marginal":
        candidates = jax.lax.top_k(jax.lax.stop_gradient(scores), k)[1]
        prior = jax.nn.log_softmax(scores[candidates])
    else:
        order = PlackettLuce(scores, k)
        candidates = jax.lax.stop_gradient(order.sample(found_key))
        prior = jnp.zeros(k)
    ranked = jax.nn.log_softmax(prior + world.ranker[state, candidates])
    shown = jax.random.categorical(shown_key, jax.lax.stop_gradient(ranked))
    reward = world.reward[state, candidates[shown]]
    if estimator == "marginal":
        log_prob = ranked[shown]
    elif estimator == "set":
        log_prob = order.log_prob(candidates)
    else:
        log_prob = log_inclusion(scores, candidates[shown], k, nodes=96)
    return log_prob * (reward - baseline), reward


def expected_rewards(k: int, world: World, weights: Array) -> Array:
    """[S] the mean reward of what the ranker shows of the K best, for every state."""

    def of_state(state):
        candidates = jax.lax.top_k(scores_of(world, weights, state), k)[1]
        shown = jax.nn.softmax(world.ranker[state, candidates])
        return jnp.sum(shown * world.reward[state, candidates])

    return jax.lax.map(of_state, jnp.arange(STATES))


def trained(estimator: str, k: int, world: World, key: Array) -> tuple[Array, Array]:
    """The weights after training, and the learning curve [MEASURED] of the ranker's mean reward."""
    optimizer = optax.adam(RATE)
    weights = first_weights(key)
    loss = functools.partial(surrogate, estimator, k, world)

    def step(carry, number):
        weights, moments, baseline = carry
        keys = jax.random.split(jax.random.fold_in(key, number), 2)
        states = jax.random.randint(keys[0], (BATCH,), 0, STATES)

        def total(weights):
            made = jax.vmap(loss, (None, 0, 0, 0))(
                weights, states, jax.random.split(keys[1], BATCH), baseline[states]
            )
            return -jnp.mean(made[0]), made[1]

        gradient, reward = jax.grad(total, has_aux=True)(weights)
        updates, moments = optimizer.update(gradient, moments)
        baseline = baseline.at[states].add(0.1 * (reward - baseline[states]))
        return (optax.apply_updates(weights, updates), moments, baseline), None

    def stretch(carry, number):
        measured = jnp.mean(expected_rewards(k, world, carry[0]))
        steps = number * (STEPS // MEASURED) + jnp.arange(STEPS // MEASURED)
        return jax.lax.scan(step, carry, steps + 1)[0], measured

    begin = (weights, optimizer.init(weights), jnp.zeros(STATES))
    carry, curve = jax.lax.scan(stretch, begin, jnp.arange(MEASURED))
    return jnp.asarray(carry[0]), curve


def measured(k: int, key: Array) -> dict[str, Array]:
    """Of each estimator its learning curve, last return, and the variance of a draw before that."""
    world = make_world(jax.random.fold_in(key, 1))
    untrained = first_weights(key)
    baseline = expected_rewards(k, world, untrained)
    found = {"untrained": jnp.mean(baseline)}
    for number, estimator in enumerate(ESTIMATORS):
        weights, curve = trained(estimator, k, world, key)
        found[f"{estimator}/curve"] = curve
        found[f"{estimator}/return"] = jnp.mean(expected_rewards(k, world, weights))
        draw_key = jax.random.fold_in(key, 2 + number)
        gradients = drawn(estimator, k, world, untrained, baseline, draw_key)
        found[f"{estimator}/variance"] = jnp.sum(jnp.var(gradients, axis=0, ddof=1))
    return found


def drawn(
    estimator: str, k: int, world: World, weights: Array, baseline: Array, key: Array
) -> Array:
    """[DRAWS, D·D] single-draw gradients."""

    def draw(key):
        state_key, key = jax.random.split(key)
        state = jax.random.randint(state_key, (), 0, STATES)

        def of(weights):
            return surrogate(estimator, k, world, weights, state, key, baseline[state])[0]

        return jax.grad(of)(weights).reshape(-1)

    return jax.lax.map(draw, jax.random.split(key, DRAWS), batch_size=64)


def measure() -> dict[str, Any]:
    """All K and seeds: {"<figure>": {K: one entry a seed}}."""
    numbers: dict[str, Any] = {"k": list(KS), "seeds": list(SEEDS), "draws": DRAWS, "steps": STEPS}
    for k in KS:
        run = jax.jit(functools.partial(measured, k))
        for seed in SEEDS:
            for name, value in run(jax.random.PRNGKey(seed)).items():
                rows = numbers.setdefault(name, {}).setdefault(str(k), [])
                rows.append(np.asarray(value, float).round(6).tolist())
    return numbers


def get_table() -> MarkdownTable:
    """The recorded figures as a table."""
    numbers = read_figures(results_of(Path(__file__)))
    ks = [str(k) for k in numbers["k"]]
    lines = [
        "| estimator | " + " | ".join(f"variance, K = {k} | return, K = {k}" for k in ks) + " |",
        "| --- |" + " ---: |" * (2 * len(ks)),
    ]
    for name, label in ESTIMATORS.items():
        cells = []
        for k in ks:
            ratio = np.divide(numbers[f"{name}/variance"][k], numbers["marginal/variance"][k])
            reward = bootstrap_interval(
                [np.array([value]) for value in numbers[f"{name}/return"][k]], paired=False
            )
            cells += [f"{ratio.mean():.3g}", f"{reward.mean:.3f} ± {reward.half_width:.3f}"]
        lines.append("| " + " | ".join([label, *cells]) + " |")
    untrained = ", ".join(f"{np.mean(numbers['untrained'][k]):.3f} at K = {k}" for k in ks)
    lines += [
        "",
        f"{ITEMS} items, {STATES} states, {numbers['steps']} updates of {BATCH} draws each by Adam at "
        f"{RATE:g}, seeds {', '.join(map(str, numbers['seeds']))}; half-widths are of 95 % bootstrap "
        f"intervals over them. Variance: of {numbers['draws']:,} single draws before training, over "
        "that of the marginal. Return: mean reward of what the ranker shows of the K best, after "
        f"training; before it {untrained}.",
    ]
    return MarkdownTable(
        title="Credit of a retriever of candidates",
        body="\n".join(lines),
        source=recorded_by(numbers, "ragjax plot experiments/candidate_gradients.py --run"),
        notes=NOTES,
    )


def get_plots() -> tuple[Plot, ...]:
    """Learning curves, one picture for each K."""
    numbers = read_figures(results_of(Path(__file__)))
    draws = [point * (STEPS // MEASURED) * BATCH for point in range(MEASURED)]

    def curve(name, k):
        rows = np.array(numbers[f"{name}/curve"][str(k)])
        low, high = rows.min(axis=0).tolist(), rows.max(axis=0).tolist()
        return Curve(ESTIMATORS[name], draws, rows.mean(axis=0).tolist(), low, high)

    return tuple(
        Plot(
            name=f"k_{k}",
            title=f"Learning to retrieve {k} candidates of {ITEMS} items",
            x_label="draws",
            y_label="mean reward of what is shown",
            curves=tuple(curve(name, k) for name in ESTIMATORS),
            note=f"Mean of {len(numbers['seeds'])} seeds; the band reaches from the lowest to the "
            "highest.",
        )
        for k in numbers["k"]
    )
