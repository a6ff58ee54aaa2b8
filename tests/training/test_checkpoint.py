"""Checkpoints are whole or do not exist, and are verified before they are trusted."""

import dataclasses
import errno
import json
import logging
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ragjax.errors import UserError
from ragjax.lease import Owner
from ragjax.retrieval.corpus import IndexState
from ragjax.training import checkpoint
from ragjax.training.checkpoint import MANIFEST, STATE, Checkpoints


@pytest.fixture(autouse=True)
def _absl_log():
    """Puts back the level of the log that Orbax writes to."""
    level = logging.getLogger("absl").level
    yield
    logging.getLogger("absl").setLevel(level)


def make_state(seed=0, width=3):
    """Every kind of leaf that a run has: dtypes, scalars, keys, optimiser states, structs."""
    key = jax.random.PRNGKey(seed)
    params = {
        "retriever": {"w": jax.random.normal(key, (4, width))},
        "reader": {"w": jax.random.normal(key, (width,), jnp.bfloat16)},
    }
    odd = jnp.array([0.1, -0.0, jnp.inf, 1e-45, 3.4e38], jnp.float32)
    return {
        "params": params,
        "opt_state": optax.adam(1e-3).init(params),
        "key": jax.random.fold_in(key, 7),
        "index": IndexState(odd, jnp.asarray(-1, jnp.int32)),
        "step": jnp.asarray(seed, jnp.int32),
    }


