"""Attention distillation on factbook: p(d|x) learns where the reader looks.

    ragjax train configs/factbook/attention_distillation.py

Expected (experiments/retriever_objectives.py): EM 15.1 ± 3.0; strict EM 15.0 ± 2.9.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config
from ragjax.objectives.distillation import AttentionDistillation


def get_config() -> Config:
    base: Any = load_config(Path(__file__).with_name("small.py"))
    return replace(
        base,
        objective=AttentionDistillation(
            documents="in_batch", rename_reader=0.9, rename_retriever=1.0, corrupt_words=0.2
        ),
    )
