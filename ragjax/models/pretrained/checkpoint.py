"""A model's directory in the layout of Hugging Face: config.json, and tensors in safetensors files."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.flax

from ragjax.errors import UserError, require
from ragjax.files import read_json_object, write_atomically, write_json

CONFIG = "config.json"
TENSORS = "model.safetensors"
PARTS = f"{TENSORS}.index.json"
PICKLE = "pytorch_model.bin"
REMEDY = "name a directory that `save_pretrained` of transformers wrote, or download it again."
# The most that one file holds, as transformers has it.
SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True)
class Checkpoint:
    """What a directory holds of a model.

    Attributes:
      path: the directory, for messages.
      config: config.json.
      shapes: name -> shape of each tensor.
      read: reads one tensor by name, in the dtype of the file.
    """

    path: Path
    config: dict[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], Any]


def open_checkpoint(path: Path, files: ExitStack) -> Checkpoint:
    """Opens a directory; tensors are read when they are asked for, until `files` is closed.

    Raises:
      UserError: it has no config.json or no tensors, or a file is truncated or holds something else.
    """
    require(path.is_dir(), f"{path} is not a directory; {REMEDY}")
    tensor_files = _tensor_files(path)
    config = read_json_object(path / CONFIG, REMEDY)
    homes: dict[str, Any] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for file in tensor_files:
        try:
            opened = files.enter_context(safetensors.safe_open(file, framework="flax"))
            names = list(opened.keys())
            shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in names}
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise UserError(
                f"{file} is not a whole safetensors file ({error}); download it again."
            ) from error
        homes |= dict.fromkeys(names, opened)
    return Checkpoint(path, config, shapes, lambda name: homes[name].get_tensor(name))


def _tensor_files(path: Path) -> list[Path]:
    """The safetensors files of a directory."""
    if (path / PARTS).exists():
        index = read_json_object(path / PARTS, REMEDY).get("weight_map")
        require(
            isinstance(index, dict) and all(isinstance(name, str) for name in index.values()),
            f"{path / PARTS} has no weight_map from tensors to files; download it again.",
        )
        names: list[str] = sorted(set(index.values())) if isinstance(index, dict) else []
        for name in names:
            require(
                name == Path(name).name and (path / name).is_file(),
                f"{path / PARTS} names the file {name!r}, which is not beside it; download it.",
            )
        return [path / name for name in names]
    if (path / TENSORS).exists():
        return [path / TENSORS]
    pickles = sorted(file.name for file in path.glob("*.bin"))
    require(
        not pickles,
        f"{path} holds {', '.join(pickles)}, but no {TENSORS}. A .bin file is a pickle, which can run "
        "code of its author when it is read, so it is not: write the model anew as safetensors, with "
        "`save_pretrained` of transformers.",
    )
    raise UserError(f"{path} holds no {TENSORS} beside a {CONFIG}; {REMEDY}")


def write_checkpoint(
    path: Path,
    config: dict[str, Any],
    tensors: Mapping[str, Any],
    beside: Mapping[str, Path | bytes] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a directory that transformers opens, whole or not at all.

    Args:
      path: the directory, which must not exist yet.
      config: config.json.
      tensors: name -> array.
      beside: name -> further files, such as those of a tokenizer: one to copy, or its content.
      shard_bytes: the most that one file holds; more is written as several, with an index.

    Raises:
      UserError: the directory exists, or can't be written.
    """
    require(not path.exists(), f"{path} exists; name a directory that does not.")
    partial = path.with_name(f".{path.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_json(partial / CONFIG, config)
        for name, file in (beside or {}).items():
            (partial / name).parent.mkdir(exist_ok=True)
            content = file.read_bytes() if isinstance(file, Path) else file
            (partial / name).write_bytes(content)
        shards = _shards(tensors, shard_bytes)
        if len(shards) == 1:
            _write_tensors(partial / TENSORS, tensors)
        else:
            homes = {}
            for number, names in enumerate(shards, 1):
                file = f"model-{number:05}-of-{len(shards):05}.safetensors"
                _write_tensors(partial / file, {name: tensors[name] for name in names})
                homes |= dict.fromkeys(names, file)
            total = sum(tensor.nbytes for tensor in tensors.values())
            write_json(partial / PARTS, {"metadata": {"total_size": total}, "weight_map": homes})
        partial.replace(path)
    except OSError as error:
        raise UserError(
            f"{path} can't be written ({error.strerror}); free space or name another directory."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _shards(tensors: Mapping[str, Any], most: int) -> list[list[str]]:
    """The names of the tensors of each file."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > most:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.nbytes
    return shards


def _write_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    # "format" is what transformers wants to know of a file.
    write_atomically(path, safetensors.flax.save(dict(tensors), metadata={"format": "pt"}))
