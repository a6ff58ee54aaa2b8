"""The order of events in the training loop, with a program that only counts."""

import dataclasses
import math
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
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

    def write(self, step, metrics, failed=()):
        assert not any(isinstance(value, jax.Array) for value in metrics.values())  # fetched by now
        row = {name: value.tolist() for name, value in metrics.items()}
        for place in failed:
            row = {name: [*of[:place], None, *of[place + 1 :]] for name, of in row.items()}
        self.rows.append({"step": step} | row)
        self.events.append(f"log {step} {' '.join(metrics)}")


class Seen(RunProgress):
    """What the progress bar shows, says and warns of."""

    def __init__(self):
        self.rows, self.warned, self.said = [], [], []

    def advance(self, step, metrics):
        self.rows.append({"step": step} | {name: of.tolist() for name, of in metrics.items()})

    def warn(self, step, symptom):
        self.warned.append((step, symptom))

    def say(self, sentence):
        self.said.append(sentence)


def of_seeds_that_go_on(row):
    return {
        name: [value for value in of if value is not None] if isinstance(of, list) else of
        for name, of in row.items()
    }


class Events(list):
    """A program that counts, and a run of it that writes down what is called."""

    def __init__(self, directory, losses=None, **fields):
        super().__init__()
        self.directory = directory
        self.losses = losses or {}
        self.checkpoints, self.log, self.seen = SavedSteps(directory, self), Rows(self), Seen()
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
        usual = FINE[number] if len(self.program.seeds) > 1 else 1.0 / number
        loss = self.losses.get(number, usual)
        metrics = loss if isinstance(loss, dict) else {"loss": loss}
        return [number], {name: jnp.asarray(value) for name, value in metrics.items()}

    def evaluate(self, state, step):
        assert state == [step]
        self.append(f"evaluate {step}")
        several = len(self.program.seeds) > 1
        return {"dev/em": np.full(len(self.program.seeds), 0.5) if several else 0.5}

    @property
    def rows(self):
        return self.log.rows

    def steps(self):
        return self.checkpoints.steps()

    def run(self, start=0):
        """What `fit` returns; the bar shows what is logged, of the seeds that go on."""
        try:
            return fit(self.program, [start], start, self.checkpoints, self.log, self.seen)
        finally:
            assert self.seen.rows == [of_seeds_that_go_on(row) for row in self.rows]


@pytest.fixture
def events(tmp_path):
    return lambda losses=None, **fields: Events(tmp_path, losses, **fields)


def test_order_of_events(events):
    run = events()
    assert run.run() == ([6], {})
    assert run == [
        *("advance 1",),
        *("advance 2", "log 1 loss", "log 2 loss", "evaluate 2", "log 2 dev/em"),
        *("advance 3", "log 3 loss", "save 3"),
        *("advance 4", "log 4 loss", "evaluate 4", "log 4 dev/em"),
        *("advance 5",),
        *("advance 6", "log 5 loss", "log 6 loss", "evaluate 6", "log 6 dev/em", "save 6"),
    ]


def test_a_run_without_steps_leaves_a_checkpoint(events):
    run = events(total=0)
    assert run.run() == ([0], {})
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
    assert rest.run(start) == ([6], {})
    assert rest.rows == [row for row in whole.rows if row["step"] > start]


def test_rows(events):
    run = events(log_every=4, evaluate_every=0, total=9)
    run.run()
    assert run.rows == [{"step": n, "loss": pytest.approx(1 / n)} for n in (4, 8, 9)]


@pytest.mark.parametrize(
    ("every", "measured"), [(3, [3, 6, 9]), (4, [4, 8, 9]), (100, [9]), (0, [])]
)
def test_evaluate_cadence(every, measured, events):
    """The last step is always measured, once, unless nothing is."""
    run = events(evaluate_every=every, total=9)
    run.run()
    found = [event for event in run if event.startswith("evaluate")]
    assert found == [f"evaluate {step}" for step in measured]
    assert run[-1] == "save 9"


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


