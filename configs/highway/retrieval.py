"""PPO on highway_fast with a memory of 4,096 scenes of other drivers, by the sum over those retrieved.

    ragjax train configs/highway/retrieval.py
    ragjax train configs/highway/retrieval.py --env.memory.kind shuffled   # or empty, oracle
    ragjax train configs/highway/retrieval.py --policy.retriever.train-passages False   # frozen keys
    ragjax train configs/highway/retrieval.py --policy.estimator sampled   # one drawn, not summed over

Expected (experiments/driving.py): return 22.38 ± 0.30; speed, m/s 21.78 ± 0.10.
"""

from ragjax.envs.highway.highway import HighwayFast
from ragjax.envs.highway.scenes import SceneMemory
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig
from ragjax.models.retrieval_policy import RetrievalPolicy
from ragjax.objectives.ppo import PPO
from ragjax.training.optimizer import Adam


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=HighwayFast(memory=SceneMemory()),
        algorithm=PPO(
            num_envs=64,
            rollout_length=16,
            discount=0.9,
            gae_lambda=0.95,
            entropy_coef=0.01,
            epochs=6,
            minibatches=4,
        ),
        policy=RetrievalPolicy(k=4, hidden=(64, 64)),
        optimizer=Adam.for_policies(learning_rate=7e-4),
        env_steps=2**18,
        normalise_observations=True,
        evaluation=EpisodeEvaluation(every=16, episodes=300, during=50),
    )
