"""Slates by what this episode's responses say, where qualities are dealt out anew for each user.

    ragjax train configs/recommendation/memory.py

Expected (experiments/recommendation.py): return, greedy 212.2 ± 9.0; return, sampled 168.2 ± 3.6.
"""

from ragjax.envs.recommendation.interest_evolution import InterestEvolution
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.slate_memory import SlateMemory
from ragjax.objectives.ppo import PPO
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=InterestEvolution(dealt=True, memory=48),
        algorithm=PPO(num_envs=64, rollout_length=64, minibatches=8, epochs=2, entropy_coef=0.01),
        policy=SlateMemory(k=3),
        optimizer=Adam.for_policies(learning_rate=1e-3),
        env_steps=250_000,
        normalise_rewards=True,
        evaluation=EpisodeEvaluation(episodes=400, every=9, during=40),
    )