@pytest.mark.parametrize("name", ["reward", "step_reward"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_is_named_and_not_the_learning_rate(name, value, events):
    run = events({3: {"loss": math.nan, name: value}})
    with pytest.raises(NonFiniteLossError, match="loss is nan at step 3 ") as error:
        run.run()
    assert f"; its {name} is {value}, so mend what gives the rewards, " in str(error.value)
    assert "learning rate" not in str(error.value)
    run = events({3: {"loss": math.nan, name: 1.0}})
    with pytest.raises(
        NonFiniteLossError, match="; lower the learning rate and train into another"
    ):
        run.run()


def test_the_reward_is_that_of_the_seed_that_fails(events):
    bad = {"loss": [1.0, math.nan, math.nan], "reward": [1.0, math.nan, 0.5]}
    run = events({n: bad if n == 4 else {"loss": of} for n, of in FINE.items()}, seeds=SEEDS)
    _, failed = run.run()
    assert "its reward is nan" in failed[1]
    assert "lower the learning rate" in failed[2]


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
    assert ended == [([6], {})]


def test_program_is_frozen(events):
    with pytest.raises(dataclasses.FrozenInstanceError):
        events().program.total = 3


def test_an_ailing_retriever_is_told_of(events):
    ill, well = ({"loss": 1.0, "hub_share": share} for share in (0.6, 0.1))
    run = events({1: ill, 2: well, 3: ill, 4: ill, 5: ill})
    run.run()  # figures are evaluated in between
    assert run.seen.warned == [(4, "hub: one passage takes 60% of the retrieval mass")]


# Several seeds


SEEDS = (5, 6, 7)
FINE = {n: [1.0 / n, 2.0 / n, 3.0 / n] for n in range(1, 7)}


def with_loss(step, place, value, losses=FINE):
    """The losses with that of one seed at one step exchanged; later ones stay bad, as in a run."""
    return {
        n: [value if n >= step and at == place else old for at, old in enumerate(of)]
        for n, of in losses.items()
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", range(1, 7))
def test_a_seed_that_fails_stops_alone(step, value, events):
    """It is named once, with its step and the last checkpoint before; the others are as they were."""
    fine = events(FINE, seeds=SEEDS)
    assert fine.run() == ([6], {})
    run = events(with_loss(step, 1, value), seeds=SEEDS)
    state, failed = run.run()
    assert state == [6]
    assert list(failed) == [1]
    assert f"loss of seed 6 is {value} at step {step} " in failed[1]
    good = str(run.directory / "3") if step > 3 else "none"
    assert f"(last good checkpoint: {good})" in failed[1]
    assert run.seen.said == [failed[1]]
    # All the same happens, and is logged, but for the rows of that seed from there on.
    assert run == fine
    assert run.steps() == [3, 6]
    for row, whole in zip(run.rows, fine.rows, strict=True):
        for name in set(row) - {"step"}:
            assert row[name][::2] == whole[name][::2]
            assert row[name][1] == (whole[name][1] if row["step"] < step else None)


def test_a_gradient_that_is_not_finite_stops_its_seed_too(events):
    bad = {"loss": [1.0, 1.0, 1.0], "grad_norm": [1.0, 1.0, math.nan]}
    run = events({n: bad if n == 4 else {"loss": of} for n, of in FINE.items()}, seeds=SEEDS)
    _, failed = run.run()
    assert list(failed) == [2]
    assert "grad_norm of seed 7 is nan at step 4 " in failed[2]


def test_seeds_fail_one_after_the_other_until_none_is_left(events):
    losses = with_loss(2, 0, math.nan, with_loss(4, 2, math.inf))
    run = events(losses, seeds=SEEDS)
    state, failed = run.run()
    assert (state, sorted(failed)) == ([6], [0, 2])
    assert run.seen.said == [failed[0], failed[2]]
    run = events(with_loss(5, 1, math.nan, losses), seeds=SEEDS)
    with pytest.raises(NonFiniteLossError) as error:
        run.run()
    for part in ("seed 5 is nan at step 2", "seed 7 is inf at step 4", "seed 6 is nan at step 5"):
        assert part in str(error.value)
    assert run.steps() == [3]
    assert run[-1] in ("advance 5", "advance 6")


def test_all_seeds_that_fail_at_once_are_named(events):
    run = events({3: [math.nan] * 3}, seeds=SEEDS, evaluate_every=0)
    with pytest.raises(NonFiniteLossError) as error:
        run.run()
    assert str(error.value).count("at step 3") == 3
    assert run.steps() == []


def test_checkpoints_tell_which_seeds_have_failed(events):
    """The loss alone may have been NaN, and parameters finite after it."""
    marked = []

    def mark_failed(state, places):
        marked.append((list(state), places))
        return state

    run = events(with_loss(4, 1, math.nan), seeds=SEEDS, mark_failed=mark_failed)
    run.run()
    assert run.steps() == [3, 6]
    assert marked == [([6], [1])]


@pytest.mark.parametrize("start", [3, 6])
def test_a_seed_that_failed_before_stays_failed(start, events):
    """A run that goes on, or is measured again, knows it by its parameters."""
    run = events(FINE, seeds=SEEDS, finite=lambda state: np.array([True, False, True]))
    state, failed = run.run(start)
    assert (state, list(failed)) == ([6], [1])
    assert failed[1].startswith(f"Seed 6 has failed before step {start}, ")
    assert run.seen.said == [failed[1]]
    assert all(row["loss"][1] is None for row in run.rows if "loss" in row)
    run = events(FINE, seeds=SEEDS, finite=lambda state: np.array([False] * 3))
    with pytest.raises(NonFiniteLossError, match=r"Seed 5 has.* Seed 6 has.* Seed 7 has"):
        run.run(start)
    assert run == []


def test_what_all_seeds_have_in_common_is_shown_as_it_is(events):
    """Such as the age of an index, which depends on the step alone."""
    run = events({n: {"loss": FINE[n], "index_age": 4.0} for n in FINE}, seeds=SEEDS)
    run.run()
    assert {row.get("index_age", 4.0) for row in run.seen.rows} == {4.0}


def test_the_alarm_hears_each_seed_by_itself(events):
    """A seed that ails is named, though the others are well, and the mean of all is."""
    shares = {1: [0.9, 0.1, 0.1], 2: [0.1, 0.1, 0.7], 3: [0.1, 0.1, 0.7], 4: [0.1, 0.1, 0.7]}
    rows = {n: {"loss": FINE[n], "hub_share": shares.get(n, [0.1] * 3)} for n in FINE}
    run = events(rows, seeds=SEEDS)
    run.run()
    assert run.seen.warned == [(3, "seed 7: hub: one passage takes 70% of the retrieval mass")]
    # Three that are ill every third row would be told of if one alarm heard them all.
    rows = {
        n: {"loss": FINE[n], "hub_share": [0.9 if n % 3 == at else 0.1 for at in range(3)]}
        for n in FINE
    }
    run = events(rows, seeds=SEEDS)
    run.run()
    assert run.seen.warned == []


def test_a_seed_that_has_stopped_is_not_warned_of(events):
    ill = {n: {"loss": of, "hub_share": [0.1, 0.9, 0.1]} for n, of in FINE.items()}
    run = events(ill, seeds=SEEDS)
    run.run()
    assert [step for step, _ in run.seen.warned] == [2]
    bad = with_loss(2, 1, math.nan)
    run = events({n: row | {"loss": bad[n]} for n, row in ill.items()}, seeds=SEEDS)
    run.run()
    assert run.seen.warned == []
