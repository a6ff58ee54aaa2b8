"""A policy of slates that learns nothing, on interest evolution: random; others by `--policy.by`.

    ragjax train configs/recommendation/fixed.py

Expected (experiments/recommendation.py): return, greedy 160.4 ± 0.6; return, sampled 160.6 ± 0.5.
"""

from ragjax.envs.recommendation.baselines import SlateBaseline
from ragjax.envs.recommendation.interest_evolution import InterestEvolution
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.objectives.ppo import PPO


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=InterestEvolution(),
        algorithm=PPO(),
        policy=SlateBaseline(),
        evaluation=EpisodeEvaluation(episodes=400),
    )
