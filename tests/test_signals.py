"""Ctrl-C and SIGTERM, whenever they come: nothing is torn, nothing is lost, and the run goes on."""

import json
import random
import shlex
import signal
import threading
import time
from pathlib import Path

import jax.numpy as jnp
import pytest
from plain_run import PlainConfig, PlainLearner, PlainRecords
from processes import PATIENCE, wait_for
from tiny_task import CachedTask

from ragjax import cli, commands, compiled, result_commands, run_training, train_command
from ragjax.data import builder
from ragjax.envs import from_gymnasium
from ragjax.evaluation import making
from ragjax.evaluation.tables import Row
from ragjax.interrupts import (
    INTERRUPTED,
    SIGNALS,
    held_interrupts,
    interrupted_twice,
    raised_interrupts,
    stop_if_interrupted,
)
from ragjax.printing import PlainConsole
from ragjax.training.checkpoint import Checkpoints
from ragjax.training.logging import MetricLog

pytest_plugins = ["tiny_run"]

SUPPORT = Path(__file__).parent / "support"
CONFIG = SUPPORT / "plain_config.py"
NAMES = {number: number.name for number in SIGNALS}


@pytest.fixture(autouse=True)
def _handlers():
    """Whatever happens, the handlers are as they were."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


# The flag


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_a_flag(number):
    stop_if_interrupted()
    with held_interrupts() as interrupted:
        assert not interrupted()
        stop_if_interrupted()
        signal.raise_signal(number)
        assert interrupted()
        assert not interrupted_twice()
        with pytest.raises(KeyboardInterrupt):
            stop_if_interrupted()
    stop_if_interrupted()
    with held_interrupts() as interrupted:
        assert not interrupted()  # another block, another flag


@pytest.mark.parametrize("second", SIGNALS)
def test_a_second_signal_is_raised_at_once(second):
    with held_interrupts():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)
        assert interrupted_twice()
    assert not interrupted_twice()


def test_blocks_within_one_another_share_the_flag():
    with held_interrupts() as outer:
        with held_interrupts(polled=False) as inner:
            signal.raise_signal(signal.SIGTERM)
            assert outer()
            assert inner()
            stop_if_interrupted()  # the inner block looks itself
            with held_interrupts(), pytest.raises(KeyboardInterrupt):
                stop_if_interrupted()
            stop_if_interrupted()
        with pytest.raises(KeyboardInterrupt):
            stop_if_interrupted()


def test_signals_may_have_their_usual_effect_within():
    with held_interrupts():
        with raised_interrupts():
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), raised_interrupts():
            raise AssertionError("it had come before")
    with raised_interrupts():
        pass


def test_a_block_within_those_holds_signals_again():
    with held_interrupts(), raised_interrupts():
        with held_interrupts() as interrupted:
            signal.raise_signal(signal.SIGTERM)
            assert interrupted()
        stop_if_interrupted()
        with held_interrupts() as interrupted:
            assert not interrupted()


def test_in_another_thread_nothing_is_held():
    told = []

    def work():
        with held_interrupts() as interrupted, raised_interrupts():
            told.append(interrupted())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert told == [False]


# Runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The directory of a run that nothing disturbed."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    assert cli.main(["train", str(CONFIG), "--run-dir", str(run_dir)]) == 0
    return run_dir


@pytest.fixture
def signalled(monkeypatch):
    """(signal, owner, name, number of the call, how often) -> it comes at the start of that call."""

    def arrange(number, owner, name, call=1, times=1):
        function, calls = getattr(owner, name), []

        def wrapped(*arguments, **options):
            calls.append(None)
            if len(calls) == call:
                for _ in range(times):
                    signal.raise_signal(number)
            return function(*arguments, **options)

        monkeypatch.setattr(owner, name, wrapped)
        return calls

    return arrange


# What is called when a signal comes, which of its calls, and the checkpoints of the run that is left; or
# None if it can't be resumed yet.
MOMENTS = {
    "before the imports": (train_command, "_holds_run", 1, None),
    "the config": (PlainConfig, "__post_init__", 1, None),
    "before the run": (compiled, "keep_compiled", 1, None),
    "looking at the directory": (commands, "check_run_dir", 1, None),
    "preparing": (PlainConfig, "create", 1, None),
    "the first state": (run_training, "starting_state", 1, None),
    "saving what was prepared": (PlainLearner, "save", 1, []),
    "the config's file": (run_training, "write_config", 1, []),
    "the log": (MetricLog, "__init__", 1, []),
    "the first step": (PlainLearner, "feed", 1, [1]),
    "the second step": (PlainLearner, "feed", 2, [2]),
    "a row": (MetricLog, "write", 2, [3]),
    "measuring on the way": (PlainLearner, "measure", 1, [3]),
    "the first checkpoint": (Checkpoints, "save", 1, [4, 5]),
    "the files of a checkpoint": (Checkpoints, "_require_readable", 1, [4, 5]),
    "another step": (PlainLearner, "feed", 8, [4, 8]),
    "the last row": (MetricLog, "write", 11, [8, 9]),
    "the last step": (PlainLearner, "feed", 11, [8, 11]),
    "the last checkpoint": (Checkpoints, "save", 3, [8, 11]),
    "finishing": (PlainLearner, "finish", 1, [8, 11]),
    "measuring": (PlainLearner, "evaluate", 1, [8, 11]),
    "the records": (PlainRecords, "write", 1, [8, 11]),
    "the facts": (run_training, "provenance", 1, [8, 11]),
    "the result": (run_training, "write_json", 1, [8, 11]),
    "the report": (result_commands, "print_report", 1, [8, 11]),
}


def require_whole(run_dir):
    """Every file that is there can be read, and nothing half-written lies about."""
    names = [path.name for path in run_dir.rglob("*")]
    assert not [
        name for name in names if name.startswith(("partial-", "lock.", ".")) or "tmp" in name
    ]
    for name in ("config.json", "result.json"):
        if (run_dir / name).exists():
            json.loads((run_dir / name).read_text())
    for name in ("metrics.jsonl", "predictions.jsonl"):
        if (run_dir / name).exists():
            for line in (run_dir / name).read_text().splitlines():
                json.loads(line)
    checkpoints = Checkpoints(run_dir / "checkpoints")
    assert all(checkpoints.is_whole(step) for step in checkpoints.steps())
    return checkpoints.steps()


def require_stopped(ended, run_dir, goes_on):
    """What a run that was stopped returns and says."""
    code, _, err = ended
    assert code == INTERRUPTED, err
    assert "Traceback" not in err
    words = ["ragjax", "train", str(CONFIG), "--run-dir", str(run_dir), *["--resume"] * goes_on]
    assert err.splitlines()[-1] == f"stopped; continue with: {shlex.join(words)}"
    return words[1:]


def require_same(run_dir, whole):
    for name in ("config.json", "metrics.jsonl", "predictions.jsonl", "words.txt"):
        assert (run_dir / name).read_bytes() == (whole / name).read_bytes(), name
    timed = {"train_seconds", "train_cpu_seconds", "total_seconds", "resumed_at", "peak_memory_mb"}
    one, other = (json.loads((place / "result.json").read_text()) for place in (run_dir, whole))
    assert {k: v for k, v in one.items() if k not in timed} == {
        k: v for k, v in other.items() if k not in timed
    }


def numbered(moments):
    """Each moment with one of the signals, in turn."""
    return [(name, SIGNALS[place % 2]) for place, name in enumerate(moments)]


@pytest.mark.parametrize(("moment", "number"), numbered(MOMENTS))
def test_a_signal_at_any_moment(moment, number, signalled, ragjax, whole, tmp_path, monkeypatch):
    owner, name, call, steps = MOMENTS[moment]
    run_dir = tmp_path / "a run"
    calls = signalled(number, owner, name, call)
    ended = ragjax("train", CONFIG, "--run-dir", run_dir)
    assert len(calls) >= call
    monkeypatch.undo()
    words = require_stopped(ended, run_dir, steps is not None)
    if steps is None:
        assert not run_dir.exists()
    else:
        assert require_whole(run_dir) == steps
    # What is written after the moment is not there yet.
    assert (run_dir / "result.json").exists() == (moment in ("the result", "the report"))
    late = ("the records", "the facts", "the result", "the report")
    assert (run_dir / "predictions.jsonl").exists() == (moment in late)
    code, _, err = ragjax(*words)
    assert code == 0, err
    require_same(run_dir, whole)


TWICE = [name for name, (_, _, _, steps) in MOMENTS.items() if steps is not None]


@pytest.mark.parametrize(("moment", "number"), numbered(TWICE))
def test_two_signals_at_any_moment(moment, number, signalled, ragjax, whole, tmp_path, monkeypatch):
    """The second one is raised at once; what is written stays whole."""
    owner, name, call, _ = MOMENTS[moment]
    run_dir = tmp_path / "run"
    signalled(number, owner, name, call, times=2)
    ended = ragjax("train", CONFIG, "--run-dir", run_dir)
    monkeypatch.undo()
    words = require_stopped(ended, run_dir, (run_dir / "config.json").exists())
    if run_dir.exists():
        require_whole(run_dir)
    code, _, err = ragjax(*words)
    assert code == 0, err
    require_same(run_dir, whole)


def test_a_signal_while_the_files_of_a_resumed_run_are_read(signalled, ragjax, whole, tmp_path):
    """Twice in a row, and the run is what it was."""
    run_dir = tmp_path / "run"
    calls = signalled(signal.SIGINT, PlainLearner, "feed", 5)
    words = require_stopped(ragjax("train", CONFIG, "--run-dir", run_dir), run_dir, True)
    signalled(signal.SIGTERM, Checkpoints, "restore", 1)
    require_stopped(ragjax(*words), run_dir, True)
    assert len(calls) == 5
    assert require_whole(run_dir) == [4, 5]
    code, _, err = ragjax(*words)
    assert code == 0, err
    require_same(run_dir, whole)


def test_only_a_run_of_ones_own_is_continued(signalled, ragjax, whole):
    """A run that lay there before, and was not to be resumed, is not advised to be."""
    before = require_whole(whole)
    signalled(signal.SIGINT, compiled, "keep_compiled")
    require_stopped(ragjax("train", CONFIG, "--run-dir", whole), whole, False)
    assert require_whole(whole) == before


def test_resuming_what_is_no_run(signalled, ragjax, tmp_path):
    signalled(signal.SIGINT, train_command, "_holds_run")
    run_dir = tmp_path / "run"
    require_stopped(ragjax("train", CONFIG, "--run-dir", run_dir, "--resume"), run_dir, False)


def test_the_directory_that_a_run_chooses_itself(signalled, ragjax, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    signalled(signal.SIGINT, PlainLearner, "feed", 2)
    code, _, err = ragjax("train", CONFIG, "--seed", 3)
    assert code == INTERRUPTED
    words = f"train {CONFIG} --seed 3 --run-dir runs/plain/plain_config/seed_3 --resume"
    assert err.splitlines()[-1] == f"stopped; continue with: ragjax {words}"
    # Before the config is read, no directory is known.
    signalled(signal.SIGINT, cli, "_parse_with_overrides")
    code, _, err = ragjax("train", CONFIG, "--seed", 4)
    assert (code, err) == (
        INTERRUPTED,
        f"stopped; continue with: ragjax train {CONFIG} --seed 4\n",
    )


def test_several_seeds(signalled, ragjax, tmp_path):
    run_dir = tmp_path / "run"
    signalled(signal.SIGTERM, PlainRecords, "write", 2)
    code, _, err = ragjax("train", CONFIG, "--num-seeds", 2, "--run-dir", run_dir)
    assert code == INTERRUPTED, err
    assert err.splitlines()[-1].endswith(f"--num-seeds 2 --run-dir {run_dir} --resume")
    assert (run_dir / "seed_0" / "result.json").exists()
    assert not (run_dir / "seed_1" / "result.json").exists()
    assert require_whole(run_dir) == [8, 11]
    code, _, err = ragjax("train", CONFIG, "--num-seeds", 2, "--run-dir", run_dir, "--resume")
    assert code == 0, err
    assert (run_dir / "seed_1" / "result.json").exists()


def test_an_exception_that_a_second_signal_became(ragjax, monkeypatch, tmp_path):
    """JAX turns what a callback raises into an error of its own."""

    def feed(self, seed, step):
        try:
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("INTERNAL: callback failed") from None

    monkeypatch.setattr(PlainLearner, "feed", feed)
    run_dir = tmp_path / "run"
    require_stopped(ragjax("train", CONFIG, "--run-dir", run_dir), run_dir, True)


def test_errors_stay_errors(ragjax, monkeypatch, signalled, tmp_path):
    """One signal makes no other failure of the run a success."""

    def create(self):
        signal.raise_signal(signal.SIGINT)
        raise ZeroDivisionError

    monkeypatch.setattr(PlainConfig, "create", create)
    with pytest.raises(ZeroDivisionError):
        ragjax("train", CONFIG, "--run-dir", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_looking_at_a_run_only(signalled, ragjax):
    """There is nothing to continue."""
    signalled(signal.SIGINT, compiled, "keep_compiled")
    signalled(signal.SIGINT, commands, "check")
    code, _, err = ragjax("train", CONFIG, "--check")
    assert (code, err) == (INTERRUPTED, "")


def test_other_commands_end_at_once(ragjax, whole, monkeypatch):
    def load(*_):
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it went on")

    monkeypatch.setattr(commands, "load_run", load)
    assert ragjax("answer", whole, "Where?") == (INTERRUPTED, "", "")


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (compiled, "keep_compiled"),
        (commands, "open_run"),
        (PlainLearner, "evaluate"),
    ],
)
def test_a_signal_while_a_run_is_measured(owner, name, signalled, ragjax, whole, tmp_path):
    """It is a flag, so that whatever goes on is finished, and nothing is said or written after it."""
    signalled(signal.SIGTERM, owner, name)
    output = tmp_path / "records.jsonl"
    assert ragjax("evaluate", whole, "--output", output) == (INTERRUPTED, "", "")
    assert not output.exists()


def test_a_table_waits_for_the_run_that_it_makes(monkeypatch):
    """Both get Ctrl-C, and the run then saves what it has."""
    waits = []

    class Process:
        def __init__(self, command):
            assert command[1:4] == ["-m", "ragjax", "train"]

        def wait(self):
            waits.append(None)
            if len(waits) == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(making.subprocess, "Popen", Process)
    row = Row("a", "a.py")
    with pytest.raises(KeyboardInterrupt):
        making._make_run(row, [0], Path("nowhere"))
    assert len(waits) == 2


# What takes long


def test_measuring_ends_between_two_batches():
    with held_interrupts(), run_training.measuring(PlainConsole(quiet=True)) as told:
        told(1, 3)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            told(2, 3)


def test_preparing_data(tmp_path, monkeypatch):
    """Between two examples."""
    write = builder.TableBuilder._generate_examples

    def interrupted(self, rows):
        for place, example in enumerate(write(self, rows)):
            if place == 2:
                signal.raise_signal(signal.SIGTERM)
            assert place < 3
            yield example

    with monkeypatch.context() as patch:
        patch.setattr(builder.TableBuilder, "_generate_examples", interrupted)
        with held_interrupts(), pytest.raises(KeyboardInterrupt):
            CachedTask().load(tmp_path)
    assert not list(tmp_path.rglob("*incomplete*"))
    assert CachedTask().load(tmp_path) == CachedTask().generate()


@pytest.mark.parametrize("polled", [True, False])
def test_environments_on_the_host(polled):
    """JAX swallows what a callback raises: the guard around it tells."""
    pytest.importorskip("gymnasium")
    spec = from_gymnasium.Gymnasium(id="CartPole-v1")
    env, played = spec.vectorise(2), []

    def play():
        with spec.guard():
            state, timestep = env.reset((), jnp.zeros(2, jnp.uint32))
            for step in range(4):
                if step == 2:
                    signal.raise_signal(signal.SIGINT)
                state, timestep = env.step((), None, state, jnp.zeros(2, jnp.int32))
                played.append(float(timestep.reward[0]))

    with held_interrupts(polled=polled):
        if polled:
            with pytest.raises(KeyboardInterrupt):
                play()
        else:
            play()
    assert played[:2] == [1.0, 1.0]
    assert (played[2:] == [1.0, 1.0]) == (not polled)


# Processes


@pytest.mark.parametrize(
    ("number", "module", "words"),
    [
        (signal.SIGINT, "tyro", ("train",)),
        (signal.SIGTERM, "jaxlib", ("train",)),
        (signal.SIGINT, "rich", ("evaluate",)),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_while_modules_are_imported(number, module, words, processes, tmp_path):
    program = (SUPPORT / "signalled.py", int(number), module)
    arguments = ("train", CONFIG, "--run-dir", tmp_path / "run")
    if words == ("evaluate",):
        arguments = ("evaluate", tmp_path / "run")
    process = processes(arguments, program)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == INTERRUPTED, errors
    if words == ("train",):
        require_stopped((INTERRUPTED, "", errors), tmp_path / "run", False)
    else:
        assert errors == ""
    assert list(tmp_path.iterdir()) == []


def test_a_real_process_at_a_drawn_moment(processes, whole, ragjax, tmp_path):
    """From the lock on, wherever it is by then."""
    run_dir = tmp_path / "run"
    process = processes(("train", CONFIG, "--run-dir", run_dir))
    wait_for(process, run_dir / "lock.1")
    time.sleep(random.uniform(0.0, 0.3))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE)
    goes_on = (run_dir / "config.json").exists()
    words = require_stopped((process.returncode, "", errors), run_dir, goes_on)
    if run_dir.exists():
        require_whole(run_dir)
    code, _, err = ragjax(*words)
    assert code == 0, err
    require_same(run_dir, whole)
