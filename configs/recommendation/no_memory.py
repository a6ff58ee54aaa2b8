"""Slates without a memory, where qualities are dealt out anew for each user: what memory.py is worth.

    ragjax train configs/recommendation/no_memory.py

Expected (experiments/recommendation.py): return, greedy 161.8 ± 1.0; return, sampled 160.1 ± 0.5.
"""

from ragjax.envs.recommendation.interest_evolution import InterestEvolution
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.slate_policy import SlatePolicy
from ragjax.objectives.ppo import PPO
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=InterestEvolution(dealt=True),
        algorithm=PPO(num_envs=64, rollout_length=64, minibatches=8, epochs=2, entropy_coef=0.01),
        policy=SlatePolicy(),
        optimizer=Adam.for_policies(learning_rate=1e-3),
        env_steps=250_000,
        normalise_rewards=True,
        evaluation=EpisodeEvaluation(episodes=400, every=9, during=40),
    )
