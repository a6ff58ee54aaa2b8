"""What a sweep varies, how trials are drawn, and which runs they are."""

import dataclasses
import math

import numpy as np
import pytest
import tiny_config
import tiny_policy_config
from plain_run import PlainConfig
from toy_sweep import toy_sweep

from ragjax.errors import UserError
from ragjax.objectives.likelihood import RagSequence, RagToken
from ragjax.sweep.plan import Generation, Plan
from ragjax.sweep.samplers import SAMPLERS, Grid, Random, Sobol
from ragjax.sweep.space import (
    Choice,
    Given,
    Integer,
    LogUniform,
    Uniform,
    Vary,
    parse_vary,
    require_values,
    with_values,
)
from ragjax.sweep.trials import Trial, batches, identity, program_of

RATE = "optimizer.learning_rate"
PLACES = (0.0, 0.25, 0.5, 0.75, 1 - 1e-12)


@pytest.fixture(scope="module")
def text():
    return tiny_config.get_config()


# Values


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (Uniform(1.0, 3.0), (1.0, 1.5, 2.0, 2.5, 3.0)),
        (LogUniform(1e-4, 1.0), (1e-4, 1e-3, 1e-2, 1e-1, 1.0)),
        (Integer(3, 6), (3, 4, 5, 6, 6)),
        (Integer(1, 15, log=True), (1, 2, 4, 7, 15)),
        (Choice(("a", "b")), ("a", "a", "b", "b", "b")),
    ],
)
def test_places_and_values(values, expected):
    found = [values.at(u) for u in PLACES]
    exact = not isinstance(values, Uniform)
    assert found == (list(expected) if exact else pytest.approx(list(expected)))
    assert all(values.holds(value) for value in found)
    assert not values.holds(99)


def test_every_value_of_a_range_is_as_likely():
    drawn = [Integer(2, 4).at(u) for u in np.random.default_rng(0).random(3000)]
    counts = np.bincount(drawn, minlength=5)[2:]
    assert counts.sum() == 3000
    assert (abs(counts - 1000) < 100).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Uniform(2.0, 1.0), "go from 2.0 to 1.0; give a higher end"),
        (
            lambda: Uniform(0.0, math.inf),
            "high end of a field's values is inf; give a finite number",
        ),
        (lambda: LogUniform(0.0, 1.0), "low end is 0.0; give one above 0"),
        (lambda: Integer(0, 9, log=True), "low end is 0; give one above 0"),
        (lambda: Choice(()), "give a tuple of at least one"),
        (lambda: Choice((1, 2, 1)), "two are alike"),
    ],
)
def test_what_no_field_can_be(make, message):
    with pytest.raises(UserError, match=message):
        make()


# Configs


def test_values_are_put_in_all_at_once():
    """One alone would be refused: minibatches have to divide the steps of a rollout."""
    config = tiny_policy_config.get_config()
    values = {"algorithm.num_envs": 7, "algorithm.minibatches": 7, RATE: 0.5}
    with pytest.raises(UserError, match="does not divide"):
        with_values(config, {"algorithm.minibatches": 7})
    changed = with_values(config, values)
    assert (changed.algorithm.num_envs, changed.algorithm.minibatches) == (7, 7)
    assert changed.optimizer == dataclasses.replace(config.optimizer, learning_rate=0.5)
    assert changed.env == config.env


def test_values_within_a_tuple_and_components(text):
    changed = with_values(text, {"phases.1.k": 3, "objective": RagToken()})
    assert [phase.k for phase in changed.phases] == [3, 3]
    assert changed.phases[0] == text.phases[0]
    assert changed.objective == RagToken()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            "optimizer.reader_rate=log:1e-3..3e-2",
            Vary("optimizer.reader_rate", LogUniform(1e-3, 3e-2)),
        ),
        ("optimizer.b1=uniform:0.5..0.9", Vary("optimizer.b1", Uniform(0.5, 0.9))),
        ("phases.0.k=int:1..3", Vary("phases.0.k", Integer(1, 3))),
        ("phases.0.k=2,4,8", Vary("phases.0.k", Choice((2, 4, 8)))),
        ("optimizer.retriever-rate=1e-3,1", Vary("optimizer.retriever_rate", Choice((1e-3, 1.0)))),
        ("compute=float32,bfloat16", Vary("compute", Choice(("float32", "bfloat16")))),
    ],
)
def test_a_field_on_the_command_line(given, expected, text):
    assert parse_vary(text, given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("optimizer.reader_rate", "write FIELD=log:1e-4..1e-2"),
        ("optimizer.reader_rat=1,2", "did you mean --optimizer.reader_rate"),
        ("optimizer.reader_rate=log:1e-3..x", "give two numbers as in log:"),
        ("phases.0.k=int:1..2.5", "give two whole numbers as in int:"),
        ("phases.0.k=2,many", "is 'many'; give a whole number"),
        ("optimizer.reader_rate=log:1..2..3", "give two numbers"),
        ("optimizer.reader_rate=log:1e-4...1e-2", "give two numbers"),
        ("optimizer.reader_rate=log:1e-3,1e-2", "give two numbers as in log:"),
        ("optimizer.reader_rate=1e-3, 1e-2,", "has an empty value"),
        ("objective=a,b", "objective is a component; vary it in a sweep file, by Choice"),
    ],
)
def test_a_field_that_cannot_be_read(given, message, text):
    with pytest.raises(UserError, match=message):
        parse_vary(text, given)


