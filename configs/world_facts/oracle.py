"""Oracle on world_facts: the reader of rag_sequence.py over the gold passage, a ceiling.

    ragjax train configs/world_facts/oracle.py

Expected (experiments/world_facts.py): EM 99.6 ± 0.4; strict EM 99.6 ± 0.4.
"""

from dataclasses import replace
from pathlib import Path

from ragjax.config import Config, load_config
from ragjax.objectives.likelihood import RagSequence
from ragjax.retrieval.fixed import Oracle


def get_config() -> Config:
    return replace(
        load_config(Path(__file__).with_name("rag_sequence.py")),
        retriever=Oracle(),
        objective=RagSequence(documents="retrieved", rename_reader=0.9, corrupt_words=0.2),
    )
