"""A2C on Catch: 300 episodes in each of 64 environments.

    ragjax train configs/classic_control/a2c_catch.py

Expected (experiments/classic_control.py): return, greedy 1.00 ± 0.00; return, sampled 1.00 ± 0.00.
"""

from ragjax.envs.catch import Catch
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.objectives.a2c import A2C
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=Catch(),
        algorithm=A2C(num_envs=64, rollout_length=9, gae_lambda=0.95),
        optimizer=Adam.for_policies(learning_rate=3e-3),
        env_steps=300 * 64 * 9,
        evaluation=EpisodeEvaluation(every=15),
    )
