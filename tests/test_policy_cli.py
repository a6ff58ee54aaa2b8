"""The commands on policies, as a user gives them: what they write and print, and what bad input gets."""

import dataclasses
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import the_sentence
from compilations import compiled
from tiny_policy_config import get_config

from ragjax.cli import INTERRUPTED, main
from ragjax.envs.base import Environment, timestep
from ragjax.evaluation.episodes import MODES
from ragjax.overrides import override
from ragjax.run_dir import load_run
from ragjax.training.checkpoint import Checkpoints
from ragjax.training.logging import MetricLog
from ragjax.types import Env

SUPPORT = Path(__file__).parent / "support"
CONFIG = SUPPORT / "tiny_policy_config.py"
STEPS, BATCH = 11, 64  # rollouts of tiny_policy_config.py, and environment steps of each


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory of a finished run of tiny_policy_config.py: to be read, never to be changed."""
    run_dir = tmp_path_factory.mktemp("trained_policy") / "run"
    assert main(["train", str(CONFIG), "--run-dir", str(run_dir)]) == 0
    return run_dir


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
    """The directory of seeds 0 and 1, trained side by side."""
    run_dir = tmp_path_factory.mktemp("two_seeds") / "run"
    assert main(["train", str(CONFIG), "--num-seeds", "2", "--run-dir", str(run_dir)]) == 0
    return run_dir


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_result(run_dir):
    return json.loads((run_dir / "result.json").read_text())


def snapshot(directory):
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


# Training


FILES = {"config.json", "origin.json", "metrics.jsonl", "result.json", "episodes.jsonl"}
FILES |= {"checkpoints"}


def test_files_of_a_run(trained):
    assert {path.name for path in trained.iterdir()} - {"tensorboard"} == FILES
    assert Checkpoints(trained / "checkpoints").steps() == [8, STEPS]


def test_result(trained):
    result = read_result(trained)
    figures = {f"{mode}_{what}" for mode in MODES for what in ("return", "deviation", "length")}
    facts = {"environment", "steps", "env_steps", "seed", "curve", "parameters", "episodes"}
    facts |= {"train_seconds", "train_cpu_seconds", "total_seconds", "resumed_at", "peak_memory_mb"}
    facts.add("dev")
    assert result.keys() == figures | facts | {
        "versions",
        "git_commit",
        "uncommitted",
        "code",
        "devices",
    }
    assert result["environment"] == "cartpole"
    assert result["steps"] == STEPS
    assert result["seed"] == result["resumed_at"] == 0
    assert result["parameters"] == {"policy": 5 * 8 + 9 * 2, "value": 5 * 8 + 9}
    assert 0 < result["train_seconds"] <= result["total_seconds"] < 3600
    assert result["train_cpu_seconds"] > 0
    assert result["versions"].keys() >= {"ragjax", "jax", "flax", "optax", "gymnasium"}


def test_development_figures_are_of_other_episodes_by_the_same_program(trained):
    run = load_run(trained)
    learner, state, result = run.learner, run.state, read_result(trained)
    final = learner.evaluate(state)[0].summary()
    assert final == {name: result[name] for name in final}
    with compiled() as programs:
        found = learner.development(state)
    assert "play" not in programs
    assert not any("lambda" in name for name in programs)
    assert found == result["dev"]
    assert found.pop("source") == "episodes of other random keys than those of the final figures"
    assert found.keys() == final.keys()
    assert found["episodes"] == final["episodes"] == 6
    assert found["sampled_return"] != final["sampled_return"]


def test_every_figure_follows_from_the_files(trained):
    result = read_result(trained)
    rows = read_lines(trained / "episodes.jsonl")
    assert [row["mode"] for row in rows] == ["greedy"] * 6 + ["sampled"] * 6
    assert result["episodes"] == 6
    for mode in MODES:
        returns = [row["return"] for row in rows if row["mode"] == mode]
        lengths = [row["length"] for row in rows if row["mode"] == mode]
        assert returns == lengths  # a reward of 1 a step
        assert all(1 <= length <= 40 for length in lengths)
        assert result[f"{mode}_return"] == pytest.approx(np.mean(returns), rel=1e-12)
        assert result[f"{mode}_deviation"] == pytest.approx(np.std(returns), rel=1e-12)
        assert result[f"{mode}_length"] == pytest.approx(np.mean(lengths), rel=1e-12)
    rows = read_lines(trained / "metrics.jsonl")
    last = [row for row in rows if "loss" in row][-1]
    assert result["steps"] == last["step"] == STEPS
    assert result["env_steps"] == last["env_steps"] == STEPS * BATCH
    measured = [row for row in rows if "eval/greedy_return" in row]
    assert result["curve"] == {
        "env_steps": [3 * BATCH, 6 * BATCH, 9 * BATCH, STEPS * BATCH],
        "greedy": [row["eval/greedy_return"] for row in measured],
        "sampled": [row["eval/sampled_return"] for row in measured],
    }


def test_metrics_rows(trained):
    rows = read_lines(trained / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows if "eval/sampled_return" in row] == [3, 6, 9, STEPS]
    for row in rows:
        assert all(math.isfinite(value) for value in row.values())
        if "loss" in row:
            assert row["env_steps"] == BATCH * row["step"]
            assert row.keys() >= {"policy_loss", "value_loss", "entropy", "explained_variance"}


def test_a_finished_run_is_resumed_as_it_is(ragjax, trained):
    before = snapshot(trained)
    code, out, err = ragjax("train", CONFIG, "--run-dir", trained, "--resume")
    assert code == 0
    assert "cartpole: mean return of 6" in out
    assert out.splitlines()[-1].startswith(f"{trained}: ")
    assert out.endswith(f", {STEPS} steps\n")
    assert f"continuing at step {STEPS} of {STEPS}" in err
    after = snapshot(trained)
    for name in ("metrics.jsonl", "episodes.jsonl", "config.json"):
        assert after[name] == before[name], name
    # Other tests read when it was begun.
    (trained / "result.json").write_bytes(before["result.json"])


# Several seeds


def test_seeds_side_by_side_leave_a_run_each(ragjax, two_seeds):
    assert {path.name for path in two_seeds.iterdir()} == {
        *("config.json", "origin.json", "checkpoints", "seed_0", "seed_1"),
    }
    for seed in (0, 1):
        own = two_seeds / f"seed_{seed}"
        assert {path.name for path in own.iterdir()} - {"tensorboard"} == FILES
        config = json.loads((own / "config.json").read_text())
        assert (config["seed"], config["num_seeds"]) == (seed, 1)
        result = read_result(own)
        assert result["seed"] == seed
        code, out, _ = ragjax("evaluate", own, "--episodes", 6, "--json")
        assert code == 0
        figures = json.loads(out)
        assert (figures["seed"], figures["step"]) == (seed, STEPS)
        for name in figures.keys() - {"step"}:
            assert figures[name] == result[name], name


def test_seeds_side_by_side_are_the_single_runs(trained, two_seeds, tmp_path):
    assert main(["train", str(CONFIG), "--seed", "1", "--run-dir", str(tmp_path / "run")]) == 0
    for single, seed in ((trained, 0), (tmp_path / "run", 1)):
        own = two_seeds / f"seed_{seed}"
        rows, expected = (read_lines(path / "metrics.jsonl") for path in (own, single))
        for row, other in zip(rows, expected, strict=True):
            assert row == pytest.approx(other, rel=1e-4, abs=1e-5)
        for name in ("greedy_return", "sampled_return", "greedy_length", "env_steps"):
            assert read_result(own)[name] == pytest.approx(read_result(single)[name]), name
        assert (own / "config.json").read_bytes() == (single / "config.json").read_bytes()
    assert read_result(two_seeds / "seed_1")["curve"] != read_result(trained)["curve"]


def test_a_table_of_seeds_is_printed(ragjax, two_seeds):
    code, out, _ = ragjax("train", CONFIG, "--num-seeds", 2, "--run-dir", two_seeds, "--resume")
    assert code == 0
    cells = [line.strip("│ ").split("│") for line in out.splitlines() if line.startswith("│")]
    for seed, (number, greedy, sampled) in enumerate(cells):
        result = read_result(two_seeds / f"seed_{seed}")
        assert int(number) == seed
        assert greedy.split()[0] == f"{result['greedy_return']:.4g}"
        assert sampled.split()[0] == f"{result['sampled_return']:.4g}"


def test_a_seeds_directory_that_holds_a_run(refused, tmp_path):
    """Seeds side by side never write over a run that was trained alone."""
    alone = tmp_path / "seed_1"
    alone.mkdir()
    (alone / "config.json").write_text("mine")
    before = snapshot(tmp_path)
    message = refused("train", CONFIG, "--num-seeds", 2, "--run-dir", tmp_path)
    assert message.startswith(f"{alone} already holds a run; ")
    assert snapshot(tmp_path) == before


# Evaluation


def test_evaluate(ragjax, trained):
    code, out, err = ragjax("evaluate", trained, "--episodes", 5, "--json")
    assert (code, err) == (0, "")
    figures = json.loads(out)
    assert figures["episodes"] == 5
    assert (figures["environment"], figures["seed"], figures["step"]) == ("cartpole", 0, STEPS)
    for mode in MODES:
        assert 1 <= figures[f"{mode}_return"] <= 40
        assert figures[f"{mode}_return"] == figures[f"{mode}_length"]
    code, out, _ = ragjax("evaluate", trained, "--episodes", 5)
    assert code == 0
    for mode in MODES:
        assert f"{figures[f'{mode}_return']:.1f} ±" in out


# Bad input


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--env.time_limit", "0"], "env.time_limit is 0; an episode needs at least 1 step."),
        (
            ["--algorithm.minibatches", "3"],
            "algorithm.minibatches is 3, which does not divide the 64 steps of a rollout",
        ),
        (["--algorithm.minibatches", "0"], "algorithm.minibatches is 0; it must be at least 1."),
        (["--algorithm.num_envs", "0"], "algorithm.num_envs is 0; it must be at least 1."),
        (["--algorithm.discount", "1.5"], "algorithm.discount is 1.5; it must lie between 0 and 1"),
        (["--env_steps", "63"], "env_steps is 63, less than the 64 steps of one rollout"),
        (["--num_seeds", "0"], "num_seeds is 0; at least one seed has to run."),
        (["--seed", "-1"], "seed is -1; it must not be negative."),
        (["--evaluation.every", "-1"], "evaluation.every is -1; it must not be negative."),
        (["--evaluation.episodes", "0"], "evaluation.episodes is 0; it must be at least 1."),
        (["--policy.hidden", "8", "0"], "policy.hidden is (8, 0); every width must be at least 1."),
        (
            ["--policy.hidden", "8", "x"],
            "--policy.hidden is '8 x'; give a whole number, or several.",
        ),
        (["--seed", "1", "2"], "'2' is not expected here; fields are given as --name value."),
        (["--policy.activation", "gelu"], "--policy.activation is 'gelu'; give one of tanh, relu."),
        (["--optimizer.learning_rate", "-1"], "optimizer.learning_rate is -1"),
        (["--algorithm.epoch", "1"], "did you mean --algorithm.epochs?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_fields_leave_no_trace(words, said, refused, tmp_path):
    assert said in refused("train", CONFIG, "--run-dir", tmp_path / "run", *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "given"), [(["--policy.hidden", "3", "5"], (3, 5)), (["--policy.hidden=3"], (3,))]
)
def test_widths_are_given_one_after_another(words, given):
    config = override(get_config(), [*words, "--algorithm.clip_eps", "0.3"])
    assert config.policy.hidden == given
    assert config.algorithm.clip_eps == 0.3


GYMNASIUM = """
from ragjax.envs.from_gymnasium import Gymnasium
from ragjax.models.policy import ActorCritic
from ragjax.objectives.a2c import A2C
from ragjax.learners.episodes import EpisodeEvaluation, EpisodesConfig


