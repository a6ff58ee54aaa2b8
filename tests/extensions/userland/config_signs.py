"""A policy that retrieves in a user's environment."""

from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.retrieval_policy import RetrievalPolicy
from ragjax.objectives.a2c import A2C
from ragjax.training.optimizer import Adam
from userland.environment import Signs


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=Signs(),
        algorithm=A2C(num_envs=32, rollout_length=1),
        policy=RetrievalPolicy(k=4, reads="passage"),
        optimizer=Adam.for_policies(learning_rate=1e-2),
        env_steps=32 * 300,
        evaluation=EpisodeEvaluation(episodes=50, every=0),
        log_every=100,
    )
