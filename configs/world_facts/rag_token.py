"""RAG-Token on world_facts: as rag_sequence.py, a passage for each token of the answer.

    ragjax train configs/world_facts/rag_token.py

Expected (experiments/world_facts.py): EM 93.7 ± 1.2; strict EM 93.7 ± 1.2.
"""

from dataclasses import replace
from pathlib import Path

from ragjax.config import Config, load_config
from ragjax.objectives.likelihood import RagToken


def get_config() -> Config:
    return replace(
        load_config(Path(__file__).with_name("rag_sequence.py")),
        objective=RagToken(
            documents="index", rename_reader=0.9, rename_retriever=1.0, corrupt_words=0.2
        ),
    )
