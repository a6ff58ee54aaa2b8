"""The order of events in the training loop, with a program that only counts."""

import dataclasses
import math
import signal
import threading

import jax
import jax.numpy as jnp
import pytest

from ragjax.training.checkpoint import Checkpoints
from ragjax.training.logging import MetricLog, RunProgress
from ragjax.training.loop import NonFiniteLossError, Program, fit, held_interrupts


class SavedSteps(Checkpoints):
    def __init__(self, directory, events):
        super().__init__(directory)
        self.events, self.saved = events, []

    def save(self, step, state):
        assert state == [step]
        self.saved.append(step)
        self.events.append(f"save {step}")

    def steps(self):
        return sorted(self.saved)


class Rows(MetricLog):
    def __init__(self, events):
        self.events, self.rows = events, []

    def write(self, step, metrics):
        assert not any(isinstance(value, jax.Array) for value in metrics.values())  # fetched by now
        self.rows.append({"step": step} | {name: float(value) for name, value in metrics.items()})
        self.events.append(f"log {step} {' '.join(metrics)}")


WARNED = []  # of all runs; a test that looks clears it first


class Seen(RunProgress):
    def __init__(self):
        self.rows = []

    def advance(self, step, metrics):
        self.rows.append({"step": step} | metrics)

    def warn(self, step, symptom):
        WARNED.append((step, symptom))


class Events(list):
    """A program that counts, and a run of it that writes down what is called."""

    def __init__(self, directory, losses=None, **fields):
        super().__init__()
        self.directory = directory
        self.losses = losses or {}
        self.checkpoints, self.log = SavedSteps(directory, self), Rows(self)
        self.program = Program(
            **{
                "total": 6,
                "advance": self.advance,
                "evaluate": self.evaluate,
                "log_every": 1,
                "checkpoint_every": 3,
                "evaluate_every": 2,
            }
            | fields
        )

    def advance(self, state, step):
        """The state is the number of updates made to it, or it is donated."""
        number = step + 1
        assert state.pop() == step
        self.append(f"advance {number}")
        loss = self.losses.get(number, 1.0 / number)
        metrics = loss if isinstance(loss, dict) else {"loss": loss}
        return [number], {name: jnp.asarray(value) for name, value in metrics.items()}

    def evaluate(self, state, step):
        assert state == [step]
        self.append(f"evaluate {step}")
        return {"dev/em": 0.5}

    @property
    def rows(self):
        return self.log.rows

    def steps(self):
        return self.checkpoints.steps()

    def run(self, start=0):
        seen = Seen()
        try:
            return fit(self.program, [start], start, self.checkpoints, self.log, seen)
        finally:
            assert seen.rows == self.rows


@pytest.fixture
def events(tmp_path):
    return lambda losses=None, **fields: Events(tmp_path, losses, **fields)


def test_order_of_events(events):
    run = events()
    assert run.run() == [6]
    assert run == [
        *("advance 1",),
        *("advance 2", "log 1 loss", "log 2 loss", "evaluate 2", "log 2 dev/em"),
        *("advance 3", "log 3 loss", "save 3"),
        *("advance 4", "log 4 loss", "evaluate 4", "log 4 dev/em"),
        *("advance 5",),
        *("advance 6", "log 5 loss", "log 6 loss", "save 6"),
    ]


def test_a_run_without_steps_leaves_a_checkpoint(events):
    run = events(total=0)
    assert run.run() == [0]
    assert run == ["save 0"]


def test_a_checkpoint_is_the_last_of_its_step(events):
    """What a resumed run doesn't do again has been logged before."""
    run = events(checkpoint_every=2)
    run.run()
    assert run.index("log 4 dev/em") < run.index("save 4") < run.index("advance 5")


@pytest.mark.parametrize("start", range(7))
def test_a_resumed_run_logs_the_rest(start, events):
    whole, rest = events(checkpoint_every=1), events(checkpoint_every=1)
    whole.run()
    assert rest.run(start) == [6]
    assert rest.rows == [row for row in whole.rows if row["step"] > start]


def test_rows(events):
    run = events(log_every=4, evaluate_every=0, total=9)
    run.run()
    assert run.rows == [{"step": n, "loss": pytest.approx(1 / n)} for n in (4, 8, 9)]


def test_evaluate_cadence(events):
    run = events(evaluate_every=3, total=9)
    run.run()
    assert [event for event in run if event.startswith("evaluate")] == ["evaluate 3", "evaluate 6"]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", range(1, 7))
def test_non_finite_loss_stops(loss, step, events):
    run = events({step: loss}, log_every=100)
    with pytest.raises(NonFiniteLossError) as error:
        run.run()
    good = {4: 3, 5: 3, 6: 3}.get(step)
    assert run.steps() == ([good] if good else [])
    message = str(error.value)
    assert f"at step {step} " in message
    assert str(loss) in message
    assert (str(run.directory / str(good)) if good else "none") in message
    # Looked at one step late at most.
    assert run[-1] in (f"advance {step}", f"advance {step + 1}")


def test_non_finite_gradient_stops(events):
    """The loss of the step is finite, the parameters after it are not: no checkpoint of them."""
    run = events({3: {"loss": 1.0, "grad_norm": math.nan}})
    with pytest.raises(NonFiniteLossError, match="grad_norm is nan at step 3"):
        run.run()
    assert run.steps() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["advance 2", "evaluate 2", "log 2 dev/em", "advance 5"])
def test_interrupt_saves_after_the_step(moment, number, events):
    class Interrupted(Events):
        def append(self, event):
            super().append(event)
            if event == moment:
                signal.raise_signal(number)

    before = signal.getsignal(number)
    whole = events()
    whole.run()
    run = Interrupted(whole.directory)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    step = int(moment.split()[1])
    assert run[-1] == f"save {step}"
    assert max(run.steps()) == step
    assert run.rows == [row for row in whole.rows if row["step"] <= step]
    assert signal.getsignal(number) == before


def test_interrupt_during_the_last_save(events):
    run = events()
    append = run.append
    run.append = lambda event: (append(event), event == "save 6" and signal.raise_signal(2))
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert run.steps() == [3, 6]


def test_interrupt_after_a_bad_loss_does_not_save(events):
    run = events({2: math.nan}, evaluate_every=0)
    append = run.append
    run.append = lambda event: (append(event), event == "advance 2" and signal.raise_signal(2))
    with pytest.raises(NonFiniteLossError):
        run.run()
    assert run.steps() == []


def test_second_interrupt_goes_through():
    with held_interrupts() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_runs_in_another_thread(events):
    run, ended = events(), []
    thread = threading.Thread(target=lambda: ended.append(run.run()))
    thread.start()
    thread.join()
    assert ended == [[6]]


def test_program_is_frozen(events):
    with pytest.raises(dataclasses.FrozenInstanceError):
        events().program.total = 3


def test_an_ailing_retriever_is_told_of(events):
    WARNED.clear()
    ill, well = ({"loss": 1.0, "hub_share": share} for share in (0.6, 0.1))
    events({1: ill, 2: well, 3: ill, 4: ill, 5: ill}).run()  # figures are evaluated in between
    assert WARNED == [(4, "hub: one passage takes 60% of the retrieval mass")]