def get_config():
    return EpisodesConfig(
        env=Gymnasium(id={name!r}),
        algorithm=A2C(num_envs=2, rollout_length=4),
        policy=ActorCritic(hidden=()),
        env_steps=4 * 8,
        normalise_observations=True,
        evaluation=EpisodeEvaluation(episodes=2, every=3, during=1),
        log_every=1,
        checkpoint_every=2,
    )
"""


@pytest.fixture
def gym_config(tmp_path):
    """Id of a Gymnasium environment -> a config file with it."""

    def write(name):
        path = tmp_path / "gym_config.py"
        path.write_text(GYMNASIUM.format(name=name))
        return path

    return write


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        (
            "CartPol-v1",
            [],
            "env.id is 'CartPol-v1', which Gymnasium can't make; did you mean CartP",
        ),
        ("Pendulum-v1", [], "env.id 'Pendulum-v1' has the action space Box("),
        ("CartPole-v1", ["--num-seeds", "2"], "train them one after another with --seed."),
    ],
)
def test_bad_gymnasium_environments_leave_no_trace(
    name, words, said, refused, gym_config, tmp_path
):
    assert said in refused("train", gym_config(name), "--run-dir", tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [["--resume"], ["--resume", "--num-seeds", "2"]], ids=" ".join)
def test_resume_of_nothing(words, refused, tmp_path):
    message = refused("train", CONFIG, "--run-dir", tmp_path / "run", *words)
    assert "holds no run to resume; leave out --resume to start one." in message
    assert not (tmp_path / "run").exists()


def test_directory_that_holds_a_run(refused, trained):
    before = snapshot(trained)
    message = refused("train", CONFIG, "--run-dir", trained)
    assert message.startswith(f"{trained} already holds a run; it is finished, so name another")
    assert snapshot(trained) == before


def test_resume_with_another_config(refused, trained):
    before = snapshot(trained)
    words = ["--algorithm.clip_eps", "0.3", "--normalise_rewards", "False"]
    message = refused("train", CONFIG, "--run-dir", trained, "--resume", *words)
    assert f"{trained} was made by another config; " in message
    assert "differs in algorithm.clip_eps, normalise_rewards; " in message
    assert snapshot(trained) == before


def test_evaluate_without_episodes(refused, trained):
    assert refused("evaluate", trained, "--episodes", 0) == "--episodes is 0; play at least 1."


def test_a_policy_answers_no_questions(refused, trained):
    message = refused("answer", trained, "Where?")
    assert message == (
        "This run is a policy for environment cartpole, which answers no questions; name a run of "
        "questions, or of an agent that answers them."
    )


def test_evaluate_of_several_seeds_at_once(refused, two_seeds):
    message = refused("evaluate", two_seeds)
    assert message.startswith(f"{two_seeds} holds 2 seeds; name the directory of one of them")
    assert f"{two_seeds / 'seed_0'}." in message


def test_checkpoint_that_does_not_fit_its_config(refused, trained, tmp_path):
    config = json.loads((trained / "config.json").read_text())
    config["policy"]["hidden"] = [9]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "checkpoints").symlink_to(trained / "checkpoints")
    assert "does not fit the run's config" in refused("evaluate", tmp_path)


# Observations that are no numbers


@dataclass(frozen=True)
class Poisoned(Environment):
    """Counts its steps, and shows or pays NaN from step `after` on."""

    name: ClassVar[str] = "poisoned"

    after: int = 10
    pays: bool = False

    def build(self) -> Env:
        def told(steps):
            return jnp.where(steps < self.after, 1.0, jnp.nan)

        def show(steps):
            return jnp.ones(1) if self.pays else told(steps)[None]

        def reset(params, key):
            return jnp.zeros((), jnp.int32), timestep(show(jnp.zeros((), jnp.int32)))

        def step(params, key, state, action):
            return state + 1, timestep(show(state + 1), told(state + 1) if self.pays else 1.0)

        low = np.zeros(1, np.float32)
        return Env((), reset, step, num_actions=2, low=low, high=low + 1)


POISONED = """
import dataclasses

