"""A user's package adds a file for each kind of thing that can be added, from a task to a table.

Each is trained through the command line, in this process, with no line of ragjax changed; and no generic
file of ragjax knows a particular component.
"""

import ast
import dataclasses
import importlib
import json
import pkgutil
from pathlib import Path

import pytest

import ragjax
from ragjax.agents.adaptive_retrieval.environment import AdaptiveRetrieval
from ragjax.cli import main
from ragjax.config import Config
from ragjax.envs.base import Environment
from ragjax.models.adapters import Trained
from ragjax.models.encoder import Encoder
from ragjax.models.policy import Policy
from ragjax.models.reader import Reader
from ragjax.objectives.algorithm import Algorithm
from ragjax.objectives.base import Objective
from ragjax.objectives.rewards import Reward
from ragjax.retrieval.base import Index, RetrieverSpec
from ragjax.run_dir import load_run
from ragjax.tasks.base import Task

USERLAND = Path(__file__).parent / "userland"
PACKAGE = Path(ragjax.__file__).parent


def result_of(run_dir):
    return json.loads((run_dir / "result.json").read_text())


def types_of(value):
    if isinstance(value, list):
        return {name for item in value for name in types_of(item)}
    if not isinstance(value, dict):
        return set()
    return {value.get("type")}.union(*(types_of(item) for item in value.values()))


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """The run of the user's task, encoder, index and objective."""
    run_dir = tmp_path_factory.mktemp("questions") / "run"
    assert main(["train", str(USERLAND / "config_questions.py"), "--run-dir", str(run_dir)]) == 0
    return run_dir


def test_task_encoder_index_and_objective(questions):
    config = json.loads((questions / "config.json").read_text())
    assert types_of(config) >= {
        *("userland.task.Gates", "userland.encoder.SumEncoder"),
        *("userland.index.TwoStage", "userland.objective.Halfway"),
    }
    modules = ["userland.encoder", "userland.index", "userland.objective", "userland.task"]
    assert list(config["modules"]) == modules
    rows = [json.loads(line) for line in (questions / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(set(losses)) == 12
    assert losses[-1] < losses[0]
    assert result_of(questions)["questions"] == 4
    run = load_run(questions)
    assert set(run.state.index.embeddings) == {"whole", "half"}  # the tree that the index built
    assert len(run.answer("What colour is the gate of Aro?")["passages"]) == 3


@pytest.mark.slow
def test_a_user_s_index_that_finds_fewer_is_read_without_nan(tmp_path):
    words = ["--retriever.index.shortlist", "2", "--phases.0.steps", "2", "--evaluation.k", "4"]
    config = str(USERLAND / "config_questions.py")
    assert main(["train", config, "--run-dir", str(tmp_path / "run"), *words]) == 0
    assert len(load_run(tmp_path / "run").answer("the gate of Aro")["passages"]) == 2


@pytest.mark.slow
def test_an_environment_that_retrieves(tmp_path):
    config = str(USERLAND / "config_signs.py")
    assert main(["train", config, "--run-dir", str(tmp_path / "run")]) == 0
    assert result_of(tmp_path / "run")["greedy_return"] > 0.8  # half without retrieval


@pytest.mark.slow
def test_an_algorithm_with_a_state_of_its_own(tmp_path):
    """DQN learns to catch, and what it keeps is in the checkpoint."""
    config = str(USERLAND / "config_dqn.py")
    assert main(["train", config, "--run-dir", str(tmp_path / "run")]) == 0
    assert result_of(tmp_path / "run")["greedy_return"] > 0.8
    extra = load_run(tmp_path / "run").state.extra
    assert int(extra.count) == 32 * 2000
    assert extra.observation.shape[0] == 2048
    assert set(extra.target) == {"policy", "value"}


def test_seeds_of_a_user_s_algorithm_side_by_side(tmp_path):
    words = ["--env_steps", "640", "--num-seeds", "2"]
    config = str(USERLAND / "config_dqn.py")
    assert main(["train", config, "--run-dir", str(tmp_path / "run"), *words]) == 0
    first, second = (result_of(tmp_path / "run" / f"seed_{seed}") for seed in (0, 1))
    assert (first["seed"], second["seed"]) == (0, 1)


def test_an_agent(questions, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("USERLAND_READER", str(questions))
    config, run_dir = str(USERLAND / "config_agent.py"), tmp_path / "run"
    assert main(["train", config, "--run-dir", str(run_dir)]) == 0
    assert result_of(run_dir)["split"] == "test"
    assert result_of(run_dir)["episodes"] == 4  # each question once
    capsys.readouterr()
    assert main(["answer", str(run_dir), "What colour is the gate of Aro?", "--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() >= {"answer", "probability", "notes"}
    assert main(["evaluate", str(run_dir), "--split", "dev"]) == 0


def test_a_table(questions, tmp_path, monkeypatch, capsys):
    from ragjax.evaluation.runs import record_run

    monkeypatch.chdir(tmp_path)
    record_run(questions, tmp_path / "results" / "gates" / "config_questions" / "seed_0")
    path = tmp_path / "experiments" / "table.py"
    path.parent.mkdir()
    text = (USERLAND / "table.py").read_text()
    path.write_text(text.replace('Path("results")', f"Path({str(tmp_path / 'results')!r})"))
    assert main(["table", str(path)]) == 0
    assert "| halfway |" in capsys.readouterr().out


# No generic file knows a particular component

OPEN_BASES = (
    *(Task, Encoder, Index, RetrieverSpec, Reader, Objective, Reward),
    *(Environment, Policy, Algorithm, Config, Trained),
)
GENERIC = ("training/*", "evaluation/*", "ops/*", "*.py")
# The ways that `ragjax index search --how` names, and what `ragjax import` makes of pretrained models.
PARTICULAR = ("index_methods.py", "import_command.py")


def particular_components():
    """Every class of the package that stands for one choice among open ones, by its module."""
    for module in pkgutil.walk_packages(ragjax.__path__, "ragjax."):
        importlib.import_module(module.name)

    def below(kind):
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    found = set().union(*(below(base) - {base} for base in OPEN_BASES))
    return {kind.__module__ for kind in found if kind.__module__.startswith("ragjax.")}


def test_no_generic_file_knows_a_particular_component():
    modules = particular_components() - {base.__module__ for base in OPEN_BASES}
    assert AdaptiveRetrieval.__module__ in modules
    assert len(modules) > 20
    for pattern in GENERIC:
        for path in PACKAGE.glob(pattern):
            if path.suffix != ".py" or path.name in PARTICULAR:
                continue
            for node in ast.walk(ast.parse(path.read_bytes())):
                names = []
                if isinstance(node, ast.ImportFrom) and node.module:
                    names = [node.module]
                elif isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                assert not modules & set(names), f"{path} imports {modules & set(names)}"


def test_fields_of_components_are_typed_by_open_bases():
    from ragjax.learners.episodes import EpisodesConfig
    from ragjax.learners.questions import QuestionsConfig

    for config in (QuestionsConfig, EpisodesConfig):
        for field in dataclasses.fields(config):
            kind = field.type
            if dataclasses.is_dataclass(kind) and any(
                issubclass(kind, base) for base in OPEN_BASES
            ):
                assert kind in OPEN_BASES, f"{config.__name__}.{field.name} is a {kind.__name__}"
