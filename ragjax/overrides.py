"""Command-line overrides of a config: `--field.sub value`, parsed by tyro, refused in one sentence."""

import contextlib
import dataclasses
import difflib
import io
import re
from collections.abc import Collection, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from ragjax.errors import UserError, require


def leaf_fields(value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> type of every field of a config that holds a plain value."""
    found = {}
    if dataclasses.is_dataclass(value):
        hints = get_type_hints(type(value))
        children = {
            item.name: (getattr(value, item.name), hints[item.name])
            for item in dataclasses.fields(value)
        }
    else:
        children = {str(number): (item, type(item)) for number, item in enumerate(value)}
    for name, (child, hint) in children.items():
        path = f"{prefix}{name}"
        specs = child if isinstance(child, tuple) else (child,)
        if any(dataclasses.is_dataclass(spec) for spec in specs):
            found |= leaf_fields(child, f"{path}.")
        elif child is None and any(map(dataclasses.is_dataclass, get_args(hint))):
            continue  # a component that is left out; only a config file can name one
        else:
            found[path] = hint
    return found


def require_field(name: str, fields: Collection[str]) -> None:
    """Refuses a name that is no field, with the nearest one as a hint.

    Raises:
      UserError: names the field and the remedy.
    """
    near = difflib.get_close_matches(name, fields, n=1, cutoff=0.5)
    last = name.rpartition(".")[2]
    near = near or [field for field in fields if field.rpartition(".")[2] == last]
    hint = f"did you mean --{near[0]}?" if near else "add --help to see all fields."
    require(name in fields, f"--{name} is not a field of the config; {hint}")


def _expected(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) is Union:
        return "a value"
    if get_origin(hint) is tuple:
        return f"{_expected(get_args(hint)[0])}, or several"
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}
    return names.get(hint, "a value")


def split_arguments(
    arguments: Sequence[str], several: Collection[str] = ()
) -> list[tuple[str, str | None]]:
    """`--name value` and `--name=value` as (name, value) pairs; a bare `--name` has value None.

    Names in `several` may have more than one value; they are joined by spaces.

    Raises:
      UserError: a word stands where a field is expected.
    """
    pairs, words = [], list(arguments)
    while words:
        word = words.pop(0)
        require(
            word.startswith("--"),
            f"{word!r} is not expected here; fields are given as --name value.",
        )
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if equals:
            pairs.append((name, value))
        elif words and not words[0].startswith("--"):
            values = [words.pop(0)]
            while name in several and words and not words[0].startswith("--"):
                values.append(words.pop(0))
            pairs.append((name, " ".join(values)))
        else:
            pairs.append((name, None))
    return pairs


def override(config: Any, arguments: Sequence[str], prog: str = "ragjax train") -> Any:
    """Applies command-line arguments to a config; `--help` prints all fields and exits.

    Args:
      config: the default, a `RunConfig`.
      arguments: as typed.
      prog: the command's name in the help text.

    Returns:
      The new config.

    Raises:
      UserError: an unknown field, a value of the wrong type, or one that the config refuses.
    """
    if "--help" in arguments or "-h" in arguments:
        return _parse(config, ["--help"], prog)
    fields = leaf_fields(config)
    several = [name for name, hint in fields.items() if get_origin(hint) is tuple]
    given = split_arguments(arguments, several)
    arguments = [word for name, value in given for word in _argument(name, value, fields.get(name))]
    for name, value in given:
        require_field(name, fields)
        require(
            value is not None, f"--{name} has no value; give {_expected(fields[name])} after it."
        )
    try:
        return _parse_quietly(config, arguments)
    except SystemExit as error:
        wrong = [(name, value) for name, value in given if not _fits(config, name, str(value))]
        name, value = (wrong or given)[0]
        raise UserError(f"--{name} is {value!r}; give {_expected(fields[name])}.") from error


def _argument(name: str, value: str | None, hint: Any) -> list[str]:
    """A field and its value as tyro reads them."""
    if value is None:
        return [f"--{name}"]
    words = _values(value, hint)
    return [f"--{name}", *words] if get_origin(hint) is tuple else [f"--{name}={words[0]}"]


def _values(value: str, hint: Any) -> list[str]:
    """The words of a value; a whole number may be written as 1e6 or 1_000_000."""
    words = value.split() if get_origin(hint) is tuple else [value]
    if int in _leaves(hint) and float not in _leaves(hint):
        return [_as_integer(word) for word in words]
    return words


def _leaves(hint: Any) -> set[Any]:
    """The plain types that a hint is made of."""
    parts = get_args(hint)
    return set().union(*map(_leaves, parts)) if parts else {hint}


def _as_integer(word: str) -> str:
    """A word that is a whole number in another notation, in digits; other words as they are."""
    if not re.fullmatch(r"[+-]?\d+(_\d+)*(\.\d+)?([eE]\+?\d{1,2})?", word):
        return word
    exact = Decimal(word)
    return str(int(exact)) if exact == exact.to_integral_value() and not word.isdigit() else word


def value_of(config: Any, name: str, word: str) -> Any:
    """The value that a word is of a field, whether or not it suits the rest of the config.

    Raises:
      UserError: there is no such field, or the word is no value of its type.
    """
    hint, error = leaf_fields(config).get(name), None
    try:
        given = override(config, _argument(name, word, hint))
    except UserError as refused:
        if hint is None or not _fits(config, name, word):
            raise
        error = refused
    if error is None:
        for part in name.split("."):
            given = given[int(part)] if isinstance(given, tuple) else getattr(given, part)
        return given
    kind: Any = Annotated[hint, tyro.conf.FlagConversionOff]
    return tyro.cli(kind, args=_values(word, hint))


def _parse(config: Any, arguments: Sequence[str], prog: str) -> Any:
    """What tyro makes of the arguments; it prints a box and exits where one doesn't fit its field."""
    options = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
    kind: Any = Annotated[type(config), *options]
    return tyro.cli(kind, default=config, args=arguments, prog=prog)


def _parse_quietly(config: Any, arguments: Sequence[str]) -> Any:
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        return _parse(config, arguments, "")


def words_of_box(text: str) -> str:
    """What tyro says of a mistake, out of the box that it draws, and what it guesses was meant."""
    lines = [line.strip("│╰╯─ ") for line in text.splitlines()[1:]]  # the first is a title
    words = " ".join(line for line in lines if line.strip("-"))
    for end in ("For full helptext", "Got errors:", "Argument helptext:"):
        words = words.partition(end)[0].strip(" .")
    words, _, meant = words.replace("'None', ", "").partition(" Perhaps you meant:")
    return words + (f" (did you mean {meant.split()[0]}?)" if meant else "")


def _fits(config: Any, name: str, value: str) -> bool:
    """Whether a value by itself has its field's type; it need not suit the rest of the config."""
    try:
        _parse_quietly(config, _argument(name, value, leaf_fields(config)[name]))
    except SystemExit:
        return False
    except UserError:
        pass
    return True
