"""Tables from tiny recorded runs: golden texts, refusals and declarations."""

import csv
import gzip
import json

import numpy as np
import pytest

from ragjax.errors import UserError
from ragjax.evaluation import rendering, tables
from ragjax.evaluation.rendering import render
from ragjax.evaluation.statistics import bootstrap_interval
from ragjax.evaluation.tables import Claim, Column, Reference, Row, Table


def declare(root, **fields):
    base = {
        "name": "tiny",
        "title": "Tiny & true",
        "caption": "The caption.",
        "rows": (
            Row("Closed book", "configs/tiny/closed_book.py"),
            Row("RAG|50%", "configs/tiny/rag.py"),
        ),
        "columns": (
            Column("EM", "em"),
            Column("R@5", "recall@5"),
            Column("s", "train_seconds", 1, 2),
        ),
        "seeds": (0, 1),
        "results": root / "experiments" / "results",
    }
    return Table(**base | fields)


@pytest.fixture
def table(tmp_path, record):
    """Two closed-book runs, one RAG run of two, a row of references."""
    record(tmp_path, "closed_book", 0, {"q0"}, closed=True)
    record(tmp_path, "closed_book", 1, {"q0", "q2"}, closed=True)
    record(tmp_path, "rag", 1, {"q0", "q1", "q3"})
    return declare(tmp_path, references=(Reference("Peer_1", "Doe 2020, table 1", {"EM": "44.5"}),))


MARKDOWN = """\
**Tiny & true.**

|  | EM | R@5 | s |
| --- | ---: | ---: | ---: |
| Closed book | 37.5 ± 37.5 | \u2013 | 10.50 ± 0.50 |
| RAG\\|50% | 75.0 ± 37.5 (1 seed) | 75.0 ± 37.5 (1 seed) | 11.00 (1 seed) |
| Peer_1 (published: Doe 2020, table 1) | 44.5 | \u2013 | \u2013 |

The caption. Cells: mean ± half the width of the 95% bootstrap interval over seeds 0, 1 and 4 \
questions (2,000 resamples), of "s" over the seeds alone.

<details><summary>Runs</summary>

- Closed book: config `configs/tiny/closed_book.py`; \
runs `experiments/results/tiny/closed_book/seed_{0,1}`; git commit c0ffee
- RAG|50%: config `configs/tiny/rag.py`; runs `experiments/results/tiny/rag/seed_1`; \
git commit c0ffee

</details>
"""

LATEX = r"""\begin{table}
\centering
\caption{Tiny \& true. The caption. Cells: mean $\pm$ half the width of the 95\% bootstrap interval over seeds 0, 1 and 4 questions (2,000 resamples), of "s" over the seeds alone.}
\begin{tabular}{lrrr}
\toprule
 & EM & R@5 & s \\
\midrule
Closed book & 37.5 $\pm$ 37.5 & -- & 10.50 $\pm$ 0.50 \\
RAG|50\% & 75.0 $\pm$ 37.5 (1 seed) & 75.0 $\pm$ 37.5 (1 seed) & 11.00 (1 seed) \\
\midrule
Peer\_1 (published: Doe 2020, table 1) & 44.5 & -- & -- \\
\bottomrule
\end{tabular}
\end{table}
% Closed book: config configs/tiny/closed_book.py; runs experiments/results/tiny/closed_book/seed_{0,1}; git commit c0ffee
% RAG|50%: config configs/tiny/rag.py; runs experiments/results/tiny/rag/seed_1; git commit c0ffee
"""  # noqa: E501

CSV = """\
row,EM mean,EM low,EM high,R@5 mean,R@5 low,R@5 high,s mean,s low,s high,seeds,runs,config,commit,source
Closed book,37.500,0.000,75.000,,,,10.5000,10.0000,11.0000,"0, 1","experiments/results/tiny/closed_book/seed_{0,1}",configs/tiny/closed_book.py,c0ffee,runs
RAG|50%,75.000,25.000,100.000,75.000,25.000,100.000,11.0000,11.0000,11.0000,1,experiments/results/tiny/rag/seed_1,configs/tiny/rag.py,c0ffee,runs
Peer_1,44.5,,,,,,,,,,,,,"Doe 2020, table 1"
"""  # noqa: E501


