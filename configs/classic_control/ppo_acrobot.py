"""PPO on Acrobot-v1, observations and rewards normalised: 1e6 steps.

    ragjax train configs/classic_control/ppo_acrobot.py

Expected (experiments/classic_control.py): return, greedy -75.82 ± 1.08; return, sampled -78.52 ± 3.34.
"""

from ragjax.envs.acrobot import Acrobot
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.objectives.ppo import PPO
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=Acrobot(),
        algorithm=PPO(num_envs=16, rollout_length=256, gae_lambda=0.94, epochs=4, minibatches=16),
        optimizer=Adam.for_policies(learning_rate=1e-3),
        env_steps=1_000_000,
        normalise_observations=True,
        normalise_rewards=True,
        evaluation=EpisodeEvaluation(every=12),
    )