# Samplers


@pytest.mark.parametrize("name", ["random", "sobol"])
def test_a_trial_depends_on_its_number_alone(name):
    sampler, space = SAMPLERS[name], toy_sweep(1).space
    whole = sampler.trials(space, 3, range(20))
    assert whole[7:12] == sampler.trials(space, 3, range(7, 12))
    assert whole != sampler.trials(space, 4, range(20))
    assert len({point[RATE] for point in whole}) == 20
    assert all(1e-4 <= point[RATE] <= 1e-1 for point in whole)


def test_a_sobol_sequence_fills_the_space_evenly():
    """Each of 16 equal stretches has one of 16 points: random draws do that once in 10^6."""
    points = Sobol().trials((Vary("x", Uniform(0.0, 16.0)),), 0, range(16))
    assert sorted(int(point["x"]) for point in points) == list(range(16))


def test_a_grid_has_every_combination_once():
    space = (
        Vary("a", Choice((1, 2))),
        Vary("b", Choice(("x", "y")), given=Given("a", (2,))),
        Vary("c", Integer(5, 6)),
    )
    assert Grid().trials(space, 0, range(100)) == [
        *({"a": 1, "c": 5}, {"a": 1, "c": 6}),
        *({"a": 2, "b": "x", "c": 5}, {"a": 2, "b": "x", "c": 6}),
        *({"a": 2, "b": "y", "c": 5}, {"a": 2, "b": "y", "c": 6}),
    ]
    with pytest.raises(UserError, match="A grid can't list every value"):
        Grid().trials((Vary("a", Uniform(0.0, 1.0)),), 0, range(100))
    wide = tuple(Vary(name, Integer(1, 100)) for name in "abc")
    with pytest.raises(UserError, match=r"The grid has 1,000,000 points; choose random"):
        Grid().trials(wide, 0, range(100))


