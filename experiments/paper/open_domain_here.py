"""The RAG paper's rows on data that can be had here: cells of other tables, side by side."""

from dataclasses import replace
from pathlib import Path

from ragjax.evaluation.rendering import MISSING, cell_texts, measured_lines
from ragjax.evaluation.tables import MarkdownTable, Table, load_table

EXPERIMENTS = Path(__file__).parents[1]
COLUMNS = {"world_facts": "world_facts", "SQuADShifts new-wiki": "own_data"}
ROWS = ("Closed book", "BM25", "RAG-Token", "RAG-Sequence")


def exact_match(name: str) -> dict[str, str]:
    """Label of a row -> its exact match, in a table that has it as a column."""
    table = load_table(EXPERIMENTS / f"{name}.py")
    assert isinstance(table, Table)
    columns = tuple(column for column in table.columns if column.metric == "em")
    table = replace(table, columns=columns, claims=(), references=())
    return {line.row.label: cell_texts(table, line)[0] for line in measured_lines(table)}


def get_table() -> MarkdownTable:
    """Puts recorded cells of other tables into one."""
    cells = [exact_match(name) for name in COLUMNS.values()]
    lines = [["", *COLUMNS], ["---", *["---:"] * len(COLUMNS)]]
    lines += [[row, *(of.get(row, MISSING) for of in cells)] for row in ROWS]
    links = " and ".join(f"[{name}](#{name})" for name in COLUMNS.values())
    return MarkdownTable(
        title="Open-domain question answering on data that can be had here: the RAG paper's rows",
        body="\n".join(f"| {' | '.join(line)} |" for line in lines)
        + "\n\nExact match in per cent, "
        "mean ± half the width of the 95% bootstrap interval over seeds and questions. BM25 has the "
        "same reader as the learned retrievers.",
        source=f"The cells, and the runs and commits behind them, are those of {links}.",
        notes="Retriever and reader are small here and begin with new parameters, so that nothing of "
        "this is to be compared with the paper's figures.",
    )
