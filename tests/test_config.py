"""Configs: frozen, validated, and the same after a trip through JSON."""

import ast
import dataclasses
import inspect
import json
import typing
from pathlib import Path

import pytest
import tiny_config
from specs import build, config_specs

from ragjax.config import (
    Config,
    config_json,
    from_json,
    load_config,
    read_json,
    to_json,
)
from ragjax.config_differences import differing_fields
from ragjax.errors import UserError
from ragjax.learners.questions import Evaluation, Phase, QuestionsConfig
from ragjax.models.encoder import BagEncoder
from ragjax.models.hybrid import Hybrid
from ragjax.models.retriever import Dense
from ragjax.objectives.likelihood import RagSequence
from ragjax.retrieval.bm25 import BM25
from ragjax.tasks.base import Task
from ragjax.training.learner import stage_at
from ragjax.training.optimizer import Adam

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))


SPECS = config_specs()
MODULES = {"tiny_task": ""}  # beside ours


@pytest.fixture
def config():
    return tiny_config.get_config()


def test_specs_are_found():
    names = {kind.__name__ for kind in SPECS}
    assert names >= {
        "QuestionsConfig",
        "EpisodesConfig",
        "PPO",
        "RetrievalPolicy",
        "Phase",
        "Adam",
        "Dense",
        "BM25",
        "RagToken",
        "BagEncoder",
        "TransformerReader",
    }
    assert names >= {"WorldFacts", "Factbook", "TransformerEncoder", "Oracle", "TokenizerSpec"}


@pytest.mark.parametrize("kind", SPECS, ids=lambda kind: kind.__name__)
def test_spec_is_frozen_with_valid_defaults(kind):
    spec = build(kind)
    assert spec == build(kind)
    hash(spec)  # a frozen dataclass with eq
    assert kind.__dataclass_params__.frozen
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.something = 1
    assert from_json(json.loads(json.dumps(to_json(spec))), MODULES) == spec


@pytest.mark.parametrize("kind", SPECS, ids=lambda kind: kind.__name__)
def test_every_choice_is_checked(kind):
    for field in dataclasses.fields(kind):
        hint = typing.get_type_hints(kind)[field.name]
        if typing.get_origin(hint) is typing.Literal:
            spec = build(kind)
            # Set behind the back of the type checker, which users don't run.
            object.__setattr__(spec, field.name, "cosin")
            with pytest.raises(UserError, match=f"{field.name} is 'cosin'; choose"):
                spec.__post_init__()


def attributes_of(kind):
    """Names under `Attributes:` in the docstrings of a class and its bases."""
    names = set()
    for base in kind.__mro__:
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        for line in text.partition("Attributes:\n")[2].splitlines():
            name, colon, _ = line.strip().partition(":")
            if line.startswith("  ") and not line.startswith("    ") and colon:
                names.add(name)
    return names


@pytest.mark.parametrize("kind", SPECS, ids=lambda kind: kind.__name__)
def test_every_field_is_documented(kind):
    assert {field.name for field in dataclasses.fields(kind)} <= attributes_of(kind)


@pytest.mark.parametrize("kind", SPECS, ids=lambda kind: kind.__name__)
def test_every_number_is_checked(kind):
    """No numeric field takes every number: each refuses a negative one or a NaN, by its name."""
    for field in dataclasses.fields(kind):
        hint = typing.get_type_hints(kind)[field.name]
        if hint not in (int, float) or issubclass(kind, Task):
            continue
        for value in {int: (-1,), float: (-1.0, float("nan"))}[hint]:
            with pytest.raises(UserError) as error:
                build(kind, **{field.name: value})
            message = str(error.value)
            assert field.name in message
            assert str(value) in message
            assert "\n" not in message
            assert message.endswith(".")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: "/".join(path.parts[-2:]))
def test_config_file(path, tmp_path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring
    assert docstring.splitlines()[0].strip()
    config = load_config(path)
    (tmp_path / "config.json").write_text(json.dumps(config_json(config)))
    assert read_json(tmp_path / "config.json") == config
    assert isinstance(config, Config)
    if isinstance(config, QuestionsConfig):
        # What comes pretrained is for anybody's passages, and a paper has several tasks.
        assert path.parent.name in (config.subject, "pretrained", "paper")


def test_there_are_configs():
    assert len(CONFIGS) >= 6


def test_json_names_every_type(config):
    value = to_json(config)
    assert value["type"] == "ragjax.learners.questions.QuestionsConfig"
    assert value["task"] == {"type": "tiny_task.TinyTask"}
    assert value["phases"][1]["type"] == "ragjax.data.stream.Phase"
    assert value["phases"][1]["batch_size"] == 8


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"type": "ragjax.config.Nothing"}, "ragjax.config.Nothing"),
        ({"type": "ragjax.nowhere.Phase"}, "ragjax.nowhere.Phase"),
        ({"type": "Phase"}, "Phase"),
        ({"type": "ragjax_of_another.Phase"}, "whose module is neither of ragjax nor listed"),
        ({"type": "os.path.join"}, "os.path.join"),
        ({"type": "ragjax.config.to_json", "value": 1}, "no spec"),
        ({"type": ".x.y"}, ".x.y"),
        ({"type": 5}, "5"),
        ({"steps": 3}, "names no type"),
        ({"type": "ragjax.learners.questions.Phase", "steps": 3, "speed": 1}, "speed"),
        ({"type": "ragjax.learners.questions.Phase"}, "steps"),
        (
            {"type": "ragjax.learners.questions.Phase", "steps": "many"},
            "ragjax.learners.questions.Phase",
        ),
        ({"type": "ragjax.learners.questions.Phase", "steps": 0}, "steps is 0"),
    ],
)
def test_from_json_refuses(value, named):
    with pytest.raises(UserError) as error:
        from_json([value])
    assert named in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        *(None, "", "{", "5", "[]", "{}", '{"steps": 3}'),
        '{"type": "ragjax.learners.questions.Phase", "steps": 3}',
    ],
)
def test_read_json_refuses(content, tmp_path):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as error:
        read_json(path)
    assert str(path) in str(error.value)


