"""A fixed policy: retrieve once, then read and answer; `--policy.retrievals` 0 is never, 2 twice.

    ragjax train configs/reader_training/reader.py      # first, its reader
    ragjax train configs/adaptive_retrieval/fixed.py --policy.retrievals 2 --policy.threshold 0.7

A reward of about .51 as it stands, of .69 by that command. It learns nothing and is measured alone.
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