@pytest.mark.parametrize(
    ("name", "golden"), [("markdown", MARKDOWN), ("latex", LATEX), ("csv", CSV)]
)
def test_golden_tables(table, name, golden):
    assert render(table, name) == golden


def test_csv_parses_into_equal_rows(table):
    rows = list(csv.reader(render(table, "csv").splitlines()))
    assert {len(row) for row in rows} == {15}


def test_cells_are_the_intervals_of_the_runs(table):
    """The golden numbers are small; these follow from the outcomes themselves."""
    outcomes = [np.array([100.0, 0, 0, 0]), np.array([100.0, 0, 100, 0])]
    interval = bootstrap_interval(outcomes)
    row = next(csv.DictReader(render(table, "csv").splitlines()))
    printed = [float(row[f"EM {bound}"]) for bound in ("mean", "low", "high")]
    assert printed == pytest.approx([interval.mean, interval.low, interval.high], abs=1e-3)


def test_a_table_without_runs_has_only_missing_cells(tmp_path):
    text = render(declare(tmp_path))
    assert "| Closed book | \u2013 | \u2013 | \u2013 |" in text
    assert "No run is recorded yet." in text
    assert "- Closed book: config `configs/tiny/closed_book.py`; no finished run\n" in text
    assert "Closed book,,,,,,,,,,,,configs" in render(declare(tmp_path), "csv")


def test_a_single_number_has_no_interval(tmp_path, record):
    """One run and a number of its own, as of what a run costs: nothing was resampled."""
    record(tmp_path, "rag", 0, {"q0"})
    seconds = (Column("s", "train_seconds", 1, 0),)
    text = render(declare(tmp_path, columns=seconds, seeds=(0,)))
    assert "| RAG\\|50% | 10 |" in text
    assert "Cells: the figures of one run a row." in text
    text = render(declare(tmp_path, columns=(Column("EM", "em"), *seconds), seeds=(0,)))
    assert 'over seed 0 and 4 questions (2,000 resamples), none of "s".' in text


def test_a_column_of_development_figures(tmp_path, record):
    """Of what result.json nests, which no record tells: over seeds alone, or not measured."""
    for seed, em in enumerate((0.25, 0.75)):
        dev = {"dev": {"em": em, "recall@5": None}}
        record(tmp_path, "rag", seed, {"q0"}, result=dev)
    columns = (Column("dev EM", "dev.em"), Column("dev R@5", "dev.recall@5"))
    text = render(declare(tmp_path, columns=columns))
    assert "| RAG\\|50% | 50.0 ± 25.0 | – |" in text
    assert 'of "dev EM", "dev R@5" over the seeds alone' in text
    for metric in ("dev.f1", "dev", "em.dev"):
        with pytest.raises(UserError, match=f"asks for '{metric}', which .*seed_0 lacks"):
            render(declare(tmp_path, columns=(Column("x", metric),)))
    with pytest.raises(UserError, match=r"asks for 'dev\.em'"):
        render(declare(tmp_path, columns=(Column("x", "dev.em", relation="capital"),)))


def test_commits_are_short_and_each_is_named_once(tmp_path, record):
    record(tmp_path, "rag", 0, {"q0"}, result={"git_commit": "a" * 40})
    record(tmp_path, "rag", 1, {"q0"}, result={"git_commit": None})
    record(tmp_path, "closed_book", 0, {"q0"}, result={"git_commit": "b" * 40}, closed=True)
    text = render(declare(tmp_path))
    assert f"seed_{{0,1}}`; git commit {'a' * 12}, none recorded\n" in text
    assert f"closed_book/seed_0`; git commit {'b' * 12}\n" in text


