"""Tables of rows and slots: what packages say, what is made, and what users bring."""

import gzip
import pickle
import re

import numpy as np
import pytest

from ragjax.envs.dialogue.tables import (
    MISSING,
    Countries,
    Elements,
    Generated,
    TableFile,
    table_of,
    with_missing,
    words_of,
)
from ragjax.errors import UserError

LARGE = Generated(rows=3523, values=(600, 600, 20, 5, 90, 70))


@pytest.mark.parametrize("source", [Countries(), Elements(), Generated(), LARGE], ids=str)
def test_every_cell_holds_a_value_of_its_slot_or_none(source):
    table = source.build()
    counts = [len(values) for values in table.values]
    assert table.cells.shape == (len(table.names), len(table.slots))
    assert table.cells.dtype == np.int32
    assert np.all((table.cells >= MISSING) & (table.cells < counts))
    for cells, values in zip(table.cells.T, table.values, strict=True):
        assert set(cells.tolist()) - {MISSING} == set(range(len(values)))  # none is never met
        assert len(set(values)) == len(values)
        assert all(words_of(value) for value in values)
    for ours, again in zip(table, source.build(), strict=True):
        np.testing.assert_array_equal(np.asarray(ours, object), np.asarray(again, object))


@pytest.mark.parametrize(
    ("source", "name", "said"),
    [
        (
            Countries(),
            "Poland",
            "region europe, government parliamentary republic, .*roman catholic",
        ),
        (Countries(), "Bolivia", "region south america, .*coast landlocked"),
        (
            Elements(),
            "iron",
            r"^period 4, block d block, crystal bcc, .*density 7\.9, radius 1\.3$",
        ),
        (Elements(), "helium", "^period 1, block s block"),
        (Elements(), "lanthanum", "^period 6, block f block"),
        (Elements(), "lawrencium", "^period 7, block d block"),
        (Elements(), "oganesson", "^period 7, block p block"),
    ],
)
def test_facts(source, name, said):
    table = source.build()
    row = table.describe(table.names.index(name)).lower()
    assert re.search(said, row), row


def test_sizes():
    assert len(Countries().build().names) == 249
    assert len(Elements().build().names) == 118
    table = LARGE.build()
    assert table.cells.shape == (3523, 6)
    assert [len(values) for values in table.values] <= [600, 600, 20, 5, 90, 70]


def test_a_made_table_follows_zipf_s_law():
    """Counts over 20,000 rows, by chi-square against 1 / (v + 1)^skew."""
    table = Generated(rows=20_000, values=(8,), skew=1.2, missing=0.25, seed=3).build()
    known = table.cells[table.cells != MISSING]
    assert len(known) == pytest.approx(15_000, abs=4 * np.sqrt(20_000 * 0.25 * 0.75))
    counts = np.sort(np.bincount(known))[::-1]
    expected = np.arange(1, 9.0) ** -1.2
    expected *= len(known) / expected.sum()
    assert np.sum((counts - expected) ** 2 / expected) < 24.3  # 0.1% of 7 degrees of freedom


def test_words_are_shared_by_slots():
    def shared(overlap):
        words = [
            {word for value in values for word in words_of(value)}
            for values in Generated(values=(40, 40), overlap=overlap).build().values
        ]
        return len(words[0] & words[1])

    assert shared(0.0) < 3 < shared(0.5)


def test_numbers_of_a_made_table():
    table = Generated(values=(5, 5, 5, 5, 120, 30)).build()
    assert all(value.isdecimal() for value in table.values[table.slots.index("year")])
    ratings = table.values[table.slots.index("rating")]
    assert all(f"{float(value):.1f}" == value for value in ratings)


def test_with_missing_drops_a_share_of_the_known_cells():
    table = table_of(("a", "b"), [{"a": "x", "b": "y"}] * 6 + [{"a": "z"}] * 8, ["r"] * 14)
    agent = with_missing(table, 0.2, seed=1)
    assert np.sum(table.cells != MISSING) - np.sum(agent.cells != MISSING) == 4
    kept = agent.cells != MISSING
    np.testing.assert_array_equal(agent.cells[kept], table.cells[kept])
    assert np.any(with_missing(table, 0.2, seed=2).cells != agent.cells)
    np.testing.assert_array_equal(with_missing(table, 0.0, seed=1).cells, table.cells)


