"""REINFORCE with a learned baseline on CartPole-v1: whole episodes, 1e6 steps."""

from ragjax.envs.cartpole import CartPole
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.objectives.reinforce import Reinforce
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=CartPole(),
        algorithm=Reinforce(num_envs=4, rollout_length=500),
        optimizer=Adam.for_policies(learning_rate=2e-3),
        env_steps=1_000_000,
        evaluation=EpisodeEvaluation(every=25),
    )
