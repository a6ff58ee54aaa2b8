"""How old an index may be on world_facts: what is lost where it is embedded anew too seldom."""

from pathlib import Path

from ragjax.evaluation.tables import Column, Row, Table

# As shipped, world_facts embeds its whole corpus in every step, and searches no index.
BUDGET = ("--objective.documents", "in_batch", "--evaluation.every", "25")
REFRESHES = (
    ("never", "never", ("--retriever.refresh_every", "1000000")),
    ("every 500 steps", "500", ("--retriever.refresh_every", "500")),
    ("every 50 steps", "50", ("--retriever.refresh_every", "50")),
    (
        "every 50 steps, beside the training",
        "beside",
        ("--retriever.refresh_every", "50", "--retriever.asynchronous", "True"),
    ),
)


def get_table() -> Table:
    """Declares the table, whose runs `ragjax table --run` makes."""
    return Table(
        name="staleness_world_facts",
        title="How old the index may be that training searches: world_facts",
        notes="Recorded on one NVIDIA H200, up to fifteen processes at once, with XLA's deterministic "
        "operations. The same on the other corpus: [staleness_factbook](#staleness_factbook).",
        caption="Exact match, strict exact match and recall on the test questions, in per cent, with an "
        "index that is embedded anew after the training. Index recall: of the ten passages that the "
        "parameters of the moment would find, how many the index found that was searched instead; "
        "mean over measurements every 25 steps.",
        rows=tuple(
            Row(label, "configs/world_facts/rag_sequence.py", (*BUDGET, *how), key)
            for label, key, how in REFRESHES
        ),
        columns=(
            Column("EM", "em"),
            Column("strict EM", "strict_em"),
            Column("R@1", "recall@1"),
            Column("R@5", "recall@5"),
            Column("index recall", "index_recall"),
        ),
        seeds=(0, 1, 2),
        results=Path(__file__).parent / "results",
    )
