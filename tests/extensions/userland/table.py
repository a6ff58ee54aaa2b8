"""A table of a user's own runs."""

from pathlib import Path

from ragjax.evaluation.tables import Column, Row, Table


def get_table() -> Table:
    return Table(
        name="gates",
        title="Colours of gates",
        rows=(Row("halfway", "config_questions.py"),),
        columns=(Column("EM", "em"), Column("R@1", "recall@1")),
        seeds=(0,),
        results=Path("results"),
    )
