"""Candidates among 100,000 items, found by exact search and by ScaNN: the return, and what a step costs.

Nothing is trained: what the runs of `configs/recommendation/retrieval.py` learned among 10,000 items is
played among 100,000 others. `ragjax table experiments/recommendation.py --run` makes these runs, then
`ragjax plot experiments/recommendation_search.py --run` measures; it needs an idle machine.
"""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ragjax import load_run
from ragjax.envs.wrappers import bind_env, env_data
from ragjax.evaluation.plots import Plot, read_figures, recorded_by, results_of
from ragjax.evaluation.statistics import bootstrap_interval
from ragjax.evaluation.tables import MarkdownTable
from ragjax.models.encoder import BagEncoder, PerceptronEncoder
from ragjax.models.retriever import Dense
from ragjax.retrieval.exact import Exact
from ragjax.retrieval.scann import Scann
from ragjax.training.program import first_state
from ragjax.training.step import make_step

RUNS = Path("runs/recommendation/retrieval")
SEEDS = (0, 1, 2, 3, 4)
TRAINED_AMONG, ITEMS, EPISODES = 10_000, 100_000, 50
INDEXES = {"exact": Exact(), "ScaNN": Scann()}
MODES = {"greedy": "return, likeliest slates", "sampled": "return, drawn slates"}
ENVS, TIMED, ROLLOUTS = 64, 50, 4  # of a step that is timed, and of training
NOTES = """\
Exact search reads every item's embedding inside the compiled program. ScaNN searches on the host, in a
callback out of it, and reads few. The policy scores what either of them found by the same parameters.

- Items show their topic alone, so that 100,000 of them have 20 embeddings, thousands of equals each:
  which of the best topic's items are found is a matter of ties, and both break them by the lower row:
  they find the same, and the returns are equal, not merely alike.
- `an embedding each`: a retriever that is not trained, whose encoder has an embedding of every item
  (`env.tokens`), to see the same searches where no two items are equal."""


def learner_of(run: Any, index: Any, items: int) -> Any:
    """What plays with a run's parameters among other items, found by another index."""
    policy = run.config.policy
    retriever = dataclasses.replace(policy.retriever, index=index)
    config = dataclasses.replace(
        run.config, policy=dataclasses.replace(policy, retriever=retriever)
    )
    return config.in_environment(dataclasses.replace(run.config.env, corpus=items))


def untrained(run: Any, index: Any) -> Any:
    """A learner of the same policy over items that have an embedding each."""
    retriever = Dense(
        BagEncoder(width=32),
        PerceptronEncoder(width=32),
        initial_scale=5.0,
        refresh_every=1,
        index=index,
    )
    policy = dataclasses.replace(run.config.policy, retriever=retriever, reranks=False)
    env = dataclasses.replace(run.config.env, corpus=ITEMS, tokens=True)
    return dataclasses.replace(run.config, policy=policy, env=env).create()


def timed(learner: Any, params: Any) -> tuple[dict[str, float], np.ndarray]:
    """Median milliseconds of a step of 64 environments and of its search, and the rows found [64,K]."""
    env, key = learner.env.vectorise(ENVS), jax.random.PRNGKey(0)
    data = env_data(env)
    embeddings = jax.jit(learner.policy(data).embed)(params)
    state, shown = jax.jit(lambda data: bind_env(env, data).reset(env.params, key))(data)

    @jax.jit
    def search(embeddings, observation, data):
        return learner.policy(data).retrieve(params, embeddings, None, observation)

    @jax.jit
    def step(embeddings, state, observation, data):
        policy, bound = learner.policy(data), bind_env(env, data)
        found = policy.retrieve(params, embeddings, None, observation)
        distribution, _ = policy.apply(params, found)
        slates = distribution.executed(distribution.mode())
        return bound.step(bound.params, key, state, slates)

    calls = {
        "search": lambda: search(embeddings, shown.observation, data),
        "step": lambda: step(embeddings, state, shown.observation, data),
    }
    found = calls["search"]().ids
    medians = {}
    for name, call in calls.items():
        jax.block_until_ready(call())
        spent = []
        for _ in range(TIMED):
            began = time.perf_counter()
            jax.block_until_ready(call())
            spent.append(time.perf_counter() - began)
        medians[name] = 1e3 * float(np.median(spent))
    return medians, np.asarray(found)


def rollout_seconds(learner: Any) -> float:
    """The median of a step of training after the first: a rollout, its updates, and the index anew."""
    step = jax.jit(make_step(learner, learner.stages[0]))
    state, spent = first_state(learner, (0,)), []
    for _ in range(ROLLOUTS + 1):
        began = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, None, learner.hyper, learner.data))
        spent.append(time.perf_counter() - began)
    return float(np.median(spent[1:]))


