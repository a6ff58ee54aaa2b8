"""What is written is read back before it counts: configs, checkpoints, and names of all kinds."""

import contextlib
import dataclasses
import enum
import json
import math
import os
import random
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config
from tiny_task import CachedTask, TinyTask

from ragjax import commands, files
from ragjax.config import from_json, read_json, require_rebuilt, to_json, write_config
from ragjax.data.prepared import ARRAYS, LEXICON, PASSAGES, TOKENIZER, PreparedText
from ragjax.errors import UserError
from ragjax.learners.questions import QuestionsConfig
from ragjax.printing import PlainConsole
from ragjax.ranges import hints_of
from ragjax.training import checkpoint
from ragjax.training.checkpoint import MANIFEST, STATE, Checkpoints

pytest_plugins = ["tiny_run"]

SUPPORT = Path(__file__).parent / "support"
CONFIG = SUPPORT / "tiny_config.py"


# Configs


@dataclass(frozen=True)
class Holder(TinyTask):
    """A task with a field of each kind that a user may think of."""

    place: Path = Path("data/a b")
    maybe: Path | None = None
    several: tuple[Path, ...] = ()
    pair: tuple[int, Path] = (1, Path("x"))
    word: str = "data/a b"
    either: str | Path = "text"
    anything: object = None
    computed: str = field(init=False, default="")

    def __post_init__(self):
        object.__setattr__(self, "computed", f"{self.word}!")


class Colour(enum.StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Odd:
    """A spec whose making fails the second time, with an error of its own."""

    made: list = field(default_factory=list, compare=False)
    fine: bool = True

    def __post_init__(self):
        if not self.fine or Odd.broken:
            raise RuntimeError("no more")


Odd.broken = False


def with_task(task):
    return dataclasses.replace(tiny_config.get_config(), task=task)


PATHS = [
    Holder(),
    Holder(place=Path("/abs/é/[1]"), maybe=Path("a"), several=(Path("b"), Path("c"))),
    Holder(pair=(2, Path("."))),
    Holder(place=Path(os.fsdecode(b"\xff"))),
    Holder(several=[Path("b")]),  # a list is as good as a tuple
]


@pytest.mark.parametrize("task", PATHS, ids=range(len(PATHS)))
def test_paths_survive(task, tmp_path):
    whole = with_task(task)
    require_rebuilt(whole)
    write_config(tmp_path / "config.json", whole)
    found = read_json(tmp_path / "config.json").task
    assert found == dataclasses.replace(task, several=tuple(task.several))
    assert isinstance(found.place, Path)
    assert all(isinstance(path, Path) for path in (*found.several, found.pair[1]))
    assert isinstance(found.word, str)
    assert found.computed == "data/a b!"
    value = json.loads((tmp_path / "config.json").read_text())["task"]
    assert value["place"] == str(task.place)
    assert "computed" not in value


def test_paths_by_hints_of_other_forms():
    @dataclass(frozen=True)
    class Local:
        """Its hints name what is nowhere."""

        place: "Nowhere" = Path("a")

    assert to_json(Local())["place"] == "a"
    assert hints_of(Local) == {}


WRONG = [
    (
        {"anything": {1, 2}},
        "task.anything of the config is {1, 2} of type set, which config.json can't",
    ),
    ({"anything": {"a": 1}}, "task.anything of the config is {'a': 1} of type dict, which"),
    ({"anything": (0, 1 + 2j)}, "task.anything.1 of the config is (1+2j) of type complex, which"),
    ({"anything": np.float32(1)}, "task.anything of the config is"),
    ({"anything": np.int64(1)}, "of type int64, which config.json can't hold"),
    ({"anything": np.zeros(2)}, "of type ndarray, which"),
    ({"anything": len}, "of type builtin_function_or_method, which"),
    ({"anything": TinyTask}, "of type type, which"),
    ({"anything": b"x"}, "of type bytes, which"),
    ({"anything": Colour.RED}, "of type Colour, which"),
    ({"either": Path("a")}, "task.either of the config is not the same once it was written"),
    ({"anything": (Path("a"),)}, "task.anything.0 of the config is not the same once"),
    (
        {"word": Path("a")},
        "task.word of the config is not the same once it was written as JSON and",
    ),
]


@pytest.mark.parametrize(("fields", "said"), WRONG, ids=[str(n) for n in range(len(WRONG))])
def test_what_json_cannot_hold(fields, said, tmp_path):
    """Said in one sentence that names the field, before anything is made."""
    whole = with_task(Holder(**fields))
    with pytest.raises(UserError) as error:
        commands.train(whole, tmp_path / "run", resume=False, console=PlainConsole(quiet=True))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "value", [0, -1, True, 0.1, 1e-320, math.inf, math.nan, "", "é\n", None, ()]
)
def test_what_it_can(value, tmp_path):
    whole = with_task(Holder(anything=value))
    write_config(tmp_path / "config.json", whole)
    found = read_json(tmp_path / "config.json").task.anything
    assert repr(found) == repr(value)


