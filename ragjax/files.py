"""Files: written whole or not at all, and Python files that declare something."""

import contextlib
import importlib.util
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ragjax.errors import UserError, require
from ragjax.shipped import name_like


def data_dir() -> Path:
    """Where prepared data is kept: `$RAGJAX_DATA_DIR`, or `~/.cache/ragjax`."""
    return Path(os.environ.get("RAGJAX_DATA_DIR") or "~/.cache/ragjax").expanduser()


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file under a temporary name and renames it, so that no reader sees half of it."""
    # A name that no other process takes, on whatever machine.
    temporary = path.with_name(f".{os.getpid()}-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"{path} can't be written ({error.strerror}); free space or choose another directory."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def parse_json(text: str | bytes, **options: Any) -> Any:
    """As `json.loads`; what is nested too deeply to be read is a ValueError, too."""
    try:
        return json.loads(text, **options)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json_object(path: Path, remedy: str) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
      path: the file.
      remedy: what to do where it can't be read, for messages.

    Raises:
      UserError: the file is missing, or holds something else.
    """
    try:
        content = parse_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}); {remedy}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); {remedy}") from error
    require(isinstance(content, dict), f"{path} is not a JSON object; {remedy}")
    return content


def load_function(path: Path, name: str, what: str) -> Callable[[], Any]:
    """Runs a Python file and returns one of its functions, whose failures are reported likewise.

    Args:
      path: the file.
      name: of the function.
      what: what the file is, for messages: "config" or "experiment".

    Raises:
      UserError: the file is missing, fails, or has no such function.
    """
    others = f"{what}s/"
    if what == "config":
        near = f" (did you mean {name_like(path)}?)" if name_like(path) else ""
        others += f" or one that `ragjax configs` lists{near}"
    require(path.exists(), f"{path} does not exist; name a file in {others}.")
    require(
        path.is_file() and path.suffix == ".py",
        f"{path} is not a Python file; name one in {others}.",
    )
    module = load_module(path, f"ragjax_{what}_{path.stem}")
    function = vars(module).get(name)
    if not callable(function):
        raise UserError(f"{path} has no {name}(); define one, as in the other files of {what}s/.")

    def run() -> Any:
        with _mending(path):
            return function()

    return run


def find_modules_in(directory: Path) -> None:
    """Lets modules in a directory be imported; a file there hides no installed module."""
    if str(directory) not in sys.path:
        sys.path.append(str(directory))


def load_module(path: Path, name: str) -> ModuleType:
    """Runs a Python file as a module of that name, which finds the modules beside it.

    Raises:
      UserError: the file fails.
    """
    spec = importlib.util.spec_from_file_location(name, path.absolute())
    assert spec is not None  # the suffix is .py
    assert spec.loader is not None
    find_modules_in(path.absolute().parent)
    module, before = importlib.util.module_from_spec(spec), sys.modules.get(name)
    sys.modules[name] = module  # its classes are found by it
    try:
        with _mending(path):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        raise
    return module


@contextlib.contextmanager
def _mending(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong in a user's file into one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{path} doesn't load ({type(error).__name__}: {error}); mend the file."
        ) from error
