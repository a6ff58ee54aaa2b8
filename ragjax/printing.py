r"""The one way in which text reaches the screen: whatever it holds, it is shown and does nothing.

Names, relations, questions and passages come from files. Square brackets in them are no markup, `:cat:`
is no emoji, and what steers a terminal, turns the direction of writing or is unknown to the encoding of
the output stands there as Python would write it: `\x1b`.
"""

import codecs
import contextlib
import io
import json
import re
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from ragjax.errors import UserError, require

# Control characters but for tabs and newlines, separators of lines and paragraphs, marks that embed or
# override a writing direction, byte order marks, and halves of surrogate pairs.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def visible(text: str, encoding: str = "utf-8") -> str:
    """Returns a text with all that steers a terminal, or is not in an encoding, as escapes."""
    shown = _STEERING.sub(lambda found: found.group().encode("unicode_escape").decode(), text)
    if shown.isascii():
        return shown
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def json_text(value: Any, encoding: str = "utf-8", indent: int | None = None) -> str:
    """Returns a value as JSON that is one line, unless it is indented, and the same when it is read.

    Args:
      value: what JSON can hold.
      encoding: of where it goes; if it lacks a character of the text, all that are not ASCII are escaped
        as JSON has it.
      indent: blanks before each level of a value of several lines.
    """

    def escaped(found: re.Match[str]) -> str:
        return json.dumps(found.group())[1:-1]

    text = json.dumps(value, ensure_ascii=False, indent=indent)
    # The newlines of an indented text are not in a string; those that are, json has escaped.
    text = _STEERING.sub(escaped, text)
    if visible(text, encoding) != text:
        return re.sub(r"[^\x00-\x7f]", escaped, text)
    return text


class PlainConsole(Console):
    """A console that prints texts and the cells of tables as they are; see `visible`."""

    def __init__(self, **options: Any):
        """Takes the options of `rich.console.Console`."""
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Returns what is drawn for a text, whoever draws it."""
        return super().render_str(visible(text, self.encoding), **options)


def print_text(text: str, file: Any = None) -> None:
    """Prints a text of one or several lines to standard output, or to another stream, at once."""
    file = file or sys.stdout
    print(visible(text, _encoding(file)), file=file, flush=True)


def print_line(text: str) -> None:
    """Prints a line to standard output at once, also where the text holds newlines."""
    print_text(text.replace("\n", "\\n"))


def print_error(error: Exception | str) -> None:
    """Prints an error as one line, whatever the messages of other packages that it quotes look like."""
    words = " ".join(line.strip() for line in str(error).splitlines())
    with contextlib.suppress(OSError):  # where it can't be printed, the exit code tells it
        print_text(f"ragjax: {words}", sys.stderr)


def print_json(value: Any, indent: int | None = None) -> None:
    """Prints JSON to standard output at once: a line, unless it is indented."""
    print(json_text(value, _encoding(sys.stdout), indent), flush=True)


def typed_lines(prompt: str) -> Iterator[str]:
    """Yields the lines of standard input until it ends.

    Bytes that are not of its encoding become halves of characters, see `ragjax.text.half_character`.

    Args:
      prompt: what a terminal shows before each line.

    Raises:
      UserError: there is no standard input, or it breaks off within a character.
    """
    require(sys.stdin is not None, "There is no standard input to read; give it as an argument.")
    if isinstance(sys.stdin, io.TextIOWrapper) and sys.stdin.errors != "surrogateescape":
        sys.stdin.reconfigure(errors="surrogateescape")
    mark = _byte_order_mark(_encoding(sys.stdin))
    try:
        while True:
            line = input(prompt if sys.stdin.isatty() else "")
            yield line.removeprefix(mark).removesuffix("\r")
            mark = ""
    except (EOFError, KeyboardInterrupt):
        return
    except UnicodeDecodeError as error:
        raise UserError(
            f"Standard input is not {error.encoding} ({error.reason}); set PYTHONIOENCODING to its "
            "encoding."
        ) from error


def _byte_order_mark(encoding: str) -> str:
    """What the mark that some programs begin UTF-8 with is read as."""
    try:
        return codecs.BOM_UTF8.decode(encoding, "surrogateescape")
    except UnicodeDecodeError:  # of an encoding that has a mark of its own
        return ""


def escape_unknown() -> None:
    """Lets standard output escape what its encoding does not know, also of what other packages print."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _encoding(file: Any) -> str:
    return getattr(file, "encoding", None) or "utf-8"
