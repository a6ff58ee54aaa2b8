"""An agent that speaks or stays silent, over the reader of the run $USERLAND_READER."""

import os

from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.policy import ActorCritic
from ragjax.objectives.ppo import PPO
from ragjax.training.optimizer import Adam
from userland.agent import Speaker


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=Speaker(reader=os.environ["USERLAND_READER"]),
        algorithm=PPO(num_envs=16, rollout_length=4, epochs=2, minibatches=1),
        policy=ActorCritic(hidden=(8,)),
        optimizer=Adam.for_policies(learning_rate=1e-2),
        env_steps=64 * 20,
        evaluation=EpisodeEvaluation(every=10, during=20),
        log_every=5,
    )
