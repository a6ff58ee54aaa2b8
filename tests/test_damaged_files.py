"""Whatever a file holds, it ends in one sentence that names it and what to do, and in no traceback."""

import dataclasses
import json
import shutil
import warnings
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tiny_config
from tiny_task import TinyTask

from ragjax.commands import train
from ragjax.compiled import keep_compiled
from ragjax.data import builder
from ragjax.data.checks import checked
from ragjax.data.readers import read_passages, read_questions
from ragjax.data.tfds_source import read_examples
from ragjax.errors import UserError
from ragjax.evaluation.curves import read_metrics
from ragjax.evaluation.episodes import read_episodes
from ragjax.evaluation.metrics import read_predictions
from ragjax.files import parse_json, read_json_object
from ragjax.origin import read_origin
from ragjax.printing import PlainConsole
from ragjax.run_dir import load_run, read_rows
from ragjax.tasks.base import Task
from ragjax.training.logging import MetricLog
from ragjax.types import Passage, QaData, Question

pytest_plugins = ["tiny_run"]

DEEP = ("[" * 100_000, '{"a":' * 100_000)


# JSON


@pytest.mark.parametrize("text", DEEP, ids=["lists", "objects"])
def test_json_that_is_nested_too_deeply(text, tmp_path):
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(text)
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{text}\n{{}}\n")
    for read in (read_rows, read_episodes, read_predictions):
        with pytest.raises(UserError, match=r"rows\.jsonl.*nested too deeply"):
            read(path)
    with pytest.raises(UserError, match=r"rows\.jsonl is not JSON.*remedy"):
        read_json_object(path, "remedy")
    for name in ("metrics.jsonl", "config.json"):
        (tmp_path / name).write_text(f"{text}\n{{}}\n")
    with pytest.raises(UserError, match="line 1"):
        read_metrics(tmp_path)
    with pytest.raises(UserError, match="can't be read as a config"):
        load_run(tmp_path)
    MetricLog(tmp_path, 3).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


# A user's files


@pytest.mark.parametrize("text", DEEP, ids=["lists", "objects"])
def test_rows_that_are_nested_too_deeply(text, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"text": "a"}}\n{text}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2 is not JSON .*nested too deeply"):
        list(read_passages(path, words=10, overlap=1))
    path.write_text(json.dumps({"question": "a?", "answers": "[" * 100_000}) + "\n")
    with pytest.raises(UserError, match=r"line 1: 'answers' is .*nested too deeply"):
        list(read_questions(path))


@pytest.mark.parametrize("field", ["id", "question", "answers", "relation", "other"])
def test_halves_of_characters_in_rows(field, tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"id": "1", "question": "a 😀?", "answers": ["é"], "relation": "r", "other": "o"}
    path.write_text(json.dumps(row) + "\n")
    assert [question.question for question, _ in read_questions(path)] == ["a 😀?"]
    path.write_text("\n" + json.dumps(row | {field: "b\ud800"}) + "\n")
    with pytest.raises(UserError, match=r"line 2 holds '\\ud800', which is half of a character"):
        list(read_questions(path))


def test_halves_of_characters_in_a_task():
    passages = (Passage("p", "title", "text\udfff"),)
    with pytest.raises(UserError, match=r"passage 'p' has '\\udfff' in its text"):
        checked(QaData(passages, {}), "mine")
    question = Question("q", "who?", ("\ud800",), ("p",), "", "")
    with pytest.raises(UserError, match=r"question 'q' has '\\ud800' in its answers"):
        checked(QaData((Passage("p", "", "text"),), {"train": (question,)}), "mine")


def test_a_question_is_in_one_split_only():
    passages = (Passage("p", "", "text"),)
    question = Question("q", "who?", ("x",), ("p",), "", "")
    with pytest.raises(UserError, match=r"question 'q' occurs twice"):
        checked(QaData(passages, {"train": (question,), "dev": (question,)}), "mine")


@pytest.mark.parametrize(("field", "value"), [("text", 7), ("title", None)])
def test_a_task_with_something_else_than_text(field, value):
    passage = Passage("p", "title", "text")
    object.__setattr__(passage, field, value)  # the tests check what it is called with

    @dataclasses.dataclass(frozen=True)
    class Mine(Task):
        name = "mine"
        version = "1.0.0"
        cached = False

        def generate(self):
            return QaData((passage,), {"train": ()})

    with pytest.raises(UserError, match=r"passage 'p'"):
        Mine().load()


# Prepared data

