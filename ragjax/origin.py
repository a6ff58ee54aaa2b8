"""Where a run comes from: the code and the versions that made it, and the runs that it is built on."""

import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from ragjax.config import MODULES, config_json
from ragjax.errors import require
from ragjax.files import read_json_object, write_json
from ragjax.imports import own_modules
from ragjax.manifests import file_digest, tree_digest, versions_of
from ragjax.records import commit_text

ORIGIN = "origin.json"
PACKAGE_DIR = Path(__file__).parent
PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "rlax", "numpy", "tokenizers", "orbax-checkpoint", "bm25s"),
    "gymnasium",
)


def provenance() -> dict[str, Any]:
    """Package versions, the devices, a digest of this package's code, and its commit in a checkout.

    Returns:
      {"versions", "devices", "code", "git_commit" (None outside a checkout), "uncommitted" (whether
      files of the package differ from that commit; None outside a checkout)}.
    """
    commit, uncommitted = _checkout()
    return {
        "versions": _versions(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "code": code_digest(PACKAGE_DIR),
        "git_commit": commit,
        "uncommitted": uncommitted,
    }


def _versions() -> dict[str, str]:
    """The versions of the packages that are installed."""
    return versions_of(("ragjax", *PACKAGES))


def code_digest(directory: Path) -> str:
    """A hash of the names and contents of a directory's Python files, but for configs.

    What a config says stands in each run's config.json.
    """
    digest = hashlib.sha256()
    files = directory.rglob("*.py")
    for file in sorted(file for file in files if not file.is_relative_to(directory / "configs")):
        name = file.relative_to(directory).as_posix()
        digest.update(f"{name} {file_digest(file)}\n".encode())
    return digest.hexdigest()[:16]


def _checkout() -> tuple[str | None, bool | None]:
    """The commit that the package's files are checked out from, and whether they were changed since.

    A package that merely lies within a repository, as an installed one does in an environment in a
    project's directory, is not of that repository's commits.
    """

    def git(*words: str) -> str | None:
        command = ["git", "-C", str(PACKAGE_DIR), *words]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):  # no git, not a checkout, or not in it
            return None

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None, None
    commit, status = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", ".")
    return (commit.strip(), bool(status)) if commit else (None, None)


def made_from(run_dir: Path, params: Any) -> dict[str, Any]:
    """Names a run that another one is built on.

    Args:
      run_dir: its directory.
      params: its parameters.

    Returns:
      {"run": the directory, "git_commit": of its code, "digest": a hash of its parameters}.
    """
    commit = read_origin(run_dir).get("git_commit")
    return {"run": str(run_dir), "git_commit": commit, "digest": tree_digest(params)}


def write_origin(
    run_dir: Path, config: Any, runs: Mapping[str, Any], files: Sequence[str] = ()
) -> None:
    """Writes origin.json as a run begins.

    Args:
      run_dir: the run.
      config: its config.
      runs: what `made_from` says of each run that it is built on, by what that is to it.
      files: names of those in its directory that have to stay as they are.
    """
    digests = {name: _short_digest(run_dir / name) for name in files}
    own = {"modules": _module_digests(config), "runs": dict(runs), "files": digests}
    write_json(run_dir / ORIGIN, provenance() | own | {"directory": str(Path.cwd())})


def read_origin(run_dir: Path) -> dict[str, Any]:
    """What `write_origin` wrote.

    Raises:
      UserError: it is missing or malformed.
    """
    origin = read_json_object(run_dir / ORIGIN, "train the run again.")
    for name in ("versions", "modules", "runs"):
        require(
            isinstance(origin.get(name), dict),
            f"{run_dir / ORIGIN} has no {name!r}; train the run again.",
        )
    commit = origin.get("git_commit")
    require(
        commit is None or isinstance(commit, str),
        f"{run_dir / ORIGIN} has {commit!r} for 'git_commit'; train the run again.",
    )
    for name, run in origin["runs"].items():
        require(
            isinstance(run, dict),
            f"{run_dir / ORIGIN} has {run!r} for the run {name!r}; train the run again.",
        )
    files = origin.setdefault("files", {})  # runs of older versions have none
    require(
        isinstance(files, dict),
        f"{run_dir / ORIGIN} has {files!r} for 'files'; train the run again.",
    )
    return origin


def found_from(run_dir: Path, named: str, seed: int) -> str:
    """How a run finds another one that it is built on, from whatever directory it is used.

    Args:
      run_dir: the run.
      named: the other one's directory as its config names it, with "{seed}" in the place of the seed.
      seed: of the run.

    Returns:
      Where it is from the directory in which the run began; `named` itself, if nothing is there.
    """
    began = read_origin(run_dir).get("directory", "")  # runs of older versions have none
    require(
        isinstance(began, str),
        f"{run_dir / ORIGIN} has {began!r} for 'directory'; train the run again.",
    )
    there = Path(began) / named
    if there == Path.cwd() / named:
        return named
    return str(there) if Path(str(there).replace("{seed}", str(seed))).exists() else named


def require_same_files(run_dir: Path) -> None:
    """Checks that the files of a run's directory are those that it began with.

    Raises:
      UserError: names one that is another.
    """
    for name, digest in read_origin(run_dir)["files"].items():
        path = run_dir / name
        require(
            path.is_file() and _short_digest(path) == digest,
            f"{path} is not the file that the run began with; restore it or train the run again.",
        )


def require_same_runs(run_dir: Path, runs: Mapping[str, Any]) -> None:
    """Checks that the runs a run is built on are still those that it began with.

    Args:
      run_dir: the run.
      runs: what `made_from` says of them now; of what is no run, "holds" says what it holds.

    Raises:
      UserError: one holds others.
    """
    began = read_origin(run_dir)["runs"] if runs else {}
    for name, now in runs.items():
        then = began.get(name, {})
        require(
            now["digest"] == then.get("digest"),
            f"{run_dir} was made with the {name} of {then.get('run')}, but {now['run']} holds other "
            f"{now.get('holds', 'parameters')} now; bring that back, or train this run again into a new "
            "--run-dir.",
        )


def changes_since(run_dir: Path, config: Any) -> list[str]:
    """What of the code and the packages is not what a run began with, a sentence each.

    Args:
      run_dir: the run.
      config: its config.

    Raises:
      UserError: what it began with can't be read.
    """
    began, told = read_origin(run_dir), []
    if began.get("code") != code_digest(PACKAGE_DIR):
        told.append(
            f"the code of ragjax has changed since {run_dir} began: git commit "
            f"{commit_text(began, 12)}, now {commit_text(provenance(), 12)}"
        )
    modules = _module_digests(config)
    told += [
        f"module {name} has changed since {run_dir} began"
        for name, digest in began["modules"].items()
        if digest not in modules.values()  # a config's module may have got another name now
    ]
    versions = _versions()
    others = [
        f"{package} {version} (now {versions.get(package, 'missing')})"
        for package, version in began["versions"].items()
        if versions.get(package) != version
    ]
    if others:
        told.append(f"{run_dir} began with other versions: {', '.join(others)}")
    return told


def _module_digests(config: Any) -> dict[str, str | None]:
    """A hash of each file that the config's own classes come from or import, by their modules' names."""
    files: dict[str, Path] = {}
    for name, file in config_json(config)[MODULES].items():
        files |= own_modules(name, Path(file))
    return {name: _short_digest(file) if file.is_file() else None for name, file in files.items()}


def _short_digest(path: Path) -> str:
    return file_digest(path)[:16]
