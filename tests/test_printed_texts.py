"""What data and other packages hold is printed as it is: it is no markup and steers no terminal."""

import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from ragjax import cli, result_commands
from ragjax.errors import UserError
from ragjax.printing import PlainConsole, json_text, typed_lines, visible
from ragjax.records import ReportTable
from ragjax.text import half_character
from ragjax.training.logging import RunProgress

pytest_plugins = ["tiny_run"]

SUPPORT = Path(__file__).parent / "support"

ENCODINGS = ("utf-8", "ascii", "latin-1", "cp1252", "utf-16")
# What must stand there as it is, and what must not reach a terminal.
HARMLESS = (
    *("[bold]x[/]", "[/]", "[/bold]", r"\[red]", "[link=http://x]y", ":cat:", "100%", "{x}", "a|b"),
    *("é", "日本語", "😀", "👩\u200d🚀", "نص", "שלום", "w" * 300, "ﬁ", "–"),
)
STEERING = (
    *("\x1b[31m", "\x1b]0;title\x07", "\x9b31m", "\x00", "\x07\x08", "\r", "\x7f", "\x85"),
    *("\u202e", "\u2066", "\u2028", "\u2029", "\ufeff", "\ud800", "\udcff"),
)


def drawn_texts(seed, count=40):
    """Texts of several parts of both sorts."""
    draw = random.Random(seed)
    return ["".join(draw.choices(HARMLESS + STEERING, k=draw.randint(1, 5))) for _ in range(count)]


def console_of(encoding, width=80):
    """-> (a console, a function that gives what was printed to it)."""
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding, errors="strict", write_through=True)
    return PlainConsole(file=stream, width=width), lambda: written.getvalue().decode(encoding)


# Texts


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_harmless_stays(text):
    assert visible(text) == text


@pytest.mark.parametrize("text", STEERING, ids=ascii)
def test_what_steers_is_written_out(text):
    shown = visible(f"a{text}b")
    assert shown.startswith("a\\")
    assert all(letter.isprintable() for letter in shown)


def test_newlines_and_tabs_stay():
    assert visible("a\n\tb") == "a\n\tb"


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("seed", range(3))
def test_every_text_can_be_printed(seed, encoding):
    for text in drawn_texts(seed):
        shown = visible(text, encoding)
        assert shown.encode(encoding).decode(encoding) == shown
        assert not set(shown) & set("".join(STEERING)) - set("[]31m0;title")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("seed", range(3))
def test_json_is_a_line_and_the_same_again(seed, encoding):
    value = {text: [text, 1.5, None] for text in drawn_texts(seed)} | {"a\nb": "c\td"}
    for indent in (None, 2):
        text = json_text(value, encoding, indent)
        assert json.loads(text.encode(encoding).decode(encoding)) == value
        assert indent is not None or len(text.splitlines()) == 1
        assert visible(text, encoding) == text


def test_json_for_people_holds_letters_as_they_are():
    assert json_text({"q": "Où est 日本?"}) == '{"q": "Où est 日本?"}'
    assert json_text({"q": "Où 😀"}, "latin-1") == r'{"q": "O\u00f9 \ud83d\ude00"}'


def test_halves_of_characters():
    assert half_character("a😀é") == ""
    assert half_character("a\ud800\udc00") == "\ud800"


# The console


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_console_prints_texts_as_they_are(encoding):
    for text in (*HARMLESS, *STEERING):
        console, printed = console_of(encoding, width=10_000)
        console.print(f"<{text}>")
        assert printed().rstrip("\n") == f"<{visible(text, encoding)}>"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_cells_of_a_table_are_whole_and_its_lines_even(encoding):
    for text in (*HARMLESS, *STEERING):
        console, printed = console_of(encoding)
        table = Table("name", text, title=f"of {text}")
        for column in table.columns:
            column.overflow = "fold"
        table.add_row(text, "end")
        console.print(table)
        title, *lines = [line for line in printed().splitlines() if line]
        assert len({console.render_str(line).cell_len for line in lines if "of" not in line}) == 1
        if len(text) < 40:
            shown = visible(text, encoding)
            assert shown in title
            assert sum(line.count(shown) for line in lines) >= 2


