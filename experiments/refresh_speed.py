"""What a refresh of the index costs: steps a second without one, in the step, and beside the training.

`ragjax plot experiments/refresh_speed.py --run` measures; it needs an idle machine.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ragjax.config import load_config
from ragjax.evaluation.plots import Plot, read_figures, recorded_by, results_of
from ragjax.evaluation.tables import MarkdownTable, load_table
from ragjax.overrides import override
from ragjax.training.program import starting_state
from ragjax.training.step import make_step

TABLES = ("staleness_world_facts",)  # whose arms are timed
ARMS = {"never": "never", "50": "in the step", "beside": "beside the training"}
EVERY, ROUNDS = 50, 3


def trainer(config: Any, overrides: tuple[str, ...]) -> Callable[[], float]:
    """A function that trains for `EVERY` more steps, amid which a refresh begins, and times them."""
    learner = override(config, [*overrides, "--evaluation.every", "0"]).create()
    *before, stage = learner.stages
    skipped = sum(other.steps for other in before)  # the last stage is timed, from new parameters
    step = jax.jit(make_step(learner, stage), donate_argnums=0)
    state, done = starting_state(learner, (0,)), 0

    def train(steps: int = EVERY) -> float:
        nonlocal state, done
        began = time.perf_counter()
        for number in range(done, done + steps):
            feed = learner.feed(0, skipped + number)
            state, _ = step(state, feed, learner.hyper, learner.data)
            if learner.acts_between_steps:
                state = learner.between_steps(state, number + 1)
        jax.block_until_ready(state)
        done += steps
        return time.perf_counter() - began

    # Refreshes are due every `EVERY` steps: halfway through what is timed, not at its end.
    train(EVERY // 2)
    return train


def measure() -> dict[str, Any]:
    """Median steps a second of each arm, the arms in turn, after a first time that does not count."""
    rates: dict[str, Any] = {}
    for name in TABLES:
        table: Any = load_table(Path(__file__).with_name(f"{name}.py"))
        rows = {row.key: row for row in table.rows}
        arms = {
            key: trainer(load_config(Path(rows[key].config)), tuple(rows[key].overrides))
            for key in ARMS
        }
        seconds: dict[str, list[float]] = {key: [] for key in arms}
        for number in range(ROUNDS + 1):
            for key, train in arms.items():
                spent = train()
                seconds[key] += [spent] if number else []
        rates[name] = {key: EVERY / float(np.median(spent)) for key, spent in seconds.items()}
    return {"rates": rates, "cores": len(os.sched_getaffinity(0))}


def get_table() -> MarkdownTable:
    """The recorded figures as a table."""
    numbers = read_figures(results_of(Path(__file__)))
    lines = ["| | steps/s | of those without |", "| --- | ---: | ---: |"]
    for name, rates in numbers["rates"].items():
        for key, label in ARMS.items():
            corpus = name.removeprefix("staleness_")
            share = f"{rates[key] / rates['never']:.2f}"
            lines.append(f"| {corpus}, {label} | {rates[key]:.2f} | {share} |")
    lines += [
        "",
        f"Medians of {ROUNDS} times {EVERY} steps, the three in turn, on {numbers['cores']} CPU cores. "
        f"Configs and batches are those of the staleness tables; a refresh begins every {EVERY} steps.",
    ]
    return MarkdownTable(
        title="What it costs to embed the corpus anew while training",
        body="\n".join(lines),
        source=recorded_by(numbers, "ragjax plot experiments/refresh_speed.py --run"),
    )


def get_plots() -> tuple[Plot, ...]:
    """None: the figures are a table's."""
    return ()
