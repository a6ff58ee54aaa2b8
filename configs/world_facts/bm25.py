"""BM25 on world_facts: the reader of rag_sequence.py over passages that are not learned to be found.

    ragjax train configs/world_facts/bm25.py

Expected (experiments/world_facts.py): EM 74.3 ± 2.2; strict EM 74.3 ± 2.2.
"""

from dataclasses import replace
from pathlib import Path

from ragjax.config import Config, load_config
from ragjax.objectives.likelihood import RagSequence
from ragjax.retrieval.bm25 import BM25


def get_config() -> Config:
    return replace(
        load_config(Path(__file__).with_name("rag_sequence.py")),
        retriever=BM25(initial_scale=1.0),
        objective=RagSequence(documents="retrieved", rename_reader=0.9, corrupt_words=0.2),
    )
