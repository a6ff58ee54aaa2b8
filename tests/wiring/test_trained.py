"""Runs that train a part of their model: what moves, what is kept of it, and what others see of it."""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import wiring
from flax.traverse_util import flatten_dict
from tiny_config import get_config

from ragjax.errors import UserError
from ragjax.learners.question_learner import PartialState
from ragjax.models.adapters import All, Lora, QueryOnly
from ragjax.models.encoder import BagEncoder, TransformerEncoder
from ragjax.models.reader import TransformerReader
from ragjax.models.retriever import Dense
from ragjax.objectives.answer_reward import AnswerReward
from ragjax.objectives.joint import Joint
from ragjax.objectives.likelihood import RagSequence, RagToken
from ragjax.objectives.rewards import Reward
from ragjax.run_dir import load_run
from ragjax.training.learner import State, step_keys
from ragjax.training.optimizer import Adam, AverageState
from ragjax.training.program import first_state, starting_state, state_of_seed, training_program

ENCODER = TransformerEncoder(width=8, layers=1, heads=2)
READER = TransformerReader(width=8, heads=2, encoder_layers=1, decoder_layers=1)
SIAMESE = Dense(ENCODER, refresh_every=2)
BAG = BagEncoder(width=8)
APART = Dense(BAG, BAG, train_passages=False)
LORA = Lora(rank=2, alpha=4.0)
DECAYING = Adam(warmup_steps=0, weight_decay=0.1, average=0.5)
STEPS = 4


def configured(**fields):
    fields = {
        "retriever": SIAMESE,
        "reader": READER,
        "objective": RagSequence(),
        "optimizer": DECAYING,
        "trained": LORA,
        "phases": (wiring.Phase(steps=STEPS, batch_size=4, k=2),),
        "evaluation": wiring.Evaluation(k=2, batch_size=8, every=0, questions=4),
        "checkpoint_every": 2,
    } | fields
    return dataclasses.replace(get_config(), **fields)


def run_of(config, seeds=(0,)):
    """The learner, its [steps + 1] states and [steps] metrics."""
    learner = config.create()
    program = training_program(learner, seeds, config)
    states, metrics = [first_state(learner, seeds)], []
    for number in range(program.total):
        given = jax.tree.map(jnp.copy, states[-1])  # what is donated is gone afterwards
        state, row = program.advance(given, number)
        states.append(state)
        metrics.append(jax.device_get(row))
    return learner, states, metrics


@pytest.fixture(scope="module")
def lora():
    """A run with adapters, weight decay and a moving average."""
    return run_of(configured())


@pytest.fixture(scope="module")
def queries():
    """A run of the queries' encoder alone, likewise."""
    return run_of(configured(retriever=APART, trained=QueryOnly()))


