"""A trained driver with memories that it was not trained with: its own, swapped, spoilt or none.

Nothing is trained: the runs of the row "cases" of `experiments/driving.py`, as `ragjax table
experiments/driving.py --run` leaves them in `runs`, play with other memories, and in denser traffic.
`ragjax plot experiments/driving_memories.py --run` measures it.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ragjax import load_run
from ragjax.envs.highway.highway import HighwayFast
from ragjax.evaluation.plots import Plot, read_figures, recorded_by, results_of
from ragjax.evaluation.statistics import Interval, bootstrap_interval
from ragjax.evaluation.tables import MarkdownTable
from ragjax.learners.episodes import EpisodesConfig

RUNS = Path("runs/driving/cases")
SEEDS = (0, 1, 2, 3, 4)
EPISODES = 200
DENSE: dict[str, Any] = {"density": 1.5, "others": 30}
TRAFFIC: dict[str, dict[str, Any]] = {  # what is changed in the environment that was trained in
    "as trained in": {},
    "1.25 times as dense": DENSE | {"density": 1.25},
    "1.5 times as dense": DENSE,
}
MEMORIES: dict[str, dict[str, Any]] = {  # and in its memory
    "its own": {},
    "of dense traffic": DENSE | {"seed": 1},
    "the best of four times as many": {"kind": "oracle"},
    "outcomes of other scenes": {"kind": "shuffled"},
    "scenes of zeros": {"kind": "empty"},
}
FIGURES = {"return": "return", "speed": "speed, m/s", "crashed": "crashed"}
NOTES = """\
What a policy retrieves can be exchanged without training it anew: those of `cases` act as was done in
the scenes that they find. The memory of dense traffic was recorded by drivers by rules among 30 others,
1.5 times as close.

- In denser traffic that memory lowers crashes, and raises the return, beyond the intervals.
- Scenes of zeros lower crashes, too: with them the policy drives at 20 m/s, as who brakes all the time,
  which returns less where traffic is as in training.
- `The best` are the fastest that did not crash; who acts as was done in them crashes. Outcomes of other
  scenes do harm as well."""


def measure() -> dict[str, Any]:
    """{traffic: {memory: {figure: [seeds, episodes]}}} by the likeliest actions; all play the same."""
    runs = [load_run(RUNS / f"seed_{seed}") for seed in SEEDS]
    config = runs[0].config
    assert isinstance(config, EpisodesConfig)
    assert isinstance(config.env, HighwayFast)
    assert config.env.memory is not None
    numbers: dict[str, Any] = {"seeds": list(SEEDS)}
    for traffic, changed in TRAFFIC.items():
        found = numbers[traffic] = {}
        for name, other in MEMORIES.items():
            memory = replace(config.env.memory, **other)
            # One learner for all seeds, so that their episodes begin alike and differences are paired.
            learner = config.in_environment(replace(config.env, **changed, memory=memory))
            played = [learner.evaluate(run.state, episodes=EPISODES)[0] for run in runs]
            columns = [
                {"return": each.returns["greedy"], **each.metrics["greedy"]} for each in played
            ]
            found[name] = {
                figure: [np.round(column[figure], 2).tolist() for column in columns]
                for figure in FIGURES
            }
    return numbers


def interval(rows: Any) -> Interval:
    """Of the mean of [seeds, episodes] figures; all seeds play the same episodes."""
    return bootstrap_interval(list(np.asarray(rows, float)))


def get_table() -> MarkdownTable:
    """The recorded figures as a table."""
    numbers = read_figures(results_of(Path(__file__)))
    headings = [*FIGURES.values(), "return less that with its own", "crashed less that"]
    lines = [
        "| traffic | memory | " + " | ".join(headings) + " |",
        "| --- | --- |" + " ---: |" * len(headings),
    ]
    for traffic in TRAFFIC:
        own = numbers[traffic]["its own"]
        for name, found in numbers[traffic].items():
            cells = [interval(found[figure]) for figure in FIGURES]
            texts = [f"{cell.mean:.3f} ± {cell.half_width:.3f}" for cell in cells]
            for figure in ("return", "crashed"):
                less = interval(np.subtract(found[figure], own[figure]))
                texts.append("" if found is own else f"{less.mean:+.3f} ± {less.half_width:.3f}")
            lines.append("| " + " | ".join([traffic, name, *texts]) + " |")
    lines += [
        "",
        f"{EPISODES} episodes by the likeliest actions of each of {len(numbers['seeds'])} seeds, which "
        "begin alike for all; half-widths are of 95 % bootstrap intervals over seeds and episodes, "
        "those of differences paired.",
    ]
    return MarkdownTable(
        title="Drivers with memories that they were not trained with",
        body="\n".join(lines),
        source=recorded_by(numbers, "ragjax plot experiments/driving_memories.py --run"),
        notes=NOTES,
    )


def get_plots() -> tuple[Plot, ...]:
    """None: the figures are a table's."""
    return ()
