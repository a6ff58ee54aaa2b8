"""The headings of a Markdown text (CommonMark 0.31): `# Heading`, or a line underlined by = or -."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_HEADING = re.compile(r" {0,3}#{1,6}([ \t].*)?")
_CLOSING = re.compile(r"[ \t]#+[ \t]*$")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*")
_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
# What can be underlined: no quote, row of a table, item of a list or line across.
_PLAIN = re.compile(r" {0,3}(?=\S)(?![>|]|[-+*]\s|\d+[.)]\s|([-*_])[ \t]*(\1[ \t]*){2,}$)")


class Line(NamedTuple):
    """A line without the marks that make it a heading.

    Attributes:
      number: of the line in its file.
      text: its words.
      is_title: whether it is a heading that may be a text's title.
    """

    number: int
    text: str
    is_title: bool


def markdown_lines(lines: Iterable[tuple[int, str]]) -> Iterator[Line]:
    """Yields the lines of a text without the marks of headings; the lines below headings are left out.

    Within fenced code a # is no mark. A heading that is underlined by - is no title, for the last line
    of a front matter looks the same.

    Args:
      lines: numbers and lines.
    """
    fence = ""
    above = None  # a line that the next one may underline
    for number, line in ((number, line.rstrip("\r\n")) for number, line in lines):
        if fence:
            yield Line(number, line, False)
            closing = line.strip(" ")
            closes = closing and not closing.strip(fence[0]) and len(closing) >= len(fence)
            fence = "" if closes else fence
            continue
        underline = _UNDERLINE.fullmatch(line) if above else None
        if above:
            yield above._replace(is_title=underline is not None and "=" in line)
            above = None
        if underline:
            continue
        opening, heading = _FENCE.match(line), _HEADING.fullmatch(line)
        if opening:
            fence = opening[1]
        if heading:
            yield Line(number, _CLOSING.sub("", heading[1] or "").strip(), True)
        elif not opening and _PLAIN.match(line):
            above = Line(number, line, False)
        else:
            yield Line(number, line, False)
    if above:
        yield above
