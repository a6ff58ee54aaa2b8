"""Files: written whole or not at all, and Python files that declare something."""

import contextlib
import filecmp
import hashlib
import importlib.util
import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ragjax.errors import UserError, require
from ragjax.imports import own_modules

# The names of the modules that config files and experiments are run as, before the files' own.
_RUN = {"config": "ragjax_config_", "experiment": "ragjax_experiment_"}
_ADDED: set[str] = set()  # directories that were added to sys.path here, and not by the user


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


def check_output(name: str, path: Path | None, inputs: Mapping[str, Path | None]) -> None:
    """Checks that a file that the user names for results can be written, and is none that is read.

    Args:
      name: of the option that names it.
      path: the file; None if it isn't given.
      inputs: option -> the file or folder that it names, None where it isn't given.

    Raises:
      UserError: it is one of the inputs, a device or a directory, or its directory is missing.
    """
    if path is None:
        return
    require(
        path.parent.is_dir(),
        f"{name} is {path}, but {path.parent} is not a directory; make it or name another.",
    )
    require(
        path.is_file() or not path.exists(),
        f"{name} is {path}, which is no file; name a file.",
    )
    for other, given in inputs.items():
        same = given is not None and path.resolve() == given.resolve()
        require(not same, f"{name} is {path}, which {other} names, too; name another file.")


def check_place(name: str, directory: Path, mark: str) -> None:
    """Checks that a directory for files isn't the one where the user stands, among other files.

    An empty text, such as a variable of the shell that isn't set, names the current directory.

    Args:
      name: of the option that names it.
      directory: the directory.
      mark: the file or folder in it that shows that it is the command's own.

    Raises:
      UserError: it is the current directory, and holds something else.
    """
    here = directory.resolve() == Path.cwd() and any(directory.iterdir())
    require(
        not here or (directory / mark).exists(),
        f"{name} is the current directory, which holds other files; name a directory of its own.",
    )


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
    others = f"{what}s/{' or one that `ragjax configs` lists' * (what == 'config')}"
    require(path.exists(), f"{path} does not exist; name a file in {others}.")
    require(
        path.is_file() and path.suffix == ".py",
        f"{path} is not a Python file; name one in {others}.",
    )
    module = load_module(path, f"{_RUN[what]}{path.stem}")
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
        _ADDED.add(str(directory))


def load_module(path: Path, name: str) -> ModuleType:
    """Runs a Python file as a module, which finds the modules beside it that are not installed ones.

    Args:
      path: the file.
      name: of the module, which gets a longer one where another file has this name.

    Raises:
      UserError: the file fails, or modules of these names have been loaded from elsewhere.
    """
    path = path.absolute()
    if name in sys.modules and _file_of(sys.modules[name]) != str(path):
        name = f"{name}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the suffix is .py
    assert spec.loader is not None
    find_modules_in(path.parent)
    _require_beside(path, name, path.parent)
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


def import_from(name: str, file: str) -> ModuleType:
    """Imports a module by its name or, where it isn't to be found, from its file.

    Args:
      name: of the module.
      file: that it came from when its name was written down; "" if that isn't known.

    Raises:
      UserError: the file is gone, or another module has come by its name.
    """
    path, known = Path(file), bool(file)
    if known and name.startswith(tuple(_RUN.values())):
        return _import_run(name, path)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name or not known:
            raise
        _require_there(name, path)
        find_modules_in(_root_of(name, path))
        _require_beside(path, name, _root_of(name, path))
        return importlib.import_module(name)
    found = _file_of(module)
    other = found and found != file and path.is_file()
    # What the user's own path leads to is taken, though it may have changed since.
    if other and str(_root_of(name, Path(found))) in _ADDED:
        require(_is_same(found, path), _two_of(name, Path(found), path))
        _require_beside(path, name, _root_of(name, path))
    return module


def _root_of(name: str, path: Path) -> Path:
    """The directory that a module is found from, by its name."""
    return path.parents[name.count(".") + (path.stem == "__init__")]


def _file_of(module: ModuleType) -> str:
    """The file of a module; "" where it has none."""
    return getattr(module, "__file__", None) or ""


def _import_run(name: str, path: Path) -> ModuleType:
    """The module of a config file, which goes by another name than its own."""
    if not path.is_file() and name in sys.modules:
        return sys.modules[name]  # it was moved, and is loaded from where it is now
    _require_there(name, path)
    loaded = [sys.modules[key] for key in sys.modules if key.startswith(tuple(_RUN.values()))]
    found = next((module for module in loaded if _file_of(module) == str(path)), None)
    return found or load_module(path, name)


def _require_there(name: str, path: Path) -> None:
    require(
        path.is_file(),
        f"The config names classes of {name!r}, whose file {path} is gone; put it back.",
    )


def _require_beside(path: Path, name: str, root: Path) -> None:
    """Checks that what a file imports are the modules in its directory, where there are such.

    Raises:
      UserError: another one goes by the name of one.
    """
    for other, file in own_modules(name, path, below=root).items():
        beside = root.joinpath(*other.split("."))
        for place in (beside.with_suffix(".py"), beside / "__init__.py"):
            require(not place.is_file() or _is_same(str(file), place), _two_of(other, file, place))


def _is_same(file: str, path: Path) -> bool:
    """Whether a module's file is this one, or holds the same."""
    return file == str(path) or (Path(file).is_file() and filecmp.cmp(file, path, shallow=False))


def _two_of(name: str, one: Path, other: Path) -> str:
    return (
        f"{one} and {other} are both the module {name!r}, and only one of them can be used at once; "
        "rename one of them."
    )


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
