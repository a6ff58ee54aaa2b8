"""The configuration of a run: frozen dataclasses, in Python files and as JSON.

A config file is a Python file with `get_config()`, which returns a `Config`: that of a learner of
questions (`learners.questions`) or of episodes (`learners.episodes`). Each field that names a component
holds that component's spec, an instance of a class; nothing is looked up by name.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from jax.sharding import Mesh

from ragjax.config_differences import first_difference
from ragjax.errors import UserError, require
from ragjax.files import import_from, load_function, parse_json, write_json
from ragjax.imports import named_modules
from ragjax.mesh import DeviceMesh
from ragjax.ranges import SEED, hints_of, item_hint, require_ranges, without_none
from ragjax.records import Records
from ragjax.shipped import find_config, name_like
from ragjax.training.learner import Learner
from ragjax.training.optimizer import Adam, Optimizer
from ragjax.types import QaData

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
      mesh: the devices that train.
    """

    records: ClassVar[type[Records]]

    seed: int = field(default=0, metadata=SEED)
    num_seeds: int = 1
    optimizer: Optimizer = field(default_factory=Adam)
    log_every: int = 10
    checkpoint_every: int = 100
    mesh: DeviceMesh = field(default_factory=DeviceMesh)

    def __post_init__(self):
        """Checks the fields, and the range of every integer below them."""
        require_ranges(self)
        require(self.seed >= 0, f"seed is {self.seed}; it must not be negative.")
        require(
            self.num_seeds >= 1, f"num_seeds is {self.num_seeds}; at least one seed has to run."
        )
        last = self.seed + self.num_seeds - 1
        require(
            last < 2**32, f"num_seeds is {self.num_seeds}, up to seed {last}; stay below {2**32}."
        )
        for name in ("log_every", "checkpoint_every"):
            value = getattr(self, name)
            require(value >= 1, f"{name} is {value}; it must be at least 1 step.")
        require(
            self.num_seeds == 1 or not self.mesh.spreads,
            f"num_seeds is {self.num_seeds} and mesh.devices {self.mesh.devices}, but seeds side by "
            "side run on one device; train them one by one, or set mesh.devices to 1.",
        )

    def check_mesh(self, mesh: Mesh) -> None:
        """Checks that the run can be spread over these devices; refuses a field that does not fit."""
        raise NotImplementedError

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        raise NotImplementedError

    def lengthened_to(self, other: "Config") -> "Config":
        """This config with as many steps as `other`, if those are more and it can be lengthened."""
        del other
        return self

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

    def untrained(self, data: QaData) -> Learner:
        """The learner over passages that answers without training; of pretrained weights alone.

        Raises:
          UserError: it has nothing to answer before it is trained.
        """
        raise UserError(
            f"A config of {self.subject} has nothing to answer before it is trained; name a run."
        )

    @property
    def tracing(self) -> Mapping[str, Any]:
        """Field -> the component in it whose `hyper()` are traced scalars."""
        return {"optimizer": self.optimizer}

    def hyper(self) -> dict[str, float]:
        """The traced scalars of all of `tracing`, as `Learner.hyper` has them."""
        return {name: of for part in self.tracing.values() for name, of in part.hyper().items()}

    @property
    def seeds(self) -> range:
        """The seeds that run."""
        return range(self.seed, self.seed + self.num_seeds)

    @property
    def run_name(self) -> str:
        """Name of the run's own directory, unless another is given."""
        last = f"_to_{self.seeds[-1]}" if self.num_seeds > 1 else ""
        return f"seed_{self.seed}{last}"


def to_json(value: Any, where: str = "") -> Any:
    """A spec as plain JSON values; every dataclass carries its import path under "type".

    A path becomes a text, which the type hint of its field tells from others.

    Args:
      value: a spec, or what one of its fields holds.
      where: dotted name of that field, for messages.

    Raises:
      UserError: a field holds what JSON can't.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        fields = {
            item.name: to_json(getattr(value, item.name), f"{where}.{item.name}")
            for item in dataclasses.fields(value)
            if item.init
        }
        return {"type": f"{kind.__module__}.{kind.__qualname__}"} | fields
    if isinstance(value, tuple | list):
        return [to_json(item, f"{where}.{place}") for place, item in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    plain = value is None or type(value) in (bool, int, str) or isinstance(value, float)
    require(
        plain,
        f"{where.strip('.') or 'A part'} of the config is {value!r} of type {type(value).__name__}, "
        "which config.json can't hold; give a number, a text, a truth value, None, a Path, a frozen "
        "dataclass, or a tuple of these.",
    )
    return value


def config_json(config: Any) -> dict[str, Any]:
    """What a run's config.json holds: `to_json`, and the modules beside ours that it imports.

    These are the modules of its classes and those that its fields name. Each has its file, from which it
    is read where it can't be imported by its name.
    """
    names = {
        name for spec in _specs(config) for name in (type(spec).__module__, *named_modules(spec))
    }
    own = {name for name in names if name.split(".")[0] != PACKAGE}
    return to_json(config) | {MODULES: {name: _file_of(name) for name in sorted(own)}}


def _file_of(module: str) -> str:
    """The file of a module that is imported; "" where it has none."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return str(Path(file).absolute()) if file else ""


def module_of(name: str) -> str:
    """The module of a dotted class name."""
    return name.rpartition(".")[0]


