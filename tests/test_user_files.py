"""A user's classes, in a config file and in a module beside it, are found without PYTHONPATH."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ragjax import files, origin
from ragjax.cli import main
from ragjax.config import config_json, load_config, read_json, write_config
from ragjax.errors import UserError
from ragjax.origin import PACKAGE_DIR, changes_since, code_digest

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
REWARDED = """
import dataclasses

import numpy as np
import villages

from ragjax.objectives.answer_reward import AnswerReward
from ragjax.objectives.joint import Joint
from ragjax.objectives.likelihood import RagSequence
from ragjax.objectives.rewards import HostReward


@dataclasses.dataclass(frozen=True)
class Short(HostReward):
    def on_host(self, answers, accepted):
        return -np.sum(answers != 0, axis=-1)


def get_config():
    objective = Joint(RagSequence(documents="index"), reward=AnswerReward(reward=Short()))
    config = dataclasses.replace(villages.get_config(), objective=objective)
    return dataclasses.replace(config, checkpoint_every=1, log_every=1)
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


ELSEWHERE = """
import sys
from ragjax.cli import main
run_dir, config = sys.argv[1:]
commands = (
    ("evaluate", run_dir, "--json"),
    ("answer", run_dir, "Where is Ada?", "--force", "--json"),
    ("train", config, "--run-dir", run_dir, "--resume"),
)
sys.exit(max(main(list(command)) for command in commands))
"""


def test_a_module_s_task_and_a_config_s_reward_are_used_and_resumed_elsewhere(project, tmp_path):
    """By a process without PYTHONPATH, in another directory; it ends as the run that was not stopped."""
    (project / "villages.py").write_text(CONFIG)
    config, run_dir = project / "rewarded.py", project / "rewarded"
    config.write_text(REWARDED)
    assert main(["train", str(config), "--run-dir", str(run_dir)]) == 0
    modules = json.loads((run_dir / "config.json").read_text())["modules"]
    assert sorted(modules.values()) == [str(config), str(project / "villages.py")]
    metrics = (run_dir / "metrics.jsonl").read_text()
    shutil.rmtree(run_dir / "checkpoints" / "2")
    (run_dir / "result.json").unlink()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(run_dir), str(config)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "continuing at step 1 of 2" in done.stderr
    assert (run_dir / "metrics.jsonl").read_text() == metrics
    assert "reward" in metrics
    assert (run_dir / "result.json").exists()


def test_the_fingerprint_covers_the_module_beside_it(project, run_dir):
    task = load_config(project / "my config.py").task
    before = task.fingerprint()
    text = (project / "villagers.py").read_text()
    (project / "villagers.py").write_text(text + "# edited\n")
    assert task.fingerprint() != before
    (project / "villagers.py").write_text(text)
    assert task.fingerprint() == before


GENERATED = "QaData(villagers.passages(), {s: villagers.questions(s) for s in SPLITS})"  # of CONFIG
TASK = """
from dataclasses import dataclass
from typing import ClassVar
from ragjax.tasks.base import Task
{above}

@dataclass(frozen=True)
class Villages(Task):
    name: ClassVar[str] = "villages"
    version: ClassVar[str] = "1.0.0"

    def generate(self):
        {within}
"""


