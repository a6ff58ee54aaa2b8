"""The marks of headings are left out of a Markdown text, and nothing else is."""

import pytest

from ragjax.data.markdown import markdown_lines
from ragjax.data.readers import read_passages


def read(text):
    return [tuple(line) for line in markdown_lines(enumerate(text.splitlines(keepends=True), 1))]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        *(("# One", "One"), ("###### Six ", "Six"), ("   ## Indented", "Indented")),
        *(("# Closed ##", "Closed"), ("#\tTab", "Tab"), ("# C#", "C#"), ("#", ""), ("## ##", "")),
    ],
)
def test_a_line_with_marks_is_a_heading(line, words):
    for end in ("", "\n", "\r\n"):
        assert read(line + end) == [(1, words, True)]


@pytest.mark.parametrize(
    "line", ["#tag", "####### Seven", "    # indented", r"\# escaped", "a # b"]
)
def test_other_lines_stay(line):
    assert read(line) == [(1, line, False)]


def test_lines_that_are_underlined():
    text = "Intro\nTitle\n=====\nbody\n\nSecond\n---\nmore"
    assert read(text) == [
        *((1, "Intro", False), (2, "Title", True), (4, "body", False), (5, "", False)),
        *((6, "Second", False), (8, "more", False)),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "\n---\nx",  # a line across
        "- item\n---",
        "1. item\n---",
        "> quoted\n===",
        "| a |\n---",
        "a | b\n--- | ---",
        "* * *\n---",
        "==",
        "# \n===",
        "    code\n===",
    ],
)
def test_what_underlines_nothing_stays(text):
    lines = text.split("\n")
    assert [(line.strip("# ")) for _, line, _ in read(text)] == [line.strip("# ") for line in lines]


@pytest.mark.parametrize(
    ("opening", "closing", "within"),
    [
        *(("```", "```", "~~~"), ("````sh", "````", "```"), ("~~~", "~~~~", "```")),
        *(("  ```python", "   ```  ", "``` x"), ("```", "```", "x\n===")),
    ],
)
def test_in_fenced_code_a_mark_is_a_comment(opening, closing, within):
    text = f"{opening}\n# comment\n{within}\n## comment\n{closing}\n# Heading"
    kept = [(line, title) for _, line, title in read(text)]
    lines = text.split("\n")
    assert kept == [*((line, False) for line in lines[:-1]), ("Heading", True)]


def test_code_that_is_not_closed_goes_on_to_the_end():
    text = "```\n# comment\n``` not closed\n# comment"
    assert [line for _, line, _ in read(text)] == text.split("\n")
    assert read("``` in `line` ```\n# Heading")[1] == (2, "Heading", True)


def test_passages_of_a_file(tmp_path):
    """The words of headings stay; a comment and the end of a front matter are no title."""
    path = tmp_path / "a.md"
    path.write_text(
        "---\nauthor: Ada\n---\n```\n# comment\n```\n\nThe title\n=========\n\n## Part two ##\n\nend\n"
    )
    (passage,) = read_passages(path, words=50, overlap=1)
    assert passage.title == "The title"
    assert passage.text == "--- author: Ada ``` # comment ``` The title Part two end"
    plain = tmp_path / "a.txt"
    plain.write_text("# Not\n=== marked")
    (passage,) = read_passages(plain, words=50, overlap=1)
    assert (passage.title, passage.text) == ("a", "# Not === marked")