def same(one, other):
    """Whether two trees are equal to the bit."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs
    )


def named(tree):
    return flatten_dict(tree, sep="/")


def all_differ(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(not np.array_equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def runs(lora, queries):
    return {"lora": lora, "queries": queries}


@pytest.mark.parametrize("kind", ["lora", "queries"])
def test_what_is_not_trained_stays_to_the_bit(runs, kind):
    _, states, _ = runs[kind]
    assert all(isinstance(state, PartialState) for state in states)
    assert all(same(state.frozen, states[0].frozen) for state in states)
    assert not same(states[-1].params, states[0].params)


@pytest.mark.parametrize("kind", ["lora", "queries"])
def test_the_optimiser_knows_nothing_else(runs, kind):
    """Two moments and an average of each parameter that is trained, and counts."""
    _, states, _ = runs[kind]
    moved = sum(leaf.size for leaf in jax.tree.leaves(states[-1].params))
    kept = [leaf for leaf in jax.tree.leaves(states[-1].opt_state) if leaf.ndim]
    scalars = [leaf for leaf in jax.tree.leaves(states[-1].opt_state) if not leaf.ndim]
    counts = [leaf for leaf in scalars if jnp.issubdtype(leaf.dtype, jnp.integer)]
    assert sum(leaf.size for leaf in kept) + len(scalars) - len(counts) == 3 * moved
    (average,) = (
        each.average
        for each in jax.tree.leaves(
            states[-1].opt_state, is_leaf=lambda leaf: isinstance(leaf, AverageState)
        )
        if isinstance(each, AverageState)
    )
    assert jax.tree.structure(average) == jax.tree.structure(states[-1].params)


def test_adapters_begin_with_the_model_itself(lora):
    learner, states, metrics = lora
    everything, whole, rows = run_of(
        configured(trained=All(), phases=(wiring.Phase(steps=1, batch_size=4, k=2),))
    )
    assert type(whole[0]) is State
    assert jax.tree.structure(learner.whole(states[0])) == jax.tree.structure(whole[0].params)
    jax.tree.map(np.testing.assert_array_equal, learner.whole(states[0]), whole[0].params)
    assert everything.whole(whole[0]) is whole[0].params
    assert metrics[0]["loss"] == pytest.approx(rows[0]["loss"], rel=1e-6)
    assert metrics[0]["grad_norm"] < rows[0]["grad_norm"]


def test_adapters_all_learn_and_change_little_more_than_their_rank(lora):
    learner, states, _ = lora
    assert all_differ(states[-1].params, states[0].params)
    before, after = named(learner.whole(states[0])), named(learner.whole(states[-1]))
    changed = {name for name in after if not np.array_equal(after[name], before[name])}
    adapted = {name.rpartition("/")[0] for name in named(states[0].params) if "lora_a" in name}
    assert changed == {f"{name}/kernel" for name in adapted} | {"retriever/log_scale"}
    for name in changed - {"retriever/log_scale"}:
        # Of float32, in which W' is rounded.
        change = np.asarray(after[name]) - np.asarray(before[name])
        values = np.linalg.svd(change, compute_uv=False)
        assert np.all(values[LORA.rank :] < 1e-6), name


def test_the_norm_is_that_of_what_is_trained(lora):
    """By the chain rule of the whole gradient: A has none where B is 0."""
    learner, states, metrics = lora
    config, state = learner.config, states[0]
    stage = learner.stages[0]
    state, batch, _ = learner.collect(
        state, learner.feed(0, 0), stage=stage, hyper=learner.hyper, data=learner.data
    )
    (questions, _), context = batch, learner.context(stage.phase.k)

    def loss(params):
        arrays = {"corpus": learner.corpus, "index": state.index.embeddings}
        key = step_keys(state).loss
        found = config.objective.loss(context, params, key, questions, **arrays)
        return found.sum / found.denom

    gradient = named(jax.jit(jax.grad(loss))(learner.whole(state)))
    squares = float(gradient["retriever/log_scale"]) ** 2
    for name, left in named(state.params).items():
        module, _, last = name.rpartition("/")
        if last == "lora_a":
            of_b = np.asarray(left).T @ np.asarray(gradient[f"{module}/kernel"])
            squares += (LORA.alpha / LORA.rank) ** 2 * np.sum(of_b**2)
    assert metrics[0]["grad_norm"] == pytest.approx(np.sqrt(squares), rel=1e-3)


def test_the_queries_encoder_moves_as_if_all_did(queries):
    """To rounding: the loss is the same, and nothing else moves with a rate of 0 for the reader."""
    _, states, metrics = queries
    assert set(states[-1].params) == {"retriever"}
    assert set(states[-1].params["retriever"]) == {"observed", "log_scale"}
    assert [row["index_age"] for row in metrics] == list(range(STEPS))  # never made anew
    optimizer = dataclasses.replace(DECAYING, weight_decay=0.0)
    _, alone, _ = run_of(configured(retriever=APART, trained=QueryOnly(), optimizer=optimizer))
    optimizer = dataclasses.replace(optimizer, reader_rate=0.0)
    _, whole, _ = run_of(configured(retriever=APART, trained=All(), optimizer=optimizer))
    moved = {name: whole[-1].params["retriever"][name] for name in ("observed", "log_scale")}
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        alone[-1].params["retriever"],
        moved,
    )
    assert all_differ(
        alone[-1].params["retriever"]["observed"]["embedding"],
        states[-1].params["retriever"]["observed"]["embedding"],
    )


@dataclasses.dataclass(frozen=True)
class Even(Reward):
    """The share of an answer's tokens that are even, which any model has some of."""

    def score(self, answers, accepted):
        return jnp.mean((answers % 2 == 0).astype(jnp.float32), axis=-1)


