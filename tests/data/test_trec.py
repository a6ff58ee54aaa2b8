"""Runs and judgements are what was written, or refused by file and line."""

import gzip
import random

import pytest

from ragjax.data.trec import read_qrels, read_run, require_ranked, write_qrels, write_run
from ragjax.errors import UserError

RUN = {"q1": [("b", 2.5), ("a", 2.5), ("c", -1e-7)], "q2": [("a", 0.1)]}
QRELS = {"q1": {"a": 2, "b": 0, "c": -1}, "q2": {"x": 1}}


def write(path, content):
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_a_run_by_hand(tmp_path):
    """The score decides, then the rank, then the line; what separates columns is any white space."""
    text = "q Q0 low 1 0.5 t\n\nq\tQ0\thigh 9 7 t\r\nq Q0 tie2 5 0.5 t\nq Q0 tie1 4 0.5 t\n"
    text += "p 0 d 0 -1 t\n"
    expected = {
        "q": [("high", 7.0), ("low", 0.5), ("tie1", 0.5), ("tie2", 0.5)],
        "p": [("d", -1.0)],
    }
    assert read_run(write(tmp_path / "run.txt", "\ufeff" + text)) == expected
    assert read_run(write(tmp_path / "run.gz", text)) == expected


@pytest.mark.parametrize("name", ["run.trec", "run.trec.gz"])
def test_a_run_is_read_as_it_was_written(tmp_path, name):
    rng = random.Random(0)
    drawn = {
        f"q{q}": [
            (f"d{d}-é", score)
            for d, score in zip(
                rng.sample(range(50), size),
                sorted(
                    (rng.choice([0.0, 1.5, rng.gauss(0, 1e3)]) for _ in range(size)), reverse=True
                ),
                strict=True,
            )
        ]
        for q in range(30)
        for size in [rng.randrange(1, 40)]
    }
    for run in (RUN, drawn):
        write_run(tmp_path / name, run, "bm25")
        assert read_run(tmp_path / name) == run
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_the_lines_of_a_run(tmp_path):
    write_run(tmp_path / "run", RUN | {"q3": []})
    assert (tmp_path / "run").read_text().splitlines() == [
        "q1 Q0 b 1 2.5 ragjax",
        "q1 Q0 a 2 2.5 ragjax",
        "q1 Q0 c 3 -1e-07 ragjax",
        "q2 Q0 a 1 0.1 ragjax",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("q Q0 d 1 0.5", "has 5 columns, but ought to be 'qid Q0 docid rank score tag'"),
        ("q Q0 d 1 0.5 my tag", "has 7 columns"),
        ("q Q0 d first 0.5 t", "has the rank 'first'; it must be a whole number"),
        ("q Q0 d 1 high t", "has the score 'high'; it must be a finite number"),
        ("q Q0 d 1 NaN t", "has the score 'NaN'; it must be a finite number"),
        ("q Q0 d 1 -inf t", "has the score '-inf'"),
        ("q Q0 ok 7 0.5 t", "repeats passage 'ok' of question 'q'"),
    ],
)
def test_a_line_of_a_run_that_is_none(tmp_path, line, said):
    path = write(tmp_path / "run", f"q Q0 ok 1 1 t\n\n{line}\n")
    with pytest.raises(UserError) as refused:
        read_run(path)
    assert f"{path}, line 3 {said}" in str(refused.value)
    assert str(refused.value).endswith(".")


@pytest.mark.parametrize("name", ["qrels.txt", "qrels.tsv", "qrels.tsv.gz", "qrels.gz"])
def test_judgements_are_read_as_they_were_written(tmp_path, name):
    write_qrels(tmp_path / name, QRELS)
    assert read_qrels(tmp_path / name) == QRELS
    data = (tmp_path / name).read_bytes()
    text = (gzip.decompress(data) if name.endswith("gz") else data).decode()
    beir = "query-id\tcorpus-id\tscore\nq1\ta\t2\nq1\tb\t0\nq1\tc\t-1\nq2\tx\t1\n"
    assert text == (beir if "tsv" in name else "q1 0 a 2\nq1 0 b 0\nq1 0 c -1\nq2 0 x 1\n")


