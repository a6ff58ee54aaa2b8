"""Files of items: what each kind of file gives, and the sentences for bad lines."""

import gzip
import json

import numpy as np
import pytest

from ragjax.data.items import Column, read_items
from ragjax.errors import UserError

COLUMNS = {"topic": Column(0, 19, whole=True), "quality": Column(-100.0, 100.0)}
ROWS = [
    {"id": "a", "topic": 3, "quality": 0.5},
    {"id": "b", "topic": 19, "quality": -2},
    {"id": "c", "topic": 0, "quality": 1e-3},
]


def table(delimiter):
    lines = [list(ROWS[0]), *([str(value) for value in row.values()] for row in ROWS)]
    return "".join(delimiter.join(line) + "\n" for line in lines)


CONTENTS = {
    "items.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "items.csv": table(","),
    "items.tsv": table("\t"),
    "items.tsv.gz": table("\t"),
}


def written(tmp_path, name, content):
    data = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return tmp_path / name


@pytest.mark.parametrize("name", CONTENTS)
def test_every_kind_of_file_gives_the_same_numbers(tmp_path, name):
    found = read_items(written(tmp_path, name, CONTENTS[name]), COLUMNS)
    assert list(found) == ["topic", "quality"]
    np.testing.assert_array_equal(found["topic"], [3, 19, 0])
    np.testing.assert_array_equal(found["quality"], [0.5, -2, 1e-3])
    assert found["topic"].dtype == np.int64
    assert found["quality"].dtype == np.float64


TOPIC = "it must be a whole number from 0 to 19."
QUALITY = "it must be a number from -100 to 100."
LINE = '{"topic": 1, "quality": 1}\n'


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("i.tsv", "topic\tquality\n", "{path} holds no item; give it at least one row."),
        ("i.jsonl", "", "{path} holds no item; give it at least one row."),
        (
            "i.tsv",
            "topic\tid\n1\ta\n",
            "{path}, line 2 has no 'quality' (it has topic, id); add it, a number from -100 to 100 of "
            "each item.",
        ),
        (
            "i.jsonl",
            LINE + '{"quality": 1}\n',
            "{path}, line 2 has no 'topic' (it has quality); add it, a whole number from 0 to 19 of "
            "each item.",
        ),
        (
            "i.jsonl",
            LINE + "{broken\n",
            "{path}, line 2 is not JSON (Expecting property name enclosed in double quotes at column "
            "2); mend or remove it.",
        ),
        (
            "i.tsv",
            "topic\tquality\n1\t0.5\n2\n",
            "{path}, line 3 has 1 cells, but the first line names 2 columns; mend it (a cell that holds "
            "the delimiter wants quotes).",
        ),
        ("i.tsv", "topic\tquality\n1\tnan\n", "{path}, line 2: 'quality' is 'nan'; " + QUALITY),
        ("i.tsv", "topic\tquality\n1\tinf\n", "{path}, line 2: 'quality' is 'inf'; " + QUALITY),
        ("i.tsv", "topic\tquality\n1\t\n", "{path}, line 2: 'quality' is ''; " + QUALITY),
        ("i.tsv", "topic\tquality\n1\tgood\n", "{path}, line 2: 'quality' is 'good'; " + QUALITY),
        ("i.tsv", "topic\tquality\n20\t1\n", "{path}, line 2: 'topic' is '20'; " + TOPIC),
        ("i.tsv", "topic\tquality\n1.5\t1\n", "{path}, line 2: 'topic' is '1.5'; " + TOPIC),
        (
            "i.jsonl",
            '{"topic": true, "quality": 1}\n',
            "{path}, line 1: 'topic' is True; " + TOPIC,
        ),
        (
            "i.jsonl",
            '{"topic": 1, "quality": null}\n',
            "{path}, line 1: 'quality' is None; " + QUALITY,
        ),
        (
            "i.txt",
            "1\n",
            "{path} is no .jsonl, .csv, .tsv file (.gz or not); convert it to one of these.",
        ),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path, name, content, sentence):
    path = written(tmp_path, name, content)
    with pytest.raises(UserError) as caught:
        read_items(path, COLUMNS)
    assert str(caught.value) == sentence.format(path=path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"items.tsv can't be read \(No such file or directory\)"):
        read_items(tmp_path / "items.tsv", COLUMNS)
