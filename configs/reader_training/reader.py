"""The reader of the question-answering agent, which answers with and without passages.

    ragjax train configs/reader_training/reader.py

Expected (experiments/reader_training.py): EM 91.0 ± 1.5; R@1 92.1 ± 1.5.
"""

from ragjax.data.tokenizer import TokenizerSpec
from ragjax.learners.questions import Evaluation, Phase, QuestionsConfig
from ragjax.models.encoder import BagEncoder
from ragjax.models.reader import TransformerReader
from ragjax.models.retriever import Dense
from ragjax.objectives.likelihood import RagSequence
from ragjax.tasks.reader_training import ReaderTraining
from ragjax.training.optimizer import Adam


def get_config() -> QuestionsConfig:
    return QuestionsConfig(
        task=ReaderTraining(),
        tokenizer=TokenizerSpec(
            vocab_size=6000, question_length=28, passage_length=32, answer_length=10
        ),
        retriever=Dense(encoder=BagEncoder(width=512)),
        reader=TransformerReader(width=64, heads=4, encoder_layers=2, decoder_layers=1),
        objective=RagSequence(
            documents="index",
            rename_reader=0.9,
            rename_retriever=1.0,
            corrupt_words=0.2,
            from_memory=True,
        ),
        optimizer=Adam(retriever_rate=1e-2, reader_rate=5e-3, warmup_steps=100),
        phases=(Phase(steps=100, batch_size=32, k=4), Phase(steps=900, batch_size=64, k=2)),
        evaluation=Evaluation(k=4),
    )
