"""The configuration of a policy-gradient experiment."""

from dataclasses import dataclass, field

from ragjax.config import RunConfig
from ragjax.envs.base import Environment
from ragjax.errors import require
from ragjax.models.policy import ActorCritic, Policy
from ragjax.objectives.actor_critic import PolicyGradient
from ragjax.training.optimizer import TracedAdam


@dataclass(frozen=True)
class EpisodeEvaluation:
    """How a policy is measured: whole episodes in fresh environments, with and without drawing.

    Attributes:
      episodes: episodes of the final figures, of an environment that can't list its episodes.
      every: updates between measurements while training; 0 for none.
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
class PolicyConfig(RunConfig):
    """One policy-gradient experiment. A step of the run is one rollout and what is learned from it.

    Attributes:
      env: the environment.
      algorithm: rollout, targets and loss.
      policy: the policy and its critic.
      optimizer: the optimiser.
      num_seeds: runs with the seeds `seed`, `seed` + 1, ... side by side in one program.
      env_steps: budget, in steps of all environments together; whole rollouts within it are made, and
        none by a policy that learns nothing.
      normalise_observations: whether observations are shifted and scaled by what was seen so far.
      normalise_rewards: whether rewards are divided by the deviation of the discounted return so far.
      evaluation: how the policy is measured.
    """

    env: Environment
    algorithm: PolicyGradient
    policy: Policy = field(default_factory=ActorCritic)
    optimizer: TracedAdam = field(default_factory=TracedAdam)
    num_seeds: int = 1
    env_steps: int = 500_000
    normalise_observations: bool = False
    normalise_rewards: bool = False
    evaluation: EpisodeEvaluation = field(default_factory=EpisodeEvaluation)

    def __post_init__(self):
        """Checks what single components can't."""
        super().__post_init__()
        require(
            self.num_seeds >= 1, f"num_seeds is {self.num_seeds}; at least one seed has to run."
        )
        require(
            self.num_seeds == 1 or self.env.same_for_all_seeds(),
            f"num_seeds is {self.num_seeds}, but environment {self.env.name} has a trained part of "
            "each seed's own; train them one after another with --seed, or let them share one.",
        )
        require(
            not self.policy.learns or self.env_steps >= self.algorithm.batch_size,
            f"env_steps is {self.env_steps}, less than the {self.algorithm.batch_size} steps of one "
            "rollout (algorithm.num_envs x algorithm.rollout_length); raise it.",
        )
        require(
            not (self.normalise_observations and self.env.history),
            "normalise_observations is on together with env.history, but it would rescale the marks and "
            "actions of the steps that a history holds; turn one of them off.",
        )

    @property
    def steps(self) -> int:
        """Rollouts of the whole run."""
        return self.env_steps // self.algorithm.batch_size if self.policy.learns else 0

    @property
    def subject(self) -> str:
        """Name of the environment."""
        return self.env.name

    @property
    def run_name(self) -> str:
        """Names the seed, or the first and the last of several."""
        single = super().run_name
        return single if self.num_seeds == 1 else f"{single}_to_{self.seed + self.num_seeds - 1}"
