"""An agent: it sees how sure a trained reader is of a question, and says the answer or stays silent."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ragjax.envs.base import Environment, EpisodeList, timestep
from ragjax.run_dir import load_run
from ragjax.tasks.base import Task
from ragjax.types import Env
from userland.task import Gates

SILENT, SPEAK = 0, 1


@dataclass(frozen=True)
class Speaker(Environment):
    """Reward: whether the answer is right, or `silence` for none. One step an episode.

    Attributes:
      reader: directory of a finished run.
      task: the questions.
      silence: reward of saying nothing.
    """

    name: ClassVar[str] = "speaker"
    splits: ClassVar[tuple[str, ...]] = ("train", "dev", "test")

    time_limit: int = 1
    reader: str = ""
    task: Task = field(default_factory=Gates)
    silence: float = 0.5

    def prepare(self, seed: int) -> Environment:
        del seed
        return PreparedSpeaker(self.time_limit, spec=self, run=load_run(Path(self.reader)))


@dataclass(frozen=True, eq=False)
class PreparedSpeaker(Environment):
    """The agent's environment with its reader, over the questions of one split."""

    name: ClassVar[str] = Speaker.name
    splits: ClassVar[tuple[str, ...]] = Speaker.splits

    spec: Speaker | None = None
    run: Any = None
    split: str = "train"

    def on_split(self, split: str) -> Environment:
        return dataclasses.replace(self, split=split)

    def _asked(self):
        return self.spec.task.load().splits[self.split]

    def _env(self, first=None) -> Env:
        asked = self._asked()
        said = [self.run.answer(question.question, force=True) for question in asked]
        right = [float(each["answer"] in q.answers) for each, q in zip(said, asked, strict=True)]
        params = {
            "right": jnp.asarray(np.array(right, np.float32)),
            "sure": jnp.asarray(np.array([each["probability"] for each in said], np.float32)),
        }

        def show(params, row):
            return timestep(params["sure"][row][None])

        def reset(params, key):
            row = jax.random.randint(key, (), 0, len(asked)) if first is None else key
            return row, show(params, row)

        def step(params, key, row, action):
            reward = jnp.where(action == SPEAK, params["right"][row], self.spec.silence)
            made = timestep(params["sure"][row][None], reward, terminated=True)
            return row, made

        low = np.zeros(1, np.float32)
        return Env(params, reset, step, num_actions=2, low=low, high=low + 1)

    def build(self) -> Env:
        return self._env()

    def every_episode(self, times: int = 1) -> EpisodeList:
        asked = self._asked()
        rows = jnp.tile(jnp.arange(len(asked), dtype=jnp.int32), times)
        begin = self.whole_episode(self._env(first=True)).reset

        def reset(params, key):
            del key
            return jax.vmap(begin, (None, 0))(params, rows)

        env = self.vectorise(len(rows))._replace(reset=reset)
        return EpisodeList(env, tuple(q.id for q in asked), tuple(q.relation for q in asked))

    def answer(self, act, text: str) -> dict[str, Any]:
        told = self.run.answer(text, force=True)
        distribution = act(jnp.asarray([[told["probability"]]], jnp.float32))
        speaks = int(distribution.mode()[0]) == SPEAK
        return {
            "question": told["question"],
            "answer": told["answer"] if speaks else None,
            "probability": told["probability"],
            "notes": told["notes"],
        }