@pytest.mark.parametrize("name", ["t.tsv", "t.csv", "t.tsv.gz"])
def test_a_user_s_table(tmp_path, name):
    text = "title\tcity\tyear\nHeat\tSeattle\t1995\nAlien\t\t1979\n"
    text = text.replace("\t", ",") if ".csv" in name else text
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    table = TableFile(path, name="title").build()
    assert table.slots == ("city", "year")
    assert table.names == ("Heat", "Alien")
    assert table.values == (("Seattle",), ("1995", "1979"))
    np.testing.assert_array_equal(table.cells, [[0, 0], [MISSING, 1]])
    assert table.describe(1) == "year 1979"
    assert TableFile(path).build().names == ("row 0", "row 1")


def test_a_user_s_json_lines(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"city": "Oslo", "size": 3}\n{"year": 1990, "city": null}\n')
    table = TableFile(path).build()
    assert table.slots == ("city", "size", "year")
    np.testing.assert_array_equal(table.cells, [[0, 0, MISSING], [MISSING, MISSING, 0]])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tsv", b"a\tb\n", "t.tsv, line 1 is followed by no rows; give the table at least one."),
        ("t.tsv", b"", "t.tsv, line 1 is followed by no rows"),
        ("t.tsv", b"a\t\nx\ty\n", "t.tsv, line 1 has a column without a name; name every column."),
        ("t.tsv", b"a\ta\nx\ty\n", "t.tsv, line 1 names two columns alike (a, a); rename one."),
        ("t.jsonl", b'{"a": "x"}\n{" ": 3}\n', "t.jsonl, line 2 has a column without a name"),
        ("t.tsv", b'a\tb\nx\ty\n"u\tv"\tz\n', "t.tsv, line 3 has a 'u\\tv', which holds a tab"),
        ("t.csv", b'a,b\n"u\nv",z\n', "t.csv, line 2 has a 'u\\nv', which holds a tab or a newline"),
        ("t.tsv", b"a\tb\nx\n", "t.tsv, line 2 has 1 cells, but the first line names 2 columns"),
        ("t.tsv", b"a\tb\nx\t\n", "t.tsv, line 1 names column 'b', which has no value in any row"),
        ("t.tsv", b"a\tb\nx\t?!\n", "t.tsv, line 2 has b '?!', which holds no word"),
        ("t.tsv", b"\xff\n", "t.tsv, line 1 is not UTF-8"),
        ("t.jsonl", b'{"a": [1]}\n', "t.jsonl, line 1 has a [1], which is no text; write one."),
        ("t.jsonl", b'{"a": "\\ud800"}\n', "t.jsonl, line 1 holds"),
        ("t.p", b"", "t.p, line 1 is a pickle, which can run any code when it is read"),
        ("t.tsv", pickle.dumps({}), "t.tsv, line 1 is a pickle"),
        ("t.tsv", pickle.dumps({}, 0), "t.tsv, line 1 is a pickle"),
        ("t.txt", b"a\n", "t.txt is no .jsonl, .csv, .tsv file"),
        ("t.tsv", b"\t".join(b"abcdefghijklm"[i : i + 1] for i in range(13)) + b"\n" + b"x\t" * 12
         + b"x\n", "t.tsv, line 1 has 13 columns that are slots; keep 1 to 12 of them."),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 9 else "",
)  # fmt: skip
def test_a_user_s_table_with_a_fault(tmp_path, name, content, message):
    """One sentence with file and line."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        TableFile(path).build()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.tsv can't be read \(No such file"):
        TableFile(tmp_path / "none.tsv").build()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 0}, r"env\.table\.rows is 0; it must be at least 1\."),
        ({"values": ()}, r"env\.table\.values is \(\); give each of 1 to 12 slots"),
        ({"values": (3, 0)}, r"env\.table\.values is \(3, 0\)"),
        ({"skew": -1.0}, r"env\.table\.skew is -1\.0"),
        ({"overlap": 1.0}, r"env\.table\.overlap is 1\.0"),
        ({"missing": 1.0}, r"env\.table\.missing is 1\.0"),
        ({"seed": -1}, r"env\.table\.seed is -1"),
    ],
)
def test_fields_are_checked(changes, message):
    with pytest.raises(UserError, match=message):
        Generated(**changes)