def test_an_unfinished_run_is_a_missing_run(table, record):
    assert tables.missing_runs(table) == [(table.rows[1], 0, table.directory(table.rows[1], 0))]
    table.directory(table.rows[1], 0).mkdir()
    assert render(table) == MARKDOWN
    record(table.results.parent.parent, "unused", 0, {"q0"})
    table.directory(table.rows[1], 0).rmdir()
    (table.results / "tiny" / "unused" / "seed_0").rename(table.directory(table.rows[1], 0))
    assert tables.missing_runs(table) == []
    assert "(1 seed)" not in render(table)


def test_a_relation_of_its_own(table):
    columns = (Column("EM", "em", relation="capital"), Column("MRR", "mrr", 1, 3, "anthem"))
    row = render(declare(table.results.parent.parent, columns=columns)).splitlines()[5]
    assert row.startswith("| RAG\\|50% | 100.0 ± 0.0 (1 seed) | 0.100 ± 0.100 (1 seed) |")
    other = declare(table.results.parent.parent, columns=(Column("EM", "em", relation="peak"),))
    with pytest.raises(
        UserError, match="no question of the relation 'peak'; use one of anthem, cap"
    ):
        render(other)


def test_an_unknown_metric_or_format_is_named(table):
    other = declare(table.results.parent.parent, columns=(Column("BLEU", "bleu"),))
    with pytest.raises(UserError, match="column 'BLEU' asks for 'bleu'"):
        render(other)
    with pytest.raises(UserError, match="format is 'html'; choose one of markdown, latex, csv"):
        render(table, "html")


def test_runs_of_two_configs_are_refused(tmp_path, record):
    record(tmp_path, "rag", 0, {"q0"})
    record(tmp_path, "rag", 1, {"q0"}, config={"model": {"width": 128}, "k": 5})
    with pytest.raises(UserError, match=r"differ in model\.width \(64 against 128\)"):
        render(declare(tmp_path))


def test_a_config_field_that_only_one_run_has_is_refused(tmp_path, record):
    record(tmp_path, "rag", 0, {"q0"})
    record(tmp_path, "rag", 1, {"q0"}, config={"tail": None})
    with pytest.raises(UserError, match=r"differ in tail \('nothing' against None\)"):
        render(declare(tmp_path))


@pytest.mark.parametrize("row", ["rag", "closed_book"])
def test_a_silent_subset_is_refused_within_a_row_and_across_rows(tmp_path, row, record):
    record(tmp_path, "closed_book", 0, {"q0"}, closed=True)
    record(tmp_path, row, 1, {"q0"}, ids=("q0", "q1", "q2"), closed=row == "closed_book")
    with pytest.raises(
        UserError, match=r"different questions, 1 of them in one only \(such as 'q3'"
    ):
        render(declare(tmp_path))


def test_a_seed_that_is_not_declared_is_refused(table):
    with pytest.raises(UserError, match="closed_book/seed_1 is a run of a seed that the table"):
        render(declare(table.results.parent.parent, seeds=(0, 2)))


def test_a_run_filed_under_another_seed_is_refused(tmp_path, record):
    run = record(tmp_path, "rag", 0, {"q0"})
    run.rename(run.with_name("seed_1"))
    with pytest.raises(UserError, match="holds a run with seed 0; move it to seed_0"):
        render(declare(tmp_path))


def test_a_result_edited_after_recording_is_refused(tmp_path, record):
    run = record(tmp_path, "rag", 0, {"q0"})
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    (run / "result.json").write_text(json.dumps(result | {"em": 0.99}), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"gives em as 0\.99, but outcomes\.json\.gz beside it gives 0\.25"
    ):
        render(declare(tmp_path))


def test_broken_outcomes_are_refused(tmp_path, record):
    run = record(tmp_path, "rag", 0, {"q0"})
    packed = (run / "outcomes.json.gz").read_bytes()
    for broken in (packed[:-9], b"", b"no gzip", gzip.compress(b'{"id": ["q0"]}')):
        (run / "outcomes.json.gz").write_bytes(broken)
        with pytest.raises(
            UserError, match=r"outcomes\.json\.gz can't be read .*; record the run again"
        ):
            render(declare(tmp_path))


