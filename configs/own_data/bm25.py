"""BM25 on your own files: the reader of rag_sequence.py over passages that are not learned to be found.

    ragjax train configs/own_data/bm25.py --task.passages P --task.questions Q

The baseline to hold `rag_sequence` against; `config diff` shows where they differ.

Expected: what your files hold.
"""

from dataclasses import replace
from pathlib import Path

from ragjax.config import Config, load_config
from ragjax.learners.questions import Phase
from ragjax.objectives.likelihood import RagSequence
from ragjax.retrieval.bm25 import BM25


def get_config() -> Config:
    return replace(
        load_config(Path(__file__).with_name("rag_sequence.py")),
        retriever=BM25(initial_scale=1.0),
        objective=RagSequence(documents="retrieved", rename_reader=0.9, corrupt_words=0.2),
        phases=(Phase(steps=700, batch_size=32, k=4),),
    )
