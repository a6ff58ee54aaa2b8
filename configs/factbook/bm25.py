"""BM25 on factbook, for its recall: the reader is hardly trained, its answers mean nothing.

    ragjax train configs/factbook/bm25.py

Expected (experiments/factbook.py): R@1 34.5 ± 2.1; R@5 72.1 ± 2.0.
"""

from dataclasses import replace
from pathlib import Path

from ragjax.config import Config, load_config
from ragjax.learners.questions import Phase
from ragjax.objectives.likelihood import RagSequence
from ragjax.retrieval.bm25 import BM25
from ragjax.training.optimizer import Adam


def get_config() -> Config:
    return replace(
        load_config(Path(__file__).with_name("rag_sequence.py")),
        retriever=BM25(initial_scale=1.0),
        objective=RagSequence(documents="retrieved"),
        optimizer=Adam(warmup_steps=0),
        phases=(Phase(steps=1, batch_size=32, k=1),),
    )
