"""Configs that come with the package, named from any directory."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ragjax.config import load_config
from ragjax.shipped import SHIPPED, config_name, find_config

ROOT = Path(__file__).parents[1]
NAMES = sorted(
    path.relative_to(SHIPPED).with_suffix("").as_posix() for path in SHIPPED.glob("*/*.py")
)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A directory without configs, which is the working one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_config_is_shipped():
    assert {path.stem for path in (ROOT / "configs").rglob("*.py")} == {
        Path(name).name for name in NAMES
    }


@pytest.mark.parametrize(
    "given", ["world_facts/bm25", "world_facts/bm25.py", "configs/world_facts/bm25.py"]
)
def test_a_config_is_found_by_name_from_anywhere(elsewhere, given):
    found = find_config(Path(given))
    assert found.read_bytes() == (ROOT / "configs" / "world_facts" / "bm25.py").read_bytes()
    assert config_name(found) == "world_facts/bm25"
    assert load_config(Path(given)) == load_config(ROOT / "configs" / "world_facts" / "bm25.py")


def test_a_file_of_one_s_own_comes_before_one_of_the_same_name(elsewhere):
    own = elsewhere / "configs" / "world_facts" / "bm25.py"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    given = Path("configs/world_facts/bm25.py")
    assert find_config(given) == given
    assert find_config(Path("world_facts/bm25")) != given
    assert config_name(given) == "configs/world_facts/bm25.py"


def test_a_directory_hides_no_config(elsewhere):
    """Runs lie under such names by default."""
    (elsewhere / "lookup" / "marginal").mkdir(parents=True)
    assert config_name(find_config(Path("lookup/marginal"))) == "lookup/marginal"


@pytest.mark.parametrize("given", ["world_facts", "nope/bm25", "world_facts/../bm25", "/bm25", "."])
def test_what_is_no_config_stays_as_it_was_named(elsewhere, given):
    assert find_config(Path(given)) == Path(given)


def test_configs_are_listed_and_shown_by_name(elsewhere, ragjax, refused):
    code, out, err = ragjax("configs")
    assert (code, err) == (0, "")
    assert [line.split("  ")[0] for line in out.splitlines()] == NAMES
    assert ragjax("config", "diff", "lookup/marginal", "lookup/marginal")[1] == "no difference\n"
    assert "one that `ragjax configs` lists" in refused("config", "show", "lookup/nothing")


def test_the_package_is_typed_and_says_where_it_runs():
    assert (ROOT / "ragjax" / "py.typed").is_file()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["package-data"] == {
        "ragjax": ["py.typed", "report/assets/*"]
    }
    assert {"cuda", "tpu"} <= project["project"]["optional-dependencies"].keys()
    assert project["project"]["requires-python"] == ">=3.11,<3.14"
    assert "Python 3.11 to 3.13" in (ROOT / "README.md").read_text()


def test_a_reader_that_closes_the_pipe_is_no_error():
    """As `ragjax configs | head -1` does."""
    command = [sys.executable, "-m", "ragjax", "configs"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