def test_a_report_of_relations_like_markup(capsys):
    names = ["[bold]x[/]", "[/]", ":cat:", "\x1b[31mred", "\udc80"]
    rows = [(name, "1.000") for name in names]
    result_commands.print_report([ReportTable("[/red]", ("relation", "[em]"), rows)])
    out = capsys.readouterr().out
    for text in ("[/red]", "[em]", "[bold]x[/]", "[/]", ":cat:", r"\x1b[31mred", r"\udc80"):
        assert text in out
    assert "\x1b" not in out


def test_passages_like_markup(capsys):
    titles = ["[bold]x[/]", "[/]", "\\[red]", "w" * 140, "\x1b[2J"]
    passages = [{"title": title, "text": f"of {title}", "prior": 1.0} for title in titles]
    result_commands.print_passages(passages, ("prior",))
    out = capsys.readouterr().out
    for text in ("[[bold]x[/]] of [bold]x[/]", "[[/]] of [/]", r"[\[red]] of \[red]", r"\x1b[2J"):
        assert text in out
    assert out.count("w") == 280
    assert "\x1b" not in out


def test_a_long_passage_is_printed_by_its_beginning(capsys):
    passages = [{"title": "T", "text": "w" * 1000, "prior": 1.0}]
    result_commands.print_passages(passages, ("prior",))
    out = capsys.readouterr().out
    assert out.count("w") == 300 - len("[T] ")
    assert "... (704 letters more)" in " ".join(out.split())
    passages = [{"title": "T", "text": "word " * 100, "prior": 1.0}]
    result_commands.print_passages(passages, ("prior",))
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("word") == 59
    assert out.endswith(f"word ... ({504 - len('[T]' + ' word' * 59)} letters more)")


def test_an_answer_is_one_line(capsys):
    answer = {"answer": "a\nb\x1b[2J [/]", "probability": 0.5, "notes": ["[/] left\rout"]}
    result_commands._print_answer(answer, as_json=False)
    out = capsys.readouterr().out
    assert out.splitlines() == [r"a\nb\x1b[2J [/]  (probability 0.500)", r"  note: [/] left\rout"]


def test_progress_says_texts_as_they_are():
    console, printed = console_of("ascii", width=200)
    progress = RunProgress(console, total=10, done=0)
    progress.say("seed [/] \x1b[2J é")
    progress.warn(3, "[bold]x[/]")
    assert printed().splitlines() == [
        r"seed [/] \x1b[2J \xe9",
        "retriever warning at step 3: [bold]x[/]",
    ]


def test_an_error_is_one_line_whatever_it_quotes(capsys, monkeypatch):
    def fail(*_):
        raise UserError("bad [/]\n  \x1b[2J\x85 é\udcff")

    monkeypatch.setattr(result_commands, "configs", fail)
    assert cli.main(["configs"]) == 2
    assert capsys.readouterr().err == "ragjax: bad [/] \\x1b[2J é\\udcff\n"


# Standard input


def typed(content, encoding, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(content), encoding=encoding)
    monkeypatch.setattr("sys.stdin", stream)
    return list(typed_lines("question> "))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_lines_of_any_encoding(encoding, monkeypatch):
    text = "Where?\r\n\nA\x00b [/]\nlast"
    found = typed(text.encode(encoding), encoding, monkeypatch)
    assert found == ["Where?", "", "A\x00b [/]", "last"]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
def test_a_byte_order_mark_is_no_letter(encoding, monkeypatch):
    assert typed(b"\xef\xbb\xbfWho?\nWho?", encoding, monkeypatch) == ["Who?", "Who?"]


def test_bytes_of_another_encoding_end_nothing(monkeypatch):
    found = typed(b"a\xff\nb\xc3\xa9", "utf-8", monkeypatch)
    assert found == ["a\udcff", "bé"]
    assert half_character(found[0])


def test_input_that_breaks_off_within_a_character(monkeypatch):
    with pytest.raises(UserError, match="Standard input is not utf-16"):
        typed("Who?".encode("utf-16")[:-1], "utf-16", monkeypatch)


def test_no_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UserError, match="no standard input"):
        list(typed_lines(""))


