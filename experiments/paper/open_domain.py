"""Open-domain question answering as in the RAG paper: four sets of questions over Wikipedia."""

from pathlib import Path

from ragjax.evaluation.tables import Column, Reference, Row, Table

DATASETS = {
    "NQ": "nq",
    "TriviaQA": "trivia_qa",
    "WebQuestions": "web_questions",
    "CuratedTREC": "curated_trec",
}
MODELS = {"RAG-Token": "rag_token", "RAG-Sequence": "rag_sequence"}
PAPER = "Lewis et al. 2020, table 1"
REALM = "Guu et al. 2020, table 1"

NOTES = """\
The runs need Wikipedia's 21 million passages, three pretrained models and an accelerator: no cell is
recorded here, and [paper/README.md](paper/README.md) says how to make them. Tests take every step of it
with tiny stand-ins.

Retrieval is that of the paper, with one difference: training and tests search the passages that DPR's
own index has found among the 100 best for any question of the set, not all 21 million."""


def published(label: str, source: str, *figures: str) -> Reference:
    """A row of figures in the order of the columns; "" where there is none."""
    values = zip(DATASETS, figures, strict=True)
    return Reference(label, source, {column: figure for column, figure in values if figure})


def get_table() -> Table:
    """Declares the table; its runs can be made where the data is, see experiments/paper/README.md."""
    return Table(
        name="open_domain",
        title="Open-domain question answering: the RAG paper's table",
        notes=NOTES,
        caption="Exact match in per cent; on CuratedTREC the share of answers that a pattern matches. "
        "Of two published figures for TriviaQA the first is of this test split, the second of "
        "TriviaQA's Wikipedia test; of two for REALM the first was pretrained on Wikipedia, the second "
        "on news.",
        rows=tuple(
            Row(label, f"configs/paper/{dataset}_{model}.py", columns=(column,))
            for label, model in MODELS.items()
            for column, dataset in DATASETS.items()
        ),
        columns=tuple(Column(label, "em") for label in DATASETS),
        seeds=(0,),
        results=Path(__file__).parents[1] / "results",
        references=(
            published("T5-11B+SSM, closed book", PAPER, "36.6", "– / 60.5", "44.7", ""),
            published("REALM", REALM, "39.2 / 40.4", "", "40.2 / 40.7", "46.8 / 42.9"),
            published("DPR, extractive", PAPER, "41.5", "57.9", "41.1", "50.6"),
            published("RAG-Token", PAPER, "44.1", "55.2 / 66.1", "45.5", "50.0"),
            published("RAG-Sequence", PAPER, "44.5", "56.8 / 68.0", "45.2", "52.2"),
        ),
    )
