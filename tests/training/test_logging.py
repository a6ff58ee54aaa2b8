"""The log of a resumed run is the one an uninterrupted run writes."""

import errno
import io
import json
import sys

import numpy as np
import pytest

from ragjax.errors import UserError
from ragjax.printing import PlainConsole
from ragjax.training.logging import METRICS, MetricLog, RunProgress, SeedLogs


def write(run_dir, start, steps):
    log = MetricLog(run_dir, start)
    for step in steps:
        log.write(step, {"loss": 1.0 / step, "recall": 0.1 * step})
        if step % 2 == 0:
            log.write(step, {"dev/em": 0.5})
    log.close()


@pytest.fixture
def expected(tmp_path):
    write(tmp_path / "whole", 0, range(1, 8))
    return (tmp_path / "whole" / METRICS).read_bytes()


@pytest.fixture(autouse=True)
def _directories(tmp_path):
    for name in ("whole", "run"):
        (tmp_path / name).mkdir()


def test_rows(tmp_path):
    write(tmp_path / "run", 0, (1, 2))
    rows = [json.loads(line) for line in (tmp_path / "run" / METRICS).read_text().splitlines()]
    assert rows == [
        {"step": 1, "loss": 1.0, "recall": 0.1},
        {"step": 2, "loss": 0.5, "recall": 0.2},
        {"step": 2, "dev/em": 0.5},
    ]


@pytest.mark.parametrize("checkpoint", range(6))
def test_rows_beyond_the_checkpoint_are_dropped(checkpoint, expected, tmp_path):
    run = tmp_path / "run"
    write(run, 0, range(1, 6))
    write(run, checkpoint, range(checkpoint + 1, 8))
    assert (run / METRICS).read_bytes() == expected


def test_a_torn_last_line_is_dropped_wherever_it_is_torn(expected, tmp_path):
    run = tmp_path / "run"
    write(run, 0, range(1, 5))
    whole = (run / METRICS).read_bytes()
    start = len(b"".join(whole.splitlines(keepends=True)[:-2]))  # the two rows of step 4
    for end in range(start, len(whole) + 1):
        (run / METRICS).write_bytes(whole[:end])
        write(run, 3, range(4, 8))
        assert (run / METRICS).read_bytes() == expected, whole[:end]


@pytest.mark.parametrize("line", [b"5", b"[]", b"{}", b'{"step": "x"}', b"\xff\xfe", b"", b"null"])
def test_lines_that_are_no_rows_are_dropped(line, expected, tmp_path):
    run = tmp_path / "run"
    write(run, 0, range(1, 4))
    (run / METRICS).write_bytes((run / METRICS).read_bytes() + line + b"\n")
    write(run, 3, range(4, 8))
    assert (run / METRICS).read_bytes() == expected


def test_rows_are_on_the_disk_at_once(tmp_path):
    log = MetricLog(tmp_path / "run", 0)
    log.write(1, {"loss": 1.0})
    assert json.loads((tmp_path / "run" / METRICS).read_bytes()) == {"step": 1, "loss": 1.0}
    log.close()


def test_tensorboard_events(tmp_path):
    pytest.importorskip("tensorboardX")
    write(tmp_path / "run", 0, (1, 2))
    (first,) = (tmp_path / "run" / "tensorboard").glob("events.out.tfevents.*")
    content = first.read_bytes()
    assert all(name in content for name in (b"loss", b"recall", b"dev/em"))


def test_tensorboard_forgets_what_lies_beyond_the_checkpoint(tmp_path, monkeypatch):
    """And keeps the row of the checkpoint's own step, as the file does."""
    tensorboard, asked = pytest.importorskip("tensorboardX"), []
    monkeypatch.setattr(tensorboard, "SummaryWriter", lambda *_, **given: asked.append(given))
    for step in (0, 3):
        MetricLog(tmp_path / "run", step).close()
    assert asked == [{"purge_step": 1}, {"purge_step": 4}]