REWARDS = {
    "rloo": {"samples": 2, "advantage": "rloo"},
    "grpo": {"samples": 2, "advantage": "grpo"},
    "ppo": {"samples": 2, "advantage": "gae", "whiten": True, "updates": 2},
}


@pytest.mark.parametrize(
    "name", ["rloo", *(pytest.param(name, marks=pytest.mark.slow) for name in ("grpo", "ppo"))]
)
def test_rewards_move_adapters_and_stay_near_what_was_loaded(name):
    """The reference has adapters of its own, and shares all else."""
    reward = AnswerReward(reward=Even(), kl_coef=0.1, **REWARDS[name])
    config = configured(
        objective=Joint(likelihood_weight=0.0, reward=reward),
        phases=(wiring.Phase(steps=2, batch_size=4, k=2),),
        optimizer=Adam(warmup_steps=0),
    )
    _, states, metrics = run_of(config)
    assert same(states[0].extra, states[0].params)
    assert all(same(state.extra, states[0].params) for state in states)
    assert all(same(state.frozen, states[0].frozen) for state in states)
    assert not any(name.endswith("kernel") for name in named(states[0].extra["reader"]))
    lora = {path: leaf for path, leaf in named(states[-1].params).items() if "lora_b" in path}
    assert all(np.any(leaf) for leaf in lora.values())
    if name == "ppo":
        assert np.any(states[-1].params["critic"]["kernel"])
    else:
        assert metrics[0]["kl"].value == pytest.approx(0, abs=1e-6)
    assert metrics[1]["kl"].value > 1e-6


@pytest.mark.slow
def test_micro_batches_of_rag_token_add_up_to_the_batch():
    """The gradient of adapters is that of the whole batch."""
    norms = []
    for accumulate in (1, 2):
        _, states, metrics = run_of(
            configured(
                objective=RagToken(),
                optimizer=Adam(warmup_steps=0, accumulate=accumulate),
                phases=(wiring.Phase(steps=1, batch_size=4, k=2),),
            )
        )
        norms.append((metrics[0]["grad_norm"], metrics[0]["loss"]))
        assert not same(states[1].params, states[0].params)
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-4)


@pytest.mark.slow
def test_seeds_side_by_side_are_single_runs(lora):
    _, single, _ = lora
    _, both, _ = run_of(configured(num_seeds=2), (0, 1))
    first, second = (state_of_seed(both[-1], number) for number in (0, 1))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, (first.params, first.frozen), (single[-1].params, single[-1].frozen))
    assert not same(first.frozen, second.frozen)


def test_what_is_measured_is_the_merged_average(lora):
    """A run of the merged parameters answers the same."""
    learner, states, _ = lora
    state = learner.finish(states[-1])
    whole = learner.evaluated(state)
    assert not same(whole, learner.whole(state))
    plain = configured(trained=All(), optimizer=Adam(warmup_steps=0)).create()
    merged = plain.finish(
        State(state.step, whole, (), state.key, state.index.replace(built_at_step=-1))
    )
    jax.tree.map(np.testing.assert_array_equal, merged.index.embeddings, state.index.embeddings)
    asked = "Where does Ada live?"
    assert plain.answer(merged, asked) == learner.answer(state, asked)
    assert plain.measure(merged)["dev/em"] == learner.measure(state)["dev/em"]


