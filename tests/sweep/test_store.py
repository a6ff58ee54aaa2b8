"""A sweep's directory: who does what, what is done, and how it is extended."""

import dataclasses
import json
import math
import os
import signal
import time
import traceback
from collections import Counter
from pathlib import Path

import pytest
from toy_sweep import MADE, planned, toy, toy_sweep, value_of

from ragjax.errors import UserError
from ragjax.printing import PlainConsole
from ragjax.sweep.pictures import draw_parallel, draw_slices
from ragjax.sweep.plan import Plan
from ragjax.sweep.samplers import SAMPLERS
from ragjax.sweep.show import importance_table
from ragjax.sweep.space import Choice, Vary
from ragjax.sweep.spec import Rungs
from ragjax.sweep.store import Outcome, Store
from ragjax.sweep.study import JOURNAL, Study, mend_journal
from ragjax.sweep.winner import best_trial, finished
from ragjax.sweep.worker import Worker

CONSOLE = PlainConsole(quiet=True)


def begun(directory: Path, sweep) -> Store:
    store = Store(directory)
    store.begin(sweep, planned)
    return store


def work(store: Store) -> Worker:
    worker = Worker(store, CONSOLE)
    worker.work(toy)
    return worker


# What has been done


def test_all_trials_are_made_and_the_best_found(tmp_path):
    store = begun(tmp_path, toy_sweep(30, seeds=2))
    worker = work(store)
    assert store.runs_done() == 60
    values = {trial.number: value_of(trial.config) for trial in worker.plan.trials}
    best, value = best_trial(store, worker.plan)
    assert best.number == max(values, key=lambda number: values[number])
    assert value == pytest.approx(values[best.number])
    ordered = [number for number, _ in sorted(values.items(), key=lambda of: -of[1])]
    assert [trial.number for trial, _ in finished(store, worker.plan)] == ordered
    least = dataclasses.replace(store.sweep, direction="minimize")
    other = begun(tmp_path / "other", least)
    assert best_trial(other, work(other).plan)[0].number == ordered[-1]


def test_what_is_done_is_not_done_again(tmp_path):
    store = begun(tmp_path, toy_sweep(5))
    work(store)
    again = Store(tmp_path)
    assert again.begin(toy_sweep(5), planned) == []
    work(again)
    assert len((tmp_path / MADE).read_text().split()) == 5


def test_a_trial_is_what_its_runs_are(tmp_path):
    store = begun(tmp_path, toy_sweep(4, seeds=2, side_by_side=1))
    trials = Plan(store.generations).trials
    for trial, outcomes in zip(
        trials,
        (
            (Outcome("finished", 0.25), Outcome("finished", 0.75)),
            (Outcome("finished", 0.25), Outcome("failed", why="it broke")),
            (Outcome("stopped", 0.5), Outcome("stopped", 0.0)),
            (Outcome("finished", 0.25),),
        ),
        strict=True,
    ):
        for run, outcome in zip(trial.runs, outcomes, strict=False):
            store.record(run, outcome)
    found = [Store.outcome(store, trial) for trial in trials]
    assert [(of.status, of.value, of.why) for of in found] == [
        ("finished", 0.5, ""),
        ("failed", None, "it broke"),
        ("stopped", 0.25, ""),
        ("open", None, ""),
    ]
    store.forget()
    assert [store.outcome(trial) for trial in trials] == found


def test_no_trial_finished(tmp_path):
    store = begun(tmp_path, toy_sweep(1))
    plan = Plan(store.generations)
    with pytest.raises(
        UserError, match=r"No trial of the sweep .* has finished \(none has ended yet\)"
    ):
        best_trial(store, plan)
    store.record(plan.trials[0].runs[0], Outcome("failed", why="The loss is nan."))
    with pytest.raises(UserError, match=r"has finished \(The loss is nan\)"):
        best_trial(store, plan)


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", '{"status": "finished", "val": 1}', '{"status": "finished", "value": "good"}'),
        *('{"status": "done", "value": 1}', '{"status": "finished", "value": null}'),
    ],
)
def test_an_outcome_that_was_edited(content, tmp_path):
    store = begun(tmp_path, toy_sweep(1))
    run = Plan(store.generations).trials[0].runs[0]
    store.record(run, Outcome("finished", 1.0))
    path = store.run_dir(run) / "outcome.json"
    path.write_text(content)
    store.forget()
    with pytest.raises(UserError, match=r"(?s)outcome\.json .* delete it"):
        store.run_outcome(run)


# Extending


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"metric": "f1"},
            "was begun with another metric; give the same values or another --sweep-dir",
        ),
        ({"rungs": Rungs()}, "was begun with another rungs"),
        ({"sampler_seed": 1}, "differs in sampler_seed, but 5 trials are drawn"),
        ({"trials": 3}, "differs in trials, but 5 trials are drawn and it would get no new one"),
    ],
)
def test_a_sweep_that_is_another(changes, message, tmp_path):
    begun(tmp_path, toy_sweep(5))
    with pytest.raises(UserError, match=message):
        Store(tmp_path).begin(dataclasses.replace(toy_sweep(5), **changes), planned)


