"""The order of the rooms, the one home of each heavy dependency, and what no file holds."""

import ast
import graphlib
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ragjax"

# A room imports from itself and from the rooms before it.
ROOMS = (
    *(
        "errors",
        "imports",
        "ranges",
        "precision",
        "figure",
        "types",
        "text",
        "files",
        "manifests",
        "printing",
    ),
    *("shipped", "interrupts", "lease", "records", "mesh", "lifeline", "hosts"),
    *("ops", "retrieval", "decoding", "models", "data", "tasks", "envs"),
    *("objectives", "training", "evaluation"),
    *("config_differences", "config", "origin", "run_dir", "learners", "agents"),
    *(
        "compiled",
        "run_training",
        "commands",
        "overrides",
        "config_views",
        "result_commands",
        "sweep",
        "report",
        "sweep_command",
        "train_command",
        "report_command",
        "chat_command",
        "render_command",
        "import_command",
        "index_commands",
        "index_methods",
        "index_search",
        "cli",
        "__main__",
    ),
)

# Top-level module -> the only files that may import it, as patterns of paths within the package.
HOMES = {
    "flax.linen": ("models/*", "models/pretrained/*"),
    "tensorflow_datasets": ("data/*",),
    "orbax": ("training/checkpoint.py",),
    "tyro": (
        "overrides.py",
        "cli.py",
        "import_command.py",
        "index_*.py",
        "sweep_command.py",
        "train_command.py",
        "report_command.py",
        "chat_command.py",
        "render_command.py",
        "result_commands.py",
    ),
    "optuna": ("sweep/*",),
    "ray": ("sweep/launchers.py",),
    "submitit": ("sweep/launchers.py",),
    "bm25s": ("retrieval/bm25.py",),
    "scann": ("retrieval/scann_searcher.py",),
    "tokenizers": ("data/*", "models/pretrained/*"),  # pretrained models bring theirs
    "safetensors": ("models/pretrained/*",),
    "gguf": ("models/pretrained/*",),
    "rlax": ("ops/*",),
    "gymnasium": ("envs/from_gymnasium.py", "envs/to_gymnasium.py"),
    "matplotlib": ("evaluation/plots.py",),
    "PIL": ("evaluation/films.py",),
    "imageio_ffmpeg": ("evaluation/films.py",),
    "tensorboardX": ("training/logging.py",),
    "ir_measures": ("evaluation/retrieval_measures.py",),
}


def imports_of(path):
    """Every module that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(path):
    return path.relative_to(PACKAGE)


def room_of(path):
    return within(path).parts[0].removesuffix(".py")


FILES = sorted(path for path in PACKAGE.rglob("*.py") if within(path) != Path("__init__.py"))


def test_every_room_is_known():
    assert {room_of(path) for path in FILES} == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(within(path)))
def test_imports_come_from_earlier_rooms(path):
    allowed = ROOMS[: ROOMS.index(room_of(path)) + 1]
    for name in imports_of(path):
        package, *rest = name.split(".")
        if package == "ragjax":
            # `from ragjax import commands` and `from ragjax.commands import train` alike.
            assert rest[0] in (*allowed, "__version__"), f"{within(path)} imports {name}"
        assert package not in ("experiments", "configs", "tests")


def test_imports_have_no_circle():
    """Within a room neither, nor by an import inside a function."""
    names = {".".join(("ragjax", *within(path).with_suffix("").parts)): path for path in FILES}

    def targets(path):
        found = {name for name in imports_of(path) if name.startswith("ragjax.")}
        # Of `from ragjax.a import b` the module is `ragjax.a.b`, or else `ragjax.a`.
        known = {name if name in names else name.rpartition(".")[0] for name in found}
        return known & set(names)

    order = graphlib.TopologicalSorter({name: targets(path) for name, path in names.items()})
    order.prepare()  # raises CycleError, which names the circle


# Longer than can be read in one sitting, and why.
LONG = {"tasks/_factbook_relations.py": "a list of wordings"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(within(path)))
def test_a_file_can_be_read_in_one_sitting(path):
    lines = len(path.read_text().splitlines())
    assert (lines > 400) == (str(within(path)) in LONG), f"{within(path)} has {lines} lines"


@pytest.mark.parametrize("module", HOMES)
def test_heavy_dependencies_have_one_home(module):
    users = [
        within(path)
        for path in FILES
        if any(name == module or name.startswith(f"{module}.") for name in imports_of(path))
    ]
    assert users, f"{module} is used nowhere: drop the dependency"
    for user in users:
        assert any(user.match(home) for home in HOMES[module]), f"{user} imports {module}"


def test_help_imports_nothing_heavy():
    """`ragjax --help` is quick since the command line imports JAX within the commands only."""
    code = "import sys, ragjax.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"jax", "flax", "numpy", "optax", "matplotlib", "gymnasium", "tensorflow_datasets"}
    assert not heavy & set(done.stdout.split())


def project_files():
    """Every file but those that .gitignore names and those of hidden directories, .ci apart.

    Git is not asked: continuous integration tests a copy that is no checkout.
    """
    lines = (ROOT / ".gitignore").read_text().split()
    ignored = [line.rstrip("/") for line in lines]

    def foreign(name):
        hidden = name.startswith(".") and name != ".ci"
        return hidden or any(fnmatch(name, pattern) for pattern in ignored)

    for directory, below, names in os.walk(ROOT):
        below[:] = [name for name in below if not foreign(name)]
        # The .git of a worktree is a file.
        yield from (Path(directory) / name for name in names if name != ".git")


def test_the_project_s_files_are_found():
    """All that git knows of, where it is there to be asked."""
    found = set(project_files())
    assert found >= {ROOT / name for name in ("README.md", ".gitignore", ".ci/run")} | set(FILES)
    if shutil.which("git"):
        words = ["git", "-C", str(ROOT), "ls-files", "-z"]
        known = subprocess.run(words, capture_output=True, text=True).stdout.split("\0")
        assert found >= {ROOT / name for name in known if (ROOT / name).is_file()}


def test_annotations_are_evaluated():
    for path in project_files():
        if path.suffix == ".py":
            assert "__future__.annotations" not in imports_of(path), path


# Pieces joined here, so that this file is no find.
FOREIGN = re.compile(
    "|".join(
        [
            r"/(?:home|root|Users)/\w",
            r"/wo" + r"rk/\w",
            r"https?://[^\s\"')>]*(?:index|simple|nexus|artifactory|proxy)[^\s\"')>]*/",
            "--(?:extra-)?" + "index-url",
            "trusted" + "-host",
            r"\b(?:10|192\.168|127)\.\d+\.\d+\b",
        ]
    )
)


def test_no_registries_and_no_paths_of_a_machine():
    for path in project_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if path != Path(__file__):
            found = FOREIGN.search(text)
            assert found is None, f"{path.relative_to(ROOT)} holds {found and found.group()}"
