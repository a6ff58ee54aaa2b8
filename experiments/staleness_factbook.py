"""How old an index may be on factbook: what is lost where it is embedded anew too seldom."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ragjax.evaluation.tables import Table, load_table

STEPS = (
    *("--phases.0.steps", "50", "--phases.0.batch_size", "16"),
    *("--phases.1.steps", "550", "--phases.1.batch_size", "16"),
)


def get_table() -> Table:
    """The table of staleness_world_facts.py with the runs of another corpus."""
    other: Any = load_table(Path(__file__).with_name("staleness_world_facts.py"))
    return replace(
        other,
        name="staleness_factbook",
        title=other.title.replace("world_facts", "factbook"),
        notes=other.notes.replace("factbook", "world_facts"),
        rows=tuple(
            replace(row, config="configs/factbook/small.py", overrides=(*row.overrides, *STEPS))
            for row in other.rows
        ),
    )