def test_a_passage_without_a_title_has_no_brackets(capsys):
    passages = [{"title": title, "text": "by a river", "score": 1.0} for title in ("", "Arles")]
    result_commands.print_passages(passages, ("score",))
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert shown == ["score passage", "1.000 by a river", "1.000 [Arles] by a river"]


# Processes, whose encodings are their own

ASKED = (
    b"\xef\xbb\xbfWhere does Ada live?\r\nWhere does \xff live?\n\n[/]\nWhere \x00does Ben live?\n"
)


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["ascii", "C"],
)
def test_piped_questions_get_a_line_each(environment, trained):
    command = [sys.executable, "-m", "ragjax", "answer", str(trained), "--json", "--force"]
    outer = {name: value for name, value in os.environ.items() if name != "PYTHONIOENCODING"}
    process = subprocess.run(
        command,
        input=ASKED,
        env=outer | {"PYTHONPATH": str(SUPPORT)} | environment,
        capture_output=True,
    )
    assert process.returncode == 2, process.stderr  # of one line that is no question
    answers = [json.loads(line) for line in process.stdout.decode().splitlines()]
    questions = [
        "Where does Ada live?",
        "Where does \udcff live?",
        "[/]",
        "Where \x00does Ben live?",
    ]
    assert [answer["question"] for answer in answers] == questions
    assert ["error" in answer for answer in answers] == [False, True, False, False]
    assert answers[2]["reasons"] == ["unknown words"]
    for answer in (answers[0], answers[3]):  # of which the run is not sure
        assert answer["confidence"] < answer["threshold"]
        assert answer["answer"] is not None
    assert r"'\udcff', which is no character in the encoding" in answers[1]["error"]
    assert b"Traceback" not in process.stderr


@pytest.mark.parametrize("closed", [1, 2])
def test_a_closed_output_is_refused(closed):
    """The next file would get its number, and what other packages print would end there."""
    command = f"{sys.executable} -m ragjax configs {closed}>&-"
    process = subprocess.run(["sh", "-c", command], capture_output=True)
    assert process.returncode == 2
    said = process.stderr if closed == 1 else process.stdout
    assert b"Standard output or error is closed; send it to a file" in said
    assert b"Traceback" not in said


@pytest.mark.parametrize(
    ("full", "said"), [(1, b"ragjax: A file, or the output, can't be used"), (2, b"")]
)
def test_an_output_without_room_is_bad_input(full, said):
    """Also where what is wrong can't be printed."""
    command = (
        f"{sys.executable} -m ragjax {'configs' if full == 1 else 'nothing'} {full}> /dev/full"
    )
    process = subprocess.run(["sh", "-c", command], capture_output=True)
    assert process.returncode == 2
    assert process.stderr.startswith(said)


UMLAUTS = """
import dataclasses
import tiny_config, tiny_task


@dataclasses.dataclass(frozen=True)
class Umlauts(tiny_task.TinyTask):
    def generate(self):
        data = super().generate()
        splits = {
            name: tuple(
                dataclasses.replace(asked, relation=f"{place % 2} größe [/]")
                for place, asked in enumerate(questions)
            )
            for name, questions in data.splits.items()
        }
        return dataclasses.replace(data, splits=splits)


def get_config():
    return dataclasses.replace(tiny_config.get_config(), task=Umlauts())
"""


def test_training_with_an_output_of_ascii(tmp_path):
    """Relations, and the directory's name, are escaped where they can't be printed."""
    (tmp_path / "größe.py").write_text(UMLAUTS)
    run_dir = tmp_path / "läuft"
    process = subprocess.run(
        [sys.executable, "-m", "ragjax", "train", tmp_path / "größe.py", "--run-dir", run_dir],
        env=os.environ
        | {
            "PYTHONPATH": str(SUPPORT),
            "LC_ALL": "C",
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
        },
        capture_output=True,
    )
    assert process.returncode == 0, process.stderr
    said = process.stdout.decode("ascii")
    assert r"0 gr\xf6\xdfe [/]" in said
    # A name whose letters are unknown to the encoding of names is bytes.
    assert rf"{tmp_path}/l\udcc3\udca4uft: " in said
    assert b"Traceback" not in process.stderr
    assert (run_dir / "result.json").exists()
