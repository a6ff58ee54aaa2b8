"""A policy of slates that learns nothing, on interest evolution: one of random choices by default.

    ragjax train configs/recommendation/fixed.py --policy.by affinity

Expected (experiments/recommendation.py): not recorded yet.
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
