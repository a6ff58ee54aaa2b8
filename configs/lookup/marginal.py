"""Retrieval by policy gradient on Lookup, by the exact sum over passages or another estimator.

    ragjax train configs/lookup/marginal.py
    ragjax train configs/lookup/marginal.py --policy.estimator sampled   # or gumbel, attention

Expected (experiments/lookup.py): return, greedy 0.945 ± 0.028; return, sampled 0.950 ± 0.024.
"""

from ragjax.envs.lookup import Lookup
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.retrieval_policy import RetrievalPolicy
from ragjax.objectives.a2c import A2C
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=Lookup(),
        algorithm=A2C(num_envs=64, rollout_length=1),
        policy=RetrievalPolicy(k=8, estimator="marginal", reads="passage"),
        optimizer=Adam.for_policies(learning_rate=5e-3),
        env_steps=64 * 600,
        evaluation=EpisodeEvaluation(episodes=400, every=10, during=200),
        log_every=50,
        checkpoint_every=300,
    )
