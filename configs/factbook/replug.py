"""REPLUG's LSR on factbook, with a reader that is trained beside it by its likelihood.

    ragjax train configs/factbook/replug.py

Expected (experiments/retriever_objectives.py): EM 24.0 ± 1.8; strict EM 24.0 ± 1.8.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config
from ragjax.objectives.distillation import Replug


def get_config() -> Config:
    base: Any = load_config(Path(__file__).with_name("small.py"))
    return replace(
        base,
        objective=Replug(
            likelihood_weight=1.0,
            documents="in_batch",
            rename_reader=0.9,
            rename_retriever=1.0,
            corrupt_words=0.2,
        ),
    )
