"""A policy's run that was killed, wherever it stood, ends as one that was not: bit for bit.

Every run is a process of its own. A killed one gets SIGKILL, which nothing can catch.
"""

import dataclasses
import json
import shlex
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from processes import PATIENCE, finish, kill, wait_for
from tiny_env import TinyMdp
from tiny_policy_config import get_config

from ragjax import commands
from ragjax.config import read_json
from ragjax.envs.lookup import Lookup
from ragjax.errors import UserError
from ragjax.models.policy import ActorCritic
from ragjax.models.retrieval_policy import RetrievalPolicy, two_matrices
from ragjax.objectives.ppo import PPO
from ragjax.objectives.vtrace import VTrace
from ragjax.printing import PlainConsole
from ragjax.run_dir import CHECKPOINTS, CONFIG
from ragjax.training.checkpoint import Checkpoints
from ragjax.training.logging import MetricLog
from ragjax.training.program import state_shapes

pytest_plugins = ["tiny_run"]

SUPPORT = Path(__file__).parent / "support"
STEPS = 11
SEEDS = (0, 1)


def train(run_dir, *fields, resume=False):
    words = ["train", SUPPORT / "tiny_policy_config.py", "--run-dir", run_dir, *fields]
    return [*words, *["--resume"] * resume]


def paused(where, step, marker):
    return SUPPORT / "paused.py", where, step, marker


@pytest.fixture(scope="module")
def references(processes, tmp_path_factory):
    """Number of seeds -> the directory of an uninterrupted run; both run side by side."""
    runs = {count: tmp_path_factory.mktemp(f"reference_{count}") for count in (1, len(SEEDS))}
    started = [processes(train(run, "--num_seeds", count)) for count, run in runs.items()]
    for process in started:
        finish(process)
    return runs


def restored(run_dir):
    """The state of the last checkpoint, and its step."""
    config = read_json(run_dir / CONFIG)
    template = state_shapes(config.load(run_dir), config.seeds)
    step, state, damaged = Checkpoints(run_dir / CHECKPOINTS).restore(template)
    assert not damaged
    return state, step


def final_state(run_dir):
    """Name -> array of everything in the last checkpoint, and its step."""
    state, step = restored(run_dir)
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}, step


PARTS = (
    *(".params", ".opt_state", ".key", ".step"),
    *(".carry.env_state.moments.mean", ".carry.env_state.inner.moments.variance"),
    *(".carry.env_state.inner.returns", ".carry.env_state.inner.inner."),
    ".carry.timestep.observation",
)


def assert_same_run(run_dir, expected_dir, parts=PARTS):
    state, step = final_state(run_dir)
    expected, expected_step = final_state(expected_dir)
    assert step == expected_step == read_json(run_dir / CONFIG).steps
    assert state.keys() == expected.keys()
    for part in parts:
        assert any(name.startswith(part) for name in state), part
    for name, value in expected.items():
        assert value.dtype == state[name].dtype
        assert value.tobytes() == state[name].tobytes(), name
    assert [path.name for path in (run_dir / CHECKPOINTS).glob("partial-*")] == []


def assert_same_files(run_dir, expected_dir):
    for name in ("config.json", "metrics.jsonl", "episodes.jsonl"):
        assert (run_dir / name).read_bytes() == (expected_dir / name).read_bytes(), name
    results = [json.loads((path / "result.json").read_text()) for path in (run_dir, expected_dir)]
    for name in ("greedy_return", "sampled_return", "curve", "env_steps", "seed", "steps"):
        assert results[0][name] == results[1][name], name


