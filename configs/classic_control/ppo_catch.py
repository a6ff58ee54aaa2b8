"""PPO on Catch: 300 episodes in each of 64 environments."""

from ragjax.envs.catch import Catch
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.objectives.ppo import PPO
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=Catch(),
        algorithm=PPO(num_envs=64, rollout_length=9, epochs=4, minibatches=4),
        optimizer=Adam.for_policies(learning_rate=1e-3),
        env_steps=300 * 64 * 9,
        evaluation=EpisodeEvaluation(every=15),
    )
