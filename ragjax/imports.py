"""What is imported: by fields of a config whose text names modules, and by a user's own modules."""

import ast
import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec
from itertools import accumulate
from pathlib import Path
from typing import Any

_KEY = "ragjax.modules"
_PACKAGE = __name__.partition(".")[0]
_STANDARD = Path(os.__file__).parent


def naming(modules: Callable[[Any], Iterable[str]]) -> Mapping[str, Any]:
    """The `metadata` of a field that names modules, given what tells those that its value names.

    A run's config.json lists them, and nothing else is imported when the run is loaded.
    """
    return {_KEY: modules}


def named_modules(spec: Any) -> dict[str, str]:
    """The modules that the fields of a dataclass name, those of specs within it aside.

    Returns:
      Module -> name of the field.
    """
    return {
        module: item.name
        for item in dataclasses.fields(spec)
        if _KEY in item.metadata
        for module in item.metadata[_KEY](getattr(spec, item.name))
    }


def own_modules(name: str, file: Path, below: Path | None = None) -> dict[str, Path]:
    """The user's own modules that a module imports, directly or not, also within functions.

    The import statements are read, and nothing is imported. What is installed is left out, and so is
    this package, except what its modules import of their own folder.

    Args:
      name: of the module.
      file: of the module.
      below: the directory of the modules whose own imports count, too; None for all of them.

    Returns:
      Name -> file; the module itself is the first.
    """
    within = file.parent if _of_this_package(name) else None
    found, waiting = {name: file}, [name]
    while waiting:
        importer = waiting.pop()
        for other in _imported(importer, found[importer]):
            spec = None if other in found else _spec_of(other)
            if spec is None or not spec.has_location or spec.origin is None:
                continue
            place = Path(spec.origin)
            ours = within is not None and place.is_relative_to(within)
            if not place.is_file() or _is_installed(place):  # it may be in an archive
                continue
            if ours or not _of_this_package(other):
                found[other] = place
                if below is None or place.is_relative_to(below):
                    waiting.append(other)
    return found


def _is_installed(file: Path) -> bool:
    """Whether a module's file is of Python itself or of an installed package."""
    places = {"site-packages", "dist-packages"}
    if not places.isdisjoint(file.parts) or file.is_relative_to(_STANDARD):
        return True
    return any(file.is_relative_to(path) and _holds_installed(path) for path in sys.path if path)


@functools.cache
def _holds_installed(directory: str) -> bool:
    """Whether pip has installed packages there (`pip install --target`)."""
    return any(Path(directory).glob("*.dist-info"))


def _of_this_package(name: str) -> bool:
    return name.partition(".")[0] == _PACKAGE


def _imported(name: str, file: Path) -> Iterator[str]:
    """Every name that may be a module in the import statements of one, after the packages it is in."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):  # no source, or none that could be imported
        return
    package = name.split(".") if file.stem == "__init__" else name.split(".")[:-1]
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = [*above, *([node.module] if node.module else [])]
            names = [".".join([*base, alias.name]) for alias in node.names]
        for each in names:
            yield from accumulate(each.split("."), "{}.{}".format)


def _spec_of(name: str) -> ModuleSpec | None:
    """Where a module comes from or would come from; not even its packages are imported for that."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__spec__", None)
    path, parent = None, name.rpartition(".")[0]
    if parent:
        package = _spec_of(parent)
        path = package and package.submodule_search_locations
        if path is None:
            return None
    finders = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
    try:
        return next(filter(None, (finder.find_spec(name, path) for finder in finders)), None)
    except KeyError:  # a folder without __init__.py, in a package that isn't imported
        spec = ModuleSpec(name, None, is_package=True)
        folders = (Path(place, name.rpartition(".")[2]) for place in path or ())
        spec.submodule_search_locations = [str(folder) for folder in folders if folder.is_dir()]
        return spec
