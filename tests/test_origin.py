"""What a run records of the code, versions and runs that made it, and what is said of changes."""

import json
import subprocess

import numpy as np
import pytest
from tiny_config import get_config

from ragjax import origin
from ragjax.errors import UserError
from ragjax.records import commit_text


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with a package of one module; what is returned runs git there."""
    package = tmp_path / "repo" / "src" / "package"
    package.mkdir(parents=True)
    (package / "origin.py").write_text("ONE = 1\n")
    (tmp_path / "repo" / ".gitignore").write_text("__pycache__\n.venv\n")
    monkeypatch.setattr(origin, "PACKAGE_DIR", package)

    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", "-C", str(tmp_path / "repo"), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    return git


def test_a_checkout_has_its_commit_and_says_whether_it_was_changed(checkout):
    made = origin.provenance()
    assert made["git_commit"] == checkout("rev-parse", "HEAD").strip()
    assert made["uncommitted"] is False
    assert commit_text(made, 7) == made["git_commit"][:7]
    (origin.PACKAGE_DIR / "__pycache__").mkdir()
    (origin.PACKAGE_DIR / "__pycache__" / "origin.pyc").write_bytes(b"1")
    (origin.PACKAGE_DIR.parent / "notes.txt").write_text("of no matter")
    assert origin.provenance() == made
    (origin.PACKAGE_DIR / "more.py").write_text("TWO = 2\n")
    changed = origin.provenance()
    assert (changed["git_commit"], changed["uncommitted"]) == (made["git_commit"], True)
    assert changed["code"] != made["code"]
    assert commit_text(changed, 7) == f"{made['git_commit'][:7]} with uncommitted changes"


@pytest.mark.parametrize("ignored", [True, False])
def test_a_package_that_lies_in_another_repository_is_not_of_its_commit(
    checkout, monkeypatch, ignored
):
    """As one installed into an environment in a project's directory."""
    place = origin.PACKAGE_DIR.parents[1] / (".venv" if ignored else "env") / "site-packages"
    place.mkdir(parents=True)
    (place / "origin.py").write_text("ONE = 1\n")
    monkeypatch.setattr(origin, "PACKAGE_DIR", place)
    made = origin.provenance()
    assert (made["git_commit"], made["uncommitted"]) == (None, None)
    assert commit_text(made) == "none recorded"
    assert len(made["code"]) == 16


def test_without_git_there_is_no_commit(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert origin.provenance()["git_commit"] is None


def test_the_code_s_digest_is_of_names_and_contents(tmp_path):
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "b.py").write_text("2")
    first = origin.code_digest(tmp_path)
    (tmp_path / "data.txt").write_text("3")
    assert origin.code_digest(tmp_path) == first
    (tmp_path / "b.py").rename(tmp_path / "c.py")
    renamed = origin.code_digest(tmp_path)
    (tmp_path / "c.py").write_text("4")
    assert len({first, renamed, origin.code_digest(tmp_path)}) == 3


# What a run began with


@pytest.fixture
def begun(tmp_path):
    """A run's directory with its origin.json, and a function that changes fields of it."""
    origin.write_origin(tmp_path, get_config(), {})

    def change(**fields):
        content = json.loads((tmp_path / origin.ORIGIN).read_text())
        (tmp_path / origin.ORIGIN).write_text(json.dumps(content | fields))
        return origin.changes_since(tmp_path, get_config())

    return change


def test_nothing_is_said_where_nothing_has_changed(begun):
    assert begun() == []


def test_other_code_is_said(begun):
    (told,) = begun(code="0" * 16, git_commit="1" * 40, uncommitted=True)
    assert "the code of ragjax has changed" in told
    assert f"git commit {'1' * 12} with uncommitted changes, now " in told


def test_other_versions_are_said(begun):
    versions = origin.provenance()["versions"]
    (told,) = begun(versions=versions | {"jax": "0.0.1", "not-there": "3"})
    assert f"jax 0.0.1 (now {versions['jax']})" in told
    assert "not-there 3 (now missing)" in told
    assert "optax" not in told


def test_a_changed_module_of_the_user_is_said(begun, tmp_path):
    recorded = json.loads((tmp_path / origin.ORIGIN).read_text())["modules"]
    assert recorded.keys() == {"tiny_task"}
    (told,) = begun(modules={"tiny_task": "0" * 16})
    assert told == f"module tiny_task has changed since {tmp_path} began"


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"versions": 1, "modules": {}, "runs": {}}'])
def test_a_damaged_origin_is_named(tmp_path, content):
    (tmp_path / origin.ORIGIN).write_text(content)
    with pytest.raises(UserError, match=r"origin\.json .*; train the run again\.$"):
        origin.read_origin(tmp_path)


# The runs that a run is built on


def test_a_run_is_told_by_its_parameters(tmp_path):
    """Trained again to the same numbers, it is the same."""
    origin.write_origin(tmp_path, get_config(), {})
    params = {"a": np.arange(3.0), "b": {"c": np.ones(2)}}
    made = origin.made_from(tmp_path, params)
    assert made["run"] == str(tmp_path)
    assert made == origin.made_from(tmp_path, {"a": np.arange(3.0), "b": {"c": np.ones(2)}})
    other = {"a": np.arange(3.0), "b": {"c": np.array([1.0, 1.0 + 1e-15])}}
    assert made["digest"] != origin.made_from(tmp_path, other)["digest"]


def test_another_run_in_the_place_of_one_is_refused(tmp_path):
    reader = tmp_path / "reader"
    reader.mkdir()
    origin.write_origin(reader, get_config(), {})
    then, now = (origin.made_from(reader, {"a": np.full(2, value)}) for value in (1.0, 2.0))
    origin.write_origin(tmp_path, get_config(), {"reader": then})
    origin.require_same_runs(tmp_path, {"reader": then})
    origin.require_same_runs(tmp_path, {"reader": then | {"run": "elsewhere"}})
    with pytest.raises(UserError, match="reader holds other parameters now"):
        origin.require_same_runs(tmp_path, {"reader": now})
