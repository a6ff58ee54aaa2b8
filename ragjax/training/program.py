"""A run as programs: the states of its seeds, and the steps that move them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from ragjax.errors import require
from ragjax.hosts import AnyHost, is_first
from ragjax.training.learner import Learner, Stage, State, stage_at
from ragjax.training.loop import Program
from ragjax.training.placement import Placement
from ragjax.training.step import make_step

Hyper = dict[str, Array]  # name -> traced scalars, [n] of n seeds with their own


def stack_keys(seeds: Sequence[int]) -> Array:
    """[n,2] keys of n seeds."""
    return jnp.stack([jax.random.PRNGKey(seed) for seed in seeds])


def seed_axes(state: State) -> State:
    """The `vmap` axes of a state of several seeds: all but what is a function of the step alone.

    The step has no axis, so that a condition on it stays one branch of the program instead of both.
    """
    axes = jax.tree.map(lambda _: 0, state).replace(step=None)
    if state.index is not None:
        axes = axes.replace(index=axes.index.replace(built_at_step=None))
    return axes


def state_of_seed(state: State, number: int) -> State:
    """One seed's state out of that of several, as `seed_axes` has them."""
    axes = seed_axes(state)
    return jax.tree.map(
        lambda axis, leaf: leaf if axis is None else leaf[number],
        axes,
        state,
        is_leaf=lambda axis: axis is None,
    )


def stack_states(states: list[State]) -> State:
    """The state of several seeds out of single ones; the inverse of `state_of_seed`."""
    return jax.tree.map(
        lambda axis, *leaves: leaves[0] if axis is None else jnp.stack(leaves),
        seed_axes(states[0]),
        *states,
        is_leaf=lambda axis: axis is None,
    )


def first_state(learner: Learner, seeds: Sequence[int], hyper: Hyper | None = None) -> State:
    """The state of new parameters before the first step, of one seed or of several side by side.

    Args:
      learner: what is trained.
      seeds: one seed, or several, which then lead every array that `learner.seed_axes` says.
      hyper: see `training_program`.
    """
    several = len(seeds) > 1
    kind = ("init", several, _axis(hyper))
    if kind not in learner.compiled:
        init = learner.init
        if several:
            axes = seed_axes(learner.state_shapes())
            init = jax.vmap(init, in_axes=(0, _axis(hyper), None), out_axes=axes)
        learner.compiled[kind] = jax.jit(init)
    key = stack_keys(seeds) if several else jax.random.PRNGKey(seeds[0])
    return learner.compiled[kind](key, _given(learner, seeds, hyper), learner.init_data)


def _given(learner: Learner, seeds: Sequence[int], hyper: Hyper | None) -> Hyper:
    """The traced scalars as a program of so many seeds takes them."""
    if hyper is None:
        return learner.hyper
    return hyper if len(seeds) > 1 else {name: of[0] for name, of in hyper.items()}


def _axis(hyper: Hyper | None) -> int | None:
    """The `vmap` axis of traced scalars: none where all seeds share them."""
    return None if hyper is None else 0


def state_shapes(learner: Learner, seeds: Sequence[int]) -> State:
    """The shapes of `first_state`, for restoring a checkpoint; nothing is computed."""
    state = learner.state_shapes()
    if len(seeds) == 1:
        return state
    return jax.tree.map(
        lambda axis, leaf: (
            leaf if axis is None else jax.ShapeDtypeStruct((len(seeds), *leaf.shape), leaf.dtype)
        ),
        seed_axes(state),
        state,
        is_leaf=lambda axis: axis is None,
    )


def starting_state(learner: Learner, seeds: Sequence[int], hyper: Hyper | None = None) -> State:
    """The state that a run begins with: new parameters, or those of the runs that its config names."""
    state = first_state(learner, seeds, hyper)
    if len(seeds) == 1:
        return learner.warm_start(state, seeds[0])
    own = [state_of_seed(state, number) for number in range(len(seeds))]
    warm = [learner.warm_start(each, seed) for each, seed in zip(own, seeds, strict=True)]
    return state if all(a is b for a, b in zip(own, warm, strict=True)) else stack_states(warm)


