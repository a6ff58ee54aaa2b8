"""Slates of 3 that a policy retrieves from a corpus of 10,000 items, on interest evolution.

    ragjax train configs/recommendation/retrieval.py

Expected (experiments/recommendation.py): return, greedy 215.4 ± 55.8; return, sampled 217.6 ± 56.7.
"""

from ragjax.envs.recommendation.interest_evolution import InterestEvolution
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.slate_retrieval import SlateRetrieval
from ragjax.objectives.ppo import PPO
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=InterestEvolution(corpus=10_000),
        algorithm=PPO(num_envs=64, rollout_length=64, minibatches=8, epochs=2, entropy_coef=0.01),
        policy=SlateRetrieval(k=10, explored=10),
        optimizer=Adam.for_policies(learning_rate=1e-3),
        env_steps=250_000,
        normalise_rewards=True,
        evaluation=EpisodeEvaluation(episodes=400, every=9, during=40),
    )