from ragjax.objectives.a2c import A2C


def get_config():
    return dataclasses.replace(
        BASE,
        env=ENV,
        algorithm=A2C(num_envs=2, rollout_length=4),
        env_steps=5 * 8,
        checkpoint_every=1,
    )
"""


@pytest.mark.parametrize("seeds", [1, 2])
def test_observations_that_turn_nan(seeds, ragjax, tmp_path, monkeypatch):
    """Step 10 of the environments is in rollout 3, whose loss stops the run."""
    monkeypatch.setattr("builtins.BASE", get_config(), raising=False)
    monkeypatch.setattr("builtins.ENV", Poisoned(), raising=False)
    path, run_dir = tmp_path / "config.py", tmp_path / "run"
    path.write_text(POISONED)
    code, out, err = ragjax("train", path, "--run-dir", run_dir, "--num_seeds", seeds)
    assert (code, out) == (2, "")
    message = the_sentence(err.splitlines()[-1] + "\n")
    assert "at step 3 " in message
    assert f"(last good checkpoint: {run_dir / 'checkpoints' / '2'})" in message
    assert "Traceback" not in err
    assert Checkpoints(run_dir / "checkpoints").steps() == [1, 2]
    assert not list(run_dir.rglob("result.json"))
    for log in run_dir.rglob("metrics.jsonl"):
        assert [row["step"] for row in read_lines(log)] == [1, 2]


def test_rewards_that_turn_nan_are_named(ragjax, tmp_path, monkeypatch):
    """Of a loss that is NaN for its rewards no learning rate is to blame."""
    config = dataclasses.replace(get_config(), normalise_rewards=False)
    monkeypatch.setattr("builtins.BASE", config, raising=False)
    monkeypatch.setattr("builtins.ENV", Poisoned(pays=True), raising=False)
    path, run_dir = tmp_path / "config.py", tmp_path / "run"
    path.write_text(POISONED)
    code, _, err = ragjax("train", path, "--run-dir", run_dir)
    assert code == 2
    message = the_sentence(err.splitlines()[-1] + "\n")
    assert message.startswith("The loss is nan at step 3 ")
    assert "its step_reward is nan, so mend what gives the rewards, the environment or" in message
    assert [row["step_reward"] for row in read_lines(run_dir / "metrics.jsonl")] == [1.0, 1.0]


class PoisonedGymnasium(gymnasium.Env):
    """The same in Gymnasium."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.ones(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        value = 1.0 if self.steps < 10 else np.nan
        return np.full(1, value, np.float32), 1.0, False, False, {}


