"""Prepared data equals generated data, is reused, and is never stale."""

import dataclasses
import importlib.metadata
import pathlib
from dataclasses import dataclass
from typing import ClassVar

import pytest
from tiny_task import CachedTask

from ragjax.data import builder
from ragjax.errors import UserError
from ragjax.tasks.base import Task
from ragjax.tasks.world_facts import WorldFacts
from ragjax.types import Passage, QaData, Question


@dataclass(frozen=True)
class Tiny(Task):
    """A task of `size` facts, with text that isn't ASCII and answers of several kinds."""

    name: ClassVar[str] = "tiny"
    version: ClassVar[str] = "1.0.0"
    cached: ClassVar[bool] = True

    size: int = 3

    def generate(self) -> QaData:
        passages = tuple(Passage(f"p{i}", f"T{i}", f"Là, {i} – ÿ.") for i in range(self.size))
        questions = tuple(
            Question(f"q{i}", f"{i}?", (str(i), "é")[: 1 + i % 2], (f"p{i}",), "number", str(i))
            for i in range(self.size)
        )
        return QaData(
            passages, {"train": questions[2:], "test": questions[:1], "dev": questions[1:2]}
        )


@dataclass(frozen=True)
class Packaged(Tiny):
    """A task that reads a package."""

    name: ClassVar[str] = "packaged"
    packages: ClassVar[tuple[str, ...]] = ("some-facts",)


def test_round_trip(tmp_path):
    assert Tiny().load(tmp_path) == Tiny().generate()


def test_round_trip_of_world_facts(tmp_path):
    assert WorldFacts().load(tmp_path) == WorldFacts().generate()


def test_second_load_does_not_generate(tmp_path, monkeypatch):
    first = Tiny().load(tmp_path)

    def generate(self):
        raise AssertionError("generated again")

    monkeypatch.setattr(Tiny, "generate", generate)
    assert Tiny().load(tmp_path) == first
    with pytest.raises(AssertionError, match="generated again"):
        Tiny().load(tmp_path / "elsewhere")


def test_another_spec_is_another_directory(tmp_path):
    assert len(Tiny(size=3).load(tmp_path).passages) == 3
    assert len(Tiny(size=5).load(tmp_path).passages) == 5
    assert len(Tiny(size=3).load(tmp_path).passages) == 3


def test_fingerprint_covers_versions_of_packages(monkeypatch):
    found = []
    for version in ("1.0", "1.1", "1.0"):
        monkeypatch.setattr(importlib.metadata, "version", lambda name, v=version: v)
        found.append(Packaged().fingerprint())
    assert found[0] == found[2] != found[1]


def test_fingerprint_covers_the_source(monkeypatch):
    before = Tiny().fingerprint()
    read = pathlib.Path.read_bytes
    here = pathlib.Path(__file__).name
    monkeypatch.setattr(
        pathlib.Path, "read_bytes", lambda p: read(p) + (b"# edited" if p.name == here else b"")
    )
    assert Tiny().fingerprint() != before


def test_missing_package_is_named(tmp_path):
    with pytest.raises(UserError, match="pip install some-facts"):
        Packaged().load(tmp_path)


def test_interrupted_preparation_leaves_nothing_to_read(tmp_path, monkeypatch):
    write = builder.TableBuilder._generate_examples

    def interrupted(self, rows):
        for i, example in enumerate(write(self, rows)):
            if i == 2:
                raise KeyboardInterrupt
            yield example

    with monkeypatch.context() as patch:
        patch.setattr(builder.TableBuilder, "_generate_examples", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Tiny().load(tmp_path)
    assert Tiny().load(tmp_path) == Tiny().generate()


def test_rows_are_checked_before_they_are_prepared(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Blank(CachedTask):
        def generate(self):
            data = super().generate()
            first = dataclasses.replace(data.passages[0], text=" ")
            return dataclasses.replace(data, passages=(first, *data.passages[1:]))

    with pytest.raises(UserError, match="passage 'p0' has an empty text"):
        Blank().load(tmp_path)
    assert not list(tmp_path.rglob("*.array_record*"))


@pytest.mark.parametrize("error", [ValueError("no such\nfeature"), RuntimeError()])
def test_what_tfds_raises_is_one_sentence(tmp_path, monkeypatch, error):
    """Of another kind of exception than those of files, too; what comes of the project stays."""

    def fail(self):
        raise error

    monkeypatch.setattr(builder.TableBuilder, "download_and_prepare", fail)
    with pytest.raises(UserError) as caught:
        Tiny().load(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"The data of task tiny can't be prepared in {str(tmp_path)!r} (")
    assert f"({' '.join(str(error).split()) or 'RuntimeError'}); delete" in message
    assert "RAGJAX_DATA_DIR" in message
    assert "\n" not in message
    error = UserError("A sentence.")
    with pytest.raises(UserError, match=r"^A sentence\.$"):
        Tiny().load(tmp_path)


def test_data_dir_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("RAGJAX_DATA_DIR", str(tmp_path / "there"))
    Tiny().load()
    assert list((tmp_path / "there").glob("tiny/passages-*/1.0.0/*.array_record*"))


def test_unusable_data_dir(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as error:
        Tiny().load(tmp_path / "file" / "data")
    message = str(error.value)
    assert str(tmp_path / "file" / "data") in message
    assert "RAGJAX_DATA_DIR" in message
    assert "\n" not in message


def test_nothing_is_printed(tmp_path, capfd):
    Tiny().load(tmp_path)
    assert capfd.readouterr() == ("", "")