DAMAGE = {
    "half": lambda content: content[: len(content) // 2],
    "null": lambda content: b"null",
    "flipped": lambda content: content[:100] + bytes([content[100] ^ 255]) + content[101:],
    "missing": None,
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A directory with prepared data."""
    root = tmp_path_factory.mktemp("prepared")
    builder.load(TinyTask(), root)
    return root


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize(
    "name", ["passages-*/*/dataset_info.json", "questions-*/*/dataset_info.json", "*/*/*dev.array*"]
)
def test_prepared_data_that_is_damaged(name, kind, prepared, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(prepared, root)
    (path,) = (root / "tiny").glob(name)
    damage = DAMAGE[kind]
    path.write_bytes(damage(path.read_bytes())) if damage else path.unlink()
    table = path.parents[1]
    with pytest.raises(UserError, match="can't be read") as caught:
        builder.load(TinyTask(), root)
    assert f"The prepared data in {str(table)!r}" in str(caught.value)
    assert "delete that directory, and it is prepared anew" in str(caught.value)
    if kind == "half":
        shutil.rmtree(table)
        assert builder.load(TinyTask(), root) == builder.load(TinyTask(), prepared)


class DamagedSource:
    """What TFDS gives of a dataset whose second row can't be read."""

    def __len__(self):
        return 2

    def __getitem__(self, row):
        if row:
            raise RuntimeError("Corrupted file:\nblock header")
        return {"text": b"whole"}


def test_rows_of_tfds_that_are_damaged(monkeypatch):
    monkeypatch.setattr("tensorflow_datasets.data_source", lambda *_, **__: DamagedSource())
    rows = read_examples("mine", "train")
    assert next(rows) == {"text": "whole"}
    with pytest.raises(UserError, match=r"Row 1 .*'train'.*'mine' can't be read \(Corrupted file"):
        next(rows)


# What JAX has compiled


def test_a_damaged_program_is_told_in_a_sentence(monkeypatch, tmp_path, capsys):
    updated = {}
    monkeypatch.setattr(jax, "config", SimpleNamespace(update=updated.__setitem__))
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: print(f"other: {message}"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("RAGJAX_DATA_DIR", str(tmp_path))
    keep_compiled()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("Error reading persistent compilation cache entry for 'f': -5", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    out, err = capsys.readouterr()
    assert out == "other: something else\n"
    assert err.endswith(f"delete {tmp_path / 'compiled'}, and it is made anew\n")
    assert updated["jax_compilation_cache_dir"] == str(tmp_path / "compiled")


# Files of a run


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("lexicon.json", lambda value: [1], "lexicon.json is not a list of words"),
        ("lexicon.json", lambda value: {}, "lexicon.json is not a list of words"),
        ("result.json", lambda value: value | {"calibration": [7]}, "calibration.* is malformed"),
        (
            "result.json",
            lambda value: value | {"calibration": value["calibration"] | {"weights": ["x"]}},
            "calibration.* is malformed",
        ),
        (
            "result.json",
            lambda value: value | {"calibration": value["calibration"] | {"threshold": None}},
            "calibration.* is malformed",
        ),
    ],
    ids=range(5),
)
def test_files_of_a_run_that_hold_something_else(name, change, said, copied):
    path = copied / name
    path.write_text(json.dumps(change(json.loads(path.read_bytes()))))
    with pytest.raises(UserError, match=said) as caught:
        load_run(copied)
    assert "train the run again" in str(caught.value)


def without_first(path):
    path.write_text(json.dumps(json.loads(path.read_bytes())[1:]))


def one_more_line(path):
    path.write_bytes(path.read_bytes() + b"\n")


def another_count(path):
    value = json.loads(path.read_bytes())
    path.write_text(json.dumps(value | {"cut_passages": value["cut_passages"] + 1}))


def other_statistics(path):
    with np.load(path) as arrays:
        content = dict(arrays)
    np.savez(path, **content | {"idf": content["idf"] + 1})


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        *(("lexicon.json", without_first), ("tokenizer.json", one_more_line)),
        *(("passages.jsonl", one_more_line), ("data.json", another_count)),
        ("corpus.npz", other_statistics),
    ],
)
def test_a_file_of_a_run_that_was_edited(name, edit, copied):
    """What can be read as well, but would give other answers under the run's name."""
    edit(copied / name)
    said = f"{copied / name} is not the file that the run began with; restore it or train the run again."
    with pytest.raises(UserError) as caught:
        load_run(copied)
    assert str(caught.value) == said
    if name == "lexicon.json":
        with pytest.raises(UserError) as caught:
            train(tiny_config.get_config(), copied, resume=True, console=PlainConsole())
        assert str(caught.value) == said
        run_of_an_older_version(copied)
        load_run(copied)


def run_of_an_older_version(run_dir):
    """Leaves out what older versions did not write."""
    origin = json.loads((run_dir / "origin.json").read_text())
    del origin["files"]
    (run_dir / "origin.json").write_text(json.dumps(origin))


def test_a_calibration_that_was_edited(copied):
    path = copied / "result.json"
    value = json.loads(path.read_bytes())
    value["calibration"]["threshold"] /= 2
    path.write_text(json.dumps(value))
    with pytest.raises(
        UserError, match=r"calibration in .*result\.json was edited; restore the file"
    ):
        load_run(copied)
    del value["calibration"]["digest"]  # as older versions wrote it
    path.write_text(json.dumps(value))
    assert load_run(copied).learner.calibration.threshold == value["calibration"]["threshold"]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("git_commit", 7, "has 7 for 'git_commit'"),
        ("runs", {"start": 7}, "has 7 for the run 'start'"),
        ("files", 7, "has 7 for 'files'"),
    ],
)
def test_an_origin_that_holds_something_else(field, value, said, tmp_path):
    origin = {"versions": {}, "modules": {}, "runs": {}, "files": {}, "git_commit": None}
    (tmp_path / "origin.json").write_text(json.dumps(origin))
    assert read_origin(tmp_path) == origin
    (tmp_path / "origin.json").write_text(json.dumps(origin | {field: value}))
    with pytest.raises(UserError, match=said):
        read_origin(tmp_path)


@pytest.mark.parametrize("name", ["lexicon.json", "data.json", "result.json"])
def test_files_of_a_run_that_are_nested_too_deeply(name, copied):
    (copied / name).write_text(DEEP[0])
    with pytest.raises(UserError, match=r"nested too deeply.*train the run again"):
        load_run(copied)
