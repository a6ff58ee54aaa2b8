"""A2C on Acrobot-v1, observations and rewards normalised: 5e5 steps.

    ragjax train configs/classic_control/a2c_acrobot.py

Expected (experiments/classic_control.py): return, greedy -81.65 ± 0.93; return, sampled -84.22 ± 1.13.
"""

from ragjax.envs.acrobot import Acrobot
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.objectives.a2c import A2C
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=Acrobot(),
        algorithm=A2C(num_envs=16, rollout_length=8, gae_lambda=0.95),
        optimizer=Adam.for_policies(learning_rate=1e-3),
        env_steps=500_000,
        normalise_observations=True,
        normalise_rewards=True,
        evaluation=EpisodeEvaluation(every=195),
        log_every=65,
        checkpoint_every=1000,
    )
