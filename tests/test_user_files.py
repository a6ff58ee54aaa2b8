"""A user's classes, in a config file and in a module beside it, are found without PYTHONPATH."""

import json
import os
import subprocess
import sys

import pytest

from ragjax.cli import main
from ragjax.config import config_json, load_config, read_json
from ragjax.errors import UserError

FACTS = """
from ragjax.types import Passage, Question

PEOPLE = ("Ada", "Ben", "Cara", "Dan", "Eva", "Finn", "Gita", "Hugo")


def passages():
    return tuple(Passage(name, "", f"{name} lives in {name}ville") for name in PEOPLE)


def questions(split):
    names = {"train": PEOPLE[:4], "dev": PEOPLE[4:6], "test": PEOPLE[6:]}[split]
    return tuple(Question(n, f"Where is {n}?", (f"{n}ville",), (), "", "") for n in names)
"""
CONFIG = """
from dataclasses import dataclass
from typing import ClassVar

import villagers

from ragjax.data.tokenizer import TokenizerSpec
from ragjax.learners.questions import Evaluation, Phase, QuestionsConfig
from ragjax.models.encoder import BagEncoder
from ragjax.models.reader import TransformerReader
from ragjax.models.retriever import Dense
from ragjax.objectives.likelihood import RagSequence
from ragjax.tasks.base import SPLITS, Task
from ragjax.training.optimizer import Adam
from ragjax.types import QaData


@dataclass(frozen=True)
class Villages(Task):
    name: ClassVar[str] = "villages"
    version: ClassVar[str] = "1.0.0"

    def generate(self):
        return QaData(villagers.passages(), {s: villagers.questions(s) for s in SPLITS})


def get_config():
    return QuestionsConfig(
        task=Villages(),
        tokenizer=TokenizerSpec(
            vocab_size=300, question_length=8, passage_length=8, answer_length=4
        ),
        retriever=Dense(encoder=BagEncoder(width=8)),
        reader=TransformerReader(width=8, heads=1, encoder_layers=1, decoder_layers=1),
        objective=RagSequence(documents="index"),
        optimizer=Adam(warmup_steps=0),
        phases=(Phase(steps=2, batch_size=4, k=2),),
        evaluation=Evaluation(k=2, batch_size=4, every=0),
    )
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    directory = tmp_path_factory.mktemp("their project")
    (directory / "villagers.py").write_text(FACTS)
    (directory / "my config.py").write_text(CONFIG)
    return directory


@pytest.fixture(scope="module")
def run_dir(project):
    assert main(["train", str(project / "my config.py"), "--run-dir", str(project / "run")]) == 0
    return project / "run"


def test_the_run_names_the_file_of_its_class(project, run_dir):
    config = json.loads((run_dir / "config.json").read_text())
    (name,) = config["modules"]
    assert config["task"]["type"] == f"{name}.Villages"
    assert config["modules"][name] == str(project / "my config.py")
    again = read_json(run_dir / "config.json")
    assert config_json(again) == config_json(load_config(project / "my config.py")) == config


def test_it_is_measured_from_elsewhere_by_another_process(run_dir, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "ragjax.cli", "evaluate", str(run_dir), "--split", "dev", "--json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["questions"] == 2


def test_the_fingerprint_covers_the_module_beside_it(project, run_dir):
    task = load_config(project / "my config.py").task
    before = task.fingerprint()
    text = (project / "villagers.py").read_text()
    (project / "villagers.py").write_text(text + "# edited\n")
    assert task.fingerprint() != before
    (project / "villagers.py").write_text(text)
    assert task.fingerprint() == before


def test_a_file_that_is_gone_is_named(project, run_dir, tmp_path):
    config = json.loads((run_dir / "config.json").read_text())
    gone = str(project / "gone.py")
    config["task"]["type"] = "ragjax_config_gone.Villages"
    config["modules"] = {"ragjax_config_gone": gone}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"whose file .*gone\.py is gone; put it back"):
        read_json(tmp_path / "config.json")


def test_a_file_beside_a_config_hides_no_installed_module(project):
    (project / "json.py").write_text("raise RuntimeError")
    load_config(project / "my config.py")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.path.append(sys.argv[1]); import json",
            str(project),
        ]
    )
    assert done.returncode == 0
    (project / "json.py").unlink()
