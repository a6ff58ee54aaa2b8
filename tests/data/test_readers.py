"""Files of strangers are read as they are, or refused by file and line."""

import gzip
import json
import pathlib

import numpy as np
import pytest

from ragjax.data.readers import located_passages, read_passages, read_questions
from ragjax.data.rows import read_rows
from ragjax.errors import UserError
from ragjax.types import Passage, Question

PASSAGES = [
    {"id": "a", "title": "Arles", "text": 'A "town",\tby a\u2028river.\nOld.'},
    {"id": 7, "text": "北京 is a capital."},
]


def passages(path, **options):
    return list(read_passages(path, **{"words": 5, "overlap": 2} | options))


def questions(path, **options):
    return [question for question, _ in read_questions(path, **options)]


def write(path, content):
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz", "P.JSONL"])
@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["", "byte order mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
def test_json_lines(tmp_path, name, start, end):
    """Only a newline ends a line."""
    path = write(tmp_path / name, start + jsonl(PASSAGES).replace("\n", end) + end)
    assert passages(path) == [
        Passage("a", "Arles", PASSAGES[0]["text"]),
        Passage("7", "", "北京 is a capital."),
    ]


@pytest.mark.parametrize("name", ["psgs.tsv", "psgs.tsv.gz"])
def test_the_layout_of_dpr(tmp_path, name):
    """Tabs, and texts in quotes, in which a quote is doubled."""
    text = 'id\ttext\ttitle\n1\t"Aaron, a ""prophet"", spoke."\tAaron\n2\tPlain text.\t"B\nB"\n'
    assert passages(write(tmp_path / name, text)) == [
        Passage("1", "Aaron", 'Aaron, a "prophet", spoke.'),
        Passage("2", "B\nB", "Plain text."),
    ]


def test_names_of_other_layouts(tmp_path):
    beir = write(tmp_path / "corpus.jsonl", jsonl([{"_id": "1", "title": "T", "text": "x"}]))
    pyserini = write(tmp_path / "docs.jsonl", jsonl([{"docid": "1", "contents": "x"}]))
    assert passages(beir) == [Passage("1", "T", "x")]
    assert passages(pyserini) == [Passage("1", "", "x")]
    own = write(tmp_path / "own.csv", "Nummer,Absatz\n1,x\n")
    assert passages(own, fields="text=Absatz, id=Nummer") == [Passage("1", "", "x")]


def test_a_passage_without_an_id_has_its_number(tmp_path):
    path = write(tmp_path / "p.jsonl", jsonl([{"text": "x"}, {"text": "y"}]))
    assert [passage.id for passage in passages(path)] == ["0", "1"]


def test_a_folder_may_lie_in_a_hidden_one(tmp_path, monkeypatch):
    folder = tmp_path / ".cache" / "texts"
    folder.mkdir(parents=True)
    (tmp_path / ".cache" / "here").mkdir()
    write(folder / "a.txt", "one two")
    assert [passage.id for passage in passages(folder)] == ["a.txt#0"]
    monkeypatch.chdir(tmp_path / ".cache" / "here")
    assert [passage.id for passage in passages(pathlib.Path("../texts"))] == ["a.txt#0"]


def test_a_folder_is_cut_into_passages_that_overlap(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path / "b.txt", "one two three\nfour five six seven eight nine")
    write(tmp_path / "sub" / "a.md", "Intro\n\n# The  Title #\n\nbody of a text")
    write(tmp_path / "c.pdf", b"%PDF")
    write(tmp_path / ".hidden.txt", "no")
    assert passages(tmp_path) == [
        Passage("b.txt#0", "b", "one two three four five"),
        Passage("b.txt#1", "b", "four five six seven eight"),
        Passage("b.txt#2", "b", "seven eight nine"),
        Passage("sub/a.md#0", "The  Title", "Intro The Title body of"),
        Passage("sub/a.md#1", "The  Title", "body of a text"),
    ]
    assert [p.text for p in passages(tmp_path / "b.txt")][-1] == "seven eight nine"


@pytest.mark.parametrize("count", range(1, 14))
def test_every_word_of_a_text_is_in_a_passage(tmp_path, count):
    words = [f"w{number}" for number in range(count)]
    path = write(tmp_path / "t.txt", " ".join(words))
    pieces = [passage.text.split() for passage in passages(path)]
    assert [pieces[0], *(piece[2:] for piece in pieces[1:])] == [
        words[:5],
        *(words[start : start + 3] for start in range(5, count, 3)),
    ]


def test_questions(tmp_path):
    rows = [
        {"id": 1, "question": "Who?", "answers": ["Ada", "A.", "Ada"], "positives": ["p1"]},
        {"question": "Where?", "answer": "Arles", "relation": "town", "entity": "Ada"},
        {"query": "None?"},
    ]
    assert questions(write(tmp_path / "q.jsonl", jsonl(rows))) == [
        Question("1", "Who?", ("Ada", "A."), ("p1",), "", ""),
        Question("q/1", "Where?", ("Arles",), (), "town", "Ada"),
        Question("q/2", "None?", (), (), "", ""),
    ]


def test_answers_in_the_cell_of_a_table(tmp_path):
    table = 'question,answers\nWho?,"[""Ada"", ""Bea""]"\n"Where, then?","Arles, France"\n'
    first, second = questions(write(tmp_path / "q.csv", table))
    assert (first.answers, second.answers) == (("Ada", "Bea"), ("Arles, France",))


def test_webquestions_by_its_own_names(tmp_path):
    rows = [{"qId": "wq1", "qText": "who?", "answers": ["Ada"]}]
    (found,) = questions(write(tmp_path / "w.jsonl", jsonl(rows)), fields="question=qText,id=qId")
    assert (found.id, found.question) == ("wq1", "who?")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "p.jsonl",
            '{"text": "x"}\n{"text": \n',
            r"line 2 is not JSON \(Expecting value at column",
        ),
        ("p.jsonl", '{"text": "x"}\n["x"]\n', "line 2 is not a JSON object"),
        ("p.jsonl", '{"txt": "x", "n": 1}\n{"text": 1.5}', r"line 2: 'text' is 1\.5; it must be a"),
        ("p.jsonl", '{"text": true}', "'text' is True; it must be a text"),
        ("p.jsonl", '{"text": "x", "id": null, "title": ["x"]}', "'title' is .'x'.; it must"),
        ("p.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', "line 2 is not UTF-8"),
        ("p.tsv", "id\ttext\n1\tx\ty\n", "line 2 has 3 cells, but the first line names 2"),
        ("p.csv", "text,text\nx,y\n", "names two columns alike"),
        ("p.csv", "id;text\n1;x\n", "names a single column, 'id;text'; write commas"),
        ("p.csv", 'text\n"x', "line 2 can't be read"),
        (
            "p.parquet",
            "PAR1",
            r"is no \.jsonl, \.csv, \.tsv, \.txt, \.md, \.markdown file .*, or name a folder of texts",
        ),
        ("p.jsonl.gz", None, "is cut or damaged after line"),
        ("q.jsonl.gz", '{"text": "x"}', r"ends in \.gz, but isn't compressed by gzip; rename it"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    if content is None:
        whole = gzip.compress(jsonl([{"text": "x" * 9999}] * 50).encode())
        path.write_bytes(whole[:-20])
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as error:
        passages(path)
    assert str(path) in str(error.value)


def test_missing_columns_and_files(tmp_path):
    path = write(tmp_path / "q.jsonl", jsonl([{"frage": "Wer?", "antwort": "Ada"}]))
    with pytest.raises(UserError, match=r"has no 'question' \(it has frage, antwort\)"):
        questions(path)
    for wrong in ("question", "qestion=frage"):
        with pytest.raises(UserError, match=f"fields has '{wrong}'; write it as column=name"):
            questions(path, fields=wrong)
    with pytest.raises(UserError, match="does not exist"):
        passages(tmp_path / "nothing.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no \.txt"):
        passages(tmp_path / "empty")


@pytest.mark.parametrize("name", ["q.jsonl", "q.csv"])
def test_a_name_that_no_row_has_is_refused(tmp_path, name):
    """Whether it is of a column that a row must have or may have; a name of the other file's is none."""
    text = jsonl([{"frage": "Wer?", "text": "x"}, {"frage": "Wo?", "text": "y"}])
    path = write(tmp_path / name, text if name == "q.jsonl" else "frage,text\nWer?,x\nWo?,y\n")
    for read, fields in (
        (passages, "text=txt,question=frage"),
        (passages, "title=titel"),
        (questions, "question=frage,answers=antwort"),
        (questions, "question=frage,positives=gold"),
    ):
        column, named = fields.replace("question=frage", "").strip(",").split("=")
        with pytest.raises(UserError) as error:
            read(path, fields=fields)
        assert str(error.value) == (
            f"{path} has no column {named!r}, which the fields name for {column!r} (its first row has "
            "frage, text); name one that it has, or add it."
        )
    assert len(passages(path, fields="question=Frage,id=nr")) == 2
    assert len(questions(path, fields="question=frage,title=titel,id=nr")) == 2


def test_a_column_may_begin_in_a_later_row(tmp_path):
    path = write(tmp_path / "p.jsonl", jsonl([{"absatz": "x"}, {"absatz": "y", "titel": "Y"}]))
    found = passages(path, fields="text=absatz,title=titel")
    assert [(passage.title, passage.text) for passage in found] == [("", "x"), ("Y", "y")]


def test_rows_come_one_by_one(tmp_path):
    """A stream: the first row is there before the last line, which is broken, is read."""
    path = write(tmp_path / "p.jsonl", '{"text": "x"}\n' * 3 + "{")
    rows = read_rows(path)
    assert next(rows) == (1, {"text": "x"})


def test_texts_are_cut_as_a_stream_by_the_same_rule(tmp_path):
    """Passage n begins at word n * (words - overlap), while more than the overlap is left."""
    rng = np.random.default_rng(0)
    path = tmp_path / "a.txt"
    for case in range(200):
        words, count = int(rng.integers(1, 7)), int(rng.integers(0, 25))
        overlap = int(rng.integers(0, words))
        text = [f"w{place}" for place in range(count)]
        lines = np.sort(rng.integers(0, 5, count))
        rows = [" ".join(np.array(text, str)[lines == line]) for line in range(5)]
        write(path, "\n".join(rows))
        starts = range(0, max(count - overlap, 1), words - overlap)
        expected = [
            (
                path,
                int(lines[start]) + 1 if count else 1,
                Passage(f"a.txt#{number}", "a", " ".join(text[start : start + words])),
            )
            for number, start in enumerate(starts)
        ]
        assert list(located_passages(path, words=words, overlap=overlap)) == expected, case
