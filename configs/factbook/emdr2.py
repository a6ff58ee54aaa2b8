"""EMDR2 per token on factbook, as in the released code; per sequence its gradient is RAG-Sequence's.

    ragjax train configs/factbook/emdr2.py

Expected (experiments/retriever_objectives.py): EM 25.8 ± 1.9; strict EM 25.8 ± 1.9.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config
from ragjax.objectives.distillation import Emdr2


def get_config() -> Config:
    base: Any = load_config(Path(__file__).with_name("small.py"))
    return replace(
        base,
        objective=Emdr2(
            per="token",
            documents="in_batch",
            rename_reader=0.9,
            rename_retriever=1.0,
            corrupt_words=0.2,
        ),
    )