def test_observations_of_gymnasium_that_turn_nan(ragjax, gym_config, tmp_path, monkeypatch):
    monkeypatch.setattr(gymnasium, "registry", dict(gymnasium.registry), raising=False)
    gymnasium.register("PoisonedPolicy-v0", PoisonedGymnasium, max_episode_steps=50)
    run_dir = tmp_path / "run"
    words = ["--evaluation.every", "0", "--checkpoint_every", "1"]
    code, out, err = ragjax("train", gym_config("PoisonedPolicy-v0"), "--run-dir", run_dir, *words)
    assert (code, out) == (2, "")
    assert the_sentence(err.splitlines()[-1] + "\n").startswith(
        "the Gymnasium environment 'PoisonedPolicy-v0' returned nan in an observation; mend it"
    )
    assert "Traceback" not in err
    assert Checkpoints(run_dir / "checkpoints").steps() == [1, 2]
    assert not (run_dir / "result.json").exists()


# Gymnasium


def test_gymnasium_trains_resumes_and_is_evaluated(ragjax, gym_config, tmp_path, monkeypatch):
    config, run_dir = gym_config("CartPole-v1"), tmp_path / "run"
    whole = MetricLog.write

    def write(log, step, row, failed=()):
        if step == 3:
            raise KeyboardInterrupt  # at once, as from a second Ctrl-C: nothing is saved
        whole(log, step, row, failed)

    with monkeypatch.context() as patch:
        patch.setattr(MetricLog, "write", write)
        code, _, err = ragjax("train", config, "--run-dir", run_dir)
    assert code == INTERRUPTED
    assert err.splitlines()[-1] == (
        f"stopped; continue with: ragjax train {config} --run-dir {run_dir} --resume"
    )
    assert Checkpoints(run_dir / "checkpoints").steps() == [2]

    code, out, err = ragjax("train", config, "--run-dir", run_dir, "--resume")
    assert code == 0, err
    assert "continuing at step 2 of 4" in err
    assert "its environments lived outside JAX: their episodes start anew" in err
    assert "gymnasium: mean return of 2" in out
    rows = read_lines(run_dir / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if "eval/greedy_return" in row] == [3, 4]
    result = read_result(run_dir)
    assert (result["resumed_at"], result["env_steps"]) == (2, 32)
    episodes = read_lines(run_dir / "episodes.jsonl")
    assert [row["mode"] for row in episodes] == ["greedy"] * 2 + ["sampled"] * 2
    for row in episodes:
        assert 8 <= row["return"] == row["length"] <= 500

    code, out, _ = ragjax("evaluate", run_dir, "--episodes", 2, "--json")
    assert code == 0
    figures = json.loads(out)
    for mode in MODES:
        assert figures[f"{mode}_return"] == result[f"{mode}_return"]


