"""DQN on Catch: it learns to catch within seconds."""

from ragjax.envs.catch import Catch
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.policy import ActorCritic
from ragjax.training.optimizer import Adam
from userland.dqn import DQN


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=Catch(),
        algorithm=DQN(),
        policy=ActorCritic(hidden=(32,)),
        optimizer=Adam.for_policies(learning_rate=3e-3, schedule="constant"),
        env_steps=32 * 2000,
        evaluation=EpisodeEvaluation(episodes=20, every=0),
        log_every=200,
    )