@pytest.mark.parametrize(
    ("place", "above", "within", "named"),
    [
        ("a_task.py", "from a_constant import PEOPLE", "", "a_constant.py"),
        ("b_task.py", "", "from b_constant import PEOPLE", "b_constant.py"),
        ("c_task.py", "from c_kit.people import PEOPLE", "", "c_kit/people.py"),
        ("f_task.py", "from f_kit import people", "", "f_kit/__init__.py"),
        ("d_kit/tasks/task.py", "from ..people import PEOPLE", "", "d_kit/people.py"),
        ("e_task.py", "import e_helper", "", "e_constant.py"),  # which e_helper imports
    ],
)
def test_the_fingerprint_covers_what_import_statements_name(
    tmp_path, monkeypatch, place, above, within, named
):
    """A constant, an import within a function, a package, one above, and what imports another."""
    files = {place: TASK.format(above=above, within=within or "pass"), named: "PEOPLE = ()\n"}
    files |= {
        "e_helper.py": "def people():\n    from e_constant import PEOPLE\n    return PEOPLE\n"
    }
    for name in (*files, "f_kit/people.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(files.get(name, ""))
    monkeypatch.syspath_prepend(tmp_path)
    task = importlib.import_module(place.removesuffix(".py").replace("/", ".")).Villages()
    before = task.fingerprint()
    (tmp_path / named).write_text("PEOPLE = ()  # edited\n")
    assert task.fingerprint() != before


def test_a_run_names_a_changed_module_that_its_own_imports(project, run_dir):
    """Whether it is of data or, as here, of anything else that a class in the config file needs."""
    config = read_json(run_dir / "config.json")
    text = (project / "villagers.py").read_text()
    (project / "villagers.py").write_text(text + "# edited\n")
    assert changes_since(run_dir, config) == [f"module villagers has changed since {run_dir} began"]
    (project / "villagers.py").write_text(text)
    assert changes_since(run_dir, config) == []


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


# Two configs in one process


def two_configs(tmp_path, config, **modules):
    """a/conf.py and b/conf.py of a text in which AA is 1 and 2; likewise the modules beside them."""
    for folder, number in (("a", "1"), ("b", "2")):
        (tmp_path / folder).mkdir()
        for name, text in ({"conf": config} | modules).items():
            (tmp_path / folder / f"{name}.py").write_text(text.replace("AA", number))
    return tmp_path / "a" / "conf.py", tmp_path / "b" / "conf.py"


def test_two_modules_of_one_name_are_refused(tmp_path, ragjax, refused):
    """The second config would silently get the first one's."""
    config = CONFIG.replace("import villagers", "import shared_mod as villagers")
    shared = FACTS + "# of AA\n"
    first, second = two_configs(tmp_path, config, shared_mod=shared)
    message = refused("config", "diff", first, second)
    places = [str(file.with_name("shared_mod.py")) for file in (first, second)]
    assert message.endswith(
        f"{places[0]} and {places[1]} are both the module 'shared_mod', and only one of them can be "
        "used at once; rename one of them."
    )
    second.with_name("shared_mod.py").write_text(FACTS + "# of 1\n")  # then it does not matter
    assert ragjax("config", "diff", first, second)[0] == 0


def test_a_module_that_a_library_of_yours_imports_may_have_a_namesake_beside_a_config(
    tmp_path, monkeypatch
):
    """The config does not import it, so that nothing is mixed up."""
    for folder in ("lib", "project"):
        (tmp_path / folder).mkdir()
    (tmp_path / "lib" / "g_tool.py").write_text("import g_common\n")
    (tmp_path / "lib" / "g_common.py").write_text("AA = 1\n")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    config = "import g_tool\n" + CONFIG.replace("import villagers\n", "")
    config = config.replace(
        GENERATED,
        "g_tool.g_common.AA",
    )
    (tmp_path / "project" / "g_common.py").write_text("AA = 2\n")
    (tmp_path / "project" / "g_conf.py").write_text(config)
    assert load_config(tmp_path / "project" / "g_conf.py").task.generate() == 1


def test_folders_without_an_init_file_are_packages_of_a_config(tmp_path):
    """Whichever of them has one, and whether it is imported yet or not."""
    for number, has_init in enumerate(((), ("kit",), ("kit", "kit/tasks"))):
        root = tmp_path / str(number)
        (root / f"kit{number}/tasks").mkdir(parents=True)
        for folder in has_init:
            (root / folder.replace("kit", f"kit{number}", 1) / "__init__.py").write_text("")
        (root / f"kit{number}/tasks/v.py").write_text(f"AA = {number}\n")
        config = f"from kit{number}.tasks.v import AA\n" + CONFIG.replace("import villagers\n", "")
        config = config.replace(GENERATED, "AA")
        (root / "h_conf.py").write_text(config)
        task = load_config(root / "h_conf.py").task
        assert task.generate() == number
        before = task.fingerprint()
        (root / f"kit{number}/tasks/v.py").write_text("AA = 9\n")
        assert task.fingerprint() != before


def test_a_package_whose_name_begins_with_ours_is_found_by_its_name(tmp_path, monkeypatch):
    """Wherever it was when the run began."""
    (tmp_path / "ragjax_contrib").mkdir()
    (tmp_path / "ragjax_contrib" / "__init__.py").write_text("AA = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = files.import_from("ragjax_contrib", str(tmp_path / "gone/ragjax_contrib/__init__.py"))
    assert found.AA == 1


def test_equal_configs_beside_unequal_modules_are_not_mixed_up(tmp_path):
    config = CONFIG.replace("import villagers", "import i_shared as villagers")
    first, second = two_configs(tmp_path, config, i_shared=FACTS + "# of AA\n")
    written = json.dumps(config_json(load_config(first)))
    (tmp_path / "config.json").write_text(written.replace(str(first), str(second)))
    with pytest.raises(UserError, match="are both the module 'i_shared'"):
        read_json(tmp_path / "config.json")


def test_a_module_that_came_with_another_config_is_not_taken_for_a_run_s(tmp_path):
    """A run's class stands in a module, which it names with its file."""
    config = CONFIG.split("@dataclass")[0] + "from tasks_mod import Villages\n\n\n"
    config = config.replace("import villagers\n", "") + CONFIG[CONFIG.index("def get_config") :]
    first, second = two_configs(
        tmp_path, config, tasks_mod=TASK.format(above="", within="return AA")
    )
    written = json.dumps(config_json(load_config(first)))
    run = tmp_path / "config.json"
    run.write_text(written)
    assert read_json(run).task.generate() == 1
    run.write_text(written.replace(str(first.parent), str(second.parent)))
    with pytest.raises(UserError, match=r"a/tasks_mod.py and .*b/tasks_mod.py are both the module"):
        read_json(run)


def test_two_config_files_of_one_name_keep_their_classes(tmp_path, monkeypatch):
    """Whichever was loaded last; a run finds its own by the file that it names."""
    text = CONFIG.replace("import villagers\n", "")
    text = text.replace(GENERATED, "AA")
    first, second = map(load_config, two_configs(tmp_path, text))
    written = []
    for config, number in ((first, 1), (second, 2)):
        write_config(tmp_path / "config.json", config)
        assert read_json(tmp_path / "config.json").task.generate() == number
        written.append(json.loads((tmp_path / "config.json").read_text()))
    # As a process writes it that has loaded no other config.
    ((name, _),) = written[0]["modules"].items()
    ((other, file),) = written[1]["modules"].items()
    alone = json.dumps(written[1]).replace(other, name)
    assert json.loads(alone)["modules"] == {name: file}
    (tmp_path / "config.json").write_text(alone)
    digests = {name: origin._short_digest(Path(file))}
    again = read_json(tmp_path / "config.json")
    # Under whatever name, the module has not changed since.
    began = {"modules": digests, "code": code_digest(PACKAGE_DIR), "versions": {}}
    monkeypatch.setattr(origin, "read_origin", lambda run_dir: began)
    assert changes_since(tmp_path, again) == []
    assert again.task.generate() == 2
    assert config_json(again) == config_json(second)