def local_task():
    @dataclass(frozen=True)
    class Hidden(TinyTask):
        pass

    return Hidden()


class Outer:
    @dataclass(frozen=True)
    class Inner(TinyTask):
        pass


@dataclass(frozen=True)
class Replaced(TinyTask):
    pass


OLD = Replaced()


@dataclass(frozen=True)
class Replaced(TinyTask):
    pass


def of_main():
    kind = dataclasses.make_dataclass("Mine", [], bases=(TinyTask,), frozen=True)
    kind.__module__ = "__main__"
    sys.modules["__main__"].Mine = kind
    return kind()


def of_nowhere():
    kind = dataclasses.make_dataclass("Mine", [], bases=(TinyTask,), frozen=True)
    kind.__module__ = "a_module_that_is_gone"
    return kind()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (local_task, "task is a local_task.<locals>.Hidden of module '"),
        (Outer.Inner, "task is a Outer.Inner of module '"),
        (lambda: OLD, "task is a Replaced of module '"),
        (of_main, "task is a Mine of module '__main__', where it can't be found again"),
        (of_nowhere, "task is a Mine of module 'a_module_that_is_gone', where it can't be found"),
        (
            lambda: Holder(anything=(1, local_task())),
            "task.anything.1 is a local_task.<locals>.Hid",
        ),
    ],
)
def test_classes_that_nobody_finds_again(make, said, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "Mine", None, raising=False)
    whole = with_task(make())
    for begin in (
        lambda: commands.train(
            whole, tmp_path / "run", resume=False, console=PlainConsole(quiet=True)
        ),
        lambda: commands.check(whole, PlainConsole(quiet=True)),
        lambda: write_config(tmp_path / "config.json", whole),
    ):
        with pytest.raises(UserError) as error:
            begin()
        assert str(error.value).startswith(said)
        assert "define it at the top level of a module or of the config file" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_spec_that_fails_when_it_is_made_again(tmp_path, monkeypatch):
    whole = with_task(Holder(anything=Odd()))
    require_rebuilt(whole)
    monkeypatch.setattr(Odd, "broken", True)
    with pytest.raises(UserError, match=r"Odd' can't be rebuilt \(no more\)"):
        require_rebuilt(whole)


def test_a_module_that_fails_when_it_is_imported(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('not today')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"can't be rebuilt \(not today\)"):
        from_json({"type": "broken_module.Spec"}, {"broken_module": ""})


def test_a_config_with_a_field_called_modules():
    kind = dataclasses.make_dataclass(
        "WithModules", [("modules", tuple, ())], bases=(QuestionsConfig,), frozen=True, kw_only=True
    )
    kind.__module__ = __name__
    globals()["WithModules"] = kind
    plain = tiny_config.get_config()
    fields = {item.name: getattr(plain, item.name) for item in dataclasses.fields(plain)}
    require_rebuilt(kind(**fields))
    with pytest.raises(UserError, match=r"^modules of the config is not the same once"):
        require_rebuilt(kind(**fields, modules=("a",)))


def test_a_file_that_comes_back_changed(tmp_path, monkeypatch):
    """By a disk, or by another program: it doesn't count as a run."""
    whole, write = tiny_config.get_config(), files.write_atomically
    for change in (lambda data: data.replace(b'"seed": 0', b'"seed": 1'), lambda data: data[:-9]):
        monkeypatch.setattr(
            files, "write_atomically", lambda path, data, change=change: write(path, change(data))
        )
        with pytest.raises(UserError):
            write_config(tmp_path / "config.json", whole)
        assert list(tmp_path.iterdir()) == []


def test_the_config_comes_before_the_data(tmp_path, monkeypatch):
    def load(self, data_dir=None):
        raise AssertionError("prepared before the config was looked at")

    monkeypatch.setattr(Holder, "load", load)
    with pytest.raises(UserError, match="of type set"):
        commands.train(
            with_task(Holder(anything={1})),
            tmp_path / "run",
            resume=False,
            console=PlainConsole(quiet=True),
        )


# Corpora


ODD_TEXTS = ["line\nbreak", "\r\n", "\u2028 \u2029 \x85 \x0b", '"\\', "\x00 \x1f", "é中😀", " "]


