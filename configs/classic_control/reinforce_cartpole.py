"""REINFORCE with a learned baseline on CartPole-v1: whole episodes, 1e6 steps.

    ragjax train configs/classic_control/reinforce_cartpole.py

Expected (experiments/classic_control.py): return, greedy 497.79 ± 1.92; return, sampled 490.36 ± 8.96.
"""

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
