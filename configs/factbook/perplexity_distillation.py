"""Perplexity distillation on factbook: p(d|x) learns how likely the reader finds the answer.

    ragjax train configs/factbook/perplexity_distillation.py

Expected (experiments/retriever_objectives.py): EM 23.6 ± 1.7; strict EM 23.6 ± 1.7.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config
from ragjax.objectives.distillation import PerplexityDistillation


def get_config() -> Config:
    base: Any = load_config(Path(__file__).with_name("small.py"))
    return replace(
        base,
        objective=PerplexityDistillation(
            documents="in_batch", rename_reader=0.9, rename_retriever=1.0, corrupt_words=0.2
        ),
    )