def test_a_grid_that_would_get_no_new_trial(tmp_path):
    """A narrower one: what was made stays, and is what the wider one says."""
    first, values = toy_sweep(1), (Choice((1, 2)), Choice((2,)), Choice((2, 3)))
    grids = [
        dataclasses.replace(
            first, sampler=SAMPLERS["grid"], trials=None, space=(Vary("number", each),)
        )
        for each in values
    ]
    begun(tmp_path, grids[0])
    with pytest.raises(UserError, match="2 trials are drawn and it would get no new one"):
        Store(tmp_path).begin(grids[1], planned)
    Store(tmp_path).begin(grids[2], planned)


def test_a_base_that_is_another(tmp_path):
    begun(tmp_path, toy_sweep(5))
    other = dataclasses.replace(toy_sweep(5).base, log_every=3)
    with pytest.raises(UserError, match=r"begun with another base\.log_every"):
        Store(tmp_path).begin(dataclasses.replace(toy_sweep(5), base=other), planned)


def test_a_sweep_that_goes_on_is_not_changed(tmp_path):
    store = begun(tmp_path, toy_sweep(5))
    lease = store.join()
    with pytest.raises(
        UserError, match=f"at work with the former values .process {os.getpid()} on"
    ):
        Store(tmp_path).begin(toy_sweep(8), planned)
    lease.release()
    assert Store(tmp_path).begin(toy_sweep(8), planned) == [
        "the sweep is extended; it differs in trials"
    ]


def test_more_trials_and_seeds(tmp_path):
    work(begun(tmp_path, toy_sweep(5)))
    store = Store(tmp_path)
    store.begin(toy_sweep(8, seeds=2), planned)
    plan = work(store).plan
    made = (tmp_path / MADE).read_text().split()
    assert len(made) == len(set(made)) == 16
    assert all(store.outcome(trial).status == "finished" for trial in plan.trials)
    again = Store(tmp_path)
    again.open()
    assert again.generations == store.generations
    with pytest.raises(UserError, match=r"seeds is 1, but the sweep .* has 2 already"):
        again.begin(toy_sweep(9), planned)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"generations": [{}], "modules": {}, "name": ""}', "begun"]
)
def test_a_sweep_file_that_was_edited(content, tmp_path):
    if content == "begun":
        begun(tmp_path, toy_sweep(3))
        content = (tmp_path / "sweep.json").read_text().replace('"begun": 0', '"begun": "x"')
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(UserError, match=r"sweep\.json"):
        Store(tmp_path).open()
    with pytest.raises(UserError, match="no sweep; name a sweep file, a config with --vary"):
        Store(tmp_path / "elsewhere").open()


# Samplers that learn


@pytest.mark.parametrize(("name", "trials"), [("tpe", 40), ("cmaes", 24)])
def test_a_sampler_that_learns_finds_better_trials(name, trials, tmp_path):
    """Later trials are better than the first ones, which are random."""
    store = begun(tmp_path, toy_sweep(trials, SAMPLERS[name], side_by_side=1))
    plan = work(store).plan
    values = [value_of(trial.config) for trial in plan.trials]
    assert len(values) == trials
    half = trials // 2
    assert sorted(values[half:])[half // 2] > sorted(values[:half])[half // 2]
    study = Study(store)._study(0)
    assert Counter(trial.state.name for trial in study.trials) == {"COMPLETE": trials}
    assert study.best_value == max(values)


def test_trials_are_asked_for_together_where_one_program_takes_them(tmp_path):
    """Else one by one, so that each learns from the one before."""
    apart = begun(tmp_path / "apart", toy_sweep(6, SAMPLERS["tpe"]))
    assert [len(group) for group in Study(apart).groups(0)] == []
    work(apart)
    assert [len(group) for group in Study(apart).groups(0)] == [1] * 6
    rates = dataclasses.replace(
        toy_sweep(6, SAMPLERS["tpe"], side_by_side=4), space=toy_sweep(1).space[:1]
    )
    together = begun(tmp_path / "together", rates)
    work(together)
    assert [len(group) for group in Study(together).groups(0)] == [4, 2]


def test_a_journal_that_a_kill_has_torn(tmp_path):
    store = begun(tmp_path, toy_sweep(12, SAMPLERS["tpe"], side_by_side=1))
    work(store)
    journal = tmp_path / JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":4,"tri')
    wider = Store(tmp_path)
    wider.begin(toy_sweep(16, SAMPLERS["tpe"], side_by_side=1), planned)
    assert len(work(wider).plan.trials) == 16
    for line in journal.read_bytes().splitlines():
        json.loads(line)


@pytest.mark.parametrize(
    ("content", "kept"), [(b"", b""), (b"ab\n", b"ab\n"), (b"a\nbc", b"a\n"), (b"abc", b"")]
)
def test_mending_a_journal(content, kept, tmp_path):
    path = tmp_path / "journal"
    mend_journal(path)
    assert not path.exists()
    path.write_bytes(content)
    mend_journal(path)
    assert path.read_bytes() == kept


def test_an_extension_learns_from_what_was_known(tmp_path):
    """Of the earlier trials, those that lie in the new space."""
    work(begun(tmp_path, toy_sweep(10)))
    store = Store(tmp_path)
    store.begin(toy_sweep(14, SAMPLERS["tpe"]), planned)
    plan = work(store).plan
    assert len(plan.trials) == 14
    trials = Study(store)._study(1).trials
    assert len(trials) == 14
    assert sorted(trial.value for trial in trials[:10]) == pytest.approx(
        sorted(value_of(trial.config) for trial in plan.trials[:10])
    )


def test_a_storage_that_is_not_there(tmp_path):
    sweep = toy_sweep(2, SAMPLERS["tpe"], storage="postgresql://nobody@localhost:1/x")
    with pytest.raises(UserError, match=r"The storage postgresql://.* can't be used"):
        work(begun(tmp_path, sweep))


# Workers that die


def start_worker(directory: Path) -> int:
    """A process that has all imports, so that it lives long enough to do something."""
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        store = Store(directory)
        store.open()
        lease = store.join()
        work(store)
        lease.release()
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)


