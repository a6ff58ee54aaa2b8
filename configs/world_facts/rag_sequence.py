"""RAG-Sequence on world_facts, retriever and reader trained end to end: the quickstart.

    ragjax train configs/world_facts/rag_sequence.py

Expected (experiments/world_facts.py): EM 93.6 ± 1.1; strict EM 93.6 ± 1.1.

Expected (experiments/quickstart.py): training, s 148; with evaluation, s 155.
"""

from ragjax.data.tokenizer import TokenizerSpec
from ragjax.learners.questions import Evaluation, Phase, QuestionsConfig
from ragjax.models.encoder import BagEncoder
from ragjax.models.reader import TransformerReader
from ragjax.models.retriever import Dense
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
        objective=RagSequence(
            documents="index", rename_reader=0.9, rename_retriever=1.0, corrupt_words=0.2
        ),
        optimizer=Adam(retriever_rate=1e-2, reader_rate=5e-3, warmup_steps=100),
        phases=(Phase(steps=100, batch_size=32, k=4), Phase(steps=450, batch_size=64, k=2)),
        evaluation=Evaluation(k=8),
    )