def test_what_a_file_holds_says_its_first_line_not_its_name(tmp_path):
    """MS MARCO's qrels.dev.tsv has TREC's columns."""
    assert read_qrels(write(tmp_path / "q.tsv", "1\t0\t7\t1\n")) == {"1": {"7": 1}}
    headed = "\nquery-id corpus-id score\n1 7 1\n"
    assert read_qrels(write(tmp_path / "q.txt", headed)) == {"1": {"7": 1}}


@pytest.mark.parametrize("header", ["", "query-id\tcorpus-id\tscore\n"], ids=["trec", "beir"])
@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ("q d high", "has the grade 'high'; it must be a whole number"),
        ("q d 1.0", "has the grade '1.0'; it must be a whole number"),
        ("q ok 1", "repeats passage 'ok' of question 'q'"),
        ("q 1", "columns, but ought to be"),
        ("query-id corpus-id score", "has the grade 'score'"),
    ],
)
def test_a_line_of_judgements_that_is_none(tmp_path, header, cells, said):
    rows = [row if header else row.replace(" ", " 0 ", 1) for row in ("q ok 1", cells)]
    path = write(tmp_path / "qrels", header + "\n".join(rows))
    with pytest.raises(UserError) as refused:
        read_qrels(path)
    assert f"{path}, line {3 if header else 2} " in str(refused.value)
    assert said in str(refused.value)


def test_three_columns_without_their_names_are_told_of_both_formats(tmp_path):
    with pytest.raises(
        UserError, match=r"line 1 has 3 columns.*'qid 0 docid grade' .or to be headed"
    ):
        read_qrels(write(tmp_path / "qrels.tsv", "q\td\t1\n"))


@pytest.mark.parametrize("read", [read_run, read_qrels])
def test_files_that_are_none(tmp_path, read):
    for path in (write(tmp_path / "empty", "\n \n"), write(tmp_path / "empty.gz", "")):
        with pytest.raises(UserError, match=r"empty.* holds no "):
            read(path)
    with pytest.raises(UserError, match="can't be read"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="line 1 is not UTF-8"):
        read(write(tmp_path / "latin", b"caf\xe9 0 d 1\n"))
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(b"\n" * 99)[:-12])
    with pytest.raises(UserError, match="cut or damaged"):
        read(cut)
    header = write(tmp_path / "names", "query-id\tcorpus-id\tscore\n")
    with pytest.raises(
        UserError, match="has 3 columns" if read is read_run else "holds no judgement"
    ):
        read(header)


@pytest.mark.parametrize(
    "name", ["two words", "tab\there", "", "line\n", "no\u00a0break", "\ud800"]
)
def test_ids_that_no_column_can_hold(tmp_path, name):
    path = tmp_path / "out"
    for write_it in (
        lambda: write_run(path, {name: [("d", 1.0)]}),
        lambda: write_run(path, {"q": [(name, 1.0)]}),
        lambda: write_run(path, RUN, name),
        lambda: write_qrels(path, {name: {"d": 1}}),
        lambda: write_qrels(path, {"q": {name: 1}}),
        lambda: write_qrels(tmp_path / "out.tsv", {"q": {name: 1}}),
    ):
        with pytest.raises(UserError, match=r"white space|half of a character"):
            write_it()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("ranking", "said"),
    [
        ([("a", 1.0), ("b", 2.0)], "rank 2: passage 'b' scores 2.0, more than the 1.0 of the one"),
        ([("a", 1.0), ("a", 0.5)], "rank 2: passage 'a' was retrieved twice"),
        ([("a", float("nan"))], "rank 1: passage 'a' has the score nan"),
        ([("a", float("inf"))], "rank 1: passage 'a' has the score inf"),
        ([("a", 1.0), ("b", -float("inf"))], "rank 2: passage 'b' has the score -inf"),
    ],
)
def test_a_ranking_that_is_none(tmp_path, ranking, said):
    for check in (
        lambda: require_ranked("q", ranking),
        lambda: write_run(tmp_path / "r", {"q": ranking}),
    ):
        with pytest.raises(UserError, match=f"question 'q', {said}"):
            check()
    assert not list(tmp_path.iterdir())