def test_a_field_that_depends_on_another():
    space = (
        Vary("a", Choice((1, 2))),
        Vary("b", Uniform(0.0, 1.0), given=Given("a", (2,))),
    )
    drawn = Random().trials(space, 0, range(50))
    assert {("b" in point) == (point["a"] == 2) for point in drawn} == {True}
    assert {point["a"] for point in drawn} == {1, 2}


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ((), "space is empty"),
        (
            (Vary("optimizer.learning_rat", Uniform(0.0, 1.0)),),
            "did you mean --optimizer.learning_rate",
        ),
        ((Vary("number", Integer(1, 2)), Vary("number", Integer(1, 3))), "number is varied twice"),
        ((Vary("number", Uniform(1.0, 2.0)),), "no number with a fraction"),
        ((Vary("optimizer.schedule", Uniform(1.0, 2.0)),), "no number with a fraction"),
        ((Vary("optimizer.schedule", Integer(1, 2)),), "it is no number; give values by commas"),
        ((Vary("seed", Integer(1, 2)),), "varies seed or num_seeds; give the sweep seeds"),
        (
            (Vary("number", Integer(1, 2), given=Given(RATE, (1.0,))),),
            "given optimizer.learning_rate, which is not varied before",
        ),
        (
            (Vary("optimizer", Choice((PlainConfig().optimizer,))), Vary(RATE, Uniform(0.0, 1.0))),
            "learning_rate is a part of optimizer, which is varied, too",
        ),
    ],
)
def test_a_space_that_cannot_be(space, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(toy_sweep(1), space=space)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metric": "test.em"}, "of the test split, by which nothing may be chosen"),
        ({"metric": "test/em"}, "of the test split"),
        ({"trials": 0}, "trials is 0; it must be at least 1"),
        (
            {"storage": "sqlite:///x.db", "sampler": SAMPLERS["tpe"]},
            "SQLite breaks where several machines",
        ),
        ({"storage": "postgresql://x/y"}, "Random has nothing to remember"),
        ({"base": PlainConfig(num_seeds=3)}, "num_seeds is 3; leave it at 1"),
    ],
)
def test_a_sweep_that_cannot_be(fields, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(toy_sweep(1), **fields)


# Trials and batches


def test_a_run_is_its_config(text):
    same = tiny_config.get_config()
    assert identity(text) == identity(same)
    others = [
        with_values(text, values)
        for values in ({"seed": 1}, {"phases.0.k": 2}, {"objective": RagSequence()}, {RATE: 0.5})
    ]
    assert len({identity(config) for config in [text, *others]}) == 5


def test_values_that_the_config_refuses_are_a_failed_trial():
    trial = Trial.of(PlainConfig(), 3, {"optimizer.b1": 2.0}, seeds=2)
    assert trial.runs == ()
    assert "optimizer.b1 is 2.0" in trial.refused


def test_a_value_that_no_combination_makes_right_is_refused_before_anything_is_trained():
    config = tiny_policy_config.get_config()
    both = (
        Vary("algorithm.num_envs", Choice((8, 7))),
        Vary("algorithm.minibatches", Integer(6, 7)),
    )
    with pytest.raises(
        UserError, match=r"space has algorithm.minibatches=6, which the config refu"
    ):
        require_values(config, both)
    require_values(config, (both[0], Vary("algorithm.minibatches", Choice((1, 7)))))
    with pytest.raises(UserError, match=r"space has algorithm.minibatches=7, .* does not divide"):
        require_values(config, (Vary("algorithm.minibatches", Choice((1, 7))),))
    space = (Vary("number", Integer(1, 10**6)), Vary("optimizer.b1", Choice((2.0,))))
    with pytest.raises(
        UserError, match=r"space has optimizer.b1=2.0, which the config refuses: opt"
    ):
        require_values(PlainConfig(), space)
    unlike = Given("number", (2,))
    space = (Vary("number", Choice((1, 2))), Vary("optimizer.b1", Choice((2.0,)), unlike))
    with pytest.raises(UserError, match=r"space has optimizer.b1=2.0"):
        require_values(PlainConfig(), space)


def test_a_value_of_the_command_line_that_only_suits_others():
    config = tiny_policy_config.get_config()
    assert parse_vary(config, "algorithm.minibatches=1,7").values == Choice((1, 7))


def test_what_shares_a_program(text):
    """Seeds and what is traced; nothing else, and nothing where seeds can't run side by side."""
    kind = program_of(text)
    assert kind == program_of(with_values(text, {"seed": 4, "optimizer.reader_rate": 0.5}))
    assert kind != program_of(with_values(text, {"optimizer.b1": 0.5}))
    assert kind != program_of(with_values(text, {"optimizer.reader_rate": None}))
    policy = tiny_policy_config.get_config()
    traced = {"algorithm.entropy_coef": 0.3, "algorithm.discount": 0.5, RATE: 0.1}
    assert program_of(policy) == program_of(with_values(policy, traced))
    assert program_of(policy) != program_of(with_values(policy, {"algorithm.epochs": 3}))


def trials_of(rates, numbers, seeds):
    base = PlainConfig()
    values = [{RATE: rate, "number": n} for n in numbers for rate in rates]
    return [Trial.of(base, place, each, seeds) for place, each in enumerate(values)]


def test_runs_are_dealt_to_batches_by_program():
    trials = trials_of((0.1, 0.2, 0.3), (5, 6), seeds=2)
    dealt = batches(trials, side_by_side=4)
    assert [[t.number for t in batch.trials] for batch in dealt] == [[0, 1], [2], [3, 4], [5]]
    assert all(batch.together for batch in dealt)
    assert [len(batch.runs) for batch in dealt] == [4, 2, 4, 2]
    assert len({batch.name for batch in dealt}) == 4


def test_runs_by_themselves():
    dealt = batches(trials_of((0.1, 0.2), (5,), seeds=2), side_by_side=1)
    assert [len(batch.runs) for batch in dealt] == [2, 2]
    assert not any(batch.together for batch in dealt)
    wide = batches(trials_of((0.1,), (5,), seeds=3), side_by_side=2)
    assert [batch.together for batch in wide] == [False]
    alone = batches(trials_of((0.1,), (5,), seeds=1), side_by_side=8)
    assert alone[0].name == alone[0].runs[0].name


def test_a_trial_that_is_drawn_twice_is_made_once():
    sweep = dataclasses.replace(
        toy_sweep(60), space=(Vary("number", Integer(1, 6)),), side_by_side=1
    )
    plan = Plan([Generation(sweep, 0)])
    assert plan.drawn == [60]
    assert sorted(trial.values["number"] for trial in plan.trials) == [1, 2, 3, 4, 5, 6]
    assert [trial.number for trial in plan.trials] == list(range(6))
    assert len(plan.batches) == 6


def test_an_extension_keeps_what_was_drawn():
    """More trials, a wider space and more seeds: new runs alone are added."""
    first = toy_sweep(10, side_by_side=2)
    wider = (Vary(RATE, LogUniform(1e-5, 1.0)), first.space[1])
    second = dataclasses.replace(first, space=wider, trials=16, seeds=3)
    one, both = Plan([Generation(first, 0)]), Plan([Generation(first, 0), Generation(second, 10)])
    assert both.batches[: len(one.batches)] == one.batches
    assert [trial.values for trial in both.trials[:10]] == [trial.values for trial in one.trials]
    assert [trial.values for trial in both.trials[10:]] == second.sampler.trials(
        wider, 0, range(10, 16)
    )
    assert {len(trial.runs) for trial in both.trials} == {3}
    names = [run.name for batch in both.batches for run in batch.runs]
    assert len(names) == len(set(names)) == 16 * 3
    grid = dataclasses.replace(
        first, sampler=Grid(), trials=None, space=(Vary("number", Choice((1, 2))),)
    )
    more = dataclasses.replace(grid, space=(Vary("number", Choice((2, 3, 1))),))
    plan = Plan([Generation(grid, 0), Generation(more, 2)])
    assert [trial.values["number"] for trial in plan.trials] == [1, 2, 3]
