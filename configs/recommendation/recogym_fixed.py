"""A policy that learns nothing, on RecoGym with 1,000 products: random; others by `--policy.by`.

    ragjax train configs/recommendation/recogym_fixed.py

Expected (experiments/recogym.py): clicks, % of shown 1.09 ± 0.01; drawn, % 1.03 ± 0.01.
"""

from ragjax.envs.recommendation.baselines import SlateBaseline
from ragjax.envs.recommendation.recogym import RecoGym
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.objectives.ppo import PPO


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=RecoGym(products=1000, views=16, sigma_mu_organic=1.0, passage_seed=1),
        algorithm=PPO(),
        policy=SlateBaseline(),
        evaluation=EpisodeEvaluation(episodes=200),
    )
