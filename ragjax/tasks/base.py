"""What every task is: a frozen spec that generates a corpus and its questions.

A new task is one new file in this package with one frozen dataclass that subclasses `Task`.
"""

import hashlib
import importlib.metadata
import inspect
import pathlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from ragjax.data.checks import checked, in_plain_text
from ragjax.errors import UserError
from ragjax.imports import own_modules
from ragjax.types import QaData, Question

Option = TypeVar("Option")
SPLITS = ("train", "dev", "test")
_TEST_SHARE = 0.24
_DEV_SHARE = 0.06


@dataclass(frozen=True)
class Task:
    """The spec of a task; subclasses add the fields that change what is generated.

    Attributes:
      name: snake-case name, unique among tasks; it names the directory on disk.
      version: "major.minor.patch" of the generated data.
      packages: distributions whose data the task reads; their versions enter the fingerprint.
      cached: whether what it generates is kept on disk under its fingerprint. Only for a task that is a
        function of its fields, its code and `packages`; any other is generated whenever it is loaded.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    cached: ClassVar[bool] = False

    @property
    def files(self) -> tuple[pathlib.Path, ...]:
        """The files that it reads."""
        return ()

    @property
    def vocabulary_task(self) -> "Task":
        """The task whose passages and training questions make the vocabulary: this one.

        Another one has the same passages; runs on both can start from each other.
        """
        return self

    def _make_absolute(self, *names: str) -> None:
        """Makes the paths in these fields absolute: a run is used from other directories, too."""
        for name in names:
            if value := getattr(self, name):
                object.__setattr__(self, name, str(pathlib.Path(value).expanduser().absolute()))

    def generate(self) -> QaData:
        """Returns the corpus and its questions: pure Python, the same on every call and machine."""
        raise NotImplementedError

    def load(self, data_dir: pathlib.Path | None = None) -> QaData:
        """Returns what `generate` returns, checked and in plain text.

        A `cached` task's comes from disk, if it was prepared before, and is as it was written.

        Args:
          data_dir: where prepared data is kept; `$RAGJAX_DATA_DIR` or `~/.cache/ragjax` if None.

        Raises:
          UserError: a row is not as `data.checks.checked` wants it, the directory can't be written, or a
            source package is missing.
        """
        if not self.cached:
            return in_plain_text(checked(self.generate(), self.name))
        # Imported here so that configs can name a task without paying for TFDS at start-up.
        from ragjax.data import builder

        return builder.load(self, data_dir)

    def fingerprint(self) -> str:
        """Returns a short hash of all that decides what `generate` returns.

        It covers the spec's fields, the content of `files`, the source files of the task, of the helpers
        shared by the tasks and of the user's own modules that it imports (`imports.own_modules`), and
        the versions of the source packages, so that prepared data is never stale.
        """
        digest = hashlib.sha256()
        for field in fields(self):
            digest.update(f"{field.name}={getattr(self, field.name)!r}\n".encode())
        for package in self.packages:
            digest.update(f"{package}=={_version(package)}\n".encode())
        sources = set(pathlib.Path(__file__).parent.glob("_[a-z]*.py"))
        for kind in type(self).__mro__[:-1]:  # the last is object
            file = pathlib.Path(inspect.getfile(kind))
            sources |= set(own_modules(kind.__module__, file).values())
        for source in sorted(sources, key=lambda path: (path.name, str(path))):
            digest.update(source.name.encode() + b"\n" + source.read_bytes())
        for file in self.files:
            digest.update(file.name.encode() + b"\n")
            _update(digest, file)
        return digest.hexdigest()[:12]


def fraction(key: str) -> float:
    """Returns a number in [0, 1) that depends on `key` alone, whatever the process or machine."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def split_of(entity: str) -> str:
    """Returns the split of an entity, shared by all tasks: what one tests, no other trains on."""
    share = fraction(f"split/0/{entity}")
    if share < _TEST_SHARE:
        return "test"
    return "dev" if share < _TEST_SHARE + _DEV_SHARE else "train"


def pick(options: tuple[Option, ...], key: str) -> Option:
    """Returns one of `options`, chosen by a hash of `key`."""
    return options[int(fraction(key) * len(options))]


def assemble(questions: Iterable[tuple[str, Question]]) -> Mapping[str, tuple[Question, ...]]:
    """Groups (split, question) pairs by split and checks that no entity stands in two splits.

    Raises:
      ValueError: if an entity's name, case and punctuation aside, occurs in two splits.
    """
    splits: dict[str, list[Question]] = {split: [] for split in SPLITS}
    seen: dict[str, str] = {}
    for split, question in questions:
        splits[split].append(question)
        name = "".join(c for c in question.entity.casefold() if c.isalnum())
        if seen.setdefault(name, split) != split:
            raise ValueError(f"{question.entity!r} is asked about in both {seen[name]} and {split}")
    return {split: tuple(rows) for split, rows in splits.items()}


def _update(digest: Any, path: pathlib.Path) -> None:
    """Adds a file's content to a digest."""
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UserError(
            f"{path} can't be read ({error.strerror or error}); name a file that exists."
        ) from error


def _version(package: str) -> str:
    """Returns the installed version of a distribution."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(
            f"the package {package!r} holds the facts of this task and isn't installed: "
            f"run `pip install {package}`"
        ) from error
