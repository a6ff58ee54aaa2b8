"""What tables claim, looked at in recorded runs; and tables of which runs are missing."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ragjax.errors import UserError
from ragjax.evaluation.claims import checked_claims, require_complete
from ragjax.evaluation.runs import load_runs
from ragjax.evaluation.statistics import bootstrap_interval
from ragjax.evaluation.tables import Claim, MarkdownTable, load_table

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "world_facts.py"


@pytest.fixture(scope="module")
def table():
    return load_table(EXPERIMENT)


def claimed(table, *claims):
    return checked_claims(dataclasses.replace(table, claims=claims))


@pytest.mark.parametrize(
    ("claim", "supported"),
    [
        (Claim("rag_sequence", "EM", above="bm25"), True),
        (Claim("bm25", "EM", above="rag_sequence"), False),
        (Claim("bm25", "EM", above="rag_sequence", below=True), True),
        (Claim("rag_token", "EM", above="rag_sequence"), False),  # too near
        (Claim("rag_token", "EM", above="rag_sequence", below=True), False),
        (Claim("rag_sequence", "EM", above=92.0, source="x"), True),
        (Claim("rag_sequence", "EM", above=93.0, source="x"), False),  # within the interval
        (Claim("rag_sequence", "EM", above=94.0, source="x", below=True), False),
        (Claim("rag_sequence", "EM", above=95.0, source="x", below=True), True),
        (Claim("rag_sequence", "R@1", above="closed_book"), False),  # which retrieves nothing
    ],
)
def test_a_claim_is_looked_at(claim, supported, table):
    [found] = claimed(table, claim)
    assert found.supported == supported
    start = {True: "supported: RAG", False: ("NOT SUPPORTED: ", "not measured: ")}[supported]
    assert found.sentence.startswith(start if claim.row != "bm25" or not supported else "supported")


def test_a_difference_is_paired(table):
    """By seeds and questions: as of the differences themselves, which vary less than both together."""
    [found] = claimed(table, Claim("rag_token", "EM", above="rag_sequence"))
    one, other = (
        load_runs(table.results / table.name / name, table.seeds)
        for name in ("rag_token", "rag_sequence")
    )
    differences = [
        100 * np.subtract(a.figure("em"), b.figure("em")) for a, b in zip(one, other, strict=True)
    ]
    expected = bootstrap_interval(differences)
    low, high = f"{expected.low:.1f}", f"{expected.high:.1f}"
    assert f"(difference {expected.mean:.1f}, 95% interval {low} to {high})" in found.sentence


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        (Claim("rag", "EM", above="bm25"), "claims something of rows"),
        (Claim("bm25", "em", above="rag_token"), "in column 'em'; use rows of"),
        (Claim("bm25", "EM", above="rag"), "claims something of rows"),
        (Claim("bm25", "EM", above=3.0), "compares row 'bm25' to 3.0 without a source"),
    ],
)
def test_a_claim_that_cannot_be(claim, message, table):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(table, claims=(claim,))


def test_the_command(ragjax, tmp_path):
    code, out, err = ragjax("table", EXPERIMENT, "--check")
    assert (code, err) == (0, "")
    assert out.count("supported: ") == len(load_table(EXPERIMENT).claims)  # pyright: ignore
    text = EXPERIMENT.read_text().replace('above="bm25"', 'above="oracle"')
    results = f"Path({str(EXPERIMENT.parent / 'results')!r})"
    wrong = tmp_path / "wrong.py"
    wrong.write_text(text.replace('Path(__file__).parent / "results"', results))
    code, out, err = ragjax("table", wrong, "--check")
    assert code == 2
    assert out.count("NOT SUPPORTED") == 3
    assert "3 claims of 4 not supported by the runs." in err


def test_a_table_that_claims_nothing():
    with pytest.raises(UserError, match="claims nothing"):
        checked_claims(MarkdownTable("a", "b", "c"))


def test_a_table_that_is_not_whole(ragjax, refused, table, tmp_path):
    require_complete(table)
    require_complete(MarkdownTable("a", "b", "c"))
    more = dataclasses.replace(table, seeds=(0, 1, 2, 3))
    message = r"5 of the 20 runs of table 'world_facts' are not recorded .closed_book seed 3,"
    with pytest.raises(UserError, match=message):
        require_complete(more)
    text = EXPERIMENT.read_text().replace("(0, 1, 2)", "(0, 1, 2, 3)")
    results = f"Path({str(EXPERIMENT.parent / 'results')!r})"
    file = tmp_path / "partial.py"
    file.write_text(text.replace('Path(__file__).parent / "results"', results))
    assert "and 2 more); add --run to make them, or --partial" in refused("table", file)
    code, out, _ = ragjax("table", file, "--partial")
    assert code == 0
    assert "(3 seeds)" in out