def rows_of(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_reference_runs_are_worth_comparing(references):
    rows = rows_of(references[1])
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == len(set(losses)) == STEPS
    assert [row["step"] for row in rows if "eval/greedy_return" in row] == [3, 6, 9, STEPS]
    # Episodes are under way where the checkpoints fall, and end at all sorts of lengths.
    state, _ = final_state(references[1])
    lengths = state[".carry.env_state.inner.inner.length"]
    assert len(set(lengths.tolist())) > 1
    first, second = (rows_of(references[len(SEEDS)] / f"seed_{seed}") for seed in SEEDS)
    assert [row["step"] for row in first] == [row["step"] for row in second]
    assert all(a["loss"] != b["loss"] for a, b in zip(first, second, strict=True) if "loss" in a)


@pytest.mark.slow  # as tests/test_resume.py kills runs of questions, by the same code
def test_killed_again_and_again(processes, references, tmp_path):
    run_dir, marker = tmp_path / "run", tmp_path / "there"
    # What was killed and where: moment of paused.py, its step, whole checkpoints by then.
    moments = [("row", 3, []), ("row", 7, [4]), ("state", 8, [4]), ("result", 11, [8, 11])]
    for number, (where, step, whole) in enumerate(moments):
        marker.unlink(missing_ok=True)
        process = processes(train(run_dir, resume=number > 0), paused(where, step, marker))
        wait_for(process, marker)
        assert Checkpoints(run_dir / CHECKPOINTS).steps() == whole
        if where == "row":
            half = f'\n{{"step": {step}, "loss"'
            assert (run_dir / "metrics.jsonl").read_text().endswith(half)
        if where == "state":
            assert list((run_dir / CHECKPOINTS).glob("partial-*"))
        kill(process)
        assert not (run_dir / "result.json").exists()
    errors = finish(processes(train(run_dir, resume=True)))
    assert f"continuing at step {STEPS} of {STEPS}" in errors
    assert_same_run(run_dir, references[1])
    assert_same_files(run_dir, references[1])


def test_interrupted_within_a_step(processes, references, tmp_path):
    """The state is donated by then: what is saved is the state after the step."""
    run_dir, marker, step = tmp_path / "a run", tmp_path / "there", 6
    process = processes(train(run_dir), paused("step", step, marker), PAUSE_SECONDS="1")
    wait_for(process, marker)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    said = errors.splitlines()[-1]
    assert said.startswith("stopped; continue with: ragjax train ")
    assert said.endswith("--resume")
    assert Checkpoints(run_dir / CHECKPOINTS).steps() == [4, step]
    assert not (run_dir / "result.json").exists()
    errors = finish(processes(shlex.split(said.partition("ragjax ")[2])))
    assert f"continuing at step {step} of {STEPS}" in errors
    assert_same_run(run_dir, references[1])
    assert_same_files(run_dir, references[1])


@pytest.mark.slow
def test_several_seeds_killed(processes, references, tmp_path):
    """In the first seed's row; the second one's is not begun."""
    run_dir, marker, fields = tmp_path / "run", tmp_path / "there", ("--num_seeds", len(SEEDS))
    process = processes(train(run_dir, *fields), paused("row", 7, marker))
    wait_for(process, marker)
    kill(process)
    first, second = (run_dir / f"seed_{seed}" / "metrics.jsonl" for seed in SEEDS)
    assert first.read_text().endswith('"loss"')
    assert json.loads(second.read_text().splitlines()[-1])["step"] == 6
    errors = finish(processes(train(run_dir, *fields, resume=True)))
    assert f"continuing at step 4 of {STEPS}" in errors
    expected = references[len(SEEDS)]
    assert_same_run(run_dir, expected)
    for seed in SEEDS:
        own = f"seed_{seed}"
        assert_same_run(run_dir / own, expected / own)
        assert_same_files(run_dir / own, expected / own)


class Killed(BaseException):
    """Stands in for SIGKILL within this process: nothing catches it."""


@pytest.fixture
def killed_at_six(tmp_path, monkeypatch):
    """(config of seven updates) -> the state in checkpoint 4, and what resumes and compares the run."""
    console, whole = PlainConsole(quiet=True), MetricLog.write

    def write(log, step, row, failed=()):
        if step == 6:
            raise Killed
        whole(log, step, row, failed)

    def run(config):
        commands.train(config, tmp_path / "whole", resume=False, console=console)
        with monkeypatch.context() as patch:
            patch.setattr(MetricLog, "write", write)
            with pytest.raises(Killed):
                commands.train(config, tmp_path / "run", resume=False, console=console)
        state, step = restored(tmp_path / "run")
        assert step == 4

        def resume(*parts):
            commands.train(config, tmp_path / "run", resume=True, console=console)
            assert_same_run(tmp_path / "run", tmp_path / "whole", parts)
            assert_same_files(tmp_path / "run", tmp_path / "whole")

        return state, resume

    return run


@pytest.mark.slow
def test_the_lagging_actor_is_in_the_checkpoint(killed_at_six):
    """Checkpoint 4 falls between the refreshes of the actor before updates 3 and 6."""
    config = dataclasses.replace(
        get_config(),
        env=TinyMdp(time_limit=4, horizon=6),
        algorithm=VTrace(num_envs=2, rollout_length=4, refresh_actor_every=3),
        policy=ActorCritic(hidden=()),
        env_steps=7 * 8,
    )
    state, resume = killed_at_six(config)
    same = jax.tree.map(np.array_equal, state.extra, state.params)
    assert not all(jax.tree.leaves(same))
    resume(".extra", ".params")


@pytest.mark.slow
def test_the_ageing_index_is_in_the_checkpoint(killed_at_six):
    """Checkpoint 4 falls between the refreshes of the index before updates 3 and 6."""
    config = dataclasses.replace(
        get_config(),
        env=Lookup(passages=6, actions=3, key_width=4),
        algorithm=PPO(num_envs=8, rollout_length=2, epochs=2, minibatches=2),
        policy=RetrievalPolicy(k=3, hidden=(4,), retriever=two_matrices(4, refresh_every=3)),
        env_steps=7 * 16,
        normalise_observations=False,
        normalise_rewards=False,
    )
    state, resume = killed_at_six(config)
    learner = config.create()
    fresh = learner.policy(learner.data).embed(state.params)
    assert np.abs(fresh - state.index.embeddings).max() > 1e-4
    resume(".index.embeddings", ".params['retriever']")


def test_resume_with_another_config(references):
    """Whatever differs is named, and nothing is touched."""
    run_dir = references[1]
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    config = dataclasses.replace(
        get_config(),
        normalise_rewards=False,
        num_seeds=2,
        algorithm=dataclasses.replace(get_config().algorithm, clip_eps=0.3),
    )
    with pytest.raises(UserError) as raised:
        commands.train(config, run_dir, resume=True, console=PlainConsole(quiet=True))
    message = str(raised.value)
    assert f"{run_dir} was made by another config; it differs in " in message
    assert "differs in num_seeds, algorithm.clip_eps, normalise_rewards; give" in message
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before
