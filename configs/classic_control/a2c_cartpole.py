"""A2C on CartPole-v1: a return of 500 after 5e5 steps."""

from ragjax.envs.cartpole import CartPole
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.objectives.a2c import A2C
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=CartPole(),
        algorithm=A2C(num_envs=8, rollout_length=5),
        optimizer=Adam.for_policies(learning_rate=7e-4),
        env_steps=500_000,
        evaluation=EpisodeEvaluation(every=625),
        log_every=125,
        checkpoint_every=2500,
    )
