"""Slates of 3 of 10 candidates by PPO, on interest evolution as in RecSim: 250,000 steps.

    ragjax train configs/recommendation/ppo.py

Expected (experiments/recommendation.py): return, greedy 219.0 ± 8.5; return, sampled 168.8 ± 1.9.
"""

from ragjax.envs.recommendation.interest_evolution import InterestEvolution
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.slate_policy import SlatePolicy
from ragjax.objectives.ppo import PPO
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=InterestEvolution(),
        algorithm=PPO(num_envs=64, rollout_length=64, minibatches=8, epochs=2, entropy_coef=0.01),
        policy=SlatePolicy(),
        optimizer=Adam.for_policies(learning_rate=1e-3),
        env_steps=250_000,
        normalise_rewards=True,
        evaluation=EpisodeEvaluation(episodes=400, every=9, during=40),
    )
