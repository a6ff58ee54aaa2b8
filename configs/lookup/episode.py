"""Lookup in episodes of three steps that name their passage in the first: a latent of the episode.

    ragjax train configs/lookup/episode.py

Expected (experiments/lookup.py): return, greedy 2.246 ± 0.195; return, sampled 2.273 ± 0.186.
"""

from ragjax.envs.lookup import Lookup
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.retrieval_policy import RetrievalPolicy
from ragjax.objectives.ppo import PPO
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=Lookup(steps=3, time_limit=3, history=True),
        algorithm=PPO(num_envs=64, rollout_length=3, minibatches=4, entropy_coef=0.02),
        policy=RetrievalPolicy(k=8, latent="episode"),
        optimizer=Adam.for_policies(learning_rate=5e-3),
        env_steps=64 * 3 * 400,
        evaluation=EpisodeEvaluation(episodes=400, every=20, during=100),
        log_every=50,
        checkpoint_every=200,
    )
