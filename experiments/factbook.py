"""Retrieval on factbook: the retriever learned by marginal likelihood against BM25."""

from pathlib import Path

from ragjax.evaluation.tables import Claim, Column, Row, Table

NOTES = """\
The passages are prose: every field of the World Factbook, cut to size. Training starts from the
candidates of BM25, which the retriever scores itself. Then it searches its own index, embedded
anew every 100 steps. p(d|x) is normalised over the passages of the batch. BM25 plays no part in
the evaluation."""


def get_table() -> Table:
    """Declares the table; `ragjax table experiments/factbook.py --run` makes what is missing."""
    return Table(
        name="factbook",
        title="Passages found for questions about countries never asked about in training",
        notes=NOTES,
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
        claims=(Claim("rag_sequence", "R@5", above="bm25"),),
    )