def test_works_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    write(tmp_path / "run", 0, (1, 2))
    assert len((tmp_path / "run" / METRICS).read_text().splitlines()) == 3
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_full_disk(tmp_path):
    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            pass

    log = MetricLog(tmp_path / "run", 0)
    log._file.close()
    log._file = Full()
    with pytest.raises(UserError, match="No space left on device") as error:
        log.write(1, {"loss": 1.0})
    assert str(tmp_path / "run" / METRICS) in str(error.value)
    log.close()


def test_progress_fits_a_line_and_shows_the_newest_figures():
    console = PlainConsole(
        width=80, file=io.StringIO()
    )  # no terminal: the bar is drawn once, at the end
    with RunProgress(console, 400, 10) as progress:
        progress.advance(20, {"loss": 2.5, "recall": 0.25, "grad_norm": 9.0})
        progress.advance(20, {"dev/em": 0.125, "dev/f1": 0.5})
        progress.advance(400, {"loss": 0.75, "recall": 0.5})
    said, last = console.file.getvalue().splitlines()
    # The bar can't be drawn, so that a line tells that the run is alive; the first step is too early.
    assert said.startswith("step 400/400")
    assert "loss 0.750 recall 0.500 em 0.125" in said
    assert len(last) <= 80
    assert "400/400" in last
    assert "loss 0.750 recall 0.500 em 0.125" in last
    assert "grad_norm" not in last


def test_four_figures_fit_beside_the_time_that_is_left():
    console = PlainConsole(width=80, file=io.StringIO())
    with RunProgress(console, 300, 0) as progress:
        progress.advance(150, {"loss": -13.051, "recall": 0.938, "reward": 0.91, "dev/em": 0.846})
    last = console.file.getvalue().splitlines()[-1]
    assert "…" not in last
    assert "loss -13.051 recall 0.938 em 0.846 reward 0.910" in last


def test_of_nothing_to_do_there_is_no_bar():
    console = PlainConsole(width=80, file=io.StringIO())
    with RunProgress(console, 0, 0):
        pass
    assert console.file.getvalue() == ""


def test_a_symptom_is_said_each_time():
    console = PlainConsole(file=io.StringIO(), width=200)
    with RunProgress(console, 10, 0) as progress:
        progress.warn(3, "hub: one passage takes 60% of the retrieval mass")
        progress.warn(5, "hub: one passage takes 70% of the retrieval mass")
    said = console.file.getvalue()
    assert "retriever warning at step 3: hub: one passage takes 60%" in said
    assert "retriever warning at step 5: hub: one passage takes 70%" in said


def rows_of(directory):
    return [json.loads(line) for line in (directory / METRICS).read_text().splitlines()]


def test_each_seed_has_a_log_of_its_own(tmp_path):
    """What a seed did not measure is left out of its log, and a number is that of all."""
    places = [tmp_path / "whole", tmp_path / "run"]
    logs = SeedLogs(places, 0)
    logs.write(1, {"loss": np.array([0.5, 0.25]), "recall": np.array([np.nan, 1.0]), "age": 3})
    logs.write(2, {"loss": np.array([np.nan, 0.125])}, failed={0: "why"})
    logs.write(3, {"loss": np.array([np.inf, 0.0625])}, failed=[0])
    logs.close()
    assert rows_of(places[0]) == [{"step": 1, "loss": 0.5, "age": 3.0}]
    assert rows_of(places[1]) == [
        {"step": 1, "loss": 0.25, "recall": 1.0, "age": 3.0},
        {"step": 2, "loss": 0.125},
        {"step": 3, "loss": 0.0625},
    ]


def test_progress_shows_means_over_seeds_and_says_what_went_wrong():
    console = PlainConsole(file=io.StringIO(), width=200)
    with RunProgress(console, 10, 0) as progress:
        progress.advance(10, {"loss": np.array([0.25, 0.75]), "recall": np.array([np.nan, 1.0])})
        progress.say("The loss of seed 3 is nan at step 10.")
    said = console.file.getvalue()
    assert "loss 0.500" in said
    assert "recall 1.000" in said  # of the one seed that has it
    assert "The loss of seed 3 is nan at step 10." in said
