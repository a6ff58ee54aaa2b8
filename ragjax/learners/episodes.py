"""Learning from episodes: the config of a policy, its algorithm and its environment."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
from jax.sharding import Mesh

from ragjax.config import Config
from ragjax.envs.base import Environment
from ragjax.errors import require
from ragjax.evaluation.episodes import Episodes
from ragjax.learners.episode_learner import EpisodesLearner
from ragjax.mesh import require_divided
from ragjax.models.policy import ActorCritic, Policy
from ragjax.objectives.algorithm import Algorithm
from ragjax.origin import require_same_runs
from ragjax.ranges import HOST, require_few_updates
from ragjax.text import counted
from ragjax.training.optimizer import Adam, Optimizer
from ragjax.types import Env


@dataclass(frozen=True)
class EpisodeEvaluation:
    """How a policy is measured: whole episodes in fresh environments, with and without drawing.

    Attributes:
      episodes: episodes of the final figures, of an environment that can't list its episodes.
      every: steps between measurements while training, the last step included; 0 for none.
      during: episodes of each of those.
    """

    episodes: int = 100
    every: int = 50
    during: int = 20

    def __post_init__(self):
        """Checks the fields."""
        for name in ("episodes", "during"):
            value = getattr(self, name)
            require(value >= 1, f"evaluation.{name} is {value}; it must be at least 1.")
        require(self.every >= 0, f"evaluation.every is {self.every}; it must not be negative.")


@dataclass(frozen=True, kw_only=True)
class EpisodesConfig(Config):
    """One policy-gradient experiment. A step of the run is one rollout and what is learned from it.

    Attributes:
      env: the environment.
      algorithm: rollout, targets and loss.
      policy: the policy and its critic.
      env_steps: budget, in steps of all environments together; whole rollouts within it are made, and
        none by a policy that learns nothing.
      normalise_observations: whether observations are shifted and scaled by what was seen so far.
      normalise_rewards: whether rewards are divided by the deviation of the discounted return so far.
      evaluation: how the policy is measured.
    """

    records: ClassVar[type[Episodes]] = Episodes

    env: Environment
    algorithm: Algorithm
    policy: Policy = field(default_factory=ActorCritic)
    optimizer: Optimizer = field(default_factory=Adam.for_policies)
    env_steps: int = field(default=500_000, metadata=HOST)
    normalise_observations: bool = False
    normalise_rewards: bool = False
    evaluation: EpisodeEvaluation = field(default_factory=EpisodeEvaluation)

    def __post_init__(self):
        """Checks what single components can't."""
        super().__post_init__()
        require(
            self.num_seeds == 1 or self.env.same_for_all_seeds(),
            f"num_seeds is {self.num_seeds}, but environment {self.env.name} has a trained part of its "
            "own for each seed; train the seeds one after another with --seed.",
        )
        require(
            self.num_seeds == 1 or self.env.traceable,
            f"num_seeds is {self.num_seeds}, but environment {self.env.name} lives outside JAX and "
            "can't run several seeds in one program; train them one after another with --seed.",
        )
        require(
            not self.policy.learns or self.env_steps >= self.algorithm.batch_size,
            f"env_steps is {self.env_steps}, less than the {self.algorithm.batch_size} steps of one "
            "rollout (algorithm.num_envs x algorithm.rollout_length); raise it.",
        )
        require_few_updates(f"env_steps is {self.env_steps}", self.updates)
        require(
            not (self.normalise_observations and self.env.history),
            "normalise_observations is on together with env.history, but it would rescale the marks and "
            "actions of the steps that a history holds; turn one of them off.",
        )
        require(
            self.optimizer.accumulate == 1,
            f"optimizer.accumulate is {self.optimizer.accumulate}, but a policy's batches are divided "
            "by algorithm.minibatches; leave it at 1.",
        )
        if self.policy.learns:
            self.optimizer.check(self.steps, self.updates)

    def check_mesh(self, mesh: Mesh) -> None:
        """See `Config.check_mesh`."""
        require(
            self.env.traceable,
            f"mesh.devices is {self.mesh.devices}, but environment {self.env.name} lives outside JAX, "
            "on one host; set mesh.devices to 1.",
        )
        require(
            self.policy.on_mesh,
            f"mesh.devices is {self.mesh.devices}, but policy.retriever.index works on one device; "
            "choose Exact, or set mesh.devices to 1.",
        )
        require_divided("algorithm.num_envs", self.algorithm.num_envs, mesh)

    @property
    def steps(self) -> int:
        """Rollouts of the whole run; none for a policy that learns nothing."""
        return self.env_steps // self.algorithm.batch_size if self.policy.learns else 0

    @property
    def notes(self) -> list[str]:
        """That `env_steps` is no whole number of rollouts, if it isn't."""
        size, number = self.algorithm.batch_size, self.steps
        if not number or self.env_steps == number * size:
            return []
        return [
            f"env_steps is {self.env_steps:,}, of which {number * size:,} are made: "
            f"{counted(number, 'rollout')} of {size:,}"
        ]

    @property
    def updates(self) -> int:
        """Updates of the parameters in the whole run."""
        return self.steps * self.algorithm.epochs * self.algorithm.minibatches

    def lengthened_to(self, other: Config) -> Config:
        """See `Config.lengthened_to`."""
        if not isinstance(other, EpisodesConfig):
            return self
        return replace(self, env_steps=max(self.env_steps, other.env_steps))

    @property
    def evaluate_every(self) -> int:
        """Steps between measurements."""
        return self.evaluation.every

    @property
    def tracing(self) -> Mapping[str, Any]:
        """See `Config.tracing`: the algorithm's scalars, too."""
        return {"optimizer": self.optimizer, "algorithm": self.algorithm}

    @property
    def subject(self) -> str:
        """Name of the environment."""
        return self.env.name

    def create(self) -> EpisodesLearner:
        """Prepares the environment."""
        return EpisodesLearner(self)

    def in_environment(self, env: Environment) -> EpisodesLearner:
        """What measures a run of this config in another environment, such as one of other passages.

        `run.config.in_environment(env).evaluate(run.state)` plays there with what the run has learned;
        passages are embedded anew, and nothing is trained.

        Args:
          env: one with observations, actions and passages of the same shapes, but for the number of
            passages, which slates of passages are as many actions as.

        Raises:
          UserError: they are not.
        """
        own, other = (spec.prepare(self.seed).build() for spec in (self.env, env))
        shapes = [(each.low.shape, _actions(each), _width(each)) for each in (own, other)]
        require(
            shapes[0] == shapes[1],
            f"env has observations, actions and passages of shapes {shapes[1]}, but the run's "
            f"environment has {shapes[0]}; choose one of the same shapes.",
        )
        return replace(self, env=env).create()

    def load(self, run_dir: Path) -> EpisodesLearner:
        """Prepares the environment again, of the same runs and questions; nothing else of it is kept.

        Raises:
          UserError: a run that it is built on holds other parameters now, or its questions are others.
        """
        learner = EpisodesLearner(replace(self, env=self.env.of_run(run_dir, self.seed)))
        require_same_runs(run_dir, learner.origins(self.seed))
        learner.require_same_questions(run_dir)
        return learner


def _actions(env: Env) -> int:
    """The number of actions, or of the places of a slate of whatever there is."""
    return env.slate or env.num_actions


def _width(env: Env) -> tuple[int, ...]:
    """The shape of a passage, () if there is none."""
    return () if env.passages is None else jnp.shape(env.passages)[1:]