def test_a_difference_is_paired_by_seed_and_question(table, tmp_path, record):
    """Seeds differ more than rows do: the difference knows what the two intervals hide."""
    columns = (Column("EM", "em"), Column("gain", "em", against="closed_book"))
    compared = declare(tmp_path, columns=columns)
    lines = render(compared).splitlines()
    assert lines[4].startswith("| Closed book | 37.5 ± 37.5 | \u2013 |")
    assert lines[5].endswith(" | \u2013 |")  # one seed of two has nothing to be compared with
    record(tmp_path, "rag", 0, {"q0", "q1"})
    lines = render(compared).splitlines()
    rows = [[1, 1, 0, 0], [1, 1, 0, 1]], [[1, 0, 0, 0], [1, 0, 1, 0]]
    gains = [100.0 * (np.array(own) - np.array(other)) for own, other in zip(*rows, strict=True)]
    expected = bootstrap_interval(gains)
    cell = f"{expected.mean:.1f} ± {expected.half_width:.1f}"
    assert expected.mean == pytest.approx(25.0)
    assert lines[5].endswith(f" | {cell} |")


def test_runs_of_different_seeds_are_not_compared(tmp_path, record):
    for row, seed in (("closed_book", 0), ("rag", 1)):
        record(tmp_path, row, seed, {"q0"})
    columns = (Column("EM", "em"), Column("gain", "em", against="closed_book"))
    lines = render(declare(tmp_path, columns=columns)).splitlines()
    assert [line.rpartition("| ")[2] for line in lines[4:6]] == ["\u2013 |"] * 2
    assert all("\u2013" not in line.split("|")[2] for line in lines[4:6])  # each is measured


def test_the_last_bits_of_a_sum_do_not_show():
    around = [np.nextafter(0.85, 0), 0.85, np.nextafter(0.85, 1)]
    assert len({f"{value:.1f}" for value in around}) == 2
    assert len({rendering._number(value, 1) for value in around}) == 1


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"name": "../up"}, "a name that is no directory's"),
        ({"rows": ()}, "has no row keys"),
        (
            {"rows": (Row("a", "configs/x.py"), Row("b", "configs/y/x.py"))},
            "repeats one of its row k",
        ),
        ({"columns": (Column("EM", "em"), Column("EM", "f1"))}, "repeats one of its column labels"),
        ({"seeds": ()}, "has no seeds"),
        ({"seeds": (1, 1)}, "repeats one of its seeds"),
        (
            {"references": (Reference("Peer", "Doe", {"BLEU": "1"}),)},
            r"\['BLEU'\], which is no column",
        ),
        ({"references": (Reference("Peer", "", {"EM": "1"}),)}, "lacks a source"),
        (
            {"columns": (Column("gain", "em", against="no"),)},
            "'gain' is against 'no', which is no row of it",
        ),
    ],
)
def test_impossible_declarations_are_refused(tmp_path, fields, sentence):
    with pytest.raises(UserError, match=sentence):
        declare(tmp_path, **fields)


def test_rows_may_share_a_config_under_keys_of_their_own(tmp_path):
    config = "configs/tiny/rag.py"
    rows = (Row("K=5", config), Row("K=8", config, ("--k", "8"), key="rag_k8"))
    table = declare(tmp_path, rows=rows)
    assert table.directory(rows[1], 1) == table.results / "tiny" / "rag_k8" / "seed_1"
    assert "- K=8: config `configs/tiny/rag.py --k 8`; no finished run" in render(table)


def parts(root, *more):
    """A table of two sets of questions, each with runs of its own; rows of one label are one line."""
    rows = tuple(
        Row(label, f"configs/tiny/{key}_{part.lower()}.py", columns=(part,))
        for label, key in (("Closed book", "closed_book"), ("RAG", "rag"))
        for part in ("A", "B")
    )
    columns = (Column("A", "em"), Column("B", "em"))
    reference = Reference("Peer", "Doe 2020", {"A": "44.1", "B": "55.2 / 66.1"})
    return declare(root, rows=rows + more, columns=columns, references=(reference,), seeds=(0,))


