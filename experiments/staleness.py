"""How old an index may be: what is lost where it is embedded anew too seldom, and at what cost."""

from pathlib import Path

from ragjax.evaluation.tables import Column, Row, Table

REFRESHES = {
    "never": ("--retriever.refresh_every", "1000000"),
    "500": ("--retriever.refresh_every", "500"),
    "50": ("--retriever.refresh_every", "50"),
    "beside": ("--retriever.refresh_every", "50", "--retriever.asynchronous", "True"),
}
LABELS = {
    "never": "never",
    "500": "every 500 steps",
    "50": "every 50 steps",
    "beside": "every 50 steps, beside the training",
}
# As shipped, world_facts embeds its whole corpus in every step, and searches no index.
WORLD_FACTS = ("--objective.documents", "in_batch")
FACTBOOK = (
    *("--phases.0.steps", "50", "--phases.0.batch_size", "16"),
    *("--phases.1.steps", "550", "--phases.1.batch_size", "16"),
)
MEASURED = ("--evaluation.every", "25")


def rows_of(task: str, config: str, budget: tuple[str, ...]) -> tuple[Row, ...]:
    """A row for each way of refreshing."""
    return tuple(
        Row(f"{task}, {LABELS[name]}", config, (*budget, *MEASURED, *how), f"{task}_{name}")
        for name, how in REFRESHES.items()
    )


def get_table() -> Table:
    """Declares the table; `ragjax table experiments/staleness.py --run` makes what is missing."""
    return Table(
        name="staleness",
        title="How old the index may be that training searches",
        notes="",
        caption="Exact match and recall on the test questions, in per cent, with an index that is "
        "embedded anew after the training. Index recall: of the ten passages that the parameters of the "
        "moment would find, how many the index found that was searched instead; mean over measurements "
        "every 25 steps.",
        rows=(
            *rows_of("world_facts", "configs/world_facts/rag_sequence.py", WORLD_FACTS),
            *rows_of("factbook", "configs/factbook/small.py", FACTBOOK),
        ),
        columns=(
            Column("EM", "em"),
            Column("R@1", "recall@1"),
            Column("R@5", "recall@5"),
            Column("index recall", "index_recall"),
            Column("CPU, s", "train_cpu_seconds", scale=1, digits=0),
        ),
        seeds=(0, 1, 2),
        results=Path(__file__).parent / "results",
    )
