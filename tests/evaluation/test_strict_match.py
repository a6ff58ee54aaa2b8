"""Strict exact match: digits, signs, decimals and symbols are kept apart, all else is as in SQuAD."""

import gzip
import json
import random

import numpy as np
import pytest

from ragjax.errors import UserError
from ragjax.evaluation import matching, metrics, rendering, runs
from ragjax.evaluation.tables import Column, Row, Table


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("42", "4.2"),
        ("113 million", "11.3 million"),
        ("-5", "5"),
        ("\u22125", "5"),
        ("C", "C++"),
        ("C", "C#"),
        ("C++", "C#"),
        ("1.0", "10"),
        ("50%", "50"),
        ("$5", "5"),
        ("-$5", "$5"),
        (".5", "5"),
        ("-.5", ".5"),
        ("3/4", "34"),
        ("1,5", "15"),
        ("1,00", "100"),
        ("10:30", "1030"),
        ("1990-1995", "19901995"),
        ("5'11", "511"),
        ("+44", "44"),
        ("#1", "1"),
        ("AT&T", "ATT"),
        ("O-", "O"),
        ("O\u2212", "O+"),
        ("AB-", "AB"),
        ("B-", "B"),
        ("B+", "B"),
        ("A-", "A"),
        ("C-", "C."),
        ("5'", '5"'),
        ("5''", "5'"),
        ("5' 11\"", "5\" 11'"),
        ("5'", "5"),
        (".NET", "NET"),
        ("in (.NET)", "in net"),
        ("Paris, France", "Paris"),
        ("the", "a"),
        ("the", "The"),
        ("!!!", "?"),
        ("?", ""),
    ],
)
def test_answers_that_are_kept_apart(one, other):
    assert matching.strict_match(one, [other]) == 0
    assert matching.strict_match(other, [one]) == 0
    assert matching.strict_match(one, [other, one]) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1,000", "1000"),
        ("$1,234,567.50", "$1234567.50"),
        ("-1,000", "\u22121000"),
        ("\u22125", "-5"),
        ("U.S.", "US"),
        ("St. Lucia", "St Lucia"),
        ("St. Lucia's", "st lucias"),
        ("The  Cat, sat!", "cat sat"),
        ('"Paris"', "paris"),
        ("'42'", "42."),
        ("(5)", "5"),
        ("May 5, 1990", "may 5 1990"),
        ("Guinea-Bissau", "guineabissau"),
        ("X-ray", "xray"),
        ("pre- and post-war", "pre and postwar"),
        ("the x- and y-axes", "x and yaxes"),
        ("type O-.", "type O-"),
        ("Paris -", "Paris"),
        ("1990-", "1990"),
        ("the 1990's", "1990s"),
        ("the '90s", "90s"),
        ('"Catch 22"', "catch 22"),
        ("'in 1990', he said", "in 1990 he said"),
        ("the \"'5'\"", "5"),
        ("5''", '5".'),
        ("5'.", "5'"),
        ("... Paris", "Paris..."),
        ("...Paris", "Paris"),
        ("vitamin A", "vitamin"),
        (" the ", "the"),
        ("!!!", " !!!\n"),
        ("", " "),
    ],
)
def test_answers_that_are_the_same(one, other):
    assert matching.strict_match(one, [other]) == matching.strict_match(other, [one]) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-1,234.50 %", "-1234.50 %"),
        ("100,200 and 1,0000 and 0.123,456", "100200 and 1,0000 and 0.123,456"),
        ("5 - 6", "5 6"),
        ("5-year", "5year"),
        ("An A+ in C++.", "a+ in c++"),
        ("e.g. 1.2.3...", "eg 1.2.3"),
        ("«\u2013»", "«\u2013»"),  # as in SQuAD, what is not ASCII stays
    ],
)
def test_strict_normalisation_by_hand(text, expected):
    assert matching.normalise_strictly(text) == expected


@pytest.mark.slow
def test_a_strict_match_is_a_match():
    """Over random strings of digits, marks, symbols and words, without the minus sign U+2212.

    Of "A+" SQuAD's normalisation leaves nothing.
    """
    rng = random.Random(0)
    atoms = [*".,:;-'\"()!?$%#+/&_ ", " ", "1", "234", "000", "a", "the", "C", "us", "\u2013"]
    found = set()
    for _ in range(20_000):
        one = "".join(rng.choice(atoms) for _ in range(rng.randrange(1, 7)))
        other = one.replace(rng.choice(atoms), rng.choice(["", "", " "]), 1).upper()
        strict, em = matching.strict_match(one, [other]), matching.exact_match(one, [other])
        assert strict <= em or not matching.normalise_answer(one), (one, other)
        found.add((strict, em))
    assert found >= {(0, 0), (0, 1), (1, 1)}
    assert (matching.strict_match("A+", ["a+"]), matching.exact_match("A+", ["a+"])) == (1, 0)


