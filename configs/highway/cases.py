"""PPO on highway_fast that acts as the drivers did in the scenes it retrieves, as far as it pays.

    ragjax train configs/highway/cases.py
    ragjax train configs/highway/cases.py --policy.reads both   # the observation decides, too

Observations and the keys of scenes have one scale and share one matrix, so that like scenes are found
from the start. Eight are retrieved, of 8,192 of drivers by rules. What was done in them and what came of
it is all that an action depends on.

Expected (experiments/driving.py): return 21.75 ± 0.06; speed, m/s 21.10 ± 0.07.
"""

from ragjax.envs.highway.highway import HighwayFast
from ragjax.envs.highway.scenes import SceneMemory
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.encoder import PerceptronEncoder
from ragjax.models.retrieval_policy import RetrievalPolicy
from ragjax.models.retriever import Dense
from ragjax.objectives.ppo import PPO
from ragjax.training.optimizer import Adam

OBSERVED = 25  # numbers of an observation, with which a scene begins


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=HighwayFast(memory=SceneMemory(entries=8192, drivers="rules"), standardised=True),
        algorithm=PPO(
            num_envs=64,
            rollout_length=16,
            discount=0.9,
            gae_lambda=0.95,
            entropy_coef=0.01,
            epochs=6,
            minibatches=4,
        ),
        policy=RetrievalPolicy(
            k=8,
            hidden=(64, 64),
            reads="value",
            copy_scale=3.0,
            retriever=Dense(
                PerceptronEncoder(width=32, first=OBSERVED), initial_scale=20.0, refresh_every=1
            ),
        ),
        optimizer=Adam.for_policies(learning_rate=7e-4),
        env_steps=2**18,
        evaluation=EpisodeEvaluation(every=16, episodes=300, during=50),
    )
