"""What teaches a retriever: likelihoods, the reader's judgement, or gold passages, side by side."""

from pathlib import Path

from ragjax.evaluation.tables import Column, Row, Table

CONFIGS = Path("configs/factbook")


def get_table() -> Table:
    """Declares the table, whose runs `ragjax table --run` makes."""
    rows = (
        ("RAG-Sequence", "small"),
        ("RAG-Token", "rag_token"),
        ("EMDR2, per token", "emdr2"),
        ("Perplexity distillation", "perplexity_distillation"),
        ("Attention distillation", "attention_distillation"),
        ("Leave one out", "leave_one_out"),
        ("REPLUG LSR", "replug"),
        ("Contrastive, with gold passages", "contrastive"),
    )
    return Table(
        name="retriever_objectives",
        title="Objectives that train a retriever, on factbook at a small budget",
        notes="Recorded on one NVIDIA H200, up to fifteen processes at once, with XLA's deterministic "
        "operations.",
        caption="Exact match, strict exact match and recall on the test questions, in per cent. 300 "
        "steps of 16 questions and 4 passages of 96 words and pieces; for the first half BM25 chooses "
        "the passages, then the retriever's own index, embedded anew every 50 steps. Temperatures are "
        "the defaults, and not tuned.",
        rows=tuple(Row(label, str(CONFIGS / f"{name}.py")) for label, name in rows),
        columns=(
            Column("EM", "em"),
            Column("strict EM", "strict_em"),
            Column("R@1", "recall@1"),
            Column("R@5", "recall@5"),
            Column("MRR", "mrr"),
        ),
        seeds=(0, 1, 2),
        results=Path(__file__).parent / "results",
    )