def test_an_index_beside_the_training_is_of_merged_parameters(lora):
    learner, states, _ = lora
    config = configured(retriever=dataclasses.replace(SIAMESE, asynchronous=True))
    beside = config.create()
    state = states[-1].replace(step=jnp.asarray(2), index=states[0].index)
    state = state.replace(index=state.index.replace(built_at_step=jnp.asarray(0)))
    for number in range(2, 600):
        state = beside.between_steps(state, number)
        if int(state.index.built_at_step):
            break
        time.sleep(0.1)
    beside.close()
    assert state.index.built_at_step == 2
    made = learner.model.retriever.index(learner.whole(states[-1]), learner.corpus)
    np.testing.assert_allclose(state.index.embeddings, made, atol=1e-5)


# In directories


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A finished run with adapters."""
    run_dir = tmp_path_factory.mktemp("adapters") / "run"
    config = configured(objective=Joint(reward=AnswerReward(samples=2, kl_coef=0.1)))
    wiring.train(config, run_dir)
    return run_dir


def test_a_result_counts_both(first):
    run, result = load_run(first), wiring.result_of(first)
    for name, tree in (("parameters", run.state.params), ("frozen", run.state.frozen)):
        sizes = {
            group: sum(leaf.size for leaf in jax.tree.leaves(of)) for group, of in tree.items()
        }
        assert result[name] == sizes
    moved, frozen = (sum(result[name].values()) for name in ("parameters", "frozen"))
    told = f"{moved:,} parameters are trained, and {frozen:,} stay as they are"
    assert told in run.learner.notes()


def test_a_run_goes_on_to_the_bit(first, begun):
    copy, before = begun(first)
    assert before < STEPS
    config = load_run(first).config
    wiring.train(config, copy, resume=True)
    assert same(load_run(copy).state, load_run(first).state)


def started(first, **fields):
    learner = configured(start=str(first), seed=1, **fields).create()
    return learner, starting_state(learner, (1,))


@pytest.mark.parametrize("trained", [All(), Lora(rank=3)], ids=["all", "lora"])
def test_a_run_starts_from_the_merged_parameters_of_another(first, trained):
    """New adapters begin at 0, and the reference is what was loaded."""
    objective = Joint(reward=AnswerReward(samples=2, kl_coef=0.1))
    learner, state = started(first, trained=trained, objective=objective)
    theirs = load_run(first)
    assert same(learner.whole(state), theirs.learner.evaluated(theirs.state))
    assert same(state.extra, state.params)
    assert not same(learner.whole(state), theirs.learner.whole(theirs.state))
    new = [leaf for name, leaf in named(state.params).items() if "lora_b" in name]
    assert not any(np.any(leaf) for leaf in new)
    assert all(leaf.shape[0] == 3 for leaf in new)
    moved = jax.tree.leaves(state.opt_state)
    assert sum(leaf.size for leaf in moved) >= 3 * sum(
        leaf.size for leaf in jax.tree.leaves(state.params)
    )


@pytest.mark.slow
def test_adapters_start_from_a_run_of_all(tmp_path):
    wiring.train(configured(trained=All(), phases=(wiring.Phase(2, batch_size=4, k=2),)), tmp_path)
    learner, state = started(tmp_path)
    theirs = load_run(tmp_path)
    assert same(learner.whole(state), theirs.learner.evaluated(theirs.state))


# What is refused


def test_an_expression_that_is_found_nowhere_is_told_before_training(tmp_path):
    with pytest.raises(
        UserError, match=r"trained\.modules is 'nothing', which is found in none of"
    ):
        wiring.train(configured(trained=Lora(modules="nothing")), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_queries_alone_are_refused_where_passages_are_trained():
    with pytest.raises(UserError, match="trained is QueryOnly, but retriever Dense has no encoder"):
        configured(trained=QueryOnly())


def test_decay_is_refused_only_where_it_moves_passages():
    with pytest.raises(UserError, match=r"weight_decay is 0\.1, which moves the passages' encoder"):
        configured(retriever=APART, trained=All())
    # The index of these follows the passages' encoder: in the step, or beside the training.
    for asynchronous in (False, True):
        retriever = dataclasses.replace(SIAMESE, refresh_every=2, asynchronous=asynchronous)
        configured(retriever=retriever, trained=All())