def shared(found: dict[str, np.ndarray]) -> float:
    """The share of the rows that exact search finds which ScaNN finds, too."""
    both = [np.isin(a, b).mean() for a, b in zip(found["exact"], found["ScaNN"], strict=True)]
    return float(np.mean(both))


def measure() -> dict[str, Any]:
    """Returns of each index and seed, an entry an episode, and times of the first seed's policy."""
    numbers: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "returns": {}}
    for seed in SEEDS:
        run = load_run(RUNS / f"seed_{seed}")
        for name, index in INDEXES.items():
            learner = learner_of(run, index, ITEMS)
            episodes, _ = learner.evaluate(run.state, episodes=EPISODES)
            for mode in MODES:
                rows = numbers["returns"].setdefault(name, {}).setdefault(mode, [])
                rows.append([round(value, 3) for value in episodes.returns[mode]])
    run = load_run(RUNS / f"seed_{SEEDS[0]}")
    arms: dict[str, Callable[[Any], tuple[Any, Any]]] = {
        "topics": lambda index: (learner_of(run, index, ITEMS), run.state.params),
        "each": lambda index: of_its_own(untrained(run, index)),
    }
    for arm, make in arms.items():
        found = {}
        for name, index in INDEXES.items():
            numbers.setdefault(arm, {})[name], found[name] = timed(*make(index))
        numbers[arm]["shared"] = shared(found)
    numbers["rollout"] = {
        name: rollout_seconds(learner_of(run, index, ITEMS)) for name, index in INDEXES.items()
    }
    numbers["few"], _ = timed(learner_of(run, INDEXES["exact"], TRAINED_AMONG), run.state.params)
    return numbers


def of_its_own(learner: Any) -> tuple[Any, Any]:
    """A learner and the parameters that it begins with."""
    return learner, learner.policy(learner.data).init(jax.random.PRNGKey(0))


def get_table() -> MarkdownTable:
    """The recorded figures as a table."""
    numbers = read_figures(results_of(Path(__file__)))
    returns = numbers["returns"]

    def interval(columns: list[Any]) -> str:
        found = bootstrap_interval([np.array(column) for column in columns], paired=False)
        return f"{found.mean:.1f} ± {found.half_width:.1f}"

    def line(label: str, cells: list[str]) -> str:
        return "| " + " | ".join([label, *cells]) + " |"

    def times(arm: str, name: str) -> list[str]:
        return [f"{numbers[arm][name][of]:.1f}" for of in ("step", "search")]

    headings = [
        *MODES.values(),
        *("step, ms", "search, ms", "an embedding each: step", "search"),
        "rollout and updates, s",
    ]
    lines = [line("", headings), "| --- |" + " ---: |" * len(headings)]
    for name in INDEXES:
        cells = [interval(returns[name][mode]) for mode in MODES]
        cells += [*times("topics", name), *times("each", name), f"{numbers['rollout'][name]:.1f}"]
        lines.append(line(name, cells))
    differences = [
        interval(np.subtract(returns["ScaNN"][mode], returns["exact"][mode]).tolist())
        for mode in MODES
    ]
    lines.append(line("ScaNN less exact, paired", [*differences, *[""] * 5]))
    few = numbers["few"]
    lines += [
        "",
        f"{EPISODES} episodes a mode of each of {len(SEEDS)} trained runs; half-widths are of 95 % "
        "bootstrap intervals over runs and episodes, and most of them is between the runs, which "
        f"both share. A step is one of {ENVS} environments with their searches, on {numbers['cores']} "
        f"CPU cores: medians of {TIMED}. Among {TRAINED_AMONG:,} items it takes {few['step']:.1f} ms by "
        "exact search. Of the 10 items that exact search finds, ScaNN finds "
        f"{100 * numbers['topics']['shared']:.0f} %, and {100 * numbers['each']['shared']:.0f} % where "
        f"each has an embedding. A rollout is one of {ENVS} steps in as many environments: embeddings "
        "change with every one while training, and ScaNN's searcher is then made anew.",
    ]
    return MarkdownTable(
        title="100,000 items: exact search and ScaNN",
        body="\n".join(lines),
        source=recorded_by(numbers, "ragjax plot experiments/recommendation_search.py --run"),
        notes=NOTES,
    )


def get_plots() -> tuple[Plot, ...]:
    """None: the figures are a table's."""
    return ()
