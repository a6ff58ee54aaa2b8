"""Slates of 3 of 10 candidates by REINFORCE, on interest evolution: 250,000 steps.

    ragjax train configs/recommendation/reinforce.py

Expected (experiments/recommendation.py): return, greedy 190.4 ± 11.6; return, sampled 161.9 ± 1.0.
"""

from ragjax.envs.recommendation.interest_evolution import InterestEvolution
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.slate_policy import SlatePolicy
from ragjax.objectives.reinforce import Reinforce
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=InterestEvolution(),
        algorithm=Reinforce(num_envs=8, rollout_length=128, entropy_coef=0.01),
        policy=SlatePolicy(),
        optimizer=Adam.for_policies(learning_rate=3e-3),
        env_steps=250_000,
        normalise_rewards=True,
        evaluation=EpisodeEvaluation(episodes=400, every=122, during=40),
    )
