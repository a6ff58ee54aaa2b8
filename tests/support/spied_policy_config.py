"""A run of spied parts on episodes: ragjax train tests/support/spied_policy_config.py."""

import wiring
from spied_env import Counting, Perfect, Split


def get_config() -> wiring.EpisodesConfig:
    return wiring.EpisodesConfig(
        env=Split(),
        algorithm=Counting(num_envs=4, rollout_length=4),
        policy=Perfect(refresh_every=3),
        optimizer=wiring.episodes_optimizer(0.1, anneal=True),
        env_steps=8 * 16,
        normalise_observations=True,
        normalise_rewards=True,
        evaluation=wiring.EpisodeEvaluation(episodes=6, every=3, during=8),
        log_every=1,
        checkpoint_every=3,
    )
