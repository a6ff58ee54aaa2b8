"""Slates of 3 of 10 candidates by SlateQ, on interest evolution as in RecSim: 120,000 steps.

    ragjax train configs/recommendation/slate_q.py

Expected (experiments/recommendation.py): return, greedy 170.4 ± 0.3; return, sampled 171.3 ± 0.4.
"""

from ragjax.envs.recommendation.interest_evolution import InterestEvolution
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.slate_q import SlateQPolicy
from ragjax.objectives.slate_q import SlateQ
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=InterestEvolution(),
        algorithm=SlateQ(discount=0.98),
        policy=SlateQPolicy(),
        optimizer=Adam.for_policies(learning_rate=1e-3, max_grad_norm=10.0),
        env_steps=120_000,
        evaluation=EpisodeEvaluation(episodes=400, every=300, during=40),
    )
