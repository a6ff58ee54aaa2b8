"""A fixed policy: retrieve once, then read and answer; `--policy.retrievals` 0 is never, 2 twice.

    ragjax train configs/reader_training/reader.py      # first, its reader
    ragjax train configs/adaptive_retrieval/fixed.py
    ragjax train configs/adaptive_retrieval/fixed.py --policy.retrievals 2 --policy.threshold 0.7

The last answers from memory where the reader is sure, and retrieves twice else. A fixed policy learns
nothing and is measured alone.

Expected (experiments/adaptive_retrieval.py): reward 0.501 ± 0.009; retrievals, known 1.00 ± 0.00.
"""

from ragjax.agents.adaptive_retrieval.environment import AdaptiveRetrieval
from ragjax.agents.adaptive_retrieval.fixed_policies import FixedPolicy
from ragjax.learners.episodes import EpisodesConfig
from ragjax.objectives.a2c import A2C


def get_config() -> EpisodesConfig:
    return EpisodesConfig(
        env=AdaptiveRetrieval(),
        algorithm=A2C(num_envs=1),
        policy=FixedPolicy(retrievals=1),
        env_steps=0,
    )