@pytest.mark.parametrize(
    ("prediction", "answer", "em", "f1"),
    [
        ("the", "the", 1, 1.0),
        ("the", "a", 0, 0.0),
        ("The", "the", 0, 0.0),
        ("!!!", "!!! ", 1, 1.0),
        ("!!!", "?", 0, 0.0),
        ("", "?", 0, 0.0),
        ("", "", 1, 1.0),
        ("Paris", "the", 0, 0.0),
        ("42", "4.2", 1, 1.0),  # by its name exact match is SQuAD's
    ],
)
def test_an_answer_of_which_nothing_is_left_equals_itself_alone(prediction, answer, em, f1):
    assert matching.exact_match(prediction, [answer]) == em
    assert matching.token_f1(prediction, [answer]) == f1


@pytest.mark.parametrize("answers", [[], "42"])
def test_accepted_answers_are_a_sequence_of_texts(answers):
    with pytest.raises(ValueError, match="answers"):
        matching.strict_match("42", answers)


# In figures, recorded runs and tables


@pytest.fixture
def numeric(records):
    """Four records, of which q0 is right, q1 right but for its decimal point, and q2, q3 wrong."""
    made = records({"q0"})
    made[1] |= {"prediction": "42", "answers": ["4.2"], "em": 1, "f1": 1.0, "strict_em": 0}
    return made


def test_strict_em_is_summarised_over_all_and_by_relation(numeric):
    summary = metrics.summarise(numeric)
    assert (summary["em"], summary["strict_em"]) == (0.5, 0.25)
    by_relation = {name: of["strict_em"] for name, of in summary["per_relation"].items()}
    assert by_relation == {"anthem": 0.0, "capital": 0.5}


def test_strict_em_of_a_record_is_that_of_its_prediction(numeric, tmp_path):
    """A record that lacks it is scored anew; one that has another is refused."""
    path = tmp_path / "predictions.jsonl"
    old = [{k: v for k, v in row.items() if k != "strict_em"} for row in numeric]
    metrics.write_predictions(path, old)
    assert metrics.summarise(metrics.read_predictions(path)) == metrics.summarise(numeric)
    numeric[1]["strict_em"] = 1
    with pytest.raises(UserError, match="'q1' records strict_em 1, but its prediction scores 0"):
        metrics.summarise(numeric)
    numeric[1]["strict_em"] = "no"
    metrics.write_predictions(path, numeric)
    with pytest.raises(UserError, match="line 2 has the field 'strict_em' of 'no'"):
        metrics.read_predictions(path)


@pytest.fixture
def recorded(numeric, finished_run, tmp_path):
    """The recorded run of the four records."""
    run = finished_run(tmp_path / "run", {"q0"}, result=metrics.summarise(numeric))
    metrics.write_predictions(run / "predictions.jsonl", numeric)
    return runs.record_run(run, tmp_path / "experiments" / "results" / "tiny" / "rag" / "seed_0")


def table(root):
    columns = (
        Column("strict", "strict_em"),
        Column("of capitals", "strict_em", relation="capital"),
    )
    rows = (Row("RAG", "configs/tiny/rag.py"),)
    results = root / "experiments" / "results"
    return Table("tiny", "Tiny", rows, columns, seeds=(0,), results=results)


def test_a_recorded_run_keeps_strict_em_and_a_table_shows_it(recorded, tmp_path):
    (loaded,) = runs.load_runs(recorded.parent, (0,))
    np.testing.assert_array_equal(loaded.figure("strict_em"), [1, 0, 0, 0])
    np.testing.assert_array_equal(loaded.figure("strict_em", "capital"), [1, 0])
    assert "| RAG | 25.0 ± 37.5 | 50.0 ± 50.0 |" in rendering.render(table(tmp_path))


def test_an_older_recorded_run_has_not_measured_it(recorded, tmp_path):
    path = recorded / "outcomes.json.gz"
    columns = json.loads(gzip.decompress(path.read_bytes()))
    del columns["strict_em"]
    path.write_bytes(gzip.compress(json.dumps(columns).encode()))
    result = json.loads((recorded / "result.json").read_text())
    for figures in (result, *result["per_relation"].values()):
        del figures["strict_em"]
    (recorded / "result.json").write_text(json.dumps(result))
    (loaded,) = runs.load_runs(recorded.parent, (0,))
    assert loaded.figure("strict_em") is None
    assert metrics.summarise_outcomes(loaded.outcomes)["strict_em"] is None
    assert "| RAG | – | – |" in rendering.render(table(tmp_path))