def test_rows_of_one_label_are_printed_as_one_line(tmp_path, record):
    """A model for each of two sets of questions; one of the four runs is missing."""
    record(tmp_path, "closed_book_a", 0, {"q0"}, closed=True)
    record(tmp_path, "rag_a", 0, {"q0", "q1", "q3"})
    record(tmp_path, "rag_b", 0, {"q1"}, ids=("q1", "q2"))
    text = render(parts(tmp_path))
    assert text.splitlines()[2:7] == [
        "|  | A | B |",
        "| --- | ---: | ---: |",
        "| Closed book | 25.0 ± 37.5 | \u2013 |",
        "| RAG | 75.0 ± 37.5 | 50.0 ± 50.0 |",
        "| Peer (published: Doe 2020) | 44.1 | 55.2 / 66.1 |",
    ]
    assert "over seed 0 and 4 questions (A), 2 questions (B) (2,000 resamples)." in text
    assert "- Closed book, B: config `configs/tiny/closed_book_b.py`; no finished run\n" in text
    latex = render(parts(tmp_path), "latex")
    assert r"RAG & 75.0 $\pm$ 37.5 & 50.0 $\pm$ 50.0 \\" in latex
    rows = list(csv.DictReader(render(parts(tmp_path), "csv").splitlines()))
    told = [(row["row"], row["A mean"], row["B mean"]) for row in rows]
    assert told == [
        ("Closed book", "25.000", ""),
        ("Closed book", "", ""),
        ("RAG", "75.000", ""),
        ("RAG", "", "50.000"),
        ("Peer", "44.1", "55.2 / 66.1"),
    ]
    missing = tables.missing_runs(parts(tmp_path))
    assert [row.directory for row, _, _ in missing] == ["closed_book_b"]


def test_a_silent_subset_of_a_column_s_questions_is_refused(tmp_path, record):
    record(tmp_path, "rag_b", 0, {"q1"}, ids=("q1", "q2"))
    record(tmp_path, "closed_book_b", 0, {"q1"}, ids=("q1", "q3"), closed=True)
    with pytest.raises(UserError, match="answer different questions"):
        render(parts(tmp_path))


def test_impossible_parts_are_refused(tmp_path):
    twice = Row("RAG", "configs/tiny/other.py", columns=("B", "A"))
    with pytest.raises(UserError, match=r"two rows for the same cell of column '[AB]'"):
        parts(tmp_path, twice)
    with pytest.raises(UserError, match=r"gives \['C'\], which is no column"):
        parts(tmp_path, Row("RAG", "configs/tiny/other.py", columns=("C",)))
    fields = {name: getattr(parts(tmp_path), name) for name in ("rows", "columns")}
    claim = Claim("rag_a", "A", above="closed_book_b")
    with pytest.raises(UserError, match=r"column 'A'; use rows of \['closed_book_a', 'rag_a'\]"):
        declare(tmp_path, **fields, claims=(claim,))


NO_SEEDS = """
from pathlib import Path

from ragjax.evaluation.tables import Column, Row, Table


def get_table():
    return Table("t", "T", (Row("a", "a.py"),), (Column("EM", "em"),), (), Path("results"))
"""


def test_an_experiment_file_gives_its_table(tmp_path, write_experiment):
    table = tables.load_table(write_experiment(tmp_path))
    assert (table.name, table.results) == ("tiny", tmp_path / "experiments" / "results")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no get_table()"),
        ("get_table = lambda: 1", "returns int; return a Table"),
        ("def get_table(:", "doesn't load (SyntaxError"),
        ("import not_a_module_of_anyone", "doesn't load (ModuleNotFoundError"),
        (NO_SEEDS, "has no seeds"),
    ],
)
def test_a_broken_experiment_file_is_named(tmp_path, text, sentence, write_experiment):
    with pytest.raises(UserError) as caught:
        tables.load_table(write_experiment(tmp_path, text))
    assert sentence in str(caught.value)


def test_a_missing_experiment_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.py does not exist"):
        tables.load_table(tmp_path / "absent.py")
    (tmp_path / "table.txt").touch()
    with pytest.raises(UserError, match=r"table\.txt is not a Python file"):
        tables.load_table(tmp_path / "table.txt")
