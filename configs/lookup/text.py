"""Retrieval of sentences by policy gradient on TextLookup, by the exact sum over passages.

    ragjax train configs/lookup/text.py

Expected (experiments/lookup.py): return, greedy 0.885 ± 0.070; return, sampled 0.879 ± 0.052.
"""

from ragjax.envs.text_lookup import TextLookup
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.encoder import BagEncoder, PerceptronEncoder
from ragjax.models.retrieval_policy import RetrievalPolicy
from ragjax.models.retriever import Dense
from ragjax.objectives.a2c import A2C
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=TextLookup(),
        algorithm=A2C(num_envs=64, rollout_length=1),
        policy=RetrievalPolicy(
            k=8,
            retriever=Dense(
                encoder=BagEncoder(width=64),
                query_encoder=PerceptronEncoder(width=64),
                initial_scale=5.0,
                refresh_every=1,
            ),
            reads="passage",
        ),
        optimizer=Adam.for_policies(learning_rate=5e-3),
        env_steps=64 * 600,
        evaluation=EpisodeEvaluation(episodes=400, every=10, during=200),
        log_every=50,
        checkpoint_every=300,
    )
