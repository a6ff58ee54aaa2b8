"""The configuration of a run: frozen dataclasses, in Python files and as JSON.

A config file is a Python file with `get_config()`, which returns a `Config`: that of a learner of
questions (`learners.questions`) or of episodes (`learners.episodes`). Each field that names a component
holds that component's spec, an instance of a class; there is no registry and nothing is looked up by
name.
"""

import dataclasses
import importlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar

from ragjax.errors import UserError, require
from ragjax.files import find_modules_in, load_function, load_module
from ragjax.records import Records
from ragjax.training.learner import Learner
from ragjax.training.optimizer import Adam, Optimizer

PACKAGE = "ragjax"
NOTHING: Mapping[str, str] = MappingProxyType({})
MODULES = "modules"  # the field of config.json with the modules, beside ours, of its classes


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the configs of all runs share; a subclass for each learner.

    Attributes:
      records: what an evaluation leaves.
      seed: of parameters, order of the data, renaming, environments and actions.
      num_seeds: runs with the seeds `seed`, `seed` + 1, ... side by side in one program.
      optimizer: the optimiser.
      log_every: steps between two rows of metrics.
      checkpoint_every: steps between checkpoints; one is also written at the end.
    """

    records: ClassVar[type[Records]]

    seed: int = 0
    num_seeds: int = 1
    optimizer: Optimizer = field(default_factory=Adam)
    log_every: int = 10
    checkpoint_every: int = 100

    def __post_init__(self):
        """Checks the fields."""
        require(self.seed >= 0, f"seed is {self.seed}; it must not be negative.")
        require(
            self.num_seeds >= 1, f"num_seeds is {self.num_seeds}; at least one seed has to run."
        )
        for name in ("log_every", "checkpoint_every"):
            value = getattr(self, name)
            require(value >= 1, f"{name} is {value}; it must be at least 1 step.")

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        raise NotImplementedError

    @property
    def evaluate_every(self) -> int:
        """Steps between measurements on development data while training; 0 for none."""
        raise NotImplementedError

    @property
    def subject(self) -> str:
        """Name of what is learned; it names the directory of runs."""
        raise NotImplementedError

    def create(self) -> Learner:
        """The learner of a new run.

        Raises:
          UserError: its data, its environment or the run that it starts from can't be had.
        """
        raise NotImplementedError

    def load(self, run_dir: Path) -> Learner:
        """The learner of a run that was begun in `run_dir`.

        Raises:
          UserError: a file is missing or malformed.
        """
        raise NotImplementedError

    @property
    def seeds(self) -> range:
        """The seeds that run."""
        return range(self.seed, self.seed + self.num_seeds)

    @property
    def run_name(self) -> str:
        """Name of the run's own directory, unless another is given."""
        last = f"_to_{self.seeds[-1]}" if self.num_seeds > 1 else ""
        return f"seed_{self.seed}{last}"


def to_json(value: Any) -> Any:
    """A spec as plain JSON values; every dataclass carries its import path under "type"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        fields = {
            item.name: to_json(getattr(value, item.name)) for item in dataclasses.fields(value)
        }
        return {"type": f"{kind.__module__}.{kind.__qualname__}"} | fields
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    return value


def config_json(config: Config) -> dict[str, Any]:
    """What a run's config.json holds: `to_json`, and the modules beside ours that its classes are of.

    Each module has its file, from which it is read where it can't be imported by its name.
    """
    value = to_json(config)
    own = {name for name in map(module_of, _types(value)) if name.split(".")[0] != PACKAGE}
    return value | {MODULES: {name: _file_of(name) for name in sorted(own)}}


def _file_of(module: str) -> str:
    """The file of a module that is imported; "" where it has none."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return str(Path(file).absolute()) if file else ""


def _module(name: str, file: str) -> ModuleType:
    """Imports a module by its name or, where it isn't to be found, from its file."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name or not file:
            raise
    path = Path(file)
    require(
        path.is_file(),
        f"The config names classes of {name!r}, whose file {file} is gone; put it back.",
    )
    package = path.stem == "__init__"
    if (path.parent.name if package else path.stem) != name.rpartition(".")[2]:
        return load_module(path, name)  # a config file, which goes by another name
    find_modules_in(path.parents[name.count(".") + package])
    return importlib.import_module(name)


def module_of(name: str) -> str:
    """The module of a dotted class name."""
    return name.rpartition(".")[0]


def _types(value: Any) -> list[str]:
    """The "type" of every spec in a JSON value."""
    if isinstance(value, list):
        return [name for item in value for name in _types(item)]
    if not isinstance(value, dict):
        return []
    own = [str(value["type"])] if "type" in value else []
    return own + [name for item in value.values() for name in _types(item)]


def from_json(value: Any, modules: Mapping[str, str] = NOTHING) -> Any:
    """Inverse of `to_json`; lists become tuples.

    Args:
      value: JSON.
      modules: what may be imported beside this package, and the file of each.

    Raises:
      UserError: a type can't be imported or its fields do not fit.
    """
    if isinstance(value, list):
        return tuple(from_json(item, modules) for item in value)
    if not isinstance(value, dict):
        return value
    fields = {name: from_json(item, modules) for name, item in value.items() if name != "type"}
    require("type" in value, f"A part of the config names no type: {value}; train the run again.")
    name = str(value["type"])
    module, _, class_name = name.rpartition(".")
    require(
        module.split(".")[0] == PACKAGE or module in modules,
        f"The config names {name!r}, whose module is neither of {PACKAGE} nor listed in its "
        f"{MODULES!r}; nothing else is imported, so train the run again.",
    )
    try:
        kind = vars(_module(module, modules.get(module, "")))[class_name]
        require(dataclasses.is_dataclass(kind), f"{name} is no spec.")
        return kind(**fields)
    except (ImportError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"The config's {value.get('type')!r} can't be rebuilt ({error}); it was written by "
            "another version of the code, so check that version out or train again."
        ) from error


def read_json(path: Path) -> Config:
    """Reads a run's config.json.

    Raises:
      UserError: the file is missing or malformed.
    """
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} can't be read as a config ({error}); name the directory of a run."
        ) from error
    modules: Any = (value.pop(MODULES, None) if isinstance(value, dict) else None) or {}
    require(
        isinstance(modules, dict) and all(isinstance(file, str) for file in modules.values()),
        f"{path} has {modules!r} for {MODULES!r}; it must be names with their files.",
    )
    config = from_json(value, modules)
    require(isinstance(config, Config), f"{path} does not hold a config; name a run's directory.")
    return config


def load_config(path: Path) -> Config:
    """Runs a config file's `get_config` and returns its `Config`.

    Raises:
      UserError: the file is missing, fails, or has no `get_config`.
    """
    config = load_function(path, "get_config", "config")()
    require(
        isinstance(config, Config),
        f"get_config() of {path} returned a {type(config).__name__}; it must return a Config.",
    )
    return config


def differing_fields(left: Any, right: Any, prefix: str = "") -> list[str]:
    """Dotted names of the fields in which two configs, as JSON values, differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        names = list(left) + [name for name in right if name not in left]
        return [
            found
            for name in names
            for found in differing_fields(left.get(name), right.get(name), f"{prefix}{name}.")
        ]
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        pairs = enumerate(zip(left, right, strict=True))
        return [
            found
            for number, (one, other) in pairs
            for found in differing_fields(one, other, f"{prefix}{number}.")
        ]
    return [] if left == right else [prefix.rstrip(".")]
