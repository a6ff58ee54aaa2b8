"""Likelihood and reward together, from a finished run of rag_sequence.py (`start`).

    ragjax train configs/world_facts/rag_sequence.py --run-dir runs/quickstart
    ragjax train configs/world_facts/joint.py --start runs/quickstart

Expected (experiments/joint_objective.py): EM 93.6 ± 1.3; drawn EM 89.8 ± 1.0.
"""

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
        retriever=Dense(encoder=BagEncoder(width=512)),
        reader=TransformerReader(width=64, heads=4, encoder_layers=2, decoder_layers=1),
        objective=Joint(
            likelihood=RagSequence(
                documents="index", rename_reader=0.9, rename_retriever=1.0, corrupt_words=0.2
            ),
            reward=AnswerReward(weight=5.0, samples=4),
        ),
        optimizer=Adam(retriever_rate=1e-3, reader_rate=1e-3, warmup_steps=10),
        phases=(Phase(steps=100, batch_size=64, k=2),),
        evaluation=Evaluation(k=8, every=50, questions=500),
        start="runs/joint_objective/rag_sequence/seed_{seed}",
    )