def test_the_config_of_a_pretrained_model_is_named_as_one(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "bert", "hidden_size": 32}')
    with pytest.raises(UserError, match="is a pretrained model's, not a run's") as error:
        read_json(path)
    assert "32" not in str(error.value)


def test_a_config_imports_what_it_declares_and_no_more(config, tmp_path):
    """A run's config.json names classes; those of other modules are imported if it lists the module."""
    path, value = tmp_path / "config.json", config_json(config)
    beside = Path(tiny_config.__file__).with_name("tiny_task.py")
    assert value["modules"] == {"tiny_task": str(beside)}
    path.write_text(json.dumps(value))
    assert read_json(path) == config
    path.write_text(json.dumps(value | {"modules": []}))
    with pytest.raises(
        UserError, match=r"'tiny_task\.TinyTask', whose module is neither of ragjax"
    ):
        read_json(path)
    path.write_text(json.dumps(value | {"modules": "tiny_task"}))
    with pytest.raises(UserError, match="it must be names with their files"):
        read_json(path)


def test_read_json_refuses_bytes(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="can't be read as a config"):
        read_json(path)


FROZEN = Dense(query_encoder=BagEncoder(width=64), train_passages=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phases": ()}, "phases is empty"),
        ({"seed": -1}, "seed is -1; "),
        ({"log_every": 0}, "log_every is 0; "),
        ({"checkpoint_every": 0}, "checkpoint_every is 0; "),
        ({"optimizer": Adam(accumulate=4)}, r"phases\.0\.batch_size is 6, .*accumulate 4"),
        ({"optimizer": Adam(warmup_steps=12)}, "warmup_steps is 12, more than the 11 updates"),
        *(
            (
                {"retriever": retriever, "optimizer": Adam(weight_decay=0.1)},
                r"weight_decay is 0\.1, .* train_passages is false; set weight_decay to 0",
            )
            for retriever in (FROZEN, Hybrid(dense=FROZEN))
        ),
        (
            {"retriever": BM25()},
            "The objective's documents is 'index', but a fixed retriever .* choose retrieved",
        ),
    ],
)
def test_config_is_checked(change, message, config):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(config, **change)


@pytest.mark.parametrize("field", ["steps", "batch_size", "k"])
def test_phase_is_checked(field):
    with pytest.raises(UserError, match=rf"phases\.{field} is 0; it must be at least 1"):
        Phase(**({"steps": 1} | {field: 0}))


def test_evaluation_may_be_left_out():
    assert Evaluation(every=0).every == 0


def test_the_stage_of_a_step(config):
    phases = tuple(Phase(steps=steps, batch_size=steps, k=steps) for steps in (4, 2, 3))
    config = dataclasses.replace(config, phases=phases)
    assert config.steps == 9
    learner = config.create()
    depths = [stage_at(learner, step).phase.k for step in range(9)]
    assert depths == [4, 4, 4, 4, 2, 2, 3, 3, 3]
    assert stage_at(learner, 9).phase.k == 3


def test_differing_fields(config):
    def against(**change):
        return differing_fields(to_json(config), to_json(dataclasses.replace(config, **change)))

    narrow = dataclasses.replace(config.retriever, encoder=BagEncoder(width=8))
    assert against() == []
    assert against(seed=1) == ["seed"]
    assert against(seed=1, retriever=narrow) == ["seed", "retriever.encoder.width"]
    first, second = config.phases
    assert against(phases=(first, dataclasses.replace(second, k=1))) == ["phases.1.k"]
    assert against(phases=(first,)) == ["phases"]
    other = against(objective=RagSequence(documents="in_batch"))
    assert other[0] == "objective.documents"
    changed = against(retriever=BM25(), objective=RagSequence())
    assert {"retriever.type", "retriever.k1", "retriever.refresh_every"} <= set(changed)


BROKEN = {
    "missing": (None, "does not exist; name a file in configs/"),
    "no function": ("x = 1", r"has no get_config\(\)"),
    "no callable": ("get_config = 1", r"has no get_config\(\)"),
    "syntax": ("def get_config(:\n", r"doesn't load \(SyntaxError"),
    "import": ("import nowhere_at_all", r"doesn't load \(ModuleNotFoundError"),
    "raises": ("def get_config():\n    return 1 / 0", r"doesn't load \(ZeroDivisionError"),
    "other": ("def get_config():\n    return 1", "returned a int; it must return a Config"),
    "value": (
        "from ragjax.learners.questions import Phase\n\ndef get_config():\n    return Phase(steps=0)",
        "steps is 0",
    ),
    "type": (
        "from ragjax.learners.questions import Phase\n\n"
        "def get_config():\n    return Phase(steps=1, speed=0)",
        r"doesn't load \(Type.*speed",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_config_file(name, tmp_path):
    text, message = BROKEN[name]
    path = tmp_path / "config.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_config(path)
    if name != "value":
        assert str(path) in str(error.value)


def test_config_must_be_a_python_file(tmp_path):
    (tmp_path / "config.yaml").write_text("task: world_facts")
    with pytest.raises(UserError, match="is not a Python file; name one in configs/"):
        load_config(tmp_path / "config.yaml")
