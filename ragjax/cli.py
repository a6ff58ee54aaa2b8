"""The command line: what `ragjax --help` lists."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from tyro.conf import Positional

from ragjax import (
    chat_command,
    import_command,
    index_commands,
    index_search,
    render_command,
    report_command,
    result_commands,
    sweep_command,
    train_command,
)
from ragjax.errors import UserError, require
from ragjax.interrupts import (
    INTERRUPTED,
    held_interrupts,
    raised_interrupts,
    stop_if_interrupted,
)
from ragjax.overrides import words_of_box
from ragjax.printing import (
    PlainConsole,
    escape_unknown,
    print_error,
    print_json,
)

# JAX is imported by the commands that need it, not here: `ragjax --help` and `ragjax table` are quick.


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained run on a split of its task, or a policy on episodes of its environment."""

    run_dir: Positional[Path]
    """The run's directory."""
    split: Literal["train", "dev", "test"] | None = None
    """The questions to answer, or those of an agent's episodes; test if not given."""
    episodes: int | None = None
    """Episodes that a policy plays in each mode, where they are not the questions of the split; as its
    config says if not given."""
    json: bool = False
    """Print the figures as JSON, with those of each relation."""
    output: Path | None = None
    """A file for the answers or episodes, as JSON lines."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 2 after bad input, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if sys.stdout is None or sys.stderr is None:
        # The next file opened would get its number, and with it what other packages print.
        print_error(f"Standard output or error is closed; send it to a file, or to {os.devnull}.")
        return 2
    escape_unknown()
    console = PlainConsole(stderr=True)
    try:
        with held_interrupts():
            return _dispatch(arguments, console)
    except UserError as error:
        print_error(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone; what Python flushes at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except RuntimeError as error:
        # By its name: JAX is imported by whatever raised it, and takes a second.
        if type(error).__name__ != "JaxRuntimeError" or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        asked = (
            str(error).partition("RESOURCE_EXHAUSTED:")[2].strip().partition("\n")[0].rstrip(".")
        )
        print_error(
            f"The device's memory is too small ({asked}); lower the batch size, k or the model's width, "
            "or the number of environments or seeds, or of a sweep --side-by-side."
        )
    except OSError as error:
        where = error.filename or "A file, or the output,"
        print_error(
            f"{where} can't be used ({error.strerror or error}); free space there, check its directory "
            "and permissions, or name another place."
        )
    return 2


def _dispatch(arguments: list[str], console: PlainConsole) -> int:
    commands: dict[str, tuple[type, Callable[[Any, list[str], PlainConsole], int]]] = {
        "train": (train_command.Train, train_command.train),
        "evaluate": (Evaluate, _evaluate),
        "sweep": (sweep_command.Sweep, sweep_command.sweep),
        "answer": (result_commands.Answer, result_commands.answer),
        "import": (import_command.Import, import_command.import_run),
        "export": (result_commands.Export, result_commands.export),
        "table": (result_commands.Table, result_commands.table),
        "plot": (result_commands.Plot, result_commands.plot),
        "report": (report_command.Report, report_command.report),
        "chat": (chat_command.Chat, chat_command.chat),
        "render": (render_command.Render, render_command.render),
        "pages": (result_commands.Pages, result_commands.pages),
        "configs": (result_commands.Configs, result_commands.configs),
        "config show": (result_commands.ConfigShow, result_commands.config_show),
        "config diff": (result_commands.ConfigDiff, result_commands.config_diff),
        "index build": (index_commands.IndexBuild, index_commands.build),
        "index search": (index_search.IndexSearch, index_search.search),
        "index evaluate": (index_search.IndexEvaluate, index_search.evaluate),
    }
    groups = {name.partition(" ")[0] for name in commands if " " in name}
    if arguments and arguments[0] == "--version":
        from ragjax import __version__

        print(f"ragjax {__version__}")
        return 0
    group = arguments[0] if arguments and arguments[0] in groups else ""
    words = arguments[: 2 if group else 1]
    if words in ([], [group]) or words[-1] in ("-h", "--help"):
        print(f"usage: ragjax {group or 'COMMAND'} ...; each command has --help\n")
        for name, (kind, _) in commands.items():
            if not group or name.startswith(f"{group} "):
                print(f"  {name:<12} {(kind.__doc__ or '').splitlines()[0]}")
        return 2 if words in ([], [group]) else 0
    name, rest = " ".join(words), arguments[len(words) :]
    require(name in commands, f"{name!r} is not a command; choose one of {', '.join(commands)}.")
    kind, function = commands[name]
    prog = f"ragjax {name}"
    # What trains or plays episodes looks for a signal itself: raised within a callback of JAX, it may be
    # lost. The others write whole files, or go on where they were stopped, whenever that is.
    held = kind in (train_command.Train, Evaluate, sweep_command.Sweep)
    with contextlib.nullcontext() if held else raised_interrupts():
        if kind in _OWN_OPTIONS:
            options, rest = _parse_with_overrides(kind, rest, prog)
            return function(options, rest, console)
        return function(_parse(kind, rest, prog), [], console)


def _parse(kind: Any, arguments: list[str], prog: str) -> Any:
    """Parses a command's own options; a mistake becomes one sentence."""
    if "-h" in arguments or "--help" in arguments:
        return tyro.cli(kind, args=["--help"], prog=prog)
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message), contextlib.redirect_stdout(message):
            return tyro.cli(kind, args=arguments, prog=prog)
    except SystemExit as error:
        raise UserError(
            f"{words_of_box(message.getvalue())}; `{prog} --help` lists the options."
        ) from error


# The commands that take overrides of a config: their own options with a value, and those without.
_OWN_OPTIONS: dict[type, tuple[set[str], set[str]]] = {
    train_command.Train: (train_command.VALUED, train_command.BARE),
    result_commands.ConfigShow: (set(), {"--json", "--no-json"}),
    import_command.Import: ({"--passages", "--encoder"}, set()),
    sweep_command.Sweep: (sweep_command.VALUED, sweep_command.BARE),
}


def _parse_with_overrides(kind: Any, arguments: list[str], prog: str) -> tuple[Any, list[str]]:
    """Splits a command's own options from the overrides of the config."""
    if not arguments or arguments[0] in ("-h", "--help"):
        return _parse(kind, arguments, prog), []
    valued, bare = _OWN_OPTIONS[kind]
    named = next((n for n, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    own, overrides, words = arguments[:named], [], arguments[named:]
    while words:
        word = words.pop(0)
        option, equals, _ = word.replace("_", "-").partition("=")
        if option in bare or (option in valued and equals):
            own.append(word)
        elif option in valued:
            own += [word, *words[:1]]
            words = words[1:]
        else:
            overrides.append(word)
    return _parse(kind, own, prog), overrides


def _evaluate(options: Evaluate, _: list[str], console: PlainConsole) -> int:
    from ragjax import commands, compiled

    stop_if_interrupted()
    compiled.keep_compiled()
    figures, records = commands.evaluate(
        options.run_dir,
        split=options.split,
        episodes=options.episodes,
        output=options.output,
        console=console,
    )
    if options.json:
        print_json(figures, indent=2)
    else:
        result_commands.print_report(records.report([figures]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
