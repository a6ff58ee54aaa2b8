"""The examples of any dataset that TFDS knows, as plain text and lists."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ragjax.data.builder import quiet
from ragjax.errors import UserError


def read_examples(dataset: str, split: str, data_dir: str = "") -> Iterator[dict[str, Any]]:
    """Yields the examples of a split in their order, downloaded and prepared first if need be.

    They are read without TensorFlow, from ArrayRecord files. Bytes become text and arrays lists.

    Args:
      dataset: "name", "name/config" or "name/config:version", as TFDS writes it.
      split: the dataset's own name of it.
      data_dir: where TFDS keeps its datasets; its own default if "".

    Raises:
      UserError: TFDS does not know the dataset or the split, can't prepare it, or can't read its files.
    """
    import tensorflow_datasets as tfds
    import tensorflow_datasets.question_answering  # else some of its datasets are not known

    try:
        with quiet():
            source: Any = tfds.data_source(
                dataset,
                split=split,
                data_dir=data_dir or None,
                builder_kwargs={"file_format": "array_record"},
            )
            count = len(source)
    except Exception as error:  # whatever a dataset's own code raises
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"TFDS can't give the split {split!r} of {dataset!r} ({reason[0]}); check both names, or "
            "prepare it as array_record where there is a network and name its task.data_dir."
        ) from error
    for row in range(count):
        try:
            example = {name: _plain(value) for name, value in source[row].items()}
        except Exception as error:  # of array_record, or of bytes that are no text
            raise UserError(
                f"Row {row} of the split {split!r} of {dataset!r} can't be read "
                f"({' '.join(str(error).split())[:200]}); prepare the dataset anew, or leave "
                "out what is no UTF-8."
            ) from error
        yield example


def field(example: Mapping[str, Any], path: str, where: str) -> Any:
    """The value of a field, whose parts are separated by "/" where it lies within others.

    Raises:
      UserError: there is none.
    """
    value: Any = example
    for part in path.split("/"):
        if not isinstance(value, Mapping) or part not in value:
            names = ", ".join(value) if isinstance(value, Mapping) else "none"
            raise UserError(
                f"{where} has no field {path!r} (at {part!r} there are: {names}); name another in "
                "task.fields."
            )
        value = value[part]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
