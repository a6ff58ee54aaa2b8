"""Leave-one-out distillation on factbook: p(d|x) learns which passage the answer would miss.

    ragjax train configs/factbook/leave_one_out.py

Expected (experiments/retriever_objectives.py): EM 24.3 ± 2.1; strict EM 24.3 ± 2.1.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config
from ragjax.objectives.distillation import LeaveOneOut


def get_config() -> Config:
    base: Any = load_config(Path(__file__).with_name("small.py"))
    return replace(
        base,
        objective=LeaveOneOut(
            documents="in_batch", rename_reader=0.9, rename_retriever=1.0, corrupt_words=0.2
        ),
    )
