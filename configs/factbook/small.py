"""RAG-Sequence on factbook at the small budget at which retriever objectives are compared.

    ragjax train configs/factbook/small.py

Expected (experiments/retriever_objectives.py): EM 23.6 ± 1.8; strict EM 23.6 ± 1.8.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config
from ragjax.learners.questions import Evaluation, Phase
from ragjax.retrieval.bm25 import BM25


def get_config() -> Config:
    full: Any = load_config(Path(__file__).with_name("rag_sequence.py"))
    return replace(
        full,
        tokenizer=replace(full.tokenizer, passage_length=96),
        retriever=replace(full.retriever, refresh_every=50),
        phases=(
            Phase(steps=150, batch_size=16, k=4, candidates=BM25()),
            Phase(steps=150, batch_size=16, k=4),
        ),
        evaluation=Evaluation(k=5, batch_size=32, every=0),
        checkpoint_every=100,
    )
