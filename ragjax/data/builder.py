"""Prepares a task's corpus and questions on disk with TFDS, as ArrayRecord files.

This is the only module that imports `tensorflow_datasets`; TensorFlow itself isn't needed.
"""

import contextlib
import io
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import tensorflow_datasets as tfds
from absl import logging as absl_logging

from ragjax.data.checks import checked
from ragjax.errors import UserError, require
from ragjax.files import data_dir as default_data_dir
from ragjax.interrupts import stop_if_interrupted
from ragjax.types import Passage, QaData, Question

_PASSAGES, _QUESTIONS = "passages", "questions"
_TEXT = tfds.features.Text()
_COLUMNS = {
    _PASSAGES: {"id": _TEXT, "title": _TEXT, "text": _TEXT},
    _QUESTIONS: {
        "id": _TEXT,
        "question": _TEXT,
        "answers": tfds.features.Sequence(_TEXT),
        "positives": tfds.features.Sequence(_TEXT),
        "relation": _TEXT,
        "entity": _TEXT,
    },
}


@runtime_checkable
class Source(Protocol):
    """What is prepared: a task, of which `ragjax.tasks.base.Task` says more."""

    name: ClassVar[str]
    version: ClassVar[str]

    def fingerprint(self) -> str:
        """Returns a short hash of all that decides what `generate` returns."""
        ...

    def generate(self) -> QaData:
        """Returns the corpus and its questions."""
        ...


class TableBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """One table of a task as a TFDS dataset, `<task>/<table>-<fingerprint>/<version>`.

    The fingerprint names all that decides the content, so that what other code or other versions
    of the source packages prepared is never read.
    """

    VERSION = tfds.core.Version("1.0.0")  # of this class; the task's own is in the config
    # TFDS looks for checksums of downloads beside the code, through a package that it doesn't
    # declare as a dependency (importlib_resources); there are no downloads.
    code_path = None

    def __init__(
        self, task: Source, table: str, data_dir: pathlib.Path, data: QaData | None = None
    ):
        """Opens the table in `data_dir`; `data` is needed only to prepare it."""
        self.name = task.name  # pyright: ignore[reportAttributeAccessIssue]
        self.table = table
        self._rows = data and ({"corpus": data.passages} if table == _PASSAGES else data.splits)
        config = tfds.core.BuilderConfig(name=f"{table}-{task.fingerprint()}", version=task.version)
        super().__init__(data_dir=data_dir, config=config, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        """Describes the columns; the rows keep the order in which the task generates them."""
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(_COLUMNS[self.table]),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        """Returns the examples of each split; nothing is downloaded."""
        del dl_manager
        assert self._rows is not None  # given whenever the table is prepared
        return {
            split: self._generate_examples(rows)  # pyright: ignore[reportCallIssue] (TFDS wraps it)
            for split, rows in self._rows.items()
        }

    def _generate_examples(
        self, rows: tuple[Passage, ...] | tuple[Question, ...]
    ) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yields each row as (key, columns)."""
        for row in rows:
            stop_if_interrupted()
            yield row.id, {name: getattr(row, name) for name in _COLUMNS[self.table]}

    def read(self) -> dict[str, list[dict[str, Any]]]:
        """Returns the rows of each split, as text, in the order in which they were generated."""
        splits = {}
        for split in self.info.splits:
            source = self.as_data_source(split)  # pyright: ignore[reportCallIssue] (TFDS wraps it)
            # One call for all rows: a call per row takes twice as long.
            rows = source.__getitems__(range(len(source)))
            splits[split] = [{name: _decode(row[name]) for name in row} for row in rows]
        return splits


def load(task: Source, data_dir: pathlib.Path | None = None) -> QaData:
    """Returns the data of a task from disk, after preparing it there if it isn't yet.

    Args:
      task: the task.
      data_dir: the root directory; `$RAGJAX_DATA_DIR` or `~/.cache/ragjax` if None.

    Raises:
      UserError: if the directory can't be written, TFDS fails, or what was prepared is damaged.
    """
    root = data_dir or default_data_dir()
    with quiet():
        _prepare(task, root)
        stop_if_interrupted()
        passages = _read(task, _PASSAGES, root)["corpus"]
        stop_if_interrupted()
        questions = _read(task, _QUESTIONS, root)
    return QaData(
        passages=tuple(Passage(**row) for row in passages),
        splits={split: tuple(Question(**row) for row in rows) for split, rows in questions.items()},
    )


def _prepare(task: Source, root: pathlib.Path) -> None:
    """Writes the tables of a task that aren't on disk yet."""
    missing = [table for table in _COLUMNS if not _is_prepared(task, table, root)]
    data = checked(task.generate(), task.name) if missing else None
    asked = () if data is None else (each for split in data.splits.values() for each in split)
    require(
        not any(question.patterns for question in asked),
        f"Task {task.name} is cached, but has questions with patterns, for which prepared data has no "
        "column; set its `cached` to False.",
    )
    stop_if_interrupted()
    for table in missing:
        with _usable(root):
            try:
                # TFDS writes to a temporary directory that it renames in the end: an interrupted
                # run leaves nothing behind that a later one would read.
                TableBuilder(task, table, root, data).download_and_prepare()
            except UserError:
                raise
            except Exception as error:
                # Another process may have prepared the same table in the meantime.
                if _is_prepared(task, table, root):
                    continue
                if isinstance(error, OSError):
                    raise
                raise UserError(
                    f"The data of task {task.name} can't be prepared in {str(root)!r} "
                    f"({_reason(error)}); delete {str(_place(task, table, root))!r}, if it is there, or "
                    "set $RAGJAX_DATA_DIR to another directory."
                ) from error


def _is_prepared(task: Source, table: str, root: pathlib.Path) -> bool:
    with _readable(task, table, root), _usable(root):
        return TableBuilder(task, table, root).is_prepared()


def _read(task: Source, table: str, root: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of a table's splits."""
    with _readable(task, table, root):
        splits = TableBuilder(task, table, root).read()
        if not splits:
            raise ValueError("its dataset_info.json is missing or names no splits")
        return splits


@contextlib.contextmanager
def _readable(task: Source, table: str, root: pathlib.Path) -> Iterator[None]:
    """Turns whatever TFDS and array_record raise of damaged files into one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        place = str(_place(task, table, root))
        raise UserError(
            f"The prepared data in {place!r} can't be read ({_reason(error)}); delete that directory, "
            "and it is prepared anew."
        ) from error


def _place(task: Source, table: str, root: pathlib.Path) -> pathlib.Path:
    """Where a table is."""
    return root / task.name / f"{table}-{task.fingerprint()}"


def _reason(error: Exception) -> str:
    """What an error of a library says, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


@contextlib.contextmanager
def _usable(root: pathlib.Path) -> Iterator[None]:
    """Turns a failure of the file system into one sentence on the data directory."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the data directory {str(root)!r} can't be used ({error.strerror or error}): "
            f"set $RAGJAX_DATA_DIR to a directory that you may write to"
        ) from error


def _decode(value: Any) -> str | tuple[str, ...]:
    """Returns a text column, or a column of several texts, as str."""
    return value.decode() if isinstance(value, bytes) else tuple(text.decode() for text in value)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the banner, the progress bars and the log of TFDS, which say nothing of use here."""
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    tfds.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl_logging.set_verbosity(verbosity)
