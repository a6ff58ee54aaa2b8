"""A policy that retrieves slates from 100,000 items, by exact search and by ScaNN.

`ragjax plot experiments/large_corpus.py --run` trains it on 10,000 items and then only searches more.
"""

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ragjax.config import load_config
from ragjax.envs.recommendation.interest_evolution import InterestEvolution
from ragjax.evaluation.plots import Plot, read_figures, recorded_by, results_of
from ragjax.evaluation.statistics import interquartile_interval
from ragjax.evaluation.tables import MarkdownTable
from ragjax.learners.episodes import EpisodesConfig
from ragjax.models.slate_retrieval import SlateRetrieval
from ragjax.retrieval.base import Index
from ragjax.retrieval.exact import Exact
from ragjax.retrieval.scann import Scann
from ragjax.shipped import find_config
from ragjax.training.program import train

SEEDS = (0, 1, 2, 3, 4)
STEPS = 160_000
EPISODES = 200
ITEMS = 100_000
QUERIES = 64
TIMES = 15
INDEXES: dict[str, Index] = {"exact": Exact(), "scann": Scann()}


def get_config(items: int, index: Index, seed: int = 0) -> EpisodesConfig:
    """The policy of `configs/recommendation/retrieval.py`, over a corpus and an index to choose."""
    config = load_config(find_config(Path("recommendation/retrieval")))
    assert isinstance(config, EpisodesConfig)
    assert isinstance(config.policy, SlateRetrieval)
    retriever = replace(config.policy.retriever, index=index)
    return replace(
        config,
        env=InterestEvolution(corpus=items),
        policy=replace(config.policy, retriever=retriever),
        env_steps=STEPS,
        evaluation=replace(config.evaluation, every=0),
        seed=seed,
    )


def measure() -> dict[str, Any]:
    """{"<index>/<figure>": one number a seed}."""
    numbers: dict[str, Any] = {"seeds": list(SEEDS), "steps": STEPS, "episodes": EPISODES}
    learner = get_config(10_000, Exact()).create()
    run = jax.jit(lambda key: train(learner, key, [None], learner.hyper, learner.data)[0])
    learners = {name: get_config(ITEMS, index).create() for name, index in INDEXES.items()}
    for seed in SEEDS:
        state = run(jax.random.PRNGKey(seed))
        for name, larger in learners.items():
            figures = larger.evaluate(state, episodes=EPISODES)[0].summary()
            for figure in ("greedy_return", "sampled_return"):
                numbers.setdefault(f"{name}/{figure}", []).append(round(figures[figure], 3))
            numbers.setdefault(f"{name}/milliseconds", []).append(milliseconds(larger, state))
    return numbers


def milliseconds(learner: Any, state: Any) -> float:
    """The median time of finding the candidates of QUERIES users."""
    policy, env = learner.policy(learner.data), learner.raw_env
    index = jax.jit(policy.embed)(state.params)
    _, made = env.reset(env.params, jax.random.PRNGKey(0))
    observation = made.observation[:QUERIES]
    retrieve = jax.jit(policy.retrieve)
    jax.block_until_ready(retrieve(state.params, index, None, observation))
    times = []
    for _ in range(TIMES):
        begin = time.perf_counter()
        jax.block_until_ready(retrieve(state.params, index, None, observation))
        times.append(time.perf_counter() - begin)
    return round(1e3 * statistics.median(times), 3)


def get_table() -> MarkdownTable:
    """The recorded figures as a table."""
    numbers = read_figures(results_of(Path(__file__)))
    lines = [
        "| index | return, greedy | return, sampled | ms a step |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name in INDEXES:
        cells = []
        for figure in ("greedy_return", "sampled_return"):
            interval = interquartile_interval([np.array(numbers[f"{name}/{figure}"])])
            cells.append(f"{interval.mean:.1f} ± {interval.half_width:.1f}")
        cells.append(f"{statistics.median(numbers[f'{name}/milliseconds']):.1f}")
        lines.append("| " + " | ".join([name, *cells]) + " |")
    lines += [
        "",
        f"{ITEMS:,} items; the policy is trained on 10,000 others for {numbers['steps']:,} steps, seeds "
        f"{', '.join(map(str, numbers['seeds']))}; each return is of {numbers['episodes']} episodes, "
        "interquartile mean ± half of the 95 % bootstrap interval over seeds. A step finds the "
        f"candidates of {QUERIES} users at once.",
    ]
    return MarkdownTable(
        title="Slates from 100,000 items, by exact search and by ScaNN",
        body="\n".join(lines),
        source=recorded_by(numbers, "ragjax plot experiments/large_corpus.py --run"),
    )


def get_plots() -> tuple[Plot, ...]:
    """None: the figures are a table's."""
    return ()
