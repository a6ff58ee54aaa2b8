"""Episodes a second of the question-answering agent: in one program, and stepped from Python.

`ragjax plot experiments/agent_speed.py --run` measures; it needs the run that
`ragjax train configs/reader_training/reader.py` leaves.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ragjax.agents.adaptive_retrieval.environment import PreparedAdaptiveRetrieval
from ragjax.config import load_config
from ragjax.envs.to_gymnasium import as_gymnasium
from ragjax.evaluation.plots import Plot, read_figures, recorded_by, results_of
from ragjax.evaluation.tables import MarkdownTable
from ragjax.learners.episode_learner import EpisodesLearner
from ragjax.training.program import first_state
from ragjax.training.step import make_step

CONFIG = Path(__file__).parents[1] / "configs" / "adaptive_retrieval" / "ppo.py"
UPDATES, EPISODES, QUESTIONS, REPEATS = 30, 300, 256, 5


def median_rate(count: int, work: Callable[[], Any]) -> float:
    """Median over repetitions of `count` / the seconds that `work` takes, after a first time."""
    work()
    rates = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        rates.append(count / (time.perf_counter() - began))
    return float(np.median(rates))


def measure() -> dict[str, Any]:
    """Episodes a second both ways, and questions read a second in batches and one by one."""
    learner = load_config(CONFIG).create()
    assert isinstance(learner, EpisodesLearner)
    hyper, data, algorithm = learner.hyper, learner.data, learner.config.algorithm
    state, step = first_state(learner, (0,)), make_step(learner, learner.stages[0])

    @jax.jit
    def learn(state, data):
        update = lambda state, _: step(state, None, hyper, data)  # noqa: E731
        return jax.lax.scan(update, state, length=UPDATES)

    _, metrics = learn(state, data)
    episodes = float(np.sum(algorithm.batch_size / metrics["episode_length"]))
    together = median_rate(1, lambda: jax.block_until_ready(learn(state, data))) * episodes

    prepared = learner.env.on_split("train")
    assert isinstance(prepared, PreparedAdaptiveRetrieval)
    env = as_gymnasium(prepared)
    act = learner.acting(state)
    decide = jax.jit(lambda key, seen: act(seen[None]).sample(key)[0])
    keys = list(jax.random.split(jax.random.PRNGKey(1), 64))

    def step_from_python():
        for number in range(EPISODES):
            seen, _ = env.reset(seed=number)
            done, step = False, 0
            while not done:
                action = int(decide(keys[(number + step) % len(keys)], seen))
                seen, _, terminated, truncated, _ = env.step(action)
                done, step = terminated or truncated, step + 1

    one_by_one = median_rate(EPISODES, step_from_python)

    reader, k = prepared.questions.reader, prepared.spec.k
    asked = prepared.questions.data.splits["train"]
    texts = [question.question for question in asked[:QUESTIONS]]
    single = texts[:16]
    return {
        "episodes": {"one program, learning included": together, "stepped from Python": one_by_one},
        "questions": {
            "in batches": median_rate(QUESTIONS, lambda: reader.read(texts, k)),
            "one by one": median_rate(
                len(single), lambda: [reader.read([text], k) for text in single]
            ),
        },
    }


def get_table() -> MarkdownTable:
    """The recorded figures as a table."""
    numbers = read_figures(results_of(Path(__file__)))
    lines = [
        "| | a second | ratio |",
        "| --- | ---: | ---: |",
    ]
    for kind in ("episodes", "questions"):
        slowest = min(numbers[kind].values())
        for name, rate in numbers[kind].items():
            label = (
                f"{kind} read at all stages, {name}" if kind == "questions" else f"{kind}, {name}"
            )
            lines.append(f"| {label} | {rate:,.0f} | {rate / slowest:,.1f} |")
    lines += [
        "",
        f"Medians of {REPEATS} measurements on one machine; what counts is the ratio. Stepped from "
        "Python, the same policy acts in the same environment through its Gymnasium adapter, with "
        "jitted functions, and learns nothing.",
    ]
    return MarkdownTable(
        title="The question-answering agent: how much is done in a second",
        body="\n".join(lines),
        source=recorded_by(numbers, "ragjax plot experiments/agent_speed.py --run"),
    )


def get_plots() -> tuple[Plot, ...]:
    """None: the figures are a table's."""
    return ()
