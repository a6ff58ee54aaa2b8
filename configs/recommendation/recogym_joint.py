"""Products that a policy retrieves by a user's views, learned from clicks and from what is viewed next.

    ragjax train configs/recommendation/recogym_joint.py
    ragjax train configs/recommendation/recogym_joint.py --algorithm.reward-coef 0   # from views alone

What a user views of its own accord after a product was shown are the labels of that step; 64 products
are found or drawn for them to be told from. It has a third of the steps of `recogym.py`, and a scale, a
rate and epochs of its own.

Expected (experiments/recogym.py): clicks, % of shown 2.20 ± 0.02; drawn, % 1.71 ± 0.02.
"""

from ragjax.envs.recommendation.recogym import RecoGym
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.history_encoder import HistoryEncoder
from ragjax.models.retriever import Dense
from ragjax.models.slate_retrieval import SlateRetrieval
from ragjax.objectives.labelled_passages import LabelledPassages
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    encoder = HistoryEncoder(seen=16, width=128)
    return EpisodesConfig(
        env=RecoGym(products=1000, views=16, sigma_mu_organic=1.0, passage_seed=1),
        algorithm=LabelledPassages(
            num_envs=128, rollout_length=32, discount=0.0, minibatches=4, epochs=4
        ),
        policy=SlateRetrieval(
            k=20,
            explored=44,
            reranks=False,
            retriever=Dense(encoder, initial_scale=5.0, refresh_every=1),
        ),
        optimizer=Adam.for_policies(learning_rate=1e-2),
        env_steps=204_800,
        normalise_rewards=True,
        evaluation=EpisodeEvaluation(episodes=200, every=25, during=40),
    )
