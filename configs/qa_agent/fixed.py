"""A fixed policy: retrieve once, then read and answer; `--policy.retrievals` 0 is never, 2 twice.

    ragjax train configs/reader_lessons/reader.py      # first, its reader
    ragjax train configs/qa_agent/fixed.py
    ragjax train configs/qa_agent/fixed.py --policy.retrievals 2 --policy.threshold 0.7

The last answers from memory where the reader is sure, and retrieves twice else.

Expected (experiments/adaptive_retrieval.py): reward 0.507 ± 0.014; retrievals, known 1.00 ± 0.00.
"""

from ragjax.envs.qa_agent import QaAgent
from ragjax.envs.qa_plans import Plan
from ragjax.objectives.a2c import A2C
from ragjax.policy_config import EpisodeEvaluation, PolicyConfig


def get_config() -> PolicyConfig:
    return PolicyConfig(
        env=QaAgent(),
        algorithm=A2C(num_envs=8, rollout_length=4, discount=1.0),
        policy=Plan(retrievals=1),
        env_steps=8 * 4,  # one update, of which the policy learns nothing
        evaluation=EpisodeEvaluation(episodes=3000, every=0),
    )
