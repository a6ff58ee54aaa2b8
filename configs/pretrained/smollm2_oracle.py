"""SmolLM2 reads the gold passage of each question: what smollm2.py could answer if it found it.

    ragjax train configs/pretrained/smollm2_oracle.py --task.passages P --task.questions Q

Q names the gold passages (`positives`). Nothing is trained.

Expected: what your files hold.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config
from ragjax.retrieval.fixed import Oracle


def get_config() -> Config:
    base: Any = load_config(Path(__file__).with_name("smollm2.py"))
    return replace(base, retriever=Oracle())
