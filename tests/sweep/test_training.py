"""The runs of a sweep: side by side as by themselves, stopped at rungs, failed, and gone on with."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config
import tiny_policy_config
from toy_sweep import planned

from ragjax.commands import train
from ragjax.errors import UserError
from ragjax.interrupts import held_interrupts
from ragjax.objectives.a2c import A2C
from ragjax.objectives.ppo import PPO
from ragjax.objectives.reinforce import Reinforce
from ragjax.objectives.vtrace import VTrace
from ragjax.printing import PlainConsole
from ragjax.run_dir import load_run
from ragjax.sweep import training as sweep_training
from ragjax.sweep.samplers import Grid
from ragjax.sweep.space import Choice, Vary, with_values
from ragjax.sweep.spec import Rungs, Sweep
from ragjax.sweep.store import Store
from ragjax.sweep.training import Trainer
from ragjax.sweep.worker import Worker
from ragjax.training.program import starting_state, training_program
from ragjax.training.step import make_step

CONSOLE = PlainConsole(quiet=True)
RATE = "optimizer.learning_rate"
RATES = (3e-3, 1e-2, 3e-2)


def policy_sweep(**fields):
    base = with_values(tiny_policy_config.get_config(), {"env_steps": 6 * 64})
    space = fields.pop("space", (Vary(RATE, Choice(RATES)),))
    given = {"sampler": Grid(), "metric": "greedy_return", "seeds": 2, **fields}
    return Sweep(base=base, space=space, **given)


@pytest.fixture(scope="module")
def trainer():
    """What compiles each program once for all tests of this file."""
    return Trainer(CONSOLE)


def made(directory: Path, sweep: Sweep, trainer: Trainer):
    store = Store(directory)
    store.begin(sweep, planned)
    worker = Worker(store, CONSOLE)
    worker.work(trainer)
    return store, worker.plan


def rows_of(directory: Path):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def require_like(one: Path, other: Path):
    """The same steps and figures, to rounding."""
    rows, others = rows_of(one), rows_of(other)
    assert len(rows) == len(others) > 5
    for row, like in zip(rows, others, strict=True):
        assert row.keys() == like.keys()
        for name, value in row.items():
            assert value == pytest.approx(like[name], rel=2e-3, abs=2e-4), (name, row["step"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory, trainer):
    """A sweep of three rates and two seeds, in one program."""
    return made(tmp_path_factory.mktemp("whole"), policy_sweep(), trainer)


# Side by side


def test_runs_side_by_side_are_those_by_themselves(whole, tmp_path):
    store, plan = whole
    assert [len(batch.runs) for batch in plan.batches] == [6]
    for trial in plan.trials[1:]:
        run = trial.runs[1]
        train(run.config, tmp_path / run.name, resume=False, console=CONSOLE)
        require_like(store.run_dir(run), tmp_path / run.name)
        loaded, alone = load_run(store.run_dir(run)), load_run(tmp_path / run.name)
        assert loaded.step == 6
        pairs = zip(
            jax.tree.leaves(loaded.state.params), jax.tree.leaves(alone.state.params), strict=True
        )
        for leaf, like in pairs:
            np.testing.assert_allclose(leaf, like, rtol=1e-2, atol=1e-4)
    assert not [*store.directory.rglob("result.json"), *store.directory.rglob("episodes.jsonl")]
    curves = [
        [row["loss"] for row in rows_of(store.run_dir(t.runs[0])) if "loss" in row]
        for t in plan.trials
    ]
    assert len({tuple(curve[1:]) for curve in curves}) == 3  # rates were really those of the trials


def test_questions_side_by_side_with_rates_of_their_own():
    """As each by itself, to rounding; of the same seed too."""
    base = tiny_config.get_config()
    configs = [with_values(base, {"optimizer.retriever_rate": rate}) for rate in (1e-3, 3e-2)]
    learner, seeds = base.create(), (1, 1)
    hyper = {
        name: jnp.array([config.hyper()[name] for config in configs], jnp.float32)
        for name in base.hyper()
    }

    def losses(seeds, config, hyper):
        program = training_program(learner, seeds, config, hyper)
        state, found = starting_state(learner, seeds, hyper), []
        for step in range(3):
            state, metrics = program.advance(state, step)
            found.append(np.asarray(metrics["loss"]))
        return np.array(found)

    together = losses(seeds, base, hyper)
    for place, config in enumerate(configs):
        own = {name: of[place : place + 1] for name, of in hyper.items()}
        np.testing.assert_allclose(together[:, place], losses((1,), config, own), rtol=1e-5)
    assert abs(together[2, 0] - together[2, 1]) > 1e-4  # each with its rate


def spec_pairs():
    """A config with one traced field at 0.2, and at another value; wherever a field may be traced."""
    policy, text = tiny_policy_config.get_config(), tiny_config.get_config()
    for kind in (PPO, A2C, Reinforce, VTrace):
        algorithm = kind(num_envs=4, rollout_length=16)
        config = dataclasses.replace(policy, algorithm=algorithm)
        fields = {item.name for item in dataclasses.fields(algorithm)}
        for name in sorted(fields & set(algorithm.hyper())):
            for value in (0.0, 0.7):
                yield config, f"algorithm.{name}", value
    for config in (policy, text):
        for name in config.optimizer.hyper():
            yield config, f"optimizer.{name}", 0.0


@pytest.mark.parametrize(
    ("config", "field", "value"), list(spec_pairs()), ids=lambda value: str(value)[:30]
)
def test_what_is_traced_changes_no_program(config, field, value):
    """Runs that differ in it alone share one: a field that is also read outside must not be traced."""

    def program(config):
        learner = config.create()
        stage = learner.stages[-1]
        shapes = learner.state_shapes()
        fed = learner.feed(0, config.steps - 1)
        made = jax.make_jaxpr(make_step(learner, stage))(shapes, fed, learner.hyper, learner.data)
        return str(made)

    assert program(with_values(config, {field: 0.2})) == program(
        with_values(config, {field: value})
    )


# Rungs


def test_a_trial_goes_on_if_it_is_among_the_best():
    rungs = Rungs(at=(0.1, 0.5), reduction=3)
    assert rungs.steps(100) == [10, 50]
    assert rungs.steps(1) == []
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert [rungs.goes_on(value, values, "maximize") for value in values] == [False] * 4 + [
        True
    ] * 2
    assert [rungs.goes_on(value, values, "minimize") for value in values] == [True] * 2 + [
        False
    ] * 4
    assert rungs.goes_on(0.5, [0.5], "maximize")
    assert rungs.goes_on(0.5, [0.5, 0.5, 0.5], "maximize")
    with pytest.raises(UserError, match=r"rungs.at is \(0.5, 0.1\); give ascending shares"):
        Rungs(at=(0.5, 0.1))
    with pytest.raises(UserError, match="reduction is 1; it must be at least 2"):
        Rungs(reduction=1)


RUNGS = Rungs(at=(0.3, 0.7), reduction=2)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory, trainer):
    """The same sweep with trials stopped at steps 2 and 5 of 6."""
    return made(tmp_path_factory.mktemp("pruned"), policy_sweep(rungs=RUNGS), trainer)


def test_bad_trials_are_stopped_at_rungs(pruned):
    store, plan = pruned
    at = [[store.trial_at(trial, rung) for trial in plan.trials] for rung in (0, 1)]
    assert None not in at[0]
    best = sorted((value for value in at[0] if value is not None), reverse=True)[0]
    for trial, value, later in zip(plan.trials, *at, strict=True):
        outcome = store.outcome(trial)
        assert (outcome.status == "stopped") == (value < best)
        if outcome.status == "stopped":
            assert outcome.value == value
            assert later is None
            assert [row["step"] for row in rows_of(store.run_dir(trial.runs[0]))][-1] == 2
        else:
            assert later is not None
    statuses = [store.outcome(trial).status for trial in plan.trials]
    assert {"stopped", "finished"} == set(statuses)


def test_who_goes_on_is_not_changed_by_who_is_stopped(pruned, whole):
    """Survivors are gathered into a smaller program, and go on as they would have."""
    (store, plan), (other, _) = pruned, whole
    survivors = [t for t in plan.trials if store.outcome(t).status == "finished"]
    assert survivors
    for trial in survivors:
        for run in trial.runs:
            require_like(store.run_dir(run), other.run_dir(run))
            assert load_run(store.run_dir(run)).step == 6


@pytest.mark.parametrize(
    ("owner", "name", "call", "after"),
    [
        (sweep_training.RunTraining, "advance", 1, True),
        (Store, "record_rung", 3, False),
        (Store, "decide", 1, True),
        pytest.param(sweep_training.RunTraining, "advance", 2, True, marks=pytest.mark.slow),
        pytest.param(Store, "decide", 2, True, marks=pytest.mark.slow),
        (Store, "record", 5, True),
    ],
)
def test_a_batch_that_was_stopped_anywhere_goes_on(
    owner, name, call, after, pruned, trainer, tmp_path, monkeypatch
):
    """Bit for bit: from the last whole checkpoint, with who was going on there."""
    function, calls = getattr(owner, name), []

    def stopped(*args, **options):
        calls.append(None)
        if len(calls) == call and not after:
            raise KeyboardInterrupt
        found = function(*args, **options)
        if len(calls) == call:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, stopped)
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path, policy_sweep(rungs=RUNGS), trainer)
    store, plan = made(
        tmp_path, policy_sweep(rungs=RUNGS), Trainer(CONSOLE) if call == 3 else trainer
    )
    other, _ = pruned
    for trial in plan.trials:
        assert store.outcome(trial) == other.outcome(trial)
        for run in trial.runs:
            assert rows_of(store.run_dir(run)) == rows_of(other.run_dir(run))


def test_a_signal_within_a_step_is_waited_for(trainer, tmp_path, monkeypatch, pruned):
    """The state is saved at the step, and the sweep goes on from there."""
    import signal

    learner = trainer.learner(policy_sweep().base)
    counts, calls = learner.counts, []

    def signalled(steps):
        calls.append(steps)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGTERM)
        return counts(steps)

    monkeypatch.setattr(learner, "counts", signalled)
    with pytest.raises(KeyboardInterrupt), held_interrupts():
        made(tmp_path, policy_sweep(rungs=RUNGS), trainer)
    monkeypatch.undo()
    store, plan = made(tmp_path, policy_sweep(rungs=RUNGS), trainer)
    for trial in plan.trials:
        assert store.outcome(trial) == pruned[0].outcome(trial)


# What goes wrong


def test_a_trial_whose_loss_is_not_finite_fails_alone(trainer, tmp_path):
    space = (Vary(RATE, Choice((1e-2, 1e35))),)
    store, plan = made(tmp_path, policy_sweep(space=space), trainer)
    good, bad = (store.outcome(trial) for trial in plan.trials)
    assert good.status == "finished"
    assert bad.status == "failed"
    assert "seed" in bad.why
    assert "lower the learning rate" in bad.why
    alone = policy_sweep(space=space, side_by_side=1, seeds=1)
    store, plan = made(tmp_path / "alone", alone, trainer)
    assert [store.outcome(trial).status for trial in plan.trials] == ["finished", "failed"]


def test_a_trial_that_cannot_be_made_fails_alone(trainer, tmp_path, monkeypatch):
    """Its data doesn't suit its values: said when its learner is made."""
    make = Trainer.learner

    def learner(trainer, config):
        if config.optimizer.learning_rate == RATES[0]:
            raise UserError("k is 9, but the corpus has 8 passages.")
        return make(trainer, config)

    monkeypatch.setattr(Trainer, "learner", learner)
    store, plan = made(tmp_path, policy_sweep(side_by_side=1, seeds=1), trainer)
    outcomes = [store.outcome(trial) for trial in plan.trials]
    assert [of.status for of in outcomes] == ["failed", "finished", "finished"]
    assert outcomes[0].why == "k is 9, but the corpus has 8 passages."


def test_a_metric_that_no_run_has(trainer, tmp_path):
    with pytest.raises(
        UserError, match=r"metric is 'reward', which these runs don't measure .* choose one of"
    ):
        trainer.check_metric(policy_sweep(metric="reward"))
    trainer.check_metric(policy_sweep(metric="sampled_length"))