def _specs(value: Any) -> Iterator[Any]:
    """Every dataclass in a spec or in what one of its fields holds."""
    if isinstance(value, tuple | list):
        for item in value:
            yield from _specs(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield value
        for item in dataclasses.fields(value):
            if item.init:
                yield from _specs(getattr(value, item.name))


def from_json(value: Any, modules: Mapping[str, str] = NOTHING, hint: Any = None) -> Any:
    """Inverse of `to_json`; lists become tuples.

    Args:
      value: JSON.
      modules: what may be imported beside this package, and the file of each.
      hint: the type hint of the field that it is of; a text becomes a path if that says so.

    Raises:
      UserError: a type can't be imported or its fields do not fit.
    """
    if isinstance(value, list):
        items = enumerate(value)
        return tuple(from_json(item, modules, item_hint(hint, place)) for place, item in items)
    if isinstance(value, str) and without_none(hint) is Path:
        return Path(value)
    if not isinstance(value, dict):
        return value
    require("type" in value, f"A part of the config names no type: {value}; train the run again.")
    name = str(value["type"])
    module = module_of(name)
    require(
        module.split(".")[0] == PACKAGE or module in modules,
        f"The config names {name!r}, whose module is neither of {PACKAGE} nor listed in its "
        f"{MODULES!r}; nothing else is imported, so train the run again.",
    )
    try:
        kind = _class_named(name, modules.get(module, ""))
        require(dataclasses.is_dataclass(kind), f"{name} is no spec.")
        hints = hints_of(kind)
        fields = {
            field: from_json(item, modules, hints.get(field))
            for field, item in value.items()
            if field != "type"
        }
        spec = kind(**fields)
        for module, field in named_modules(spec).items():
            require(
                module.split(".")[0] == PACKAGE or module in modules,
                f"The config's {kind.__name__} imports {module!r} by its {field}, but that is neither "
                f"of {PACKAGE} nor listed in {MODULES!r}; nothing else is imported, so list it there if "
                "it is yours, or train the run again.",
            )
            if modules.get(module):
                import_from(module, modules[module])
        return spec
    except UserError:
        raise
    except Exception as error:  # of a user's module or spec, whatever they raise
        raise UserError(
            f"The config's {value.get('type')!r} can't be rebuilt ({error}); it was written by "
            "another version of the code, so check that version out or train again."
        ) from error


def _class_named(name: str, file: str = "") -> Any:
    """What a dotted name of module and class stands for; raises whatever the import does."""
    return vars(import_from(module_of(name), file))[name.rpartition(".")[2]]


def _require_found(value: Any, where: str) -> None:
    """Checks that the class of every spec can be found again by its name.

    Raises:
      UserError: one can't, or is another class there.
    """
    if isinstance(value, tuple | list):
        for place, item in enumerate(value):
            _require_found(item, f"{where}.{place}")
    if not dataclasses.is_dataclass(value):
        return
    kind = type(value)
    try:
        found = _class_named(f"{kind.__module__}.{kind.__qualname__}")
    except Exception:  # of a user's module, whatever it raises
        found = None
    require(
        found is kind and kind.__module__ != "__main__",
        f"{where.strip('.') or 'The config'} is a {kind.__qualname__} of module {kind.__module__!r}, "
        "where it can't be found again when the run is loaded; define it at the top level of a module "
        "or of the config file.",
    )
    for item in dataclasses.fields(value):
        _require_found(getattr(value, item.name), f"{where}.{item.name}")


def _require_same(config: Config, found: Config) -> None:
    name = first_difference(config, found)
    require(
        name is None,
        f"{(name or '').strip('.') or 'A part'} of the config is not the same once it was written as "
        "JSON and read again; hold it in a field of type int, float, bool, str or Path, or a tuple "
        "of one of them.",
    )


def require_rebuilt(config: Config) -> None:
    """Checks that config.json of this config can be read again, and is then the same.

    Raises:
      UserError: names the field that can't be written or found again, or is another then.
    """
    text = json.dumps(config_json(config))
    _require_found(config, "")
    _require_same(config, _rebuilt(json.loads(text), "config.json"))


def write_config(path: Path, config: Config) -> None:
    """Writes config.json and reads it again.

    Raises:
      UserError: it can't be written, or isn't the same again; then it is removed.
    """
    require_rebuilt(config)
    write_json(path, config_json(config))
    try:
        _require_same(config, read_json(path))
    except UserError:
        path.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Config:
    """Reads a run's config.json.

    Raises:
      UserError: the file is missing or malformed.
    """
    try:
        value = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} can't be read as a config ({error}); name the directory of a run."
        ) from error
    return _rebuilt(value, path)


def _rebuilt(value: Any, path: Path | str) -> Config:
    """The config of the JSON value that `path` holds."""
    modules: Any = (value.pop(MODULES, None) if isinstance(value, dict) else None) or {}
    require(
        isinstance(modules, dict) and all(isinstance(file, str) for file in modules.values()),
        f"{path} has {modules!r} for {MODULES!r}; it must be names with their files.",
    )
    foreign = isinstance(value, dict) and "type" not in value
    require(
        not (foreign and "model_type" in value),
        f"{path} is a pretrained model's, not a run's; name a run's directory (`ragjax index build` "
        "takes a model by --encoder).",
    )
    config: Any = None if foreign else from_json(value, modules)
    require(isinstance(config, Config), f"{path} does not hold a config; name a run's directory.")
    return config


def load_config(path: Path) -> Config:
    """The `Config` of a file: what its `get_config` returns, or what a run's config.json holds.

    Args:
      path: see `shipped.find_config`; in .json it is read.

    Raises:
      UserError: the file is missing, fails, or has no `get_config`.
    """
    found = find_config(path)
    near = "" if found.exists() else name_like(path)
    require(
        not near,
        f"{path} does not exist; did you mean {near}? `ragjax configs` lists those of the package.",
    )
    if found.suffix == ".json" and found.is_file():
        return read_json(found)
    config = load_function(found, "get_config", "config")()
    require(
        isinstance(config, Config),
        f"get_config() of {path} returned a {type(config).__name__}; it must return a Config.",
    )
    return config
