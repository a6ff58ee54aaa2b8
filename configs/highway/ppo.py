"""PPO on highway_fast, without retrieval.

    ragjax train configs/highway/ppo.py

Expected (experiments/driving.py): return 22.55 ± 0.20; speed, m/s 21.76 ± 0.09.
3 % crashes.
"""

from ragjax.envs.highway.highway import HighwayFast
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.policy import ActorCritic
from ragjax.objectives.ppo import PPO
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=HighwayFast(),
        algorithm=PPO(
            num_envs=64,
            rollout_length=16,
            discount=0.9,
            gae_lambda=0.95,
            entropy_coef=0.01,
            epochs=6,
            minibatches=4,
        ),
        policy=ActorCritic(hidden=(64, 64)),
        optimizer=Adam.for_policies(learning_rate=7e-4),
        env_steps=2**18,
        normalise_observations=True,
        evaluation=EpisodeEvaluation(every=16, episodes=300, during=50),
    )
