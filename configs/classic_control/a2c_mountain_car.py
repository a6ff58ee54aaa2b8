"""A2C on MountainCar-v0, observations and rewards normalised: 1e6 steps.

    ragjax train configs/classic_control/a2c_mountain_car.py

Expected (experiments/classic_control.py): return, greedy -128.16 ± 5.56; return, sampled -125.59 ± 4.83.
"""

from ragjax.envs.mountain_car import MountainCar
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.objectives.a2c import A2C
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=MountainCar(),
        algorithm=A2C(num_envs=16, rollout_length=5),
        optimizer=Adam.for_policies(learning_rate=1e-3),
        env_steps=1_000_000,
        normalise_observations=True,
        normalise_rewards=True,
        evaluation=EpisodeEvaluation(every=625),
        log_every=125,
        checkpoint_every=2500,
    )