OWN_MODULE = """
import gymnasium

if "Mine-v0" not in gymnasium.registry:
    gymnasium.register("Mine-v0", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=20)
"""


def test_a_run_imports_the_modules_alone_that_it_lists(
    ragjax, refused, gym_config, tmp_path, monkeypatch
):
    """Of an environment in a module beside the config file, which another process does not find."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_gym_module.py").write_text(OWN_MODULE)
    run_dir = tmp_path / "run"
    code, _, err = ragjax("train", gym_config("my_gym_module:Mine-v0"), "--run-dir", run_dir)
    assert code == 0, err
    kept = json.loads((run_dir / "config.json").read_text())
    assert kept["modules"] == {"my_gym_module": str(tmp_path / "my_gym_module.py")}

    def forget():
        del sys.modules["my_gym_module"], gymnasium.registry["Mine-v0"]
        sys.path.remove(str(tmp_path))

    forget()
    code, _, err = ragjax("evaluate", run_dir)
    assert (code, err) == (0, "")
    forget()
    (run_dir / "config.json").write_text(json.dumps(kept | {"modules": {}}))
    message = refused("evaluate", run_dir)
    assert message.startswith(
        "The config's Gymnasium imports 'my_gym_module' by its id, but that is "
    )
    assert "my_gym_module" not in sys.modules