def workers_that_die(directory: Path, sweep, workers: int, every: float) -> tuple[int, list[int]]:
    """Works with many processes, one of which is killed and another started again and again."""
    store = begun(directory, sweep)
    total = sweep.count * sweep.seeds
    alive = [start_worker(directory) for _ in range(workers)]
    killed, codes, last, deadline = 0, [], time.monotonic(), time.monotonic() + 120
    while alive and time.monotonic() < deadline:
        time.sleep(0.02)
        for number in list(alive):
            ended, status = os.waitpid(number, os.WNOHANG)
            if ended:
                alive.remove(number)
                codes.append(status)
        if alive and time.monotonic() - last > every and store.runs_done() < total:
            last = time.monotonic()
            victim = alive.pop(killed % len(alive))
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            alive.append(start_worker(directory))
            killed += 1
    for number in alive:
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
    assert not alive, "they have not come to an end"
    return killed, codes


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:os.fork:RuntimeWarning")
@pytest.mark.parametrize("name", ["random", "tpe"])
def test_workers_that_are_killed(name, tmp_path):
    """Every trial is there once, and no run was made by two at once."""
    trials = 120 if name == "random" else 24
    killed, codes = workers_that_die(tmp_path, toy_sweep(trials, SAMPLERS[name]), 3, 0.3)
    assert killed >= 1
    assert set(codes) == {0}
    store = Store(tmp_path)
    store.open()
    plan = Worker(store, CONSOLE).plan
    assert [store.outcome(trial).status for trial in plan.trials] == ["finished"] * trials
    made = (tmp_path / MADE).read_text().split()
    assert len(made) == len(set(made))
    assert set(made) <= {run.name for trial in plan.trials for run in trial.runs}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:os.fork:RuntimeWarning")
@pytest.mark.parametrize("number", range(20))
def test_a_thousand_trials_and_a_kill_every_second(number, tmp_path):
    killed, codes = workers_that_die(tmp_path, toy_sweep(1000, sampler_seed=number), 4, 1.0)
    assert killed >= 1
    assert set(codes) == {0}
    made = (tmp_path / MADE).read_text().split()
    assert len(made) == len(set(made))
    store = Store(tmp_path)
    store.open()
    plan = Plan(store.generations)
    assert [store.outcome(trial).status for trial in plan.trials] == ["finished"] * 1000


def test_pictures_and_importance_of_what_was_found(tmp_path):
    """A trial whose metric was NaN is the worst, and is in no picture."""
    store = begun(tmp_path, toy_sweep(12))
    plan = work(store).plan
    store.record(plan.trials[0].runs[0], Outcome("finished", -math.inf))
    for draw in (draw_slices, draw_parallel):
        draw(store, plan, tmp_path / "picture.png")
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    table, note = importance_table(store, plan)
    assert (table is not None, note) == (True, "")
    assert table is not None
    assert sorted(row[0] for row in table.rows) == ["number", "optimizer.learning_rate"]
    assert sum(float(row[1]) for row in table.rows) == pytest.approx(1.0, abs=0.02)
    for trial in plan.trials:
        store.record(trial.runs[0], Outcome("finished", -math.inf))
    with pytest.raises(UserError, match="No trial has a finite value"):
        draw_slices(store, plan, tmp_path / "picture.png")
