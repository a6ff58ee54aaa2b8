"""SmolLM2 learns your questions by likelihood: low-rank adapters, over the passages that MiniLM finds.

    ragjax train configs/pretrained/smollm2_lora.py --task.passages P --task.questions Q

`ragjax export RUN DIR` writes the model with its adapters merged for transformers.

Expected: what your files hold. A step reads eight passages by a model of 135 million parameters.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.config import Config, load_config
from ragjax.learners.questions import Phase
from ragjax.models.adapters import Lora


def get_config() -> Config:
    base: Any = load_config(Path(__file__).with_name("smollm2.py"))
    return replace(
        base,
        trained=Lora(rank=8, parts=("reader",)),
        reader=replace(base.reader, remat=True),  # else each width keeps its layers
        # What MiniLM embeds does not change, so that the index never ages.
        retriever=replace(base.retriever, refresh_every=1_000_000),
        optimizer=replace(base.optimizer, reader_rate=5e-4, warmup_steps=5),
        phases=(Phase(steps=60, batch_size=4, k=2),),
        checkpoint_every=20,
    )
