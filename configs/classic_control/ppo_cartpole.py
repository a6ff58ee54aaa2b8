"""PPO on CartPole-v1: a return of 500 after 1e5 steps."""

from ragjax.envs.cartpole import CartPole
from ragjax.objectives.ppo import PPO
from ragjax.policy_config import EpisodeEvaluation, PolicyConfig
from ragjax.training.optimizer import TracedAdam


def get_config() -> PolicyConfig:
    return PolicyConfig(
        env=CartPole(),
        algorithm=PPO(
            num_envs=8,
            rollout_length=32,
            discount=0.98,
            trace=0.8,
            entropy_cost=0.0,
            epochs=20,
            minibatches=1,
        ),
        optimizer=TracedAdam(learning_rate=1e-3),
        env_steps=100_000,
        evaluation=EpisodeEvaluation(every=20),
    )
