"""One config on an accelerator: the reader of the question-answering agent on one NVIDIA H100."""

from pathlib import Path

from ragjax.evaluation.tables import Column, Row, Table


def get_table() -> Table:
    """Declares the table; the rows of `experiments/reader_training.py` are the same runs on a CPU."""
    return Table(
        name="accelerator",
        title="The agent's reader, trained on one NVIDIA H100",
        notes="The same config on a CPU: [reader_training](#reader_training). The seeds were trained at "
        "once, by five processes on one GPU and 16 CPU cores. Most of the time is compilation.",
        caption="Exact match, strict exact match and recall in per cent; seconds of training, "
        "compilation included.",
        rows=(Row("RAG-Sequence, taught", "configs/reader_training/reader.py"),),
        columns=(
            Column("EM", "em"),
            Column("strict EM", "strict_em"),
            Column("R@1", "recall@1"),
            Column("training, s", "train_seconds", scale=1, digits=0),
        ),
        seeds=(0, 1, 2, 3, 4),
        results=Path(__file__).parent / "results",
    )
