"""The reader of the question-answering agent: answers from passages, and queries written from them."""

from pathlib import Path

from ragjax.evaluation.tables import Column, Row, Table


def get_table() -> Table:
    """Declares the table; `ragjax table experiments/reader_training.py --run` makes what is missing."""
    return Table(
        name="reader_training",
        title="The agent's reader, asked with one retrieval",
        notes="This reader is the one of [adaptive_retrieval](#adaptive_retrieval). It answers with "
        "passages and from memory, and it writes the query of a second retrieval.",
        caption="Exact match and recall in per cent, over questions about entities that training never "
        "asks about: facts, facts asked for by a query, and queries to be written from a question and "
        "its first passage.",
        rows=(Row("RAG-Sequence, taught", "configs/reader_training/reader.py"),),
        columns=(
            Column("EM", "em"),
            Column("R@1", "recall@1"),
            *(
                Column(f"EM, {relation}", "em", relation=relation)
                for relation in ("capital", "currency", "city_country", "query", "rewrite")
            ),
        ),
        seeds=(0, 1, 2, 3, 4),
        results=Path(__file__).parent / "results",
    )
