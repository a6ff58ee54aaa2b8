"""A stranger's data, from its files: SQuADShifts new-wiki, held-out titles."""

from pathlib import Path

from ragjax.evaluation.tables import Column, Row, Table

FILES = (
    *("--task.passages", "/data/squadshifts_newwiki/passages.jsonl.gz"),
    *("--task.questions", "/data/squadshifts_newwiki/questions.jsonl.gz"),
    *("--task.split_by", "title"),
    # As shipped, the configs would cut many of these paragraphs and answers, as a run says as it begins.
    *("--tokenizer.passage_length", "320", "--tokenizer.answer_length", "32"),
)


def get_table() -> Table:
    """Declares the table; its runs can be made where the files lie under these names."""
    return Table(
        name="own_data",
        title="Your own files: 1,581 Wikipedia paragraphs, questions about titles never asked about",
        notes="The data is SQuADShifts new-wiki (Miller et al. 2020, CC BY 4.0), which you bring: a row "
        "of JSON for each paragraph and question. Retriever and reader start from nothing: its "
        "questions teach too little of reading prose, and words in common find a paragraph better than "
        "what so few questions teach. Both configs are as shipped, but for room for the longest "
        "paragraphs and answers.",
        caption="Exact match, strict exact match, token F1 and recall in per cent.",
        rows=(
            Row("BM25", "configs/own_data/bm25.py", FILES),
            Row("RAG-Sequence", "configs/own_data/rag_sequence.py", FILES),
        ),
        columns=(
            Column("EM", "em"),
            Column("strict EM", "strict_em"),
            Column("F1", "f1"),
            Column("R@1", "recall@1"),
            Column("R@5", "recall@5"),
            Column("R@10", "recall@10"),
        ),
        seeds=(0,),
        results=Path(__file__).parent / "results",
    )
