"""A run that costs nothing: eleven steps of two numbers, for tests of all that is around them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import optax
from loss_learner import LossLearner

from ragjax.config import Config
from ragjax.files import write_atomically
from ragjax.records import Records, ReportTable
from ragjax.training.learner import Learner, Stage
from ragjax.types import Loss

WORDS = "words.txt"


class PlainRecords(Records):
    """Three records."""

    FILE: ClassVar[str] = "predictions.jsonl"

    def __init__(self, value: float):
        self.rows = [{"number": number, "value": value} for number in range(3)]

    def summary(self) -> dict[str, Any]:
        return {"em": self.rows[0]["value"]}

    def write(self, path: Path) -> None:
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in self.rows).encode())

    @staticmethod
    def report(results) -> list[ReportTable]:
        return [ReportTable("", ("em",), [(str(results[0]["em"]),)])]


class PlainLearner(LossLearner):
    """Follows the number of the step."""

    def __init__(self, steps: int):
        def loss(params, key, batch):
            del key
            return Loss(jnp.sum((params["w"] - batch) ** 2), jnp.float32(1.0), {})

        optimizer = optax.adam(0.1)
        super().__init__(loss, optimizer, {"w": jnp.zeros(2)}, stages=(Stage(steps),))

    def feed(self, seed: int, step: int) -> Any:
        return jnp.full(2, seed + step, jnp.float32)

    def measure(self, state) -> dict[str, float]:
        return {"dev/em": float(state.params["w"][0])}

    def evaluate(self, state, split=None, *, episodes=None, progress=lambda done, total: None):
        for done in range(3):
            progress(done + 1, 3)
        return PlainRecords(float(state.params["w"][0])), {"split": split or "test"}

    def finish(self, state):
        return state

    def save(self, run_dir: Path) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(run_dir / WORDS, b"words")


@dataclass(frozen=True, kw_only=True)
class PlainConfig(Config):
    """Its config."""

    records: ClassVar[type[Records]] = PlainRecords

    number: int = 11

    @property
    def steps(self) -> int:
        return self.number

    @property
    def evaluate_every(self) -> int:
        return 3

    @property
    def subject(self) -> str:
        return "plain"

    def create(self) -> Learner:
        return PlainLearner(self.number)

    def load(self, run_dir: Path) -> Learner:
        assert (run_dir / WORDS).read_bytes() == b"words"
        return PlainLearner(self.number)