@dataclass(frozen=True)
class OddTask(TinyTask):
    """Passages of which a careless reader makes several."""

    def generate(self):
        data = super().generate()
        passages = list(data.passages)
        for place, text in enumerate(ODD_TEXTS):
            passages[place] = dataclasses.replace(passages[place], text=text, title=text)
        return dataclasses.replace(data, passages=tuple(passages))


def prepared():
    return PreparedText.make(tiny_config.get_config().tokenizer, OddTask().generate())


def test_a_corpus_is_the_same_again(tmp_path):
    text = prepared()
    text.save(tmp_path / "run[1]")
    again = PreparedText.load(text.spec, tmp_path / "run[1]")
    assert again.corpus.passages == text.corpus.passages
    assert [passage.text for passage in again.corpus.passages[: len(ODD_TEXTS)]] == ODD_TEXTS


@pytest.mark.parametrize("name", [PASSAGES, ARRAYS, LEXICON, TOKENIZER])
def test_a_corpus_that_comes_back_changed(name, tmp_path, monkeypatch):
    write = files.write_atomically

    def faulty(path, data):
        changed = data.replace(b"quiet", b"noisy") if name == PASSAGES else data[:-9]
        write(path, changed if path.name == name else data)

    for module in ("prepared", "tokenizer"):
        monkeypatch.setattr(f"ragjax.data.{module}.write_atomically", faulty)
    with pytest.raises(UserError) as error:
        prepared().save(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_data_is_prepared_in_a_directory_of_an_odd_name(tmp_path):
    for name in ("d[1]", "a*?{b}", " é#%20"):
        assert CachedTask().load(tmp_path / name) == CachedTask().generate()
        assert list((tmp_path / name).glob("tiny_cached/passages-*/*/*.array_record*"))


# Checkpoints


def state_of(number):
    return {
        "a": jnp.arange(4.0) + number,
        "b": (jnp.ones(3, jnp.bfloat16), None, jnp.asarray(number)),
    }


def drawn_names(count=8):
    """Names of up to twelve signs, of which most mean something to some program."""
    rng = random.Random(0)
    signs = "[]{}*?!^-~$&|;:#%@=+,.'\"\\ \t\n<>()abc19é中😀\u202e"
    names = ["".join(rng.choices(signs, k=rng.randint(1, 12))) for _ in range(count)]
    return [name for name in names if name not in (".", "..")]


NAMES = [
    *("lr[1e-3]", "[a-z]", "[!a]", "a*b", "**", "a?b", "a b", " a ", "{a}", "{a,b}", "{}", "a\\b"),
    *(
        "-x",
        "--run",
        "gs:",
        "s3:",
        "file:",
        "C:",
        "é中",
        "e\u0301",
        "😀",
        "$HOME",
        "~",
        "%20",
        "a\nb",
    ),
    *("a#b", "...", ".hidden", "'\"", "a|b;c&d", "partial-1", "1", "[bold]", "[/red]"),
    os.fsdecode(b"\xff\xfe"),
    *drawn_names(),
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_of_directories(name, tmp_path):
    checkpoints = Checkpoints(tmp_path / name / "checkpoints")
    for step in (1, 2):
        checkpoints.save(step, state_of(step))
    step, state, damaged = Checkpoints(tmp_path / name / "checkpoints").restore(state_of(0))
    assert (step, damaged) == (2, [])
    assert state["a"].tolist() == [2.0, 3.0, 4.0, 5.0]
    assert state["b"][0].dtype == jnp.bfloat16
    assert [path.name for path in tmp_path.iterdir()] == [name.split("/")[0]]
    assert sorted(path.name for path in checkpoints.directory.iterdir()) == ["1", "2"]


# Orbax, stopped by the error, may still call the event loop that it has closed.
@pytest.mark.filterwarnings(
    "ignore:(?s).*Event loop is closed:pytest.PytestUnraisableExceptionWarning"
)
def test_names_are_enough_to_fail_without_a_harmless_one(tmp_path, monkeypatch):
    """And then it is noticed while the run can still be begun elsewhere."""
    monkeypatch.setattr(checkpoint, "_plain", contextlib.nullcontext)
    checkpoints = Checkpoints(tmp_path / "lr[1e-3]")
    with pytest.raises(UserError) as error:
        checkpoints.save(1, state_of(1))
    message = str(error.value)
    assert message.startswith(f"Checkpoint 1 can't be read again from {checkpoints.directory} (")
    assert "\n" not in message
    assert list(checkpoints.directory.iterdir()) == []


def test_nothing_is_left_where_the_harmless_name_was(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.tempfile, "tempdir", str(tmp_path))
    checkpoints = Checkpoints(tmp_path / "a[b]")
    checkpoints.save(1, state_of(1))
    checkpoints.restore(state_of(0))
    assert [path.name for path in tmp_path.iterdir()] == ["a[b]"]


def test_every_checkpoint_is_read_again_on_the_host(tmp_path, monkeypatch):
    orbax, loads = checkpoint._orbax(), []
    load = orbax.load
    monkeypatch.setattr(orbax, "load", lambda *args: (loads.append(args), load(*args))[1])
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save(step, state_of(step))
    assert len(loads) == 3
    for _, shapes in loads:
        assert not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(shapes))


def changed(found):
    return found | {"a": found["a"] + np.float32(1e-7) * (found["a"] == 5.0) + 1e-6}


@pytest.mark.parametrize("fault", ["other numbers", "an error"])
def test_a_checkpoint_that_comes_back_changed(fault, tmp_path, monkeypatch):
    orbax = checkpoint._orbax()
    load = orbax.load
    checkpoints = Checkpoints(tmp_path)
    Checkpoints(tmp_path).save(1, state_of(1))

    def faulty(*args):
        if fault == "an error":
            raise KeyError("several\nlines")
        return changed(load(*args))

    with monkeypatch.context() as patch:
        patch.setattr(orbax, "load", faulty)
        for step in (1, 2):
            with pytest.raises(UserError) as error:
                checkpoints.save(step, state_of(4))
            reason = "KeyError" if fault == "an error" else "it differs from what was written"
            assert f"Checkpoint {step} can't be read again from {tmp_path} ({reason}" in str(
                error.value
            )
            assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1"]
    assert Checkpoints(tmp_path).restore(state_of(0))[1]["a"].tolist() == [1.0, 2.0, 3.0, 4.0]
    checkpoints.save(2, state_of(2))
    assert checkpoints.steps() == [1, 2]


def test_nan_and_signs_of_zero_are_compared_by_their_bits(tmp_path):
    Checkpoints(tmp_path).save(1, {"a": jnp.array([jnp.nan, -0.0, jnp.inf])})
    assert Checkpoints(tmp_path).steps() == [1]


def test_a_failing_rename_brings_the_replaced_one_back(tmp_path, monkeypatch):
    checkpoints, rename = Checkpoints(tmp_path), Path.rename
    checkpoints.save(1, state_of(1))

    def failing(path, target):
        if Path(target).name == "1" and not path.name.endswith("-replaced"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(UserError, match="Input/output error"):
            checkpoints.save(1, state_of(2))
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert checkpoints.restore(state_of(0))[1]["a"].tolist() == [1.0, 2.0, 3.0, 4.0]


# Runs


def test_a_run_in_a_directory_of_an_odd_name(ragjax, trained, tmp_path, monkeypatch):
    """It goes on there and is used: what differs from any other run is the place."""
    name = "-lr[1e-3] {a}*?é[/b" + os.fsdecode(b"\xff")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, name)
    for left in ("result.json", "checkpoints/11"):
        path = Path(name) / left
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    words = ("train", CONFIG, f"--run-dir=./{name}", "--resume")
    code, _, err = ragjax(*words)
    assert code == 0, err
    assert "continuing at step 8 of 11" in err
    for file in ("metrics.jsonl", "predictions.jsonl"):
        assert (Path(name) / file).read_bytes() == (trained / file).read_bytes()
    code, out, err = ragjax("evaluate", f"./{name}", "--json")
    assert code == 0, err
    result = json.loads((trained / "result.json").read_text())
    assert json.loads(out)["em"] == result["em"]


def test_names_in_what_is_said(tmp_path, capsys):
    """Rich takes brackets for its own, and fails at those that close nothing."""
    from ragjax.training.logging import RunProgress

    console = PlainConsole(width=200, force_terminal=False)
    progress = RunProgress(console, 10, 0)
    progress.say("see runs/[/red]/lr[bold]/a")
    progress.warn(3, "hub [/yellow]")
    assert capsys.readouterr().out.splitlines() == [
        "see runs/[/red]/lr[bold]/a",
        "retriever warning at step 3: hub [/yellow]",
    ]


def test_manifest_is_written_last(tmp_path, monkeypatch):
    """Whatever is in a checkpoint without one was not read back."""
    checkpoints, seen = Checkpoints(tmp_path), []
    readable = Checkpoints._require_readable

    def look(self, step, directory, state):
        seen.append(sorted(path.name for path in directory.iterdir()))
        assert not (tmp_path / str(step)).exists()
        readable(self, step, directory, state)

    monkeypatch.setattr(Checkpoints, "_require_readable", look)
    checkpoints.save(1, state_of(1))
    assert seen == [[MANIFEST, STATE]]
