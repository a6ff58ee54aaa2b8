"""SmolLM2 goes on by reward from what smollm2_lora.py has learned: token F1 of its own answers.

    ragjax train configs/pretrained/smollm2_reward.py --start RUN --task.passages P --task.questions Q

RUN is a run of smollm2_lora.py. RLOO over four answers a question, and a cost for leaving its model.

Expected: what your files hold.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config
from ragjax.learners.questions import Phase
from ragjax.objectives.answer_reward import AnswerReward
from ragjax.objectives.joint import Joint
from ragjax.objectives.likelihood import RagSequence
from ragjax.objectives.rewards import TokenF1


def get_config() -> Config:
    base: Any = load_config(Path(__file__).with_name("smollm2_lora.py"))
    return replace(
        base,
        objective=Joint(
            likelihood=RagSequence(),
            likelihood_weight=0.0,
            reward=AnswerReward(samples=4, reward=TokenF1(), kl_coef=0.05),
        ),
        optimizer=replace(base.optimizer, reader_rate=2e-4),
        phases=(Phase(steps=20, batch_size=4, k=2),),
    )
