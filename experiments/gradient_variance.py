"""Variance and direction of four estimators of the policy gradient through retrieval, K = 2 to 50.

A policy is trained for a while by the exact estimator on Lookup, whose states and actions can be listed;
then each estimator draws gradients of single steps from that very policy. All have the same baseline,
the expected reward of the state. `ragjax plot experiments/gradient_variance.py --run` measures them.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ragjax.envs.lookup import Lookup
from ragjax.evaluation.gradients import drawn_gradients, exact_gradient, spread
from ragjax.evaluation.plots import Curve, Line, Plot, read_figures, recorded_by, results_of
from ragjax.evaluation.tables import MarkdownTable
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.retrieval_policy import RetrievalPolicy
from ragjax.objectives.a2c import A2C
from ragjax.training.optimizer import Adam
from ragjax.training.program import train

ESTIMATORS = ("marginal", "sampled", "gumbel", "attention")
KS = (2, 5, 10, 20, 50)
SEEDS = (0, 1, 2, 3, 4)
DRAWS = 8192
ENV = Lookup(passages=64, actions=4)
NOTES = """\
A `RetrievalPolicy` embeds the state, finds the K best passages in an index, reads each, and acts by
π(a|s) = Σ_d p(d|s) π(a|s,d). Its `estimator` chooses the gradient of log π(a|s):

| value | gradient |
| --- | --- |
| `marginal` | exact: Σ_d w_d [∇log p(d\\|s) + ∇log π(a\\|s,d)], with w_d the posterior of passage d |
| `sampled` | one passage drawn with the action, both scored: same mean, more variance |
| `gumbel` | passages drawn first, straight-through Gumbel top-k: biased |
| `attention` | no sum over passages, one over their features: another policy, for comparison |"""


def get_config(k: int) -> EpisodesConfig:
    """The policy that is measured, before its training is over."""
    return EpisodesConfig(
        env=ENV,
        algorithm=A2C(num_envs=64, rollout_length=1),
        policy=RetrievalPolicy(k=k, reads="passage"),
        optimizer=Adam.for_policies(learning_rate=5e-3),
        env_steps=64 * 40,
        evaluation=EpisodeEvaluation(every=0),
    )


def measured(k: int, key: jax.Array) -> dict[str, jax.Array]:
    """Trains with one seed; then figures of every estimator, and the policy's own return."""
    learner = get_config(k).create()
    state, _ = train(learner, key, [None], learner.hyper, learner.data)
    params, env, policy = state.params, learner.raw_env, learner.policy(learner.data)
    assert policy.embed is not None
    index = policy.embed(params)
    keys, answers = env.params.keys, env.params.answers
    first = jnp.zeros((ENV.passages, ENV.steps)).at[:, 0].set(1.0)
    observation = jnp.concatenate([keys, first], axis=-1)
    reward = jax.nn.one_hot(answers, ENV.actions)

    seen = policy.retrieve(params, index, None, observation)
    exact = exact_gradient(policy, params, seen, reward)
    baseline = jnp.sum(jnp.exp(policy.apply(params, seen)[0].log_probs) * reward, axis=-1)
    found = {"return": jnp.mean(baseline)}
    for number, estimator in enumerate(ESTIMATORS):
        spec = dataclasses.replace(learner.config.policy, estimator=estimator)
        draw_key = jax.random.fold_in(key, number)
        gradients = drawn_gradients(
            spec.build(env), params, index, draw_key, observation, reward, baseline, DRAWS
        )
        figures = spread(gradients, exact)._asdict()
        found |= {f"{estimator}/{name}": value for name, value in figures.items()}
    return found


def measure() -> dict[str, Any]:
    """All K and seeds: {"<estimator>/<figure>": one list of seeds for each K}."""
    numbers: dict[str, Any] = {"k": list(KS), "seeds": list(SEEDS), "draws": DRAWS}
    for k in KS:
        run = jax.jit(functools.partial(measured, k))
        for seed in SEEDS:
            for name, value in run(jax.random.PRNGKey(seed)).items():
                rows = numbers.setdefault(name, {}).setdefault(str(k), [])
                rows.append(float(value))
    return numbers


def ratios(numbers: dict[str, Any], estimator: str) -> np.ndarray:
    """[K,seeds] variance over that of the exact estimator."""
    rows = [
        np.array(numbers[f"{estimator}/variance"][str(k)])
        / np.array(numbers["marginal/variance"][str(k)])
        for k in numbers["k"]
    ]
    return np.array(rows)


def values(numbers: dict[str, Any], name: str) -> np.ndarray:
    """[K,seeds] of a figure."""
    return np.array([numbers[name][str(k)] for k in numbers["k"]])


def get_table() -> MarkdownTable:
    """The recorded figures as a table."""
    numbers = read_figures(results_of(Path(__file__)))
    head = ["estimator", *(f"K = {k}" for k in numbers["k"])]
    episodes = get_config(KS[0]).env_steps
    lines = [
        "| " + " | ".join(head) + " |",
        "| --- |" + " ---: |" * len(numbers["k"]),
    ]
    errors = []
    for estimator in ESTIMATORS:
        error = values(numbers, f"{estimator}/error").mean(axis=1)
        errors.append(f"{estimator} {', '.join(f'{value:.1f}' for value in error)}")
        variance = ratios(numbers, estimator).mean(axis=1)
        cosine = values(numbers, f"{estimator}/cosine").mean(axis=1)
        cells = [f"{v:.2f} ({c:.3f})" for v, c in zip(variance, cosine, strict=True)]
        lines.append("| " + " | ".join([estimator, *cells]) + " |")
    lines += [
        "",
        f"Lookup with {ENV.passages} passages, after {episodes:,} episodes; mean of "
        f"{len(numbers['seeds'])} seeds. In brackets: cosine of the mean of {numbers['draws']:,} draws "
        "with the exact gradient. Error of the mean in its own standard errors, about 1 without bias: "
        + "; ".join(errors)
        + ". Attention is a policy of another form, whose own gradient need not be this one.",
    ]
    return MarkdownTable(
        title="Variance of one step's gradient through retrieval, over that of the exact marginal",
        body="\n".join(lines),
        source=recorded_by(numbers, "ragjax plot experiments/gradient_variance.py --run"),
        notes=NOTES,
    )


def get_plots() -> tuple[Plot, ...]:
    """Variance and cosine against K."""
    numbers = read_figures(results_of(Path(__file__)))

    def curve(estimator, rows):
        low, high = rows.min(axis=1).tolist(), rows.max(axis=1).tolist()
        return Curve(estimator, numbers["k"], rows.mean(axis=1).tolist(), low, high)

    note = (
        f"Mean of {len(numbers['seeds'])} seeds; the band reaches from the lowest to the highest."
    )
    return (
        Plot(
            name="variance",
            title="Variance of single-step gradients over that of the exact marginal",
            x_label="K, passages retrieved",
            y_label="ratio of variances",
            curves=tuple(curve(name, ratios(numbers, name)) for name in ESTIMATORS[1:]),
            lines=(Line("marginal", 1.0, "by definition"),),
            note=note,
        ),
        Plot(
            name="cosine",
            title=f"Cosine of the mean of {numbers['draws']:,} draws with the exact gradient",
            x_label="K, passages retrieved",
            y_label="cosine",
            curves=tuple(curve(name, values(numbers, f"{name}/cosine")) for name in ESTIMATORS),
            note=note,
        ),
    )
