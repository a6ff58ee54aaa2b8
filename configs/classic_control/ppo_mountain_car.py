"""PPO on MountainCar-v0, observations and rewards normalised: 1e6 steps.

    ragjax train configs/classic_control/ppo_mountain_car.py

Expected (experiments/classic_control.py): return, greedy -102.42 ± 3.04; return, sampled -103.93 ± 3.74.
"""

from ragjax.envs.mountain_car import MountainCar
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.objectives.ppo import PPO
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=MountainCar(),
        algorithm=PPO(num_envs=16, rollout_length=16, gae_lambda=0.98, epochs=4, minibatches=4),
        optimizer=Adam.for_policies(learning_rate=1e-3),
        env_steps=1_000_000,
        normalise_observations=True,
        normalise_rewards=True,
        evaluation=EpisodeEvaluation(every=195),
        log_every=65,
        checkpoint_every=1000,
    )
