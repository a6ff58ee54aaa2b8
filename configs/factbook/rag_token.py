"""RAG-Token on factbook: passages are summed at each token of the answer.

    ragjax train configs/factbook/rag_token.py

Expected (experiments/retriever_objectives.py): EM 22.3 ± 1.7; strict EM 22.3 ± 1.7.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config
from ragjax.objectives.likelihood import RagToken


def get_config() -> Config:
    base: Any = load_config(Path(__file__).with_name("small.py"))
    return replace(
        base,
        objective=RagToken(
            documents="in_batch", rename_reader=0.9, rename_retriever=1.0, corrupt_words=0.2
        ),
    )