def assert_equal(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.fixture
def saved(tmp_path):
    """Checkpoints 1 and 2, whole."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2):
        checkpoints.save(step, make_state(step))
    return checkpoints


def files_of(checkpoints, step):
    root = checkpoints.directory / str(step)
    return sorted(path for path in root.rglob("*") if path.is_file())


def listing(directory):
    return sorted(path.name for path in directory.iterdir())


def test_round_trip_is_exact(saved):
    step, state, damaged = saved.restore(jax.eval_shape(make_state))
    assert (step, damaged) == (2, [])
    assert_equal(state, make_state(2))
    assert isinstance(state["index"], IndexState)


def test_relative_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Checkpoints(Path("here")).save(3, make_state())
    assert Checkpoints(tmp_path / "here").steps() == [3]


def test_keeps_the_newest(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (9, 10, 100):  # as numbers, not as words
        checkpoints.save(step, make_state(step))
    assert checkpoints.steps() == [10, 100]
    assert listing(tmp_path) == ["10", "100"]


def test_a_step_saved_again_is_replaced(saved):
    saved.save(2, make_state(5))
    assert listing(saved.directory) == ["1", "2"]
    _, state, _ = saved.restore(make_state())
    assert_equal(state, make_state(5))


def test_partial_directories_are_ignored_and_cleaned(saved):
    dead = dataclasses.replace(Owner.this(), started="0")  # whose number is ours by now
    left = saved.directory / f"partial-{dead.tag}"
    (left / STATE).mkdir(parents=True)
    (left / STATE / "half").write_text("half")
    assert saved.steps() == [1, 2]
    assert saved.restore(make_state())[0] == 2
    assert left.exists()  # reading changes nothing
    saved.save(3, make_state(3))
    assert listing(saved.directory) == ["2", "3"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
def test_damage_to_any_file_is_noticed(damage, saved):
    names = files_of(saved, 2)
    assert len(names) > 5
    for path in names:
        whole = path.read_bytes()
        if not whole and damage is not Path.unlink:
            continue  # an empty file has nothing to lose
        damage(path)
        assert not saved.is_whole(2), path
        path.write_bytes(whole)
        assert saved.is_whole(2), path


@pytest.mark.parametrize("damage", [truncate, Path.unlink, lambda path: path.write_text("[]")])
def test_falls_back_to_the_previous_whole_one(damage, saved):
    damage(saved.directory / "2" / MANIFEST)
    step, state, damaged = saved.restore(make_state())
    assert (step, damaged) == (1, [2])
    assert_equal(state, make_state(1))


def test_none_whole(saved):
    for step in (1, 2):
        (saved.directory / str(step) / MANIFEST).unlink()
    with pytest.raises(UserError, match=r"only damaged ones \(2, 1\)") as error:
        saved.restore(make_state())
    assert str(saved.directory) in str(error.value)
    assert "--run-dir" in str(error.value)


def test_none_at_all(tmp_path):
    with pytest.raises(UserError, match="has none"):
        Checkpoints(tmp_path / "nowhere").restore(make_state())
    assert not (tmp_path / "nowhere").exists()


def without_index(state):
    return {name: value for name, value in state.items() if name != "index"}


def other_dtype(state):
    return state | {"step": state["step"].astype(jnp.float32)}


@pytest.mark.parametrize(
    ("template", "named"),
    [
        pytest.param(make_state(width=5), "'w'", id="shape"),
        pytest.param(other_dtype(make_state()), "'step'", id="dtype"),
        pytest.param(without_index(make_state()), "'index'", id="fewer"),
        pytest.param(make_state() | {"more": jnp.zeros(())}, "'more'", id="more"),
        pytest.param(make_state() | {"more": None}, "fields without arrays", id="empty"),
    ],
)
def test_another_template_is_refused(template, named, saved):
    with pytest.raises(UserError, match="does not fit the run's config") as error:
        saved.restore(template)
    message = str(error.value)
    assert named in message
    assert str(saved.directory / "2") in message
    assert "\n" not in message


FULL = OSError(errno.ENOSPC, "No space left on device")


def fail(*_, **__):
    raise FULL


@pytest.mark.parametrize("moment", ["mkdir", "state", "manifest", "rename"])
def test_a_failing_save_changes_nothing(moment, saved, monkeypatch):
    before = {path: path.read_bytes() for step in (1, 2) for path in files_of(saved, step)}
    orbax = checkpoint._orbax()
    owner, name = {
        "mkdir": (Path, "mkdir"),
        "state": (orbax, "save"),
        "manifest": (Path, "write_text"),
        "rename": (Path, "rename"),
    }[moment]
    for step in (2, 3):  # one that exists, and a new one
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            with pytest.raises(UserError) as error:
                saved.save(step, make_state(8))
        message = str(error.value)
        assert message.startswith(f"Checkpoint {step} can't be written to {saved.directory}")
        assert "No space left on device" in message
        assert "\n" not in message
    assert listing(saved.directory) == ["1", "2"]
    assert {path: path.read_bytes() for step in (1, 2) for path in files_of(saved, step)} == before


FILLING_UP = """
import pathlib, resource, sys
import jax.numpy as jnp
from ragjax.errors import UserError
from ragjax.lease import Owner
from ragjax.training.checkpoint import Checkpoints

checkpoints = Checkpoints(pathlib.Path(sys.argv[1]))
state = {"a": jnp.arange(50_000.0)}
checkpoints.save(1, state)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    checkpoints.save(2, state)
except UserError as error:
    print(error)
print(checkpoints.steps(), checkpoints.is_whole(1))
"""


def test_orbax_running_out_of_space(tmp_path):
    """Orbax fails in threads of its own, with other exceptions and pages of log."""
    done = subprocess.run(
        [sys.executable, "-c", FILLING_UP, tmp_path], capture_output=True, text=True, check=True
    )
    said, rest = done.stdout.splitlines()
    assert said.startswith(f"Checkpoint 2 can't be written to {tmp_path} (")
    assert "File too large" in said
    assert rest == "[1] True"
    assert listing(tmp_path) == ["1"]
    assert done.stderr == ""


def test_manifest_names_files_and_arrays(saved):
    manifest = json.loads((saved.directory / "2" / MANIFEST).read_text())
    found = {str(path.relative_to(saved.directory / "2")) for path in files_of(saved, 2)}
    assert set(manifest["files"]) == found - {MANIFEST}
    assert manifest["leaves"]["['params']['reader']['w']"] == "bfloat16[3]"
    assert len(manifest["leaves"]) == len(jax.tree.leaves(make_state()))
