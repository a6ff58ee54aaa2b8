"""What the quickstart costs: wall time of everything but the installation, and memory."""

from pathlib import Path

from ragjax.evaluation.tables import Column, Row, Table


def get_table() -> Table:
    """Declares the table, of one run on an otherwise idle machine."""
    return Table(
        name="quickstart",
        title="Cost of the quickstart on 2 CPU cores without a GPU",
        notes="The installation is left out. The machine was otherwise idle.",
        caption="Seconds of wall time from a cold start: data, tokenizer, compilation and training, "
        "then with the test questions answered; peak resident memory in megabytes.",
        rows=(Row("RAG-Sequence", "configs/world_facts/rag_sequence.py"),),
        columns=(
            Column("training, s", "train_seconds", scale=1, digits=0),
            Column("with evaluation, s", "total_seconds", scale=1, digits=0),
            Column("memory, MB", "peak_memory_mb", scale=1, digits=0),
        ),
        seeds=(0,),
        results=Path(__file__).parent / "results",
    )
