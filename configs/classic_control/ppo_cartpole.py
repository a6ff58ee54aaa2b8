"""PPO on CartPole-v1: 1e5 steps.

    ragjax train configs/classic_control/ppo_cartpole.py

Expected (experiments/classic_control.py): return, greedy 500.00 ± 0.00; return, sampled 500.00 ± 0.00.
"""

from ragjax.envs.cartpole import CartPole
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.objectives.ppo import PPO
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=CartPole(),
        algorithm=PPO(
            num_envs=8,
            rollout_length=32,
            discount=0.98,
            gae_lambda=0.8,
            entropy_coef=0.0,
            epochs=20,
            minibatches=1,
        ),
        optimizer=Adam.for_policies(learning_rate=1e-3),
        env_steps=100_000,
        evaluation=EpisodeEvaluation(every=20),
    )
