"""A run of seconds whose 30 passages ScaNN finds: ragjax train tests/support/scann_config.py."""

import dataclasses

import tiny_config

from ragjax.learners.questions import Evaluation, Phase, QuestionsConfig
from ragjax.objectives.likelihood import RagSequence
from ragjax.retrieval.scann import Scann


def get_config() -> QuestionsConfig:
    config = tiny_config.get_config()
    return dataclasses.replace(
        config,
        retriever=dataclasses.replace(config.retriever, index=Scann(exact_below=16)),
        objective=RagSequence(),
        phases=(Phase(steps=6, batch_size=8, k=3),),
        evaluation=Evaluation(k=3, batch_size=8, every=6, questions=8),
    )
