"""Retrieval on factbook: the retriever learned by marginal likelihood against BM25."""

from pathlib import Path

from ragjax.evaluation.tables import Column, Row, Table


def get_table() -> Table:
    """Declares the table; `ragjax table experiments/factbook.py --run` makes what is missing."""
    return Table(
        name="factbook",
        title="Passages found for questions about countries never asked about in training",
        caption="Recall in per cent; both search title and text of 13,116 passages of prose.",
        rows=(
            Row("BM25", "configs/factbook/bm25.py"),
            Row("RAG-Sequence", "configs/factbook/rag_sequence.py"),
        ),
        columns=(
            Column("R@1", "recall@1"),
            Column("R@5", "recall@5"),
            Column("R@10", "recall@10"),
            Column("MRR", "mrr"),
        ),
        seeds=(0,),
        results=Path(__file__).parent / "results",
    )
