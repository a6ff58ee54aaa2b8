"""Likelihood of the few training questions that are labelled, reward on all: no answer of the others.

    ragjax train configs/world_facts/few_labels.py

Names are not replaced and words not corrupted, which would teach much of what more labels teach.

Expected (experiments/few_labels.py): EM 77.3 ± 2.5; R@1 83.6 ± 2.1.
"""

from ragjax.data.labels import Labels
from ragjax.data.tokenizer import TokenizerSpec
from ragjax.learners.questions import Evaluation, Phase, QuestionsConfig
from ragjax.models.encoder import BagEncoder
from ragjax.models.reader import TransformerReader
from ragjax.models.retriever import Dense
from ragjax.objectives.answer_reward import AnswerReward
from ragjax.objectives.joint import Joint
from ragjax.objectives.likelihood import RagSequence
from ragjax.tasks.world_facts import WorldFacts
from ragjax.training.optimizer import Adam


def get_config() -> QuestionsConfig:
    return QuestionsConfig(
        task=WorldFacts(),
        tokenizer=TokenizerSpec(
            vocab_size=6000, question_length=16, passage_length=32, answer_length=8
        ),
        retriever=Dense(encoder=BagEncoder(width=512), initial_scale=20.0),
        reader=TransformerReader(width=64, heads=4, encoder_layers=2, decoder_layers=1),
        objective=Joint(
            likelihood=RagSequence(documents="index"),
            reward=AnswerReward(weight=5.0, samples=4),
        ),
        optimizer=Adam(retriever_rate=1e-2, reader_rate=5e-3, warmup_steps=100),
        phases=(
            Phase(steps=80, batch_size=32, k=4, labelled=32),
            Phase(steps=220, batch_size=64, k=2, labelled=16),
        ),
        evaluation=Evaluation(k=8, every=50, questions=500),
        labels=Labels(share=0.1),
    )