def training_program(
    learner: Learner,
    seeds: Sequence[int],
    config: Any,
    hyper: Hyper | None = None,
    mesh: Mesh | None = None,
) -> Program:
    """The run of a learner, for `training.loop.fit`.

    Each stage's step is one program, compiled once, its state donated. Of several seeds it moves all,
    and metrics have a value for each.

    Args:
      learner: what is trained.
      seeds: one, or several that run side by side.
      config: a `Config`, for how often what happens.
      hyper: name -> [n] traced scalars, one for each seed; None where all have those of the learner.
      mesh: the devices that make each step together, of one seed; None for a single device.

    Raises:
      UserError: there are several seeds, but the learner acts between steps.
    """
    data, several, axis = learner.data, len(seeds) > 1, _axis(hyper)
    given = _given(learner, seeds, hyper)
    placement = None if mesh is None else Placement(config.mesh, mesh, learner)
    if placement is not None:
        data = placement.data(data)
    if several:
        _require_steps_alone(learner, "several seeds side by side")

    def compiled(stage: Stage) -> Callable[..., Any]:
        kind = (stage, several, axis, mesh)
        if kind not in learner.compiled:
            step = make_step(learner, stage)
            if placement is not None:
                step = make_step(learner, stage, placement.spread)
            if several:
                axes = seed_axes(state_shapes(learner, seeds))
                step = jax.vmap(step, in_axes=(axes, 0, axis, None), out_axes=(axes, 0))
            jit = partial(jax.jit, donate_argnums=0) if placement is None else placement.jit
            learner.compiled[kind] = jit(step)
        return learner.compiled[kind]

    def advance(state: State, step: int):
        state = state if several else learner.between_steps(state, step)
        fed = [learner.feed(seed, step) for seed in seeds]
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *fed) if several else fed[0]
        batch = batch if placement is None else placement.feed(batch)
        state, metrics = compiled(stage_at(learner, step))(state, batch, given, data)
        return state, metrics | learner.counts(step + 1)

    def measure(state: State, step: int) -> dict[str, Any]:
        del step
        if not is_first():
            return {}
        if not several:
            return learner.measure(on_device(state))
        figures = [learner.measure(state_of_seed(state, n)) for n in range(len(seeds))]
        return {name: np.array([of[name] for of in figures]) for name in figures[0]}

    def finite(state: State) -> np.ndarray:
        found = np.ones(len(seeds), bool)
        for leaf in jax.tree.leaves(state.params):
            found &= np.asarray(jnp.isfinite(leaf.reshape(len(seeds), -1)).all(axis=1))
        return found

    def mark_failed(state: State, places: Sequence[int]) -> State:
        def marked(leaf: Array) -> Array:
            floating = jnp.issubdtype(leaf.dtype, jnp.inexact)
            return leaf.at[np.asarray(places)].set(jnp.nan) if floating else leaf

        return state.replace(params=jax.tree.map(marked, state.params))

    return Program(
        total=config.steps,
        advance=advance,
        evaluate=measure,
        log_every=config.log_every,
        checkpoint_every=config.checkpoint_every,
        evaluate_every=config.evaluate_every,
        seeds=tuple(seeds),
        finite=finite,
        mark_failed=mark_failed,
        **({} if placement is None else _on_mesh(placement)),
    )


def on_device(state: State) -> State:
    """A plain state on a device of this host."""
    return jax.device_put(state, jax.local_devices()[0])


def _on_mesh(placement: Placement) -> dict[str, Any]:
    """What a `Program` on a mesh has beside."""
    found: dict[str, Any] = {"place": placement.place, "gather": placement.gather}
    return found if jax.process_count() == 1 else found | {"agreed": AnyHost(placement.mesh)}


def stage_feeds(learner: Learner, seed: int) -> list[Any]:
    """What the host gives every step of each stage, stacked: the `fed` of `train`."""
    feeds, step = [], 0
    for stage in learner.stages:
        fed = [learner.feed(seed, number) for number in range(step, step + stage.steps)]
        feeds.append(jax.tree.map(lambda *leaves: np.stack(leaves), *fed))
        step += stage.steps
    return feeds


def train(
    learner: Learner, key: Array, fed: list[Any], hyper: dict[str, Array], data: Any
) -> tuple[State, list[dict[str, Any]]]:
    """A whole run as one pure function, to be jitted and vmapped over keys, feeds and hyperparameters.

    Args:
      learner: what is trained.
      key: PRNG key; that of seed n is `jax.random.PRNGKey(n)`.
      fed: from `stage_feeds`; None for each stage of a learner that is fed nothing.
      hyper: traced scalars.
      data: the arrays of `learner.data`.

    Returns:
      The last state, and the metrics of every step [steps], one dictionary a stage.

    Raises:
      UserError: the learner acts between steps.
    """
    _require_steps_alone(learner, "a whole run as one function")
    state, curve = learner.init(key, hyper, data), []
    for stage, given in zip(learner.stages, fed, strict=True):
        step = make_step(learner, stage)

        def body(state, fed, step=step):
            return step(state, fed, hyper, data)

        state, metrics = jax.lax.scan(body, state, given, length=stage.steps)
        curve.append(metrics)
    return state, curve


def _require_steps_alone(learner: Learner, what: str) -> None:
    require(
        not learner.acts_between_steps,
        f"retriever.asynchronous refreshes the index between the steps of one run, but this is {what}; "
        "set it to false.",
    )
