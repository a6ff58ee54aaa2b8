"""A policy's run of seconds: ragjax train tests/support/tiny_policy_config.py."""

from ragjax.envs.cartpole import CartPole
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.policy import ActorCritic
from ragjax.objectives.ppo import PPO
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=CartPole(time_limit=40),
        algorithm=PPO(num_envs=4, rollout_length=16, epochs=2, minibatches=2, entropy_coef=0.01),
        policy=ActorCritic(hidden=(8,)),
        optimizer=Adam.for_policies(learning_rate=0.01),
        env_steps=11 * 64 + 10,  # eleven rollouts, and a rest that is too short for another
        normalise_observations=True,
        normalise_rewards=True,
        evaluation=EpisodeEvaluation(episodes=6, every=3, during=3),
        log_every=1,
        checkpoint_every=4,
    )
