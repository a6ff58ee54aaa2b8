"""Closed book on world_facts: the reader of rag_sequence.py without passages.

    ragjax train configs/world_facts/closed_book.py

Expected (experiments/world_facts.py): EM 0.3 ± 0.3; strict EM 0.3 ± 0.3.
"""

from dataclasses import replace
from pathlib import Path

from ragjax.config import Config, load_config
from ragjax.objectives.likelihood import RagSequence
from ragjax.retrieval.fixed import ClosedBook


def get_config() -> Config:
    return replace(
        load_config(Path(__file__).with_name("rag_sequence.py")),
        retriever=ClosedBook(),
        # Names keep their tokens: without passages, facts can only be learned by heart.
        objective=RagSequence(documents="retrieved", corrupt_words=0.2),
    )
